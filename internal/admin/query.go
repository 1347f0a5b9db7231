package admin

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
)

// The page size of lists when none is asked for, and the largest.
const (
	limitDefault = 100
	limitMax     = 1000
)

// paths below a tenant and their nouns; the names in them are checked before a handler runs.
var pathNames = map[string]string{"model": "model", "endpoint": "endpoint", "alias": "alias", "mirror": "mirror", "reader": "tenant"}

var (
	limitParameter  = parameter{name: "limit", doc: "Most items to give, 1 to 1000; 100 when left out.", kind: "integer"}
	afterParameter  = parameter{name: "after", doc: "Cursor: the `next` of the page before."}
	beforeParameter = parameter{name: "before", doc: "Cursor: the `next` of the page before.", kind: "integer"}
	waitParameter   = parameter{name: "wait", doc: "How long to wait, such as 30s; at most 5m."}
)

func (q *request) checkPath() error {
	for name, noun := range pathNames {
		if !strings.Contains(q.route.path, "{"+name+"}") {
			continue
		}
		if err := api.CheckName(noun, q.PathValue(name)); err != nil {
			return err
		}
	}
	return nil
}

// checkQuery reads the query with one parser, and refuses what the route does not know: a limit that is misspelt must
// not be taken for none.
func (q *request) checkQuery() error {
	values, err := url.ParseQuery(q.URL.RawQuery)
	if err != nil {
		return api.Fail(api.CodeBadRequest, "", "the query cannot be read").Because(err)
	}
	for name, given := range values {
		i := slices.IndexFunc(q.route.query, func(p parameter) bool { return p.name == name })
		if i < 0 {
			return api.Fail(api.CodeBadRequest, "", "there is no query parameter %q here", clipped(name))
		}
		if len(given) > 1 && !q.route.query[i].repeated {
			return api.Fail(api.CodeBadRequest, "", "the query parameter %q stands twice", name)
		}
	}
	q.values = values
	return nil
}

func (q *request) param(name string) string { return url.Values(q.values).Get(name) }

func (q *request) model() api.ModelName       { return api.ModelName(q.PathValue("model")) }
func (q *request) endpoint() api.EndpointName { return api.EndpointName(q.PathValue("endpoint")) }

// integer reads a number from the query between two bounds.
func (q *request) integer(name string, otherwise, least, most int64) (int64, error) {
	text := q.param(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, api.Fail(api.CodeBadRequest, "", "%s=%q is not a number from %d to %d", name, clipped(text), least, most)
	}
	return n, nil
}

func (q *request) limit() (int, error) {
	n, err := q.integer("limit", limitDefault, 1, limitMax)
	return int(n), err
}

// page reads the limit and a numeric cursor.
func (q *request) page(cursor string) (from int64, limit int, err error) {
	if limit, err = q.limit(); err != nil {
		return 0, 0, err
	}
	from, err = q.integer(cursor, 0, 0, 1<<62)
	return from, limit, err
}

func (q *request) flag(name string) (bool, error) {
	switch q.param(name) {
	case "", "0", "false":
		return false, nil
	case "1", "true":
		return true, nil
	}
	return false, api.Fail(api.CodeBadRequest, "", "%s is 1, true, 0 or false", name)
}

// wait reads ?wait=; zero means not to wait.
func (q *request) wait() (time.Duration, error) {
	text := q.param("wait")
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > q.server.cfg.WaitMax {
		return 0, api.Fail(api.CodeBadRequest, "", "wait=%q is not a duration from 0s to %s, such as 30s", clipped(text), q.server.cfg.WaitMax)
	}
	return d, nil
}

// waiting gives a context that ends after ?wait= or when the server drains; ok is false when not to wait.
func (q *request) waiting(ctx context.Context) (_ context.Context, release func(), ok bool, _ error) {
	d, err := q.wait()
	if err != nil || d == 0 {
		return nil, nil, false, err
	}
	held, letGo, err := q.server.hold(ctx)
	if err != nil {
		return nil, nil, false, err
	}
	timed, cancel := context.WithTimeout(held, d)
	return timed, func() { cancel(); letGo() }, true, nil
}

// pageOf makes a page; a full one gets a cursor.
func pageOf[T any](items []T, limit int, cursor func(T) string) api.List[T] {
	page := api.List[T]{Items: items}
	if items == nil {
		page.Items = []T{}
	}
	if len(items) >= limit {
		page.Next = cursor(items[len(items)-1])
	}
	return page
}

func decimal[N ~int64](n N) string { return strconv.FormatInt(int64(n), 10) }

var conditionHeaders = []parameter{
	{name: "If-Match", doc: `Make the change only when the ETag is still this one; "*" when it exists.`},
	{name: "If-None-Match", doc: `"*": only when it does not exist yet.`},
}

// condition reads If-Match and If-None-Match as the counter that the change depends on: -1 is any, 0 is "must not
// exist". For `If-Match: *` it asks for the present counter, so that the change still is one step.
func (q *request) condition(current func() (int64, error)) (int64, error) {
	match, none := q.Header.Values("If-Match"), q.Header.Values("If-None-Match")
	switch {
	case len(match)+len(none) == 0:
		return -1, nil
	case len(match)+len(none) > 1:
		return 0, api.Fail(api.CodeBadRequest, "", "more than one condition; send one If-Match or one If-None-Match")
	case len(none) == 1 && none[0] == "*":
		return 0, nil
	case len(none) == 1:
		return 0, api.Fail(api.CodeBadRequest, "", `If-None-Match takes only "*" here`)
	case match[0] == "*":
		return current()
	}
	tag := match[0]
	if len(tag) < 3 || tag[0] != '"' || tag[len(tag)-1] != '"' {
		return 0, api.Fail(api.CodeBadRequest, "", "If-Match %q is not one strong ETag in double quotes", clipped(tag))
	}
	n, err := strconv.ParseInt(tag[1:len(tag)-1], 10, 64)
	if err != nil || n < 1 {
		return 0, api.Fail(api.CodeStale, "", "the ETag %q was never given out", clipped(tag))
	}
	return n, nil
}

func (q *request) setETag(n int64) { q.w.Header().Set("ETag", strconv.Quote(decimal(n))) }

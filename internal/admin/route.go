package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// route is one row of the API: everything that the handler checks and the OpenAPI document says.
type route struct {
	method  string
	path    string // below Prefix, with {names} that pathNames knows
	id      string // operationId
	summary string
	detail  string
	tag     string
	scope   api.Scope // needed scope; empty: any valid key
	reach   reach
	query   []parameter
	headers []parameter
	status  int // of success; 200 when 0
	also    int // another status of success
	errors  []api.Code

	in, out     reflect.Type // JSON bodies; nil when there is none
	inBytes     bool         // takes application/octet-stream, alone or beside JSON
	outMedia    string       // media type of an answer that is not JSON
	outlivesLog bool         // goes on without the idempotency store and the audit: it must work when the database is down
	sensitive   bool         // is in the audit although it changes nothing

	look func(ctx context.Context, q *request) any // what is there before a change, for the audit; nil: nothing is asked

	serve func(*request) error
}

// reach says whose things a route can touch.
type reach uint8

const (
	ownTenant     reach = iota // the {tenant} in the path must be the key's own; a path without one is the caller's
	openToAll                  // no key is needed
	administrated              // also another tenant's, by an admin of tenant default
	serverWide                 // only an admin of tenant default
)

// parameter documents and limits one query parameter or header.
type parameter struct {
	name, doc string
	kind      string // JSON schema type; string when empty
	repeated  bool
}

// request is one call on its way through a handler.
type request struct {
	*http.Request
	w         *answerWriter
	server    *Server
	route     *route
	id        string
	principal *api.Principal
	tenant    api.TenantID
	values    map[string][]string // query, checked against the route
	status    int                 // chosen by the handler in place of the route's
	record    *api.AuditRecord    // of the change under way, until its end is written
	out       any                 // what the handler gave, for the audit
	reason    string              // why, in the caller's words
	about     string              // what it is about, where neither path nor answer says so
}

// nothing is the body of calls that take or give none.
type nothing struct{}

// call makes a route's handler from a function on typed bodies.
func call[I, O any](r route, do func(context.Context, *request, *I) (O, error)) route {
	if in := reflect.TypeFor[I](); in != reflect.TypeFor[nothing]() {
		r.in = in
	}
	if out := reflect.TypeFor[O](); out != reflect.TypeFor[nothing]() {
		r.out = out
	}
	r.serve = func(q *request) error {
		in := new(I)
		var body []byte
		if r.in != nil {
			var err error
			if body, err = q.readJSON(in); err != nil {
				return err
			}
			q.reason = whyOf(in)
		}
		run := func() (any, error) { return do(q.Context(), q, in) }
		if q.Method == http.MethodPost {
			return q.once(body, run)
		}
		out, err := run()
		if err != nil {
			return err
		}
		return q.answer(out)
	}
	return r
}

// answer writes a successful answer.
func (q *request) answer(body any) error {
	status := q.successStatus()
	q.out = body
	if q.route.out == nil {
		if status == http.StatusOK {
			status = http.StatusNoContent
		}
		q.w.WriteHeader(status)
		return nil
	}
	text, err := encodeJSON(body)
	if err != nil {
		return err
	}
	q.writeJSON(status, text)
	return nil
}

func (q *request) successStatus() int {
	for _, status := range []int{q.status, q.route.status} {
		if status != 0 {
			return status
		}
	}
	return http.StatusOK
}

func (q *request) writeJSON(status int, text []byte) {
	q.w.Header().Set("Content-Type", "application/json")
	q.w.WriteHeader(status)
	q.w.write(text)
}

func encodeJSON(body any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		return nil, api.Fail(api.CodeInternal, "", "encode the answer: %w", err)
	}
	return b.Bytes(), nil
}

// mount puts the routes on the mux, with a 405 beside each path and a 404 behind all.
func (s *Server) mount() {
	methods := make(map[string][]string)
	for i := range s.routes {
		r := &s.routes[i]
		if r.in != nil {
			s.schemas.add(r.in)
		}
		if r.out != nil {
			s.schemas.add(r.out)
		}
		s.mux.Handle(r.method+" "+Prefix+r.path, s.endpoint(r))
		methods[r.path] = append(methods[r.path], r.method)
	}
	for path, allowed := range methods {
		slices.Sort(allowed)
		s.mux.Handle(Prefix+path, s.refuse(func(q *request) error {
			q.w.Header().Set("Allow", strings.Join(allowed, ", "))
			q.w.override = http.StatusMethodNotAllowed
			return api.Fail(api.CodeUnsupported, "", "%s is not taken here, only %s", clipped(q.Method), strings.Join(allowed, ", "))
		}))
	}
	s.mux.Handle("/", s.refuse(func(*request) error { return noSuchPath() }))
}

func noSuchPath() error {
	return api.Fail(api.CodeNotFound, "", "there is nothing at this path").WithCure("See %s/openapi.json for the paths that exist.", Prefix)
}

func clipped(text string) string { return text[:min(len(text), 80)] }

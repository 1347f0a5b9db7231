package oip

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
)

// controlBytes is the most that a request to one of the extensions may hold: a handful of settings.
const controlBytes = 64 << 10

// controls are the extensions beside inference. A nil one is not there, and is not advertised.
type controls struct {
	repository Repository
	statistics Statistics
	settings   Settings
	audit      Audit
	tracing    tracing
}

func newControls(o Options) *controls {
	c := &controls{repository: o.Repository, statistics: o.Statistics, settings: o.Settings, audit: o.Audit}
	if c.settings != nil {
		c.tracing.begin(c.settings)
	}
	return c
}

// recorded makes a change between its two records.
func (c *controls) recorded(ctx context.Context, who *api.Principal, action, subject string, do func() (after string, err error)) error {
	if c.audit == nil {
		_, err := do()
		return err
	}
	return c.audit.Record(ctx, api.AuditRecord{Tenant: who.Tenant, Actor: who.Name, Key: who.Key, Door: "inference", Action: action, Subject: subject}, do)
}

// advertise adds the names of the extensions that are there.
func (c *controls) advertise(list []string) []string {
	list = slices.Clip(list)
	if c.repository != nil {
		list = append(list, "model_repository", "model_repository(unload_dependents)")
	}
	if c.statistics != nil && c.repository != nil {
		list = append(list, "statistics")
	}
	if c.settings != nil {
		// Without a collector nothing can be traced: the settings answer that they are off, and are not offered.
		if _, able := c.settings.TraceEvery(); able {
			list = append(list, "trace")
		}
		list = append(list, "logging")
	}
	return list
}

// missing is the error of an extension that is not there.
func missing(what string) error {
	return api.Fail(api.CodeUnsupported, "", "%s is not supported by this server", what)
}

// control is what a path of an extension names.
type control struct {
	act      string // "index", "load", "unload", "elsewhere", "stats", "logging", "trace", "memory"
	endpoint string
	version  string
	methods  []string
}

var (
	reading = []string{http.MethodGet}
	writing = []string{http.MethodPost}
	either  = []string{http.MethodGet, http.MethodPost}
)

// parseControl reads a path of an extension; ok is false when no route has its form.
func parseControl(path string) (c control, ok bool) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return c, false
	}
	switch rest {
	case "logging":
		return control{act: "logging", methods: either}, true
	case "trace/setting":
		return control{act: "trace", methods: either}, true
	case "models/stats":
		return control{act: "stats", methods: reading}, true
	}
	family, rest, _ := strings.Cut(rest, "/")
	switch family {
	case "repository":
		return parseRepository(rest)
	case "systemsharedmemory", "cudasharedmemory":
		return parseMemory(rest)
	case "models":
		return parseModel(rest)
	}
	return c, false
}

// parseRepository reads what follows /v2/repository/. A repository that is named before is one that this server has not.
func parseRepository(rest string) (c control, ok bool) {
	if rest == "index" {
		return control{act: "index", methods: writing}, true
	}
	parts := strings.Split(rest, "/")
	c = control{methods: writing}
	switch {
	case len(parts) == 3 && parts[0] == "models":
		c.act, c.endpoint = parts[2], parts[1]
	case len(parts) == 4 && parts[1] == "models" && (parts[3] == "load" || parts[3] == "unload"), len(parts) == 2 && parts[1] == "index":
		c.act = "elsewhere"
		return c, parts[0] != ""
	}
	return c, (c.act == "load" || c.act == "unload") && c.endpoint != ""
}

// parseMemory reads what follows the family's name: [region/R/]status, register or unregister.
func parseMemory(rest string) (c control, ok bool) {
	if after, named := strings.CutPrefix(rest, "region/"); named {
		var region string
		if region, rest, _ = strings.Cut(after, "/"); region == "" {
			return c, false
		}
	}
	switch rest {
	case "status":
		return control{act: "memory", methods: reading}, true
	case "register", "unregister":
		return control{act: "memory", methods: writing}, true
	}
	return c, false
}

// parseModel reads what follows /v2/models/.
func parseModel(rest string) (c control, ok bool) {
	c.endpoint, rest, _ = strings.Cut(rest, "/")
	if rest == "trace/setting" {
		c.act, c.methods = "trace", either
		return c, c.endpoint != ""
	}
	if after, versioned := strings.CutPrefix(rest, "versions/"); versioned {
		if c.version, rest, _ = strings.Cut(after, "/"); c.version == "" {
			return c, false
		}
	}
	c.act, c.methods = "stats", reading
	return c, rest == "stats" && c.endpoint != ""
}

// serve answers a request to an extension.
func (c *controls) serve(p *protocol, w http.ResponseWriter, r *http.Request, t control, id string) {
	if !slices.Contains(t.methods, r.Method) && (r.Method != http.MethodHead || t.methods[0] != http.MethodGet) {
		gateway.MethodNotAllowed(w, strings.Join(t.methods, ", "))
		return
	}
	defer p.recovered(w, r, id)
	body, err := c.answer(p, w, r, t)
	if err != nil {
		p.gateway.Fail(w, r, id, err)
		return
	}
	writeJSON(w, body)
}

// answer gives the document to answer with; load and unload have none.
func (c *controls) answer(p *protocol, w http.ResponseWriter, r *http.Request, t control) ([]byte, error) {
	who, err := p.gateway.Authenticate(r)
	if err != nil {
		return nil, err
	}
	if t.endpoint != "" {
		if err := checkTarget(t.endpoint, t.version); err != nil {
			return nil, err
		}
	}
	var body []byte
	if r.Method == http.MethodPost {
		var held gateway.Body
		defer held.Release()
		if err := p.gateway.ReadBody(&held, w, r, controlBytes, 0); err != nil {
			return nil, err
		}
		body = held.Data
	}
	switch t.act {
	case "index":
		return c.indexHTTP(who, body)
	case "load", "unload":
		return nil, c.moveHTTP(r.Context(), who, t.act, t.endpoint, body)
	case "elsewhere":
		return nil, elsewhere()
	case "stats":
		return c.statisticsHTTP(p, who, t.endpoint, t.version)
	case "logging":
		return c.loggingHTTP(r.Context(), who, r.Method == http.MethodPost, body)
	case "trace":
		return c.traceHTTP(r.Context(), p, who, t.endpoint, r.Method == http.MethodPost, body)
	}
	return nil, memoryRefused()
}

// memoryRefused is the answer to every verb of the shared memory extensions: docs/decisions/007.
func memoryRefused() error {
	return api.Fail(api.CodeUnsupported, "", "shared memory is not supported by this server").
		WithCure("Send tensors as binary data; they are passed on without a copy.")
}

// overseer refuses whoever may not change what belongs to the whole server.
func overseer(_ context.Context, who *api.Principal, what string) error {
	if who == nil || who.Tenant != api.DefaultTenant || !who.Allows(api.ScopeAdmin) {
		return api.Fail(api.CodeForbidden, "", "%s is the server's: only administrators of tenant %s change it", what, api.DefaultTenant)
	}
	return nil
}

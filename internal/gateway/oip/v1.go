package oip

import (
	"net/http"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// rows answers the older protocol of TensorFlow Serving as KServe has it: rows in, predictions out.
type rows struct{ *protocol }

// parseV1 reads a path under /v1; predict is whether it is one to post to.
func parseV1(path string) (t target, predict, ok bool) {
	rest, ok := strings.CutPrefix(path, "/v1/models")
	switch {
	case !ok:
		return t, false, false
	case rest == "" || rest == "/":
		return t, false, true
	case rest[0] != '/':
		return t, false, false
	}
	rest, predict = strings.CutSuffix(rest[1:], ":predict")
	t.endpoint, rest, ok = strings.Cut(rest, "/")
	if !ok {
		return t, predict, t.endpoint != ""
	}
	t.version, ok = strings.CutPrefix(rest, "versions/")
	return t, predict, ok && t.endpoint != "" && t.version != ""
}

// ServeHTTP answers one request.
func (p *rows) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := ulid.Make().String()
	w.Header()["Penstock-Request-Id"] = []string{id}
	t, predict, ok := parseV1(r.URL.Path)
	if !ok {
		gateway.NotFound(w)
		return
	}
	allow := http.MethodGet
	if predict {
		allow = http.MethodPost
	}
	if r.Method != allow && (r.Method != http.MethodHead || predict) {
		gateway.MethodNotAllowed(w, allow)
		return
	}
	defer p.recovered(w, r, id)
	if err := p.answer(w, r, t, predict, id); err != nil {
		p.gateway.Fail(w, r, id, err)
	}
}

// answer writes the answer, or gives the error to write in its place.
func (p *rows) answer(w http.ResponseWriter, r *http.Request, t target, predict bool, id string) error {
	principal, err := p.gateway.Authenticate(r)
	if err != nil {
		return err
	}
	if t.endpoint == "" {
		writeJSON(w, wire.AppendModels(nil, p.models(principal)))
		return nil
	}
	if err := checkTarget(t.endpoint, t.version); err != nil {
		return err
	}
	if predict {
		return p.predict(w, r, t, id, principal)
	}
	view, err := p.server.Describe(principal, api.EndpointName(t.endpoint), t.version)
	if err != nil {
		return named(err, t.endpoint, t.version)
	}
	if !view.Ready {
		return api.Fail(api.CodeNotReady, "", "model '%s' is not ready", t.endpoint)
	}
	writeJSON(w, wire.AppendModelReady(nil, t.endpoint))
	return nil
}

// predict reads, calls and writes. The types of the inputs are those of the model that serves when the request comes; another
// one, should it take over before the call, checks them again.
func (p *rows) predict(w http.ResponseWriter, r *http.Request, t target, id string, principal *api.Principal) error {
	start := time.Now()
	s := p.take()
	defer p.give(s)
	defer s.body.Release()
	if err := p.gateway.ReadBody(&s.body, w, r, p.gateway.Config().JSONBytes, 0); err != nil {
		return err
	}
	view, err := p.server.Describe(principal, api.EndpointName(t.endpoint), t.version)
	if err != nil {
		return named(err, t.endpoint, t.version)
	}
	if len(view.Signature.Inputs) == 0 {
		return named(api.Fail(api.CodeNotReady, "", "nothing serves"), t.endpoint, t.version)
	}
	if err := s.request.DecodeV1(s.body.Data, view.Signature.Inputs); err != nil {
		return err
	}
	answer, err := p.callHTTP(w, r, s, t, id, principal, start)
	if err != nil {
		return err
	}
	defer answer.Release()
	if s.out, err = s.response.AppendV1(s.out[:0], s.request.Columns); err != nil {
		return err
	}
	s.response = wire.Response{} // without binary outputs
	p.write(w, r, s, -1)
	return nil
}

// Package oip answers the Open Inference Protocol v2 on the gateway: REST with JSON and binary tensors, and gRPC. It turns
// requests into serve's calls and serve's answers into the protocol's form; what happens between is not its concern.
// Caller: server, which attaches it to a gateway.Server.
package oip

import (
	"context"
	"log/slog"
	"sync"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
	"github.com/penstock/penstock/internal/serve"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// Server is what answers the calls: serve's walk. Errors are *api.Error; names that the principal's tenant does not have
// are CodeEndpointNotFound or CodeVersionNotFound, whoever else has them.
type Server interface {
	// Infer answers one call. Neither the call nor its tensors may be kept or read after it returned: their memory serves
	// the next request (its strings may be kept, as any). The answer is released when it was written.
	Infer(ctx context.Context, call *serve.Call) (*serve.Answer, error)

	// Overdue refuses a call of which only Principal, Endpoint, RequestID, Protocol and Start are known, if it would be
	// refused however its body reads: then nobody reads it. It leaves an exchange when it refuses.
	Overdue(call *serve.Call) error

	// Describe tells what serves under an endpoint's name; version may be empty.
	Describe(p *api.Principal, endpoint api.EndpointName, version string) (serve.View, error)

	// Endpoints lists the names of the principal's own tenant, in order.
	Endpoints(p *api.Principal) []api.EndpointName
}

// Options is what the protocol is attached with.
type Options struct {
	Server  Server
	Name    string // reported as the server's name; some clients want "triton"
	Version string // reported as the server's version

	Repository Repository // the model_repository extension; nil for none, like those below
	Statistics Statistics
	Settings   Settings
	Audit      Audit // nil: nothing is recorded
}

// Audit keeps the record of who changed what. Without its record a change is not made.
type Audit interface {
	Record(ctx context.Context, r api.AuditRecord, do func() (after string, err error)) error
}

// protocol is the attached protocol. Both doors share it.
type protocol struct {
	gateway  *gateway.Server
	server   Server
	name     string
	version  string
	log      *slog.Logger
	requests sync.Pool // of *scratch
	controls *controls
	offers   []string  // extensions, as advertised
	gzips    sync.Pool // of *packer
	deflates sync.Pool // of *packer
}

// extensions are those that are really done.
var extensions = []string{"binary_tensor_data", "classification", "model_configuration", "parameters"}

// Attach puts the protocol on a gateway: REST under /v2, the older one under /v1, and the gRPC service.
func Attach(g *gateway.Server, o Options) {
	wire.RegisterDeflate()
	p := &protocol{gateway: g, server: o.Server, name: o.Name, version: o.Version, log: g.Log()}
	p.controls = newControls(o)
	p.offers = p.controls.advertise(extensions)
	p.requests.New = func() any { return new(scratch) }
	g.Handle("/v2", p)
	g.Handle("/v1", &rows{protocol: p})
	g.Open(wire.GRPCInferenceService_ServerLive_FullMethodName)
	g.Open(wire.GRPCInferenceService_ServerReady_FullMethodName)
	register(g.GRPC(), p)
}

// scratch is what one infer request needs, kept for the next.
type scratch struct {
	request  wire.Request
	body     gateway.Body
	call     serve.Call
	response wire.Response
	out      []byte
	paced    pacedWriter
}

// keepOut is the most answer memory that is kept between requests.
const keepOut = 4 << 20

func (p *protocol) take() *scratch { return p.requests.Get().(*scratch) }

func (p *protocol) give(s *scratch) {
	s.request.Reset()
	s.call, s.response, s.paced = serve.Call{}, wire.Response{}, pacedWriter{}
	if cap(s.out) > keepOut {
		s.out = nil
	}
	p.requests.Put(s)
}

// Package serve is the request's walk: admit, route, queue, balance, infer, record, in one function that reads as that
// list. It reads one plan behind one atomic pointer and never touches the database. It speaks no protocol (gateway
// does) and runs no model (engine does). Callers: gateway; server hands it the plan.
package serve

import (
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/expiry"
	"github.com/penstock/penstock/internal/serve/cache"
	"github.com/penstock/penstock/internal/tensor"
)

// Call is one decoded inference request, for one Infer. The deadline is the context's; the path shortens it to the variant's limit.
type Call struct {
	Principal  *api.Principal
	Endpoint   api.EndpointName
	Version    string // as written in the URL or message; empty means whatever the endpoint's weights pick
	Unit       string // Penstock-Unit: keeps a caller on one variant
	Variant    string // Penstock-Variant: forces one; needs the scope
	RequestID  string // chosen by the gateway, unique
	Protocol   string // "oip-http" or "oip-grpc", for the exchange
	Start      time.Time
	Inputs     []tensor.Tensor // only read; may alias the request's body until Infer returns
	Outputs    []string        // wanted outputs in order; nil means all
	Cache      CacheUse        // what the caller allows of the endpoint's response cache
	Priority   int             // level in the batcher, 1 the highest; 0 is the variant's default
	Band       api.Band        // the caller's own, where it is lower than the endpoint's; empty for the endpoint's
	Parameters []api.Parameter // of the request, for chains that choose by them
	TraceID    string          // W3C trace context, when the caller sent one
	ParentID   string
	Sampled    bool

	// Life is the call's context where it is that of no other call at the same time, so that its deadline may be set in place;
	// nil elsewhere.
	Life *expiry.Context

	x      api.Exchange // what Infer records
	answer Answer       // what it gives
}

// Answer is what a call gave, and its call's memory. The outputs' memory is the engine's, or the cache's, until Release; nobody
// writes to it.
type Answer struct {
	Outputs []tensor.Tensor
	Model   api.ModelName
	Version api.VersionNumber
	Variant api.VariantName
	Recall  Recall         // what the endpoint's response cache had to do with it
	run     *engine.Answer // of the outputs that are the engine's
	entry   *cache.Entry   // of those that are the cache's
}

// Release gives the outputs' memory back; it must be called once, when the answer was written.
func (a *Answer) Release() {
	if a == nil {
		return
	}
	a.run.Release()
	if a.entry != nil {
		a.entry.Release()
		a.entry = nil
	}
}

// View is what callers may know of an endpoint: for metadata and readiness.
type View struct {
	Endpoint  api.EndpointName
	Versions  []string // versions that serve now, as decimal numbers
	Platform  string   // "onnxruntime_onnx"
	Signature api.Signature
	Ready     bool
	Cached    bool          // answers are kept and given again
	Batch     api.BatchPlan // of the first version; MaxSize is 0 when nothing is batched, or nothing is known yet
	Batching  api.Batching  // the settings that it was made from
}

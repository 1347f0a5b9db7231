// Package engine is the seam to whatever runs models. An Engine holds loaded instances and answers on them; its drivers
// are onnxruntime (in this process), process (a worker of the same binary, over the hop) and echo (for tests). It does
// not decide what is loaded (fleet does) nor where a process lives (provider does). Callers: fleet, serve, worker.
package engine

import (
	"context"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// Engine holds loaded model instances. All methods may be called from many goroutines at once. Errors are *api.Error:
//   - CodeWorkerLost: the engine is gone and this request got no byte of an answer; it may be sent to another engine.
//   - CodeNotLoaded: the instance is not here (unloaded, or never loaded); it may be sent to another engine.
//   - CodeLoadFailed, CodeModelCrashes: Load refused the file; Message holds the runtime's reason.
//   - CodeSignatureMismatch, CodeBadTensor, CodeInferenceFailed: the request's own fault; permanent.
//   - CodeDeadline, CodeCanceled: ctx ended; the run is told to stop.
type Engine interface {
	// Load makes an instance ready under load.Instance and runs it once on made-up inputs when load.Warm is set. Loading an
	// instance that is loaded already is no error and does nothing. It ends early when ctx ends.
	Load(ctx context.Context, load Load) (Loaded, error)

	// Unload takes an instance away when the requests that it is answering are done, or ctx ends. Unknown: no error.
	Unload(ctx context.Context, instance string) error

	// Infer runs one request. The request's tensors are only read, and not after Infer returned. The answer's tensors
	// belong to the engine until Release is called, exactly once.
	Infer(ctx context.Context, req Request) (*Answer, error)

	// Stats reports memory and what is loaded.
	Stats(ctx context.Context) (Stats, error)

	// Done is closed when the engine cannot answer any more (the worker died, or Close).
	Done() <-chan struct{}

	// Close unloads everything and frees the engine. Requests in flight end with CodeWorkerLost.
	Close() error
}

// Busy is how many runs an engine has in hand, also those whose callers gave up. Engines that cannot tell, since they end
// with the server, have none.
func Busy(e Engine) int {
	if b, ok := e.(interface{ Busy() int }); ok {
		return b.Busy()
	}
	return 0
}

// Fault says why an engine is of no use although what runs it had not ended by itself: a run that does not end, answers that
// cannot be trusted. nil for others, and for engines that cannot tell.
func Fault(e Engine) error {
	if f, ok := e.(interface{ Fault() error }); ok {
		return f.Fault()
	}
	return nil
}

// Load names a model file on this machine and how to hold it.
type Load struct {
	Instance string // chosen by the caller, unique in the engine
	Format   string // "onnx"
	Path     string // absolute path of the entry file; external data lies beside it
	Warm     bool   // run once on made-up inputs, dynamic dimensions 1, before it counts as loaded
	Options  api.LoadOptions
	Members  []Member // the files of Options.Chain, in the place of Path

	// Known is what an earlier load of the same file with the same options made of Options.Batching: it is not found out
	// again. nil: nothing is known.
	Known *api.BatchPlan
}

// Member is the file of one version that a chain runs.
type Member struct {
	Digest api.Digest // of the manifest, as the chain names it
	Path   string
}

// Loaded is what loading found. Signature is the runtime's own view of the model.
type Loaded struct {
	Signature api.Signature
	LoadTime  time.Duration
	WarmTime  time.Duration
	Bytes     int64          // memory that the instance takes, by the runtime's own statistics; 0: unknown
	Batch     *api.BatchPlan // what became of Options.Batching; nil from an engine that does not batch
	InTurn    bool           // its runs go on one at a time, in the order of their requests: another is better handed over after it
}

// Request is one inference. Outputs names the outputs wanted, in order; nil means all. The deadline is ctx's.
type Request struct {
	Instance string
	Inputs   []tensor.Tensor
	Outputs  []string
	Priority int // level, 1 the highest; 0 is the instance's default

	Expect time.Duration // what the run usually takes; 0: not known

	// Limit is how long a run may take that is told to end because ctx ended earlier: a caller who gives up soon is no
	// reason to give up the worker. 0: ctx alone counts.
	Limit time.Duration
}

// Answer holds the outputs and where the time went: Queue is waiting inside the engine, Compute is inside the runtime.
type Answer struct {
	Outputs []tensor.Tensor
	Queue   time.Duration
	Compute time.Duration
	Batch   int            // rows that were run together; 0 when the request was run alone
	Wait    time.Duration  // for a batch to form; part of Queue
	Steps   []api.StepTime // of a chain, in the order in which they ended
	free    func()
}

// NewAnswer makes an answer whose memory goes back through free; nil is allowed.
func NewAnswer(outputs []tensor.Tensor, free func()) *Answer {
	return &Answer{Outputs: outputs, free: free}
}

// Release gives the outputs' memory back; they must not be read afterwards. It is safe on nil and a second time.
func (a *Answer) Release() {
	if a == nil || a.free == nil {
		return
	}
	free := a.free
	a.free = nil
	free()
}

// Stats is a moment's view of an engine.
type Stats struct {
	PID       int             // process that holds the models
	Runtime   string          // name and version of the runtime, "onnxruntime 1.30.0"
	Resident  int64           // bytes resident of that process
	Private   int64           // of these, bytes that it shares with nobody and with no file
	Instances []InstanceStats // what is loaded, ordered by name
}

// InstanceStats is one loaded instance.
type InstanceStats struct {
	Instance string
	InFlight int64
	Requests int64
	Failures int64
	Compute  time.Duration // summed
	Bytes    int64         // memory that it takes; 0: unknown
}

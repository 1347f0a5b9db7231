package onnxruntime

import (
	"context"
	"time"

	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/expiry"
	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/tensor"
)

const (
	// spareRunners is how many runners an instance keeps for later runs.
	spareRunners = 32
	// onlyFatal is ONNX Runtime's number for a log of nothing but what ends the process.
	onlyFatal = 4
)

// runner is what one request needs from its check to the release of its answer. It serves one request after the other,
// so that a request allocates little.
type runner struct {
	instance *instance
	options  *ort.RunOptions // makes the run stoppable
	fired    chan struct{}   // room for one: terminate has been called
	inputs   []ort.Tensor
	seen     []bool  // by index in instance.inputs
	bounds   []bound // by index in instance.symbols
	result   ort.Result
	outputs  []tensor.Tensor
	onEnd    func() // terminate and release; kept, as making a method value allocates
	free     func()

	running bool // guarded by instance.mu: between take and the end of its run
	clean   bool // nobody has told the options to stop; the request's alone
}

func newRunner(in *instance) (*runner, error) {
	options, err := in.model.runtime.NewRunOptions()
	if err != nil {
		return nil, err
	}
	// A run that fails is reported by its error; a log line beside it would count each canceled request as a fault.
	if err := options.SetLogLevel(onlyFatal); err != nil {
		options.Close()
		return nil, err
	}
	r := &runner{instance: in, options: options, fired: make(chan struct{}, 1), seen: make([]bool, len(in.inputs)), bounds: make([]bound, len(in.symbols))}
	r.onEnd, r.free = r.terminate, r.release
	return r, nil
}

func (r *runner) terminate() {
	_ = r.options.Terminate() // fails only on closed options, and these are open until the watch has ended
	r.fired <- struct{}{}
}

// run runs the model, and stops it when ctx ends or the instance is stopped.
func (r *runner) run(ctx context.Context, outputs []string) error {
	if len(outputs) == 0 {
		outputs = nil // all
	}
	life, _ := ctx.(*expiry.Context)
	hooked := life != nil && life.Hook(&r.onEnd)
	var stopWatch func() bool
	if !hooked && ctx.Done() != nil {
		stopWatch = context.AfterFunc(ctx, r.onEnd)
	}
	err := r.instance.model.session.Fill(&r.result, r.inputs, outputs, r.options)
	// Only when nobody can terminate any more may the runner serve another run.
	if hooked && !life.Unhook(&r.onEnd) || stopWatch != nil && !stopWatch() {
		<-r.fired
		r.clean = false
	}
	in := r.instance
	in.mu.Lock()
	r.running = false
	r.clean = r.clean && !in.stopped
	in.mu.Unlock()
	return err
}

// answer makes the answer, which gives the runner back when it is released.
func (r *runner) answer(queue, compute time.Duration) *engine.Answer {
	for i := range r.result.Outputs {
		o := &r.result.Outputs[i]
		r.outputs = append(r.outputs, tensor.Tensor{Name: o.Name, Type: fromNative(o.Type), Shape: o.Shape, Data: o.Data})
	}
	answer := engine.NewAnswer(r.outputs, r.free)
	answer.Queue, answer.Compute = queue, compute
	return answer
}

// release gives the result's memory and the runner back.
func (r *runner) release() {
	r.result.Release()
	clear(r.inputs)  // views of the request, which would be kept from the collector
	clear(r.outputs) // views of memory that is given back now
	r.inputs, r.outputs = r.inputs[:0], r.outputs[:0]
	r.instance.put(r)
}

// take gives a runner that stop knows of; release gives it back.
func (in *instance) take() (*runner, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	var r *runner
	if last := len(in.spare) - 1; last >= 0 {
		r = in.spare[last]
		in.spare = in.spare[:last]
	} else {
		var err error
		if r, err = newRunner(in); err != nil {
			return nil, err
		}
		in.runners[r] = struct{}{}
	}
	r.running, r.clean = true, true
	if in.stopped {
		_ = r.options.Terminate() // its run ends at once
	}
	return r, nil
}

// put keeps a runner for the next request, or frees it.
func (in *instance) put(r *runner) {
	in.mu.Lock()
	keep := r.clean && !in.stopped && !in.gone && len(in.spare) < spareRunners
	r.running = false
	if keep {
		in.spare = append(in.spare, r)
	} else {
		delete(in.runners, r)
	}
	in.mu.Unlock()
	if !keep {
		r.options.Close()
	}
}

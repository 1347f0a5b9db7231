package onnxruntime

import (
	"context"

	"github.com/penstock/penstock/internal/ort"
)

const (
	// spareRunners is how many runners an instance keeps for later runs.
	spareRunners = 32
	// onlyFatal is ONNX Runtime's number for a log of nothing but what ends the process.
	onlyFatal = 4
)

// runner is what makes one run stoppable. It serves one run after the other, so that a request allocates little.
type runner struct {
	options *ort.RunOptions
	fired   chan struct{} // room for one: terminate has been called
	onEnd   func()        // calls terminate; kept, as making a method value allocates
}

func newRunner(runtime *ort.Runtime) (*runner, error) {
	options, err := runtime.NewRunOptions()
	if err != nil {
		return nil, err
	}
	// A run that fails is reported by its error; a log line beside it would count each canceled request as a fault.
	if err := options.SetLogLevel(onlyFatal); err != nil {
		options.Close()
		return nil, err
	}
	r := &runner{options: options, fired: make(chan struct{}, 1)}
	r.onEnd = r.terminate
	return r, nil
}

func (r *runner) terminate() {
	_ = r.options.Terminate() // fails only on closed options, and these are open until the watch has ended
	r.fired <- struct{}{}
}

// run runs the model, and stops it when ctx ends or the instance is stopped.
func (in *instance) run(ctx context.Context, inputs []ort.Tensor, outputs []string) (*ort.Result, error) {
	r, err := in.takeRunner()
	if err != nil {
		return nil, err
	}
	stopWatch := func() bool { return true }
	if ctx.Done() != nil {
		stopWatch = context.AfterFunc(ctx, r.onEnd)
	}
	result, err := in.session.Run(inputs, outputs, r.options)
	// Only when nobody can terminate any more may the runner serve another run.
	clean := stopWatch()
	if !clean {
		<-r.fired
	}
	in.putRunner(r, clean)
	return result, err
}

// takeRunner gives a runner that stop knows of.
func (in *instance) takeRunner() (*runner, error) {
	var r *runner
	select {
	case r = <-in.spare:
	default:
		var err error
		if r, err = newRunner(in.runtime); err != nil {
			return nil, err
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.running[r] = struct{}{}
	if in.stopped {
		_ = r.options.Terminate() // its run ends at once
	}
	return r, nil
}

func (in *instance) putRunner(r *runner, clean bool) {
	in.mu.Lock()
	delete(in.running, r)
	clean = clean && !in.stopped
	in.mu.Unlock()
	if clean {
		select {
		case in.spare <- r:
			return
		default:
		}
	}
	r.options.Close()
}

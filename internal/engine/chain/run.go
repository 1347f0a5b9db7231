package chain

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/tensor"
)

// run is one request on its way through a chain. Steps run as soon as what they read is there, those that wait for
// nobody side by side. Only what the outputs need is run: of a route, the branch that was chosen.
type run struct {
	*graph
	engine   *Engine
	in       *instance
	ctx      context.Context // ends when the request does, or at the first fault
	cancel   context.CancelFunc
	begin    time.Time
	priority int
	outs     []slot // wanted, in order
	sinks    steps  // steps that these read

	mu      sync.Mutex // guards what follows; what a slot holds is only read once its step is done
	tensors []tensor.Tensor
	holds   []steps          // by slot: the steps whose memory the tensor lies in
	answers []*engine.Answer // by step; nil: released, or none
	chosen  []int            // by step: of a route the index of its branch, -1 before
	started steps
	done    steps
	err     error
	times   []api.StepTime
	batch   int
	wait    time.Duration

	group sync.WaitGroup // steps in goroutines of their own
}

// execute carries the request out. It returns when no step runs any more.
func (r *run) execute() (*engine.Answer, error) {
	r.mu.Lock()
	ready := r.next()
	r.mu.Unlock()
	r.drive(ready)
	r.group.Wait()
	if r.err != nil {
		for _, a := range r.answers {
			a.Release()
		}
		return nil, r.err
	}
	return r.answer(), nil
}

// drive runs steps, and what becomes ready after them, until nothing is left for this goroutine.
func (r *run) drive(ready []int) {
	for len(ready) > 0 {
		var own, next []int
		for _, i := range ready {
			if !r.nodes[i].heavy {
				own = append(own, i)
			}
		}
		for _, i := range ready {
			switch {
			case !r.nodes[i].heavy:
			case len(own) == 0: // the only one, or the first of those that take long
				own = append(own, i)
			default:
				r.group.Go(func() { r.drive(r.step(i)) })
			}
		}
		for _, i := range own {
			next = append(next, r.step(i)...)
		}
		ready = next
	}
}

// step runs one step and says which ones are ready now.
func (r *run) step(i int) (ready []int) {
	begin := time.Now()
	out, answer, err := r.carry(i)
	took := time.Since(begin)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		answer.Release()
		r.fail(i, err)
		return nil
	}
	n := &r.nodes[i]
	t := api.StepTime{Name: n.name, Start: begin.Sub(r.begin), Compute: took}
	if answer != nil {
		r.answers[i] = answer
		t.Queue, t.Compute = answer.Queue, answer.Compute
		r.batch, r.wait = max(r.batch, answer.Batch), r.wait+answer.Wait
	}
	r.times = append(r.times, t)
	for j, at := 0, n.base; j < len(n.gives); j, at = j+1, at+1 {
		r.tensors[at] = out[j]
		r.holds[at] = only(i)
		if n.views {
			r.holds[at] |= r.holding(n.from)
		}
	}
	r.done |= only(i)
	return r.next()
}

// holding joins the memory that slots lie in.
func (r *run) holding(slots []slot) (held steps) {
	for _, at := range slots {
		held |= r.holds[at]
	}
	return held
}

// carry computes what a step gives, one tensor for each of its outputs; those that nobody reads may be empty. A panic
// is one request's failure: the step may run in a goroutine that nobody else watches.
func (r *run) carry(i int) (out []tensor.Tensor, answer *engine.Answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.engine.config.Log.Error("chain: a step panicked", "step", r.nodes[i].name, "panic", p, "stack", string(debug.Stack()))
			err = api.Fail(api.CodeInternal, "", "the step panicked")
		}
	}()
	if r.ctx.Err() != nil {
		return nil, nil, r.ctx.Err()
	}
	n := &r.nodes[i]
	in := make([]tensor.Tensor, len(n.from))
	for j, at := range n.from {
		in[j] = r.tensors[at] // written before this step was ready
		in[j].Name = n.takes[j]
	}
	if n.op == nil {
		return r.model(i, in)
	}
	if n.heavy {
		select {
		case r.engine.heavy <- struct{}{}:
			defer func() { <-r.engine.heavy }()
		case <-r.ctx.Done():
			return nil, nil, r.ctx.Err()
		}
	}
	out, err = compute(r.ctx, n.op, in)
	if err != nil && r.ctx.Err() == nil {
		err = unfit(err)
	}
	return out, nil, err
}

func (r *run) model(i int, in []tensor.Tensor) ([]tensor.Tensor, *engine.Answer, error) {
	n := &r.nodes[i]
	answer, err := r.engine.inner.Infer(r.ctx, engine.Request{Instance: r.in.members[i], Inputs: in, Outputs: n.wanted, Priority: r.priority})
	if err != nil {
		return nil, nil, err
	}
	if len(answer.Outputs) != len(n.wanted) {
		return nil, answer, api.Fail(api.CodeInternal, "", "the model gave %d outputs, %d were asked for", len(answer.Outputs), len(n.wanted))
	}
	out := make([]tensor.Tensor, len(n.gives))
	for j, name := range n.wanted {
		out[slices.Index(n.gives, name)] = answer.Outputs[j]
	}
	return out, answer, nil
}

// unfit is a built-in step's complaint about what it was given.
func unfit(err error) error {
	return api.Fail(api.CodeBadTensor, "", "%w", err).WithCure("Correct what the message names; the chain's steps are in the endpoint's spec.")
}

// fail needs mu. The first fault counts; the rest of the request is told to end.
func (r *run) fail(i int, err error) {
	if r.err != nil {
		return
	}
	var known *api.Error
	if !errors.As(err, &known) {
		if r.ctx.Err() == nil {
			known = api.AsError(err)
		} else {
			known = api.Fail(api.CodeCanceled, "", "it was stopped").Because(err)
		}
	}
	told := *known
	told.Message = fmt.Sprintf("step %s: %s", r.nodes[i].name, known.Message)
	r.err = &told
	r.cancel()
}

// next needs mu. It carries out the routes that can be, gives back the memory that nobody will read any more, and takes
// the steps that are ready.
func (r *run) next() (ready []int) {
	for moved := true; moved && r.err == nil; {
		moved = false
		for rest := r.closure(false) &^ r.started; rest != 0 && r.err == nil; {
			i := bits.TrailingZeros64(uint64(rest))
			rest &^= only(i)
			n := &r.nodes[i]
			switch {
			case n.route != nil:
				moved = r.pass(i) || moved
			case n.reads&^r.done&^only(inputBit) == 0:
				r.started |= only(i)
				ready = append(ready, i)
			}
		}
	}
	if r.err != nil {
		return nil
	}
	r.release()
	return ready
}

// pass carries a route a step further: it chooses when the choosing tensor is there, and passes the chosen one on.
func (r *run) pass(i int) (moved bool) {
	n := &r.nodes[i]
	there := func(at slot) bool { return r.owner[at] == inputBit || r.done.has(r.owner[at]) }
	if r.chosen[i] < 0 {
		by := n.from[slices.Index(n.takes, routeBy)]
		if !there(by) {
			return false
		}
		branch, err := n.route.choose(&r.tensors[by])
		if err != nil {
			r.fail(i, unfit(err))
			return false
		}
		r.chosen[i] = slices.Index(n.takes, branch)
		return true
	}
	from := n.from[r.chosen[i]]
	if !there(from) {
		return false
	}
	r.tensors[n.base], r.holds[n.base] = r.tensors[from], r.holds[from]
	r.started |= only(i)
	r.done |= only(i)
	r.times = append(r.times, api.StepTime{Name: n.name, Start: time.Since(r.begin)})
	return true
}

// closure gives the steps that must still run, those that run now included. With all it also gives those that a route
// may yet choose.
func (r *run) closure(all bool) steps {
	const outside = steps(1) << inputBit
	var seen steps
	for todo := r.sinks &^ r.done &^ outside; todo != 0; {
		i := bits.TrailingZeros64(uint64(todo))
		seen |= only(i)
		n := &r.nodes[i]
		reads := n.reads
		if n.route != nil {
			switch {
			case r.chosen[i] >= 0:
				reads = only(r.owner[n.from[r.chosen[i]]])
			case !all:
				reads = only(r.owner[n.from[slices.Index(n.takes, routeBy)]])
			}
		}
		todo = (todo | reads&^r.done&^outside) &^ seen
	}
	return seen
}

// release needs mu. It gives answers back whose memory no output and no step to come reads.
func (r *run) release() {
	kept := r.holding(r.outs)
	for rest := r.closure(true); rest != 0; {
		i := bits.TrailingZeros64(uint64(rest))
		rest &^= only(i)
		from := r.nodes[i].from
		if c := r.chosen[i]; c >= 0 {
			from = from[c : c+1]
		}
		kept |= r.holding(from)
	}
	for i, a := range r.answers {
		if a != nil && !kept.has(i) {
			a.Release()
			r.answers[i] = nil
		}
	}
}

// answer puts the outputs together. What lies in the request's own memory is copied: that ends with the request.
func (r *run) answer() *engine.Answer {
	outputs := make([]tensor.Tensor, len(r.outs))
	for i, at := range r.outs {
		outputs[i] = r.tensors[at]
		if r.holds[at].has(inputBit) {
			outputs[i].Data, outputs[i].Shape = slices.Clone(outputs[i].Data), slices.Clone(outputs[i].Shape)
		}
	}
	answers := r.answers
	a := engine.NewAnswer(outputs, func() {
		for _, inner := range answers {
			inner.Release()
		}
	})
	total := time.Since(r.begin)
	for _, t := range r.times {
		a.Queue += t.Queue
	}
	a.Queue = min(a.Queue, total)
	a.Compute = total - a.Queue
	a.Batch, a.Wait, a.Steps = r.batch, min(r.wait, a.Queue), r.times
	return a
}

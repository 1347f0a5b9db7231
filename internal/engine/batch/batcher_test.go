package batch_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/batch"
	"github.com/penstock/penstock/internal/engine/echo"
	"github.com/penstock/penstock/internal/tensor"
)

// rig is a batcher around an engine that answers a request with its inputs after a while, and remembers what it ran.
type rig struct {
	*batch.Engine
	t    testing.TB
	work time.Duration // what a run takes
	fail func(req engine.Request) error

	mu   sync.Mutex // guards what follows
	runs []string   // the values of each run, in order
	now  int
	most int // runs under way at the same time
}

func newRig(t testing.TB, settings api.Batching) *rig {
	t.Helper()
	r := &rig{t: t, work: time.Millisecond}
	any := []api.TensorSpec{{Name: "x", Datatype: "INT64", Shape: []int64{-1, -1}}}
	r.Engine = batch.New(echo.New(echo.Config{Signature: api.Signature{Inputs: any, Outputs: any}, BeforeInfer: r.before}), batch.Config{})
	inexact := false
	settings.Mode, settings.Exact = api.BatchOn, &inexact
	r.load(settings)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// load loads without warming: then there is no trial, whose outcome these tests must not depend on.
func (r *rig) load(settings api.Batching) {
	r.t.Helper()
	load := engine.Load{Instance: "m", Format: "onnx", Path: "m", Options: api.LoadOptions{Batching: &settings}}
	if _, err := r.Load(r.t.Context(), load); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) before(ctx context.Context, req engine.Request) error {
	r.mu.Lock()
	r.runs = append(r.runs, fmt.Sprint(firsts(&req.Inputs[0])))
	r.now++
	r.most = max(r.most, r.now)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.now--
		r.mu.Unlock()
	}()
	select {
	case <-time.After(r.work):
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.fail != nil {
		return r.fail(req)
	}
	return nil
}

// firsts is the first value of every row.
func firsts(t *tensor.Tensor) (list []int64) {
	all := t.Int64s()
	for row := range t.Shape[0] {
		list = append(list, all[row*t.Shape[1]])
	}
	return list
}

// row is a request of one row of one value.
func row(v int64) engine.Request { return wide(v, 1) }

func wide(v int64, width int) engine.Request {
	values := slices.Repeat([]int64{v}, width)
	return engine.Request{Instance: "m", Inputs: []tensor.Tensor{tensor.FromInt64("x", []int64{1, int64(width)}, values)}}
}

// outcome is how a request ended.
type outcome struct {
	answer *engine.Answer
	err    error
	took   time.Duration
}

// ask sends a request; when it returns, the request runs or waits.
func (r *rig) ask(ctx context.Context, req engine.Request) <-chan outcome {
	ended := make(chan outcome, 1)
	began := time.Now()
	go func() {
		answer, err := r.Infer(ctx, req)
		ended <- outcome{answer, err, time.Since(began)}
	}()
	synctest.Wait()
	return ended
}

// good waits for an answer that echoes the request and was run with batch rows.
func (r *rig) good(what string, ended <-chan outcome, req engine.Request, rows int) outcome {
	r.t.Helper()
	o := <-ended
	if o.err != nil {
		r.t.Errorf("%s: %v", what, o.err)
		return o
	}
	out, in := &o.answer.Outputs[0], &req.Inputs[0]
	if !slices.Equal(out.Shape, in.Shape) || !bytes.Equal(out.Data, in.Data) {
		r.t.Errorf("%s: got %v %v, want %v %v", what, out.Shape, out.Int64s(), in.Shape, in.Int64s())
	}
	if o.answer.Batch != rows {
		r.t.Errorf("%s: ran with %d rows, want %d", what, o.answer.Batch, rows)
	}
	o.answer.Release()
	return o
}

func (r *rig) bad(what string, ended <-chan outcome, code api.Code) outcome {
	r.t.Helper()
	o := <-ended
	if !api.Is(o.err, code) {
		r.t.Errorf("%s: got %v, want %s", what, o.err, code)
	}
	return o
}

func (r *rig) ran(want ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.runs, want) {
		r.t.Errorf("ran %q, want %q", r.runs, want)
	}
}

// TestBatchFormsWhileTheLastOneRuns: the first request does not wait; those that come meanwhile run together.
func TestBatchFormsWhileTheLastOneRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, api.Batching{})
		first := r.ask(t.Context(), row(0))
		var rest []<-chan outcome
		for i := range int64(5) {
			rest = append(rest, r.ask(t.Context(), row(i+1)))
		}
		if o := r.good("the first", first, row(0), 0); o.took != r.work || o.answer.Wait != 0 {
			t.Errorf("the first took %v and waited %v", o.took, o.answer.Wait)
		}
		for i, ended := range rest {
			if o := r.good("a later one", ended, row(int64(i+1)), 5); o.took != 2*r.work || o.answer.Wait != r.work || o.answer.Queue != r.work {
				t.Errorf("a later one took %v, waited %v, queued %v", o.took, o.answer.Wait, o.answer.Queue)
			}
		}
		r.ran("[0]", "[1 2 3 4 5]")
	})
}

func TestShapesAreKeptApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, api.Batching{})
		requests := []engine.Request{row(0), wide(1, 2), wide(2, 3), wide(3, 2), wide(4, 3)}
		named := row(5)
		named.Outputs = []string{"x"}
		floats := engine.Request{Instance: "m", Inputs: []tensor.Tensor{{Name: "x", Type: tensor.FP64, Shape: []int64{1, 2}, Data: make([]byte, 16)}}}
		requests = append(requests, named, floats)
		var all []<-chan outcome
		for _, req := range requests {
			all = append(all, r.ask(t.Context(), req))
		}
		for i, rows := range []int{0, 2, 2, 2, 2, 0, 0} {
			r.good(fmt.Sprint(i), all[i], requests[i], rows)
		}
		r.ran("[0]", "[1 3]", "[2 4]", "[5]", "[0]")
	})
}

func TestSizes(t *testing.T) {
	for name, tc := range map[string]struct {
		settings api.Batching
		rows     []int64 // of each request that waits
		want     []int   // rows of the batch that each ran in; 0: alone
	}{
		"maximum":               {api.Batching{MaxSize: 2}, []int64{1, 1, 1, 1, 1}, []int{2, 2, 2, 2, 0}},
		"several rows":          {api.Batching{MaxSize: 4}, []int64{2, 3, 2, 1}, []int{4, 4, 4, 4}},
		"larger than any":       {api.Batching{MaxSize: 4}, []int64{9, 1, 1}, []int{0, 2, 2}},
		"preferred":             {api.Batching{MaxSize: 8, PreferredSizes: []int{2, 4}}, []int64{1, 1, 1, 1, 1, 1, 1}, []int{4, 4, 4, 4, 2, 2, 0}},
		"less than preferred":   {api.Batching{MaxSize: 8, PreferredSizes: []int{4}}, []int64{1, 1, 1}, []int{3, 3, 3}},
		"no rows":               {api.Batching{}, []int64{0, 1, 1}, []int{0, 2, 2}},
		"more than one by runs": {api.Batching{Runs: 1, MaxSize: 3}, []int64{1, 1, 1, 1}, []int{3, 3, 3, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, tc.settings)
				first := r.ask(t.Context(), row(0))
				var requests []engine.Request
				var all []<-chan outcome
				for i, n := range tc.rows {
					req := engine.Request{Instance: "m", Inputs: []tensor.Tensor{tensor.FromInt64("x", []int64{n, 1}, slices.Repeat([]int64{int64(i)}, int(n)))}}
					requests, all = append(requests, req), append(all, r.ask(t.Context(), req))
				}
				r.good("the first", first, row(0), 0)
				for i := range all {
					r.good(fmt.Sprint("request ", i), all[i], requests[i], tc.want[i])
				}
			})
		})
	}
}

// TestDelay: with a delay a batch under load is held for more rows, but never for longer, and never when the instance
// was idle.
func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, api.Batching{DelayUS: 5000, MaxSize: 3})
		first := r.ask(t.Context(), row(0))
		held := r.ask(t.Context(), row(1))
		if o := r.good("an idle instance", first, row(0), 0); o.took != r.work {
			t.Errorf("waited on an idle instance: %v", o.took)
		}
		<-time.After(time.Millisecond) // the instance is idle again, and the second is still held
		joins := r.ask(t.Context(), row(2))
		for v, ended := range []<-chan outcome{held, joins} {
			o := r.good("held", ended, row(int64(v+1)), 2)
			if v == 0 && o.took != 5*time.Millisecond+r.work {
				t.Errorf("the batch was held %v, want the delay", o.took-r.work)
			}
		}
		synctest.Wait()
		// A full batch is not held, and neither is another shape's, though the first in line is.
		first = r.ask(t.Context(), row(3))
		held = r.ask(t.Context(), wide(4, 2))
		var full []<-chan outcome
		for v := range int64(3) {
			full = append(full, r.ask(t.Context(), row(5+v)))
		}
		r.good("an idle instance", first, row(3), 0)
		for v, ended := range full {
			if o := r.good("full", ended, row(5+int64(v)), 3); o.took != 2*r.work {
				t.Errorf("a full batch was held: %v", o.took)
			}
		}
		r.good("held", held, wide(4, 2), 0)
		r.ran("[0]", "[1 2]", "[3]", "[5 6 7]", "[4]")
	})
}

func TestPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, api.Batching{MaxSize: 2, PriorityLevels: 3})
		first := r.ask(t.Context(), row(0))
		var all []<-chan outcome
		for i, priority := range []int{3, 0, 1, 99, 1, 2} { // 0 and 99 are the default, 2
			req := row(int64(i + 1))
			req.Priority = priority
			all = append(all, r.ask(t.Context(), req))
		}
		r.good("the first", first, row(0), 0)
		for i, ended := range all {
			r.good(fmt.Sprint(i), ended, row(int64(i+1)), 2)
		}
		r.ran("[0]", "[3 5]", "[2 4]", "[6 1]")
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, api.Batching{QueueSize: 2})
		first, a, b := r.ask(t.Context(), row(0)), r.ask(t.Context(), row(1)), r.ask(t.Context(), row(2))
		r.bad("one too many", r.ask(t.Context(), row(3)), api.CodeQueueFull)
		r.good("the first", first, row(0), 0)
		r.good("a", a, row(1), 2)
		r.good("b", b, row(2), 2)
	})
}

func TestWaitingTooLong(t *testing.T) {
	for name, tc := range map[string]struct {
		action api.TimeoutAction
		runs   []string
	}{
		"reject": {api.TimeoutReject, []string{"[0]", "[1]", "[3]"}},
		"delay":  {api.TimeoutDelay, []string{"[0]", "[1]", "[3]", "[2]"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The queue is in order of shapes: 1 waits 10 ms, 2 would wait 20, and 3 comes later.
				r := newRig(t, api.Batching{TimeoutUS: 15000, TimeoutAction: tc.action})
				r.work = 10 * time.Millisecond
				first, one, two := r.ask(t.Context(), row(0)), r.ask(t.Context(), wide(1, 2)), r.ask(t.Context(), wide(2, 3))
				<-time.After(12 * time.Millisecond)
				three := r.ask(t.Context(), wide(3, 4))
				r.good("0", first, row(0), 0)
				r.good("1", one, wide(1, 2), 0)
				if tc.action == api.TimeoutReject {
					if o := r.bad("2", two, api.CodeDeadline); o.took != 15*time.Millisecond {
						t.Errorf("refused after %v", o.took)
					}
				} else {
					r.good("2", two, wide(2, 3), 0)
				}
				r.good("3", three, wide(3, 4), 0)
				r.ran(tc.runs...)
			})
		})
	}
}

// TestLeaving: members that are canceled or late leave before the batch runs, and one that leaves a running batch is
// answered at once while the others get theirs.
func TestLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, api.Batching{})
		first := r.ask(t.Context(), row(0))
		canceled, cancel := context.WithCancel(t.Context())
		short, stop := context.WithTimeout(t.Context(), r.work/2)
		defer stop()
		later, leave := context.WithCancel(t.Context())
		one, two, three, four := r.ask(canceled, row(1)), r.ask(short, row(2)), r.ask(later, row(3)), r.ask(t.Context(), row(4))
		cancel()
		if o := r.bad("canceled", one, api.CodeCanceled); o.took != 0 {
			t.Errorf("canceled after %v", o.took)
		}
		if o := r.bad("late", two, api.CodeDeadline); o.took != r.work/2 {
			t.Errorf("late after %v", o.took)
		}
		r.good("the first", first, row(0), 0)
		synctest.Wait() // now 3 and 4 run
		leave()
		if o := r.bad("left a running batch", three, api.CodeCanceled); o.took != r.work {
			t.Errorf("left after %v", o.took)
		}
		r.good("stayed", four, row(4), 2)
		r.ran("[0]", "[3 4]")

		// When everybody leaves, the run is told to stop.
		r.work = time.Hour
		all, leave := context.WithCancel(t.Context())
		began := time.Now()
		first = r.ask(all, row(5))
		one, two = r.ask(all, row(6)), r.ask(all, row(7))
		leave()
		for _, ended := range []<-chan outcome{first, one, two} {
			r.bad("everybody left", ended, api.CodeCanceled)
		}
		r.work = time.Millisecond
		r.good("afterwards", r.ask(t.Context(), row(8)), row(8), 0)
		if took := time.Since(began); took > time.Second {
			t.Errorf("a run that nobody wants went on for %v", took)
		}
	})
}

// TestOneBadRow: when the runtime refuses a batch, its members are run one by one.
func TestOneBadRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, api.Batching{})
		r.fail = func(req engine.Request) error {
			if slices.Contains(firsts(&req.Inputs[0]), 2) {
				return api.Fail(api.CodeInferenceFailed, "m", "bad row")
			}
			return nil
		}
		first := r.ask(t.Context(), row(0))
		one, two, three := r.ask(t.Context(), row(1)), r.ask(t.Context(), row(2)), r.ask(t.Context(), row(3))
		r.good("0", first, row(0), 0)
		r.good("1", one, row(1), 0)
		r.bad("2", two, api.CodeInferenceFailed)
		r.good("3", three, row(3), 0)
		r.ran("[0]", "[1 2 3]", "[1]", "[2]", "[3]")
		stats, err := r.Stats(t.Context())
		if in := stats.Instances[0]; err != nil || in.Requests != 4 || in.Failures != 1 || in.InFlight != 0 {
			t.Errorf("%+v, %v", in, err)
		}
	})
}

// TestLostWorkerIsNotAskedAgain: nobody's request runs twice after a crash.
func TestLostWorkerIsNotAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, api.Batching{})
		r.fail = func(req engine.Request) error {
			if req.Inputs[0].Shape[0] > 1 {
				return api.Fail(api.CodeWorkerLost, "m", "gone")
			}
			return nil
		}
		first, one, two := r.ask(t.Context(), row(0)), r.ask(t.Context(), row(1)), r.ask(t.Context(), row(2))
		r.good("0", first, row(0), 0)
		r.bad("1", one, api.CodeWorkerLost)
		r.bad("2", two, api.CodeWorkerLost)
		r.ran("[0]", "[1 2]")
	})
}

func TestRunsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, api.Batching{Runs: 2})
		var all []<-chan outcome
		for i := range int64(6) {
			all = append(all, r.ask(t.Context(), row(i)))
		}
		for i, rows := range []int{0, 0, 4, 4, 4, 4} {
			r.good(fmt.Sprint(i), all[i], row(int64(i)), rows)
		}
		if r.most != 2 {
			t.Errorf("%d runs at once, want 2", r.most)
		}
	})
}

// TestUnloadWaitsForWhatWaits: what is in line when an instance is unloaded is still answered.
func TestUnloadWaitsForWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, api.Batching{})
		first, one, two := r.ask(t.Context(), row(0)), r.ask(t.Context(), row(1)), r.ask(t.Context(), row(2))
		unloaded := make(chan error, 1)
		go func() { unloaded <- r.Unload(t.Context(), "m") }()
		synctest.Wait()
		r.bad("a new one", r.ask(t.Context(), row(3)), api.CodeNotLoaded)
		reloaded := make(chan error, 1)
		go func() {
			_, err := r.Load(t.Context(), engine.Load{Instance: "m", Format: "onnx", Path: "m"})
			reloaded <- err
		}()
		synctest.Wait()
		r.good("0", first, row(0), 0)
		r.good("1", one, row(1), 2)
		r.good("2", two, row(2), 2)
		if err := <-unloaded; err != nil {
			t.Error(err)
		}
		if err := <-reloaded; err != nil {
			t.Error(err)
		}
		r.good("loaded again", r.ask(t.Context(), row(4)), row(4), 0)

		// An Unload that may not wait refuses what waits.
		settings := api.Batching{Mode: api.BatchOn, Exact: new(bool)}
		if err := r.Unload(t.Context(), "m"); err != nil {
			t.Fatal(err)
		}
		r.load(settings)
		r.work = time.Hour
		first, one = r.ask(t.Context(), row(5)), r.ask(t.Context(), row(6))
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_ = r.Unload(ended, "m")
		r.bad("5", first, api.CodeNotLoaded)
		r.bad("6", one, api.CodeNotLoaded)
	})
}

package batch_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
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

// walk is a random walk over one batcher. The plain model is: a request is answered with its own inputs, or, when it
// holds poison, with CodeInferenceFailed; it may end otherwise only for a reason that the walk gave it.
type walk struct {
	*rand.Rand
	t        *testing.T
	settings api.Batching
	engine   *batch.Engine

	mu     sync.Mutex // guards what follows
	now    int
	joined int // batches of more than one request
}

const poison = "poison"

func (w *walk) before(ctx context.Context, req engine.Request) error {
	w.mu.Lock()
	w.now++
	rows, most := int(req.Inputs[0].Shape[0]), w.settings.Runs
	if w.now > max(1, most) {
		w.t.Errorf("%d runs at once, limit %d", w.now, most)
	}
	work := time.Duration(w.IntN(2000)) * time.Microsecond
	w.mu.Unlock()
	for i := range req.Inputs {
		if err := req.Inputs[i].Check(); err != nil || req.Inputs[i].Shape[0] != int64(rows) {
			w.t.Errorf("ran a torn input %v: %v", req.Inputs[i].Shape, err)
		}
	}
	select {
	case <-time.After(work):
	case <-ctx.Done():
	}
	w.mu.Lock()
	w.now--
	w.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case slices.ContainsFunc(req.Inputs, func(t tensor.Tensor) bool { return bytes.Contains(t.Data, []byte(poison)) }):
		return api.Fail(api.CodeInferenceFailed, "m", "poison")
	}
	return nil
}

// request makes one whose values nobody else has.
func (w *walk) request(serial int) (engine.Request, bool) {
	rows, width := 1, 1+w.IntN(3)
	if w.IntN(4) == 0 {
		rows = 1 + w.IntN(6)
	}
	values := make([]int64, rows*width)
	for i := range values {
		values[i] = int64(serial)<<16 + int64(i)
	}
	var text []byte
	poisoned := w.IntN(40) == 0
	for i := range rows * 2 {
		word := fmt.Sprint(serial, "/", i, string(bytes.Repeat([]byte("x"), w.IntN(9))))
		if poisoned && i == 0 {
			word = poison
		}
		text = tensor.AppendBytes(text, []byte(word))
	}
	req := engine.Request{Instance: "m", Priority: w.IntN(5), Inputs: []tensor.Tensor{
		tensor.FromInt64("x", []int64{int64(rows), int64(width)}, values),
		{Name: "text", Type: tensor.Bytes, Shape: []int64{int64(rows), 2}, Data: text}}}
	switch w.IntN(8) {
	case 0:
		req.Outputs = []string{"x"}
	case 1:
		slices.Reverse(req.Inputs)
		req.Outputs = []string{"text", "x"}
	}
	return req, poisoned
}

// one sends a request, perhaps ends its context, and holds the outcome against the plain model.
func (w *walk) one(serial int, req engine.Request, poisoned bool, patience time.Duration, cancel bool) {
	ctx := w.t.Context()
	if patience > 0 {
		var stop context.CancelFunc
		if cancel {
			ctx, stop = context.WithCancel(ctx)
			timer := time.AfterFunc(patience, stop)
			defer timer.Stop()
		} else {
			ctx, stop = context.WithTimeout(ctx, patience)
		}
		defer stop()
	}
	began := time.Now()
	answer, err := w.engine.Infer(ctx, req)
	defer answer.Release()
	late := w.settings.TimeoutUS > 0 && w.settings.TimeoutAction != api.TimeoutDelay
	switch {
	case err == nil && poisoned:
		w.t.Errorf("request %d: a bad row was answered", serial)
	case err == nil:
		w.check(serial, req, answer)
	case api.Is(err, api.CodeInferenceFailed) && poisoned:
	case api.Is(err, api.CodeCanceled) && patience > 0 && cancel && ctx.Err() != nil:
	case api.Is(err, api.CodeDeadline) && patience > 0 && !cancel && ctx.Err() != nil:
	case api.Is(err, api.CodeDeadline) && late && time.Since(began) >= time.Duration(w.settings.TimeoutUS)*time.Microsecond:
	case api.Is(err, api.CodeQueueFull) && w.settings.QueueSize > 0 && time.Since(began) == 0:
	default:
		w.t.Errorf("request %d (poisoned %v, patience %v): %v after %v", serial, poisoned, patience, err, time.Since(began))
	}
	if ctx.Err() != nil && patience > 0 && time.Since(began) > patience+2*time.Millisecond {
		w.t.Errorf("request %d: its context ended after %v, it after %v", serial, patience, time.Since(began))
	}
}

func (w *walk) check(serial int, req engine.Request, answer *engine.Answer) {
	names := req.Outputs
	if names == nil {
		names = []string{req.Inputs[0].Name, req.Inputs[1].Name}
	}
	if len(answer.Outputs) != len(names) {
		w.t.Errorf("request %d: %d outputs, want %d", serial, len(answer.Outputs), len(names))
		return
	}
	for i, name := range names {
		in := req.Inputs[slices.IndexFunc(req.Inputs, func(t tensor.Tensor) bool { return t.Name == name })]
		out := answer.Outputs[i]
		if out.Name != name || out.Type != in.Type || !slices.Equal(out.Shape, in.Shape) || !bytes.Equal(out.Data, in.Data) {
			w.t.Errorf("request %d: output %s is %v %q, want %v %q", serial, out.Name, out.Shape, out.Data, in.Shape, in.Data)
		}
	}
	own := int(req.Inputs[0].Shape[0])
	if answer.Batch != 0 && (answer.Batch <= own || answer.Batch > w.settings.MaxSize) {
		w.t.Errorf("request %d of %d rows: ran with %d, most %d", serial, own, answer.Batch, w.settings.MaxSize)
	}
	if answer.Wait < 0 || answer.Queue < answer.Wait {
		w.t.Errorf("request %d: waited %v of %v in queue", serial, answer.Wait, answer.Queue)
	}
	if answer.Batch > 0 {
		w.mu.Lock()
		w.joined++
		w.mu.Unlock()
	}
}

// TestWalk sends thousands of random requests, with every setting, in fake time.
func TestWalk(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 8))
	for turn := range 12 {
		synctest.Test(t, func(t *testing.T) {
			inexact := false
			w := &walk{Rand: random, t: t, settings: api.Batching{Mode: api.BatchOn, Exact: &inexact, MaxSize: 2 + random.IntN(15), Runs: 1 + random.IntN(3),
				PriorityLevels: random.IntN(4)}}
			s := &w.settings
			if random.IntN(2) == 0 {
				s.DelayUS = random.Int64N(3000)
			}
			if random.IntN(2) == 0 {
				s.PreferredSizes = []int{2, s.MaxSize}[:1+min(1, s.MaxSize-2)]
			}
			if random.IntN(2) == 0 {
				s.QueueSize = 1 + random.IntN(40)
			}
			if random.IntN(2) == 0 {
				s.TimeoutUS = 1 + random.Int64N(20000)
				s.TimeoutAction = []api.TimeoutAction{api.TimeoutReject, api.TimeoutDelay}[random.IntN(2)]
			}
			signature := api.Signature{Inputs: []api.TensorSpec{{Name: "x", Shape: []int64{-1, -1}}, {Name: "text", Shape: []int64{-1, 2}}}}
			signature.Outputs = signature.Inputs
			w.engine = batch.New(echo.New(echo.Config{Signature: signature, BeforeInfer: w.before}), batch.Config{})
			w.load()
			var group sync.WaitGroup
			const requests = 600
			for serial := range requests {
				w.mu.Lock()
				req, poisoned := w.request(serial)
				pause, patience, cancel := time.Duration(0), time.Duration(0), w.IntN(2) == 0
				if w.IntN(8) == 0 {
					pause = time.Duration(w.IntN(5000)) * time.Microsecond
				}
				if w.IntN(5) == 0 {
					patience = time.Duration(1+w.IntN(8000)) * time.Microsecond
				}
				w.mu.Unlock()
				group.Go(func() { w.one(serial, req, poisoned, patience, cancel) })
				<-time.After(pause)
			}
			group.Wait()
			w.end(requests)
			if turn == 0 && w.joined == 0 {
				t.Error("nothing was ever joined")
			}
		})
	}
}

func (w *walk) load() {
	settings := w.settings
	if err := settings.Check("m"); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.engine.Load(w.t.Context(), engine.Load{Instance: "m", Format: "onnx", Path: "m", Options: api.LoadOptions{Batching: &settings}}); err != nil {
		w.t.Fatal(err)
	}
}

// end looks at what is left: nothing is in flight, and an Unload has nothing to wait for.
func (w *walk) end(requests int64) {
	synctest.Wait()
	stats, err := w.engine.Stats(w.t.Context())
	if err != nil || len(stats.Instances) != 1 || stats.Instances[0].InFlight != 0 || stats.Instances[0].Requests > requests {
		w.t.Errorf("at the end: %+v, %v", stats.Instances, err)
	}
	if err := w.engine.Unload(w.t.Context(), "m"); err != nil {
		w.t.Error(err)
	}
	if err := w.engine.Close(); err != nil {
		w.t.Error(err)
	}
}

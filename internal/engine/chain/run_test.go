package chain_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/chain"
	"github.com/penstock/penstock/internal/engine/echo"
	"github.com/penstock/penstock/internal/tensor"
)

func row(values ...float32) []tensor.Tensor {
	return []tensor.Tensor{tensor.FromFloat32("x", []int64{1, int64(len(values))}, values)}
}

var oneRow = []api.ChainInput{{Name: "x", Datatype: "FP32", Shape: []int64{-1, -1}}}

// model is a step that runs one.
func model(name, ref, from string) api.ChainStepSpec {
	return api.ChainStepSpec{Name: name, Model: ref, Inputs: in("x=" + from)}
}

func TestErrorsNameTheStep(t *testing.T) {
	for name, want := range map[string]struct {
		code api.Code
		text string
	}{
		"fail":  {api.CodeInferenceFailed, "step bad: it will not"},
		"panic": {api.CodeInternal, "step bad: the step panicked"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			// Beside the bad step one waits for ever: it must be told to end.
			b.put(t, "c", &api.ChainSpec{Inputs: oneRow, Steps: []api.ChainStepSpec{model("first", "add", "x"), model("bad", name, "first"), model("slow", "wait", "first")},
				Outputs: outs("a=bad", "b=slow")})
			_, err := b.Infer(t.Context(), engine.Request{Instance: "c", Inputs: row(1)})
			if got := api.AsError(err); got.Code != want.code || got.Message != want.text || got.Subject != "c" {
				t.Errorf("got %s: %s: %s", got.Code, got.Subject, got.Message)
			}
			if b.paper.out != 0 {
				t.Errorf("%d answers were not given back", b.paper.out)
			}
			if answer, err := b.Infer(t.Context(), engine.Request{Instance: "c", Inputs: row(1), Outputs: []string{"a"}}); err == nil {
				t.Errorf("answered %v", answer)
			}
		})
	}
}

// TestCancelAndDeadline: the time is false, so that what takes an hour is over at once, and a step that did not hear
// would hang the test.
func TestCancelAndDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.put(t, "c", &api.ChainSpec{Inputs: oneRow, Steps: []api.ChainStepSpec{model("first", "add", "x"), model("one", "wait", "first"), model("two", "wait", "first")},
			Outputs: outs("a=one", "b=two")})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		begin := time.Now()
		_, err := b.Infer(ctx, engine.Request{Instance: "c", Inputs: row(1)})
		if !api.Is(err, api.CodeDeadline) || time.Since(begin) != time.Hour {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		if _, err := b.Infer(ctx, engine.Request{Instance: "c", Inputs: row(1)}); !api.Is(err, api.CodeCanceled) {
			t.Errorf("canceled: %v", err)
		}
		if b.paper.out != 0 {
			t.Errorf("%d answers were not given back", b.paper.out)
		}
	})
}

// TestStepsRunSideBySide: two steps that each wait for the other can only end together.
func TestStepsRunSideBySide(t *testing.T) {
	b := newBench(t)
	var both sync.WaitGroup
	both.Add(2)
	meet := func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
		both.Done()
		both.Wait()
		return []tensor.Tensor{each("y", in[0], func(v float32) float32 { return v })}, nil
	}
	b.paper.models["add"], b.paper.models["wait"] = meet, meet
	b.put(t, "c", &api.ChainSpec{Inputs: oneRow, Steps: []api.ChainStepSpec{model("one", "add", "x"), model("two", "wait", "x"),
		{Name: "mean", Op: "average", Inputs: in("a=one", "b=two")}}, Outputs: outs("mean=mean")})
	answer, err := b.Infer(t.Context(), engine.Request{Instance: "c", Inputs: row(1, 2)})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Release()
	if got := answer.Outputs[0].Float32s(); !slices.Equal(got, []float32{1, 2}) {
		t.Errorf("got %v", got)
	}
}

// TestAnswersAreGivenBackEarly: a row of steps never holds more than what one reads and one gives.
func TestAnswersAreGivenBackEarly(t *testing.T) {
	b := newBench(t)
	spec := &api.ChainSpec{Inputs: oneRow, Outputs: outs("y=s7")}
	from := "x"
	for i := range 8 {
		name := fmt.Sprintf("s%d", i)
		spec.Steps = append(spec.Steps, model(name, "add", from))
		from = name
	}
	b.put(t, "c", spec)
	answer, err := b.Infer(t.Context(), engine.Request{Instance: "c", Inputs: row(1)})
	if err != nil {
		t.Fatal(err)
	}
	if got := answer.Outputs[0].Float32s(); got[0] != 9 {
		t.Errorf("got %v", got)
	}
	if b.paper.most != 2 {
		t.Errorf("%d answers were held at the same time, 2 are needed", b.paper.most)
	}
	if len(answer.Steps) != 8 || answer.Steps[7].Name != "s7" {
		t.Errorf("steps %+v", answer.Steps)
	}
	answer.Release()
	answer.Release()
	if b.paper.out != 0 {
		t.Errorf("%d answers are out", b.paper.out)
	}
}

// TestMembersAreShared: two chains and two steps of one share a model; it goes with the last of them.
func TestMembersAreShared(t *testing.T) {
	b := newBench(t)
	twice := &api.ChainSpec{Inputs: oneRow, Steps: []api.ChainStepSpec{model("one", "add", "x"), model("two", "add", "one")}, Outputs: outs("y=two")}
	other := &api.ChainSpec{Inputs: oneRow, Steps: []api.ChainStepSpec{model("one", "add", "x"), model("two", "pair", "one")}, Outputs: outs("y=two.half")}
	holds := func(when string, want ...string) {
		t.Helper()
		if got := b.paper.held(); !slices.Equal(got, want) {
			t.Errorf("%s: %v are loaded, want %v", when, got, want)
		}
	}
	b.put(t, "a", twice)
	holds("one chain", "add")
	b.put(t, "b", other)
	holds("two chains", "add", "pair")
	if err := b.Unload(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	holds("without the first", "add", "pair")
	answer, err := b.Infer(t.Context(), engine.Request{Instance: "b", Inputs: row(1)})
	if err != nil || answer.Outputs[0].Float32s()[0] != 1 {
		t.Errorf("%v", err)
	}
	answer.Release()
	if err := b.Unload(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	holds("without both")
	if _, err := b.Infer(t.Context(), engine.Request{Instance: "b", Inputs: row(1)}); !api.Is(err, api.CodeNotLoaded) {
		t.Errorf("after the end: %v", err)
	}
}

// TestFailedLoadLeavesNothing: when a later member cannot be loaded, the earlier ones go again.
func TestFailedLoadLeavesNothing(t *testing.T) {
	b := newBench(t)
	spec := &api.ChainSpec{Inputs: oneRow, Steps: []api.ChainStepSpec{model("one", "add", "x"), model("two", "pair", "one")}, Outputs: outs("y=two.half")}
	c, err := chain.Resolve(spec, papers{})
	if err != nil {
		t.Fatal(err)
	}
	load := engine.Load{Instance: "c", Options: api.LoadOptions{Chain: c}, Members: members(c)}
	load.Members[1].Path = "lost"
	if _, err := b.Load(t.Context(), load); !api.Is(err, api.CodeLoadFailed) || !strings.Contains(err.Error(), "step two: no file lost") {
		t.Errorf("a lost file: %v", err)
	}
	load.Members = load.Members[:1]
	if _, err := b.Load(t.Context(), load); !api.Is(err, api.CodeLoadFailed) {
		t.Errorf("a file that is not named: %v", err)
	}
	if got := b.paper.held(); len(got) > 0 {
		t.Errorf("%v are still loaded", got)
	}
	b.put(t, "c", spec)
}

// TestManyChainsAtOnce loads, asks and unloads chains that share models, from many goroutines.
func TestManyChainsAtOnce(t *testing.T) {
	b := newBench(t)
	c, err := chain.Resolve(&api.ChainSpec{Inputs: oneRow, Steps: []api.ChainStepSpec{model("one", "add", "x"), model("two", "add", "x"), {Name: "mean", Op: "average", Inputs: in("a=one", "b=two")}},
		Outputs: outs("y=mean")}, papers{})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := range 8 {
		name := fmt.Sprint("c", i%4)
		group.Go(func() {
			for range 40 {
				if _, err := b.Load(t.Context(), engine.Load{Instance: name, Options: api.LoadOptions{Chain: c}, Members: members(c)}); err != nil {
					t.Error(err)
				}
				answer, err := b.Infer(t.Context(), engine.Request{Instance: name, Inputs: row(1)})
				switch {
				case err == nil && answer.Outputs[0].Float32s()[0] != 2:
					t.Error("a wrong answer")
				case err != nil && !api.Is(err, api.CodeNotLoaded):
					t.Error(err)
				}
				answer.Release()
				if err := b.Unload(t.Context(), name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if got := b.paper.held(); len(got) > 0 {
		t.Errorf("%v are still loaded", got)
	}
}

// BenchmarkChain compares a chain of one model with the model alone, and shows what a built-in step costs.
func BenchmarkChain(b *testing.B) {
	e := chain.New(echo.New(echo.Config{}), chain.Config{})
	defer e.Close()
	if _, err := e.Load(b.Context(), engine.Load{Instance: "alone", Path: "m"}); err != nil {
		b.Fatal(err)
	}
	signature := api.Signature{Inputs: []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, -1}}}, Outputs: []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, -1}}}}
	put := func(name string, steps []api.ChainStepSpec, output string) {
		c, err := chain.Resolve(&api.ChainSpec{Inputs: []api.ChainInput{{Name: "x"}}, Steps: steps, Outputs: outs("x=" + output)}, shelf{"m": {Digest: digestOf("m"), Signature: signature}})
		if err == nil {
			_, err = e.Load(b.Context(), engine.Load{Instance: name, Options: api.LoadOptions{Chain: c}, Members: []engine.Member{{Digest: digestOf("m"), Path: "m"}}})
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	put("one", []api.ChainStepSpec{model("m", "m", "x")}, "m")
	put("topped", []api.ChainStepSpec{model("m", "m", "x"), {Name: "top", Op: "top_k", Inputs: in("scores=m")}}, "top.values")
	put("five", []api.ChainStepSpec{model("a", "m", "x"), model("b", "m", "a"), model("c", "m", "b"), model("d", "m", "c"), model("e", "m", "d")}, "e")
	for _, name := range []string{"alone", "one", "topped", "five"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			req := engine.Request{Instance: name, Inputs: row(make([]float32, 64)...)}
			for b.Loop() {
				answer, err := e.Infer(b.Context(), req)
				if err != nil {
					b.Fatal(err)
				}
				answer.Release()
			}
		})
	}
}

// TestARouteKeepsItsBranches: what a route may yet choose stays, also when everybody else who reads it has done so.
func TestARouteKeepsItsBranches(t *testing.T) {
	b := newBench(t)
	read := make(chan struct{})
	same := func(in []tensor.Tensor) ([]tensor.Tensor, error) {
		return []tensor.Tensor{each("y", in[0], func(v float32) float32 { return v })}, nil
	}
	b.paper.models["fail"] = func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) { close(read); return same(in) }
	b.paper.models["wait"] = func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) { <-read; return same(in) }
	b.put(t, "c", &api.ChainSpec{Inputs: oneRow, Outputs: outs("chosen=route", "later=later"), Steps: []api.ChainStepSpec{
		model("branch", "add", "x"), model("other", "pair", "branch"), model("later", "fail", "other.double"), // runs when other is done with branch
		model("gate", "wait", "x"), {Name: "by", Op: "argmax", Inputs: in("scores=gate")},
		model("more", "add", "branch"), // not asked for before it is chosen
		{Name: "route", Op: "route", With: map[string]any{"cases": map[string]any{"0": "a"}, "default": "b"}, Inputs: in("by=by.index", "a=more", "b=other.half")}}})
	answer, err := b.Infer(t.Context(), engine.Request{Instance: "c", Inputs: row(4)})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Release()
	if chosen, later := answer.Outputs[0].Float32s(), answer.Outputs[1].Float32s(); chosen[0] != 6 || later[0] != 10 {
		t.Errorf("got %v and %v, want 6 and 10", chosen, later)
	}
}

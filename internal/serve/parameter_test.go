package serve_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/serve"
	"github.com/penstock/penstock/internal/tensor"
)

// TestParametersBecomeInputs: a chain gets the parameters that it asks for as tensors; nobody else gets any.
func TestParametersBecomeInputs(t *testing.T) {
	text := func(name, value string) tensor.Tensor {
		return tensor.Tensor{Name: name, Type: tensor.Bytes, Shape: []int64{1}, Data: tensor.AppendBytes(nil, []byte(value))}
	}
	asks := &api.Chain{Parameters: []api.Parameter{{Name: "quality", Value: "best"}}}
	for name, tc := range map[string]struct {
		chain      *api.Chain
		inputs     []tensor.Tensor
		parameters []api.Parameter
		want       []tensor.Tensor
	}{
		"no chain":         {nil, []tensor.Tensor{text("x", "1")}, []api.Parameter{{Name: "quality", Value: "fast"}}, []tensor.Tensor{text("x", "1")}},
		"asks for none":    {&api.Chain{}, []tensor.Tensor{text("x", "1")}, []api.Parameter{{Name: "quality", Value: "fast"}}, []tensor.Tensor{text("x", "1")}},
		"given":            {asks, []tensor.Tensor{text("x", "1")}, []api.Parameter{{Name: "z", Value: "0"}, {Name: "quality", Value: "fast"}}, []tensor.Tensor{text("x", "1"), text("quality", "fast")}},
		"left out":         {asks, []tensor.Tensor{text("x", "1")}, nil, []tensor.Tensor{text("x", "1"), text("quality", "best")}},
		"sent as a tensor": {asks, []tensor.Tensor{text("quality", "mine")}, []api.Parameter{{Name: "quality", Value: "fast"}}, []tensor.Tensor{text("quality", "mine")}},
	} {
		t.Run(name, func(t *testing.T) {
			p, engines, ledger := newPath()
			var got []tensor.Tensor
			engines.add("w").answer = func(_ context.Context, req engine.Request) (*engine.Answer, error) {
				got = req.Inputs
				a := engine.NewAnswer(nil, nil)
				a.Steps = []api.StepTime{{Name: "one"}}
				return a, nil
			}
			v := arm("a", 1, 1, "w")
			v.Chain = tc.chain
			p.SetPlan(plan(false, v))
			answer, err := p.Infer(t.Context(), call(func(c *serve.Call) { c.Inputs, c.Parameters = tc.inputs, tc.parameters }))
			if err != nil {
				t.Fatal(err)
			}
			answer.Release()
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			if steps := ledger.last().Steps; len(steps) != 1 || steps[0].Name != "one" {
				t.Errorf("the exchange has the steps %v", steps)
			}
		})
	}
}

// TestParametersCountInTheCache: requests that differ in a parameter are others; a revision with the same chain goes on
// with the answers that are kept, one with another chain does not.
func TestParametersCountInTheCache(t *testing.T) {
	p, engines, _ := newPath()
	echoes(engines.add("w"))
	deploy := func(version int64, chain *api.Chain, digest api.Digest) {
		v := keeping("a", version, 1<<20, 0, "w")
		v.Chain, v.Digest = chain, digest
		p.SetPlan(plan(false, v))
	}
	quality := func(value string) func(*serve.Call) {
		return func(c *serve.Call) {
			c.Parameters = []api.Parameter{{Name: "quality", Value: value}, {Name: "other", Value: c.RequestID}}
		}
	}
	asks := func() *api.Chain { return &api.Chain{Parameters: []api.Parameter{{Name: "quality", Value: "best"}}} }
	deploy(1, asks(), "sha256:a")
	for i, step := range []struct {
		call   *serve.Call
		recall serve.Recall
	}{
		{question(1, quality("fast")), serve.RecallStored}, {question(1, quality("fast")), serve.RecallHit}, {question(1, quality("best")), serve.RecallStored},
		{question(1), serve.RecallHit},
	} {
		if _, recall := told(t, p, step.call); recall != step.recall {
			t.Errorf("step %d: recall %d", i, recall)
		}
	}
	deploy(2, asks(), "sha256:a")
	if _, recall := told(t, p, question(1)); recall != serve.RecallHit {
		t.Errorf("another revision with the same chain: recall %d", recall)
	}
	deploy(3, asks(), "sha256:b")
	if _, recall := told(t, p, question(1)); recall != serve.RecallStored {
		t.Errorf("another chain: recall %d", recall)
	}
}

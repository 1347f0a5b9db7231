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

package chain_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine/chain"
)

func TestResolve(t *testing.T) {
	spec := &api.ChainSpec{Inputs: []api.ChainInput{{Name: "picture"}},
		Steps: []api.ChainStepSpec{
			{Name: "best", Op: "argmax", With: map[string]any{"labels_from": map[string]any{"model": "add@1", "file": "labels.txt"}}, Inputs: in("scores=model.y")},
			model("model", "add@1", "row"),
			{Name: "row", Op: "reshape", With: map[string]any{"shape": []any{0., -1.}}, Inputs: in("x=pixels")},
			{Name: "pixels", Op: "decode_image", With: map[string]any{"width": 1., "height": 1.}, Inputs: in("image=picture")},
		},
		Outputs: outs("label=best.label", "row=row")}
	c, err := chain.Resolve(spec, papers{})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, s := range c.Steps {
		order = append(order, s.Name)
	}
	if got := strings.Join(order, " "); got != "pixels row model best" {
		t.Errorf("order %s", got)
	}
	signature := c.Signature()
	want := api.Signature{Inputs: []api.TensorSpec{{Name: "picture", Datatype: "BYTES", Shape: []int64{-1}}},
		Outputs: []api.TensorSpec{{Name: "label", Datatype: "BYTES", Shape: []int64{-1}}, {Name: "row", Datatype: "FP32", Shape: []int64{-1, 3}}}}
	if !reflect.DeepEqual(signature, want) {
		t.Errorf("signature %+v", signature)
	}
	if m := c.Members(); len(m) != 1 || m[0].Model != "add" || m[0].Digest != digestOf("add") {
		t.Errorf("members %+v", m)
	}
	// The other end reads the text strictly and means the same; the digest is that of the text.
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var back api.Chain
	if err := api.DecodeStrict(text, &back); err != nil {
		t.Fatal(err)
	}
	one, err := c.Digest()
	two, _ := back.Digest()
	if err != nil || one != two || !one.Valid() {
		t.Errorf("digests %s and %s, %v", one, two, err)
	}
	if !strings.Contains(string(text), `"labels":["zero","one","two"]`) {
		t.Errorf("the labels are not kept: %s", text)
	}
	spec.Steps[0].With = nil
	spec.Outputs[0].From = "best.index"
	if c, err = chain.Resolve(spec, papers{}); err != nil {
		t.Fatal(err)
	}
	if three, _ := c.Digest(); three == one {
		t.Error("another chain has the same digest")
	}
}

// TestSymbols: what is known of a dimension goes with the tensor.
func TestSymbols(t *testing.T) {
	c, err := chain.Resolve(&api.ChainSpec{Inputs: []api.ChainInput{{Name: "x"}}, Outputs: outs("all=all", "y=m"),
		Steps: []api.ChainStepSpec{model("m", "add", "x"), {Name: "w", Model: "wide", Inputs: in("x=x")}, {Name: "all", Op: "concat", With: map[string]any{"axis": 1.}, Inputs: in("a=m", "b=w.y")}}}, papers{})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Gives); got != "[FP32[rows,-1] FP32[rows,columns]]" || c.Gives[0].Name != "all" || c.Gives[1].Name != "y" {
		t.Errorf("got %s of %q and %q", got, c.Gives[0].Name, c.Gives[1].Name)
	}
}

func TestBadChains(t *testing.T) {
	top := api.ChainStepSpec{Name: "top", Op: "top_k", Inputs: in("scores=m")}
	add := model("m", "add", "x")
	many := func(n int) (steps []api.ChainStepSpec) {
		from := "x"
		for i := range n {
			name := fmt.Sprintf("s%d", i)
			steps = append(steps, model(name, "add", from))
			from = name
		}
		return steps
	}
	for name, tc := range map[string]struct {
		inputs []api.ChainInput
		steps  []api.ChainStepSpec
		outs   []api.ChainOutput
		fault  string
	}{
		"no steps":         {oneRow, nil, outs("y=x"), "0 steps; a chain has 1 to 32"},
		"no outputs":       {oneRow, []api.ChainStepSpec{add}, nil, "at least one of each"},
		"too many steps":   {oneRow, many(33), outs("y=s32"), "33 steps; a chain has 1 to 32"},
		"too deep":         {oneRow, many(20), outs("y=s19"), "step s16: more than 16 steps follow each other"},
		"bad input":        {[]api.ChainInput{{Name: "x.y"}}, []api.ChainStepSpec{add}, outs("y=m"), `input name "x.y" breaks the rule`},
		"bad step":         {oneRow, []api.ChainStepSpec{model("a.b", "add", "x")}, outs("y=m"), `step name "a.b" breaks the rule`},
		"bad output":       {oneRow, []api.ChainStepSpec{add}, outs("y y=m"), `output name "y y" breaks the rule`},
		"twin steps":       {oneRow, []api.ChainStepSpec{add, add}, outs("y=m"), "step m: a step or an input has this name already"},
		"input and step":   {oneRow, []api.ChainStepSpec{model("x", "add", "x")}, outs("y=x"), "step x: a step or an input has this name already"},
		"twin inputs":      {append(oneRow[:1:1], oneRow...), []api.ChainStepSpec{add}, outs("y=m"), "input x: two inputs have this name"},
		"twin outputs":     {oneRow, []api.ChainStepSpec{add}, outs("y=m", "y=m"), "output y: two outputs have this name"},
		"neither":          {oneRow, []api.ChainStepSpec{{Name: "m", Inputs: in("x=x")}}, outs("y=m"), "step m: model or op"},
		"both":             {oneRow, []api.ChainStepSpec{{Name: "m", Model: "add", Op: "cast", Inputs: in("x=x")}}, outs("y=m"), "step m: model or op"},
		"with for a model": {oneRow, []api.ChainStepSpec{{Name: "m", Model: "add", With: map[string]any{"k": 1.}, Inputs: in("x=x")}}, outs("y=m"), "step m: with: a model has no settings"},
		"unknown model":    {oneRow, []api.ChainStepSpec{model("m", "nobody@3", "x")}, outs("y=m"), "step m: model nobody@3: no such model"},
		"unknown op":       {oneRow, []api.ChainStepSpec{{Name: "m", Op: "resize", Inputs: in("x=x")}}, outs("y=m"), `step m: resize: there is no operation "resize"; there are argmax, average`},
		"unknown setting":  {oneRow, []api.ChainStepSpec{{Name: "m", Op: "top_k", With: map[string]any{"kay": 1.}, Inputs: in("scores=x")}}, outs("y=m.values"), `step m: top_k: with.kay: there is no field "kay"`},
		"unknown source":   {oneRow, []api.ChainStepSpec{model("m", "add", "z")}, outs("y=m"), `step m: tensor "x": the source "z" is neither an input of the chain nor a step`},
		"unknown tensor":   {oneRow, []api.ChainStepSpec{add, model("n", "add", "m.z")}, outs("y=n"), `step n: tensor "x": step m gives no tensor "z"; it gives "y"`},
		"several tensors":  {oneRow, []api.ChainStepSpec{model("m", "pair", "x"), model("n", "add", "m")}, outs("y=n"), `step n: tensor "x": the source "m" gives "double", "half"; write m.TENSOR`},
		"unknown output":   {oneRow, []api.ChainStepSpec{add}, outs("y=n"), `output y: the source "n" is neither`},
		"no inputs":        {oneRow, []api.ChainStepSpec{add, {Name: "n", Op: "average"}}, outs("y=m", "z=n"), "step n: average: average needs at least one tensor"},
		"itself":           {oneRow, []api.ChainStepSpec{model("m", "add", "m")}, outs("y=m"), "step m: it reads itself: m reads m"},
		"a cycle":          {oneRow, []api.ChainStepSpec{model("a", "add", "c"), model("b", "add", "a"), model("c", "add", "b")}, outs("y=c"), "step a: it reads itself: a reads c reads b reads a"},
		"unread step":      {oneRow, []api.ChainStepSpec{add, top}, outs("y=m"), "step top: nothing reads what it gives"},
		"unread input":     {append(oneRow[:1:1], api.ChainInput{Name: "z", Datatype: "FP32", Shape: []int64{1}}), []api.ChainStepSpec{add}, outs("y=m"), "input z: no step reads it"},
		"missing tensor":   {oneRow, []api.ChainStepSpec{model("m", "two", "x")}, outs("y=m"), `step m: tensor "z" has no source; the model takes "x", "z"`},
		"extra tensor":     {oneRow, []api.ChainStepSpec{{Name: "m", Model: "add", Inputs: in("x=x", "z=x")}}, outs("y=m"), `step m: the model has no input "z"; it takes "x"`},
		"extra of an op":   {oneRow, []api.ChainStepSpec{{Name: "m", Op: "softmax", Inputs: in("scores=x", "z=x")}}, outs("y=m"), `step m: softmax: softmax takes no tensor "z"`},
		"missing of an op": {oneRow, []api.ChainStepSpec{{Name: "m", Op: "softmax", Inputs: in("x=x")}}, outs("y=m"), `step m: softmax: tensor "scores" has no source`},
		"untyped input":    {[]api.ChainInput{{Name: "x"}}, []api.ChainStepSpec{{Name: "m", Op: "softmax", Inputs: in("scores=x")}}, outs("y=m"), "input x: datatype and shape must be given"},
		"bad datatype":     {[]api.ChainInput{{Name: "x", Datatype: "FLOAT", Shape: []int64{1}}}, []api.ChainStepSpec{{Name: "m", Op: "softmax", Inputs: in("scores=x")}}, outs("y=m"), `input x: datatype "FLOAT" is not known`},
		"bad shape":        {[]api.ChainInput{{Name: "x", Datatype: "FP32", Shape: []int64{-2}}}, []api.ChainStepSpec{{Name: "m", Op: "softmax", Inputs: in("scores=x")}}, outs("y=m"), "a dimension is -1 or its size"},
		"datatype":         {[]api.ChainInput{{Name: "x", Datatype: "INT64", Shape: []int64{-1, 3}}}, []api.ChainStepSpec{add}, outs("y=m"), `step m: tensor "x" from x: datatype INT64 comes, FP32 is taken`},
		"rank":             {[]api.ChainInput{{Name: "x", Datatype: "FP32", Shape: []int64{3}}}, []api.ChainStepSpec{add}, outs("y=m"), `step m: tensor "x" from x: FP32 [3] comes, FP32 [rows, columns] is taken: the ranks differ`},
		"dimension":        {[]api.ChainInput{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 3}}}, []api.ChainStepSpec{add, {Name: "n", Model: "wide", Inputs: in("x=m")}}, outs("y=n"), `step n: tensor "x" from m.y: FP32 [?, 3] comes, FP32 [batch, 7] is taken: dimension 1 differs`},
		"symbol":           {[]api.ChainInput{{Name: "x", Datatype: "FP32", Shape: []int64{2, 3}}}, []api.ChainStepSpec{{Name: "n", Model: "square", Inputs: in("x=x")}}, outs("y=n"), `step n: tensor "x" from x: FP32 [2, 3] comes: dimension 1 is "n", which is 2 in another tensor of the step`},
		"elements":         {[]api.ChainInput{{Name: "x", Datatype: "FP32", Shape: []int64{2, 3}}}, []api.ChainStepSpec{{Name: "r", Op: "reshape", With: map[string]any{"shape": []any{4., -1.}}, Inputs: in("x=x")}}, outs("y=r"), "step r: reshape: FP32 [2, 3] has 6 elements, which do not fit the shape [4 -1]"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := chain.Resolve(&api.ChainSpec{Inputs: tc.inputs, Steps: tc.steps, Outputs: tc.outs}, papers{})
			if err == nil || !strings.Contains(err.Error(), tc.fault) {
				t.Fatalf("got  %v\nwant %s", err, tc.fault)
			}
			if kind := api.KindOf(err); kind != api.Invalid && kind != api.NotFound {
				t.Errorf("it is %s", kind)
			}
		})
	}
	labels := make([]any, 60000)
	for i := range labels {
		labels[i] = strings.Repeat("l", 12)
	}
	_, err := chain.Resolve(&api.ChainSpec{Inputs: oneRow, Outputs: outs("y=t.values"),
		Steps: []api.ChainStepSpec{{Name: "t", Op: "top_k", With: map[string]any{"labels": labels}, Inputs: in("scores=x")}}}, papers{})
	if !api.Is(err, api.CodeTooLarge) {
		t.Errorf("a chain of very many labels: %v", err)
	}
}

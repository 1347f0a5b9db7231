package chain_test

import (
	"encoding/binary"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/chain"
	"github.com/penstock/penstock/internal/tensor"
)

// alone runs one built-in step as a chain of its own. The chain knows of the inputs no more than their rank.
func alone(t testing.TB, op, with string, inputs map[string]tensor.Tensor, wanted ...string) (map[string]tensor.Tensor, error) {
	t.Helper()
	step := api.ChainStepSpec{Name: "s", Op: op, Inputs: map[string]string{}}
	if with != "" {
		if err := json.Unmarshal([]byte(with), &step.With); err != nil {
			t.Fatal(err)
		}
	}
	spec := &api.ChainSpec{}
	req := engine.Request{Instance: "c"}
	for _, name := range slices.Sorted(maps.Keys(inputs)) {
		x := inputs[name]
		shape := make([]int64, len(x.Shape))
		for i := range shape {
			shape[i] = -1
		}
		spec.Inputs = append(spec.Inputs, api.ChainInput{Name: name, Datatype: x.Type.String(), Shape: shape})
		step.Inputs[name] = name
		x.Name = name
		req.Inputs = append(req.Inputs, x)
	}
	spec.Steps = []api.ChainStepSpec{step}
	for _, name := range wanted {
		spec.Outputs = append(spec.Outputs, api.ChainOutput{Name: name, From: "s." + name})
	}
	c, err := chain.Resolve(spec, papers{})
	if err != nil {
		return nil, err
	}
	b := newBench(t)
	if _, err := b.Load(t.Context(), engine.Load{Instance: "c", Options: api.LoadOptions{Chain: c}}); err != nil {
		t.Fatal(err)
	}
	answer, err := b.Infer(t.Context(), req)
	if err != nil {
		return nil, err
	}
	defer answer.Release()
	got := map[string]tensor.Tensor{}
	for i, o := range answer.Outputs {
		if err := o.Check(); err != nil {
			t.Errorf("output %s: %v", o.Name, err)
		}
		if told := c.Gives[i]; told.Datatype != o.Type.String() || len(told.Shape) != len(o.Shape) {
			t.Errorf("output %s is %s %v, told as %s %v", o.Name, o.Type, o.Shape, told.Datatype, told.Shape)
		}
		got[o.Name] = o
	}
	return got, nil
}

func floats(shape []int64, values ...float32) tensor.Tensor {
	return tensor.FromFloat32("", shape, values)
}
func ints(shape []int64, values ...int64) tensor.Tensor { return tensor.FromInt64("", shape, values) }

func texts(shape []int64, values ...string) tensor.Tensor {
	x := tensor.Tensor{Type: tensor.Bytes, Shape: shape}
	for _, v := range values {
		x.Data = tensor.AppendBytes(x.Data, []byte(v))
	}
	return x
}

func raw(typ tensor.Type, shape []int64, data ...byte) tensor.Tensor {
	return tensor.Tensor{Type: typ, Shape: shape, Data: data}
}

func doubles(shape []int64, values ...float64) tensor.Tensor {
	x := tensor.Tensor{Type: tensor.FP64, Shape: shape}
	for _, v := range values {
		x.Data = binary.LittleEndian.AppendUint64(x.Data, math.Float64bits(v))
	}
	return x
}

type tensors = map[string]tensor.Tensor

func TestOperations(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	two := []int64{2}
	for name, tc := range map[string]struct {
		op, with string
		in       tensors
		want     tensors
		fault    string
	}{
		"normalise":                {"normalise", `{"scale":2,"shift":1}`, tensors{"x": floats(two, 1, 2)}, tensors{"x": floats(two, 3, 5)}, ""},
		"normalise bytes":          {"normalise", `{"scale":0.5}`, tensors{"x": raw(tensor.Uint8, two, 3, 255)}, tensors{"x": floats(two, 1.5, 127.5)}, ""},
		"normalise by channel":     {"normalise", `{"mean":[1,2],"std":[1,4]}`, tensors{"x": floats([]int64{1, 2, 2}, 1, 2, 6, 10)}, tensors{"x": floats([]int64{1, 2, 2}, 0, 1, 1, 2)}, ""},
		"normalise, other channel": {"normalise", `{"mean":[1,2,3]}`, tensors{"x": floats([]int64{1, 2}, 1, 2)}, nil, `mean and std have 3 values for its axis 1`},
		"normalise by zero":        {"normalise", `{"std":[0]}`, tensors{"x": floats([]int64{1, 1}, 1)}, nil, `with.std[0] is 0`},
		"normalise strings":        {"normalise", ``, tensors{"x": texts(two, "a", "b")}, nil, `tensor "x" is BYTES; numbers are taken`},
		"unknown setting":          {"normalise", `{"skale":2}`, tensors{"x": floats(two, 1, 2)}, nil, `with.skale: there is no field "skale"`},

		"cast to integers": {"cast", `{"to":"INT8"}`, tensors{"x": floats([]int64{6}, 1.9, -1.9, 300, -300, nan, inf)}, tensors{"x": raw(tensor.Int8, []int64{6}, 1, 0xff, 127, 0x80, 0, 127)}, ""},
		"cast to unsigned": {"cast", `{"to":"UINT8"}`, tensors{"x": ints([]int64{3}, -1, 7, 256)}, tensors{"x": raw(tensor.Uint8, []int64{3}, 0, 7, 255)}, ""},
		"cast wide":        {"cast", `{"to":"UINT64"}`, tensors{"x": ints(two, math.MaxInt64, -5)}, tensors{"x": raw(tensor.Uint64, two, 255, 255, 255, 255, 255, 255, 255, 127, 0, 0, 0, 0, 0, 0, 0, 0)}, ""},
		"cast to bool":     {"cast", `{"to":"BOOL"}`, tensors{"x": floats([]int64{3}, 0, 0.1, -1)}, tensors{"x": raw(tensor.Bool, []int64{3}, 0, 1, 1)}, ""},
		"cast from bool":   {"cast", `{"to":"FP32"}`, tensors{"x": raw(tensor.Bool, two, 0, 1)}, tensors{"x": floats(two, 0, 1)}, ""},
		"cast to itself":   {"cast", `{"to":"FP32"}`, tensors{"x": floats(two, 1, 2)}, tensors{"x": floats(two, 1, 2)}, ""},
		"cast to half":     {"cast", `{"to":"FP16"}`, tensors{"x": floats([]int64{5}, 1, -2, 65504, 70000, 0)}, tensors{"x": raw(tensor.FP16, []int64{5}, 0, 0x3c, 0, 0xc0, 0xff, 0x7b, 0, 0x7c, 0, 0)}, ""},
		"cast to brain":    {"cast", `{"to":"BF16"}`, tensors{"x": floats([]int64{3}, 1, -2, 3.1415927)}, tensors{"x": raw(tensor.BF16, []int64{3}, 0x80, 0x3f, 0, 0xc0, 0x49, 0x40)}, ""},
		"cast to strings":  {"cast", `{"to":"BYTES"}`, tensors{"x": floats(two, 1, 2)}, nil, `with.to: "BYTES" is not a datatype of numbers`},

		"reshape":            {"reshape", `{"shape":[2,-1]}`, tensors{"x": floats([]int64{4}, 1, 2, 3, 4)}, tensors{"x": floats([]int64{2, 2}, 1, 2, 3, 4)}, ""},
		"reshape keeps":      {"reshape", `{"shape":[0,1,2]}`, tensors{"x": floats([]int64{1, 2}, 1, 2)}, tensors{"x": floats([]int64{1, 1, 2}, 1, 2)}, ""},
		"reshape strings":    {"reshape", `{"shape":[-1]}`, tensors{"x": texts([]int64{1, 2}, "a", "b")}, tensors{"x": texts(two, "a", "b")}, ""},
		"reshape nothing":    {"reshape", `{"shape":[-1,3]}`, tensors{"x": floats([]int64{0})}, tensors{"x": floats([]int64{0, 3})}, ""},
		"reshape that fails": {"reshape", `{"shape":[3,-1]}`, tensors{"x": floats([]int64{4}, 1, 2, 3, 4)}, nil, `4 elements, which do not fit the shape [3 -1]`},
		"reshape twice free": {"reshape", `{"shape":[-1,-1]}`, tensors{"x": floats(two, 1, 2)}, nil, `more than one -1`},
		"reshape too wide":   {"reshape", `{"shape":[4611686018427387904,4]}`, tensors{"x": floats([]int64{0})}, nil, `step s:`},

		"concat":           {"concat", `{"axis":1}`, tensors{"b": floats([]int64{2, 1}, 9, 8), "a": floats([]int64{2, 2}, 1, 2, 3, 4)}, tensors{"out": floats([]int64{2, 3}, 1, 2, 9, 3, 4, 8)}, ""},
		"concat rows":      {"concat", ``, tensors{"a": floats(two, 1, 2), "b": floats([]int64{1}, 3)}, tensors{"out": floats([]int64{3}, 1, 2, 3)}, ""},
		"concat strings":   {"concat", `{"axis":1}`, tensors{"a": texts([]int64{2, 1}, "a", "bb"), "b": texts([]int64{2, 1}, "c", "")}, tensors{"out": texts([]int64{2, 2}, "a", "c", "bb", "")}, ""},
		"concat otherwise": {"concat", `{"axis":1}`, tensors{"a": floats([]int64{2, 1}, 1, 2), "b": floats([]int64{1, 1}, 3)}, nil, `differ in dimension 0`},
		"concat of types":  {"concat", ``, tensors{"a": floats(two, 1, 2), "b": ints(two, 1, 2)}, nil, `datatypes FP32 and INT64 differ`},

		"softmax":          {"softmax", ``, tensors{"scores": floats([]int64{2, 2}, 0, 0, 1000, 0)}, tensors{"shares": floats([]int64{2, 2}, 0.5, 0.5, 1, 0)}, ""},
		"softmax, axis 0":  {"softmax", `{"axis":0}`, tensors{"scores": floats([]int64{2, 2}, 0, 1000, 0, 0)}, tensors{"shares": floats([]int64{2, 2}, 0.5, 1, 0.5, 0)}, ""},
		"softmax infinite": {"softmax", ``, tensors{"scores": floats([]int64{3}, inf, inf, 3)}, tensors{"shares": floats([]int64{3}, 0.5, 0.5, 0)}, ""},
		"softmax of ints":  {"softmax", ``, tensors{"scores": ints(two, 1, 2)}, nil, `tensor "scores" is INT64; floats are taken`},

		"argmax": {"argmax", `{"labels":["a","b"]}`, tensors{"scores": floats([]int64{2, 2}, 1, 2, 5, 3)},
			tensors{"index": ints(two, 1, 0), "value": floats(two, 2, 5), "label": texts(two, "b", "a")}, ""},
		"argmax, axis 0":    {"argmax", `{"axis":0}`, tensors{"scores": floats([]int64{2, 2}, 1, 2, 5, 1)}, tensors{"index": ints(two, 1, 0), "value": floats(two, 5, 2)}, ""},
		"argmax of ties":    {"argmax", ``, tensors{"scores": floats([]int64{1, 3}, nan, 2, 2)}, tensors{"index": ints([]int64{1}, 1)}, ""},
		"argmax of doubles": {"argmax", ``, tensors{"scores": doubles(two, 1, 3)}, tensors{"index": ints([]int64{}, 1), "value": floats([]int64{}, 3)}, ""},
		"argmax of none":    {"argmax", ``, tensors{"scores": floats([]int64{1, 0})}, nil, `has no classes`},
		"top_k":             {"top_k", `{"k":2,"labels":["a","b","c"]}`, tensors{"scores": floats([]int64{1, 3}, 1, 3, 2)}, tensors{"indices": ints([]int64{1, 2}, 1, 2), "values": floats([]int64{1, 2}, 3, 2), "labels": texts([]int64{1, 2}, "b", "c")}, ""},
		"top_k of fewer":    {"top_k", `{"k":5}`, tensors{"scores": floats(two, 1, 3)}, tensors{"indices": ints(two, 1, 0)}, ""},
		"top_k from file":   {"top_k", `{"k":1,"labels_from":{"model":"add@1","file":"labels.txt"}}`, tensors{"scores": floats([]int64{3}, 1, 3, 2)}, tensors{"labels": texts([]int64{1}, "one")}, ""},
		"top_k from JSON":   {"top_k", `{"k":1,"labels_from":{"model":"add@1","file":"labels.json"}}`, tensors{"scores": floats([]int64{3}, 1, 3, 4)}, tensors{"labels": texts([]int64{1}, "zwei")}, ""},
		"top_k, bad file":   {"top_k", `{"labels_from":{"model":"add@1","file":"bad.json"}}`, tensors{"scores": floats([]int64{3}, 1, 3, 4)}, nil, `with.labels_from: bad.json: it is not a JSON array of strings`},
		"top_k, no file":    {"top_k", `{"labels_from":{"model":"add@1","file":"nope"}}`, tensors{"scores": floats([]int64{3}, 1, 3, 4)}, nil, `the version has no file "nope"`},
		"top_k, labels":     {"top_k", `{"labels":["a"]}`, tensors{"scores": floats([]int64{3}, 1, 3, 4)}, nil, `there are 1 labels for 3 classes`},
		"top_k of none":     {"top_k", `{"k":0}`, tensors{"scores": floats([]int64{3}, 1, 3, 4)}, nil, `with.k is 0`},

		"average":          {"average", ``, tensors{"a": floats(two, 1, 2), "b": floats(two, 3, 6)}, tensors{"out": floats(two, 2, 4)}, ""},
		"average, weights": {"average", `{"weights":{"a":3,"b":1}}`, tensors{"a": floats(two, 0, 4), "b": floats(two, 4, 0)}, tensors{"out": floats(two, 1, 3)}, ""},
		"average of mixed": {"average", `{"weights":{"a":1,"b":0}}`, tensors{"a": ints(two, 1, 2), "b": floats(two, inf, nan)}, tensors{"out": floats(two, 1, 2)}, ""},
		"average, shapes":  {"average", ``, tensors{"a": floats(two, 1, 2), "b": floats([]int64{1}, 3)}, nil, `differ in dimension 0`},
		"average, unknown": {"average", `{"weights":{"c":1}}`, tensors{"a": floats(two, 1, 2)}, nil, `with.weights has none for "a"`},
		"average, nothing": {"average", `{"weights":{"a":0}}`, tensors{"a": floats(two, 1, 2)}, nil, `they must add up to more than 0`},

		"json number":   {"json_field", `{"path":"user.age","datatype":"INT64"}`, tensors{"json": texts(two, `{"user":{"age":41}}`, `{"user":{"age":9007199254740993}}`)}, tensors{"value": ints(two, 41, 9007199254740993)}, ""},
		"json array":    {"json_field", `{"path":"$.a[1]","shape":[2]}`, tensors{"json": texts([]int64{1, 1}, `{"a":[0,[1,2.5]]}`)}, tensors{"value": floats([]int64{1, 2}, 1, 2.5)}, ""},
		"json nested":   {"json_field", `{"path":"m","shape":[2,2]}`, tensors{"json": texts([]int64{1}, `{"m":[[1,2],[3,4]]}`)}, tensors{"value": floats([]int64{1, 2, 2}, 1, 2, 3, 4)}, ""},
		"json fields":   {"json_field", `{"paths":["a","b.c"]}`, tensors{"json": texts([]int64{1}, `{"a":1,"b":{"c":2}}`)}, tensors{"value": floats([]int64{1, 2}, 1, 2)}, ""},
		"json text":     {"json_field", `{"path":"t","datatype":"BYTES"}`, tensors{"json": texts([]int64{1}, `{"t":"\u00e9"}`)}, tensors{"value": texts([]int64{1}, "é")}, ""},
		"json bool":     {"json_field", `{"path":"t","datatype":"BOOL"}`, tensors{"json": texts([]int64{1}, `{"t":true}`)}, tensors{"value": raw(tensor.Bool, []int64{1}, 1)}, ""},
		"json default":  {"json_field", `{"path":"t","default":7}`, tensors{"json": texts([]int64{3}, `{}`, `{"t":null}`, `{"t":1}`)}, tensors{"value": floats([]int64{3}, 7, 7, 1)}, ""},
		"json missing":  {"json_field", `{"path":"t"}`, tensors{"json": texts(two, `{"t":1}`, `{"u":1}`)}, nil, `tensor "json", row 1: there is nothing at t`},
		"json string":   {"json_field", `{"path":"t"}`, tensors{"json": texts([]int64{1}, `{"t":"1"}`)}, nil, `a string is no FP32`},
		"json fraction": {"json_field", `{"path":"t","datatype":"INT32"}`, tensors{"json": texts([]int64{1}, `{"t":1.5}`)}, nil, `1.5 does not fit INT32`},
		"json too many": {"json_field", `{"path":"t","shape":[1]}`, tensors{"json": texts([]int64{1}, `{"t":[1,2]}`)}, nil, `more than the 1 elements wanted`},
		"json too few":  {"json_field", `{"path":"t","shape":[2]}`, tensors{"json": texts([]int64{1}, `{"t":[1]}`)}, nil, `1 elements, 2 are wanted`},
		"json broken":   {"json_field", `{"path":"t"}`, tensors{"json": texts([]int64{1}, `{"t":`)}, nil, `step s: tensor "json", row 0`},
		"json twice":    {"json_field", `{"path":"t"}`, tensors{"json": texts([]int64{1}, `{"t":1,"t":2}`)}, nil, `stands twice`},
		"json bad path": {"json_field", `{"path":"a[x]"}`, tensors{"json": texts([]int64{1}, `{}`)}, nil, `a number in brackets is wanted`},
		"json rank":     {"json_field", `{"path":"a"}`, tensors{"json": texts([]int64{1, 2}, `{}`, `{}`)}, nil, `one element a row is taken`},

		"route by text":     {"route", `{"cases":{"x":"a","y":"b"}}`, tensors{"by": texts(two, "y", "y"), "a": floats(two, 1, 2), "b": floats(two, 3, 4)}, tensors{"out": floats(two, 3, 4)}, ""},
		"route by bool":     {"route", `{"cases":{"true":"a"},"default":"b"}`, tensors{"by": raw(tensor.Bool, []int64{}, 1), "a": floats(two, 1, 2), "b": floats(two, 3, 4)}, tensors{"out": floats(two, 1, 2)}, ""},
		"route by number":   {"route", `{"cases":{"-3":"a"},"default":"b"}`, tensors{"by": ints([]int64{1}, -3), "a": floats(two, 1, 2), "b": floats(two, 3, 4)}, tensors{"out": floats(two, 1, 2)}, ""},
		"route by range":    {"route", `{"ranges":[{"below":0.5,"to":"a"},{"to":"b"}]}`, tensors{"by": floats([]int64{1}, 0.5), "a": floats(two, 1, 2), "b": floats(two, 3, 4)}, tensors{"out": floats(two, 3, 4)}, ""},
		"route of two ways": {"route", `{"cases":{"1":"a"},"default":"b"}`, tensors{"by": ints(two, 1, 2), "a": floats(two, 1, 2), "b": floats(two, 3, 4)}, nil, `chooses the branch "a" in one row and "b" in another`},
		"route to nowhere":  {"route", `{"cases":{"1":"a"}}`, tensors{"by": ints([]int64{1}, 2), "a": floats(two, 1, 2)}, nil, `tensor "by" is "2", which no branch is for`},
		"route of nothing":  {"route", `{"cases":{"1":"a"}}`, tensors{"by": ints([]int64{0}), "a": floats(two, 1, 2)}, nil, `tensor "by" is empty`},
		"route of kinds":    {"route", `{"cases":{"1":"a"},"default":"b"}`, tensors{"by": ints([]int64{1}, 2), "a": floats(two, 1, 2), "b": ints(two, 1, 2)}, nil, `branch "b" does not give what the others give`},
		"route unchosen":    {"route", `{"cases":{"1":"a"}}`, tensors{"by": ints([]int64{1}, 1), "a": floats(two, 1, 2), "b": floats(two, 3, 4)}, nil, `tensor "b" is a branch that nothing chooses`},
		"route by float":    {"route", `{"cases":{"1":"a"}}`, tensors{"by": floats([]int64{1}, 1), "a": floats(two, 1, 2)}, nil, `with.cases needs BYTES, BOOL or integers`},
		"route falls":       {"route", `{"ranges":[{"below":2,"to":"a"},{"below":1,"to":"a"}]}`, tensors{"by": floats([]int64{1}, 1), "a": floats(two, 1, 2)}, nil, `with.ranges[1].below does not rise`},
	} {
		t.Run(name, func(t *testing.T) {
			outputs := slices.Sorted(maps.Keys(tc.want))
			if tc.fault != "" {
				outputs = []string{map[string]string{"concat": "out", "average": "out", "route": "out", "json_field": "value", "softmax": "shares", "argmax": "index", "top_k": "indices"}[tc.op]}
				if outputs[0] == "" {
					outputs[0] = "x"
				}
			}
			got, err := alone(t, tc.op, tc.with, tc.in, outputs...)
			if tc.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fault) || !strings.Contains(err.Error(), "step s") {
					t.Fatalf("got %v, want step s and %q", err, tc.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range tc.want {
				g := got[name]
				if g.Type != want.Type || !slices.Equal(g.Shape, want.Shape) {
					t.Fatalf("%s is %s %v, want %s %v", name, g.Type, g.Shape, want.Type, want.Shape)
				}
				if want.Type == tensor.FP32 && !near(g.Float32s(), want.Float32s()) || want.Type != tensor.FP32 && string(g.Data) != string(want.Data) {
					t.Errorf("%s holds % x, want % x", name, g.Data, want.Data)
				}
			}
		})
	}
}

// TestHalvesComeBack: every half is a float that narrows to it again.
func TestHalvesComeBack(t *testing.T) {
	for _, typ := range []tensor.Type{tensor.FP16, tensor.BF16} {
		x := tensor.Tensor{Type: typ, Shape: []int64{1 << 16}}
		for i := range 1 << 16 {
			x.Data = binary.LittleEndian.AppendUint16(x.Data, uint16(i))
		}
		wide, err := alone(t, "cast", `{"to":"FP32"}`, tensors{"x": x}, "x")
		if err != nil {
			t.Fatal(err)
		}
		values := wide["x"]
		back, err := alone(t, "cast", `{"to":"`+typ.String()+`"}`, tensors{"x": values}, "x")
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range values.Float32s() {
			if got := binary.LittleEndian.Uint16(back["x"].Data[2*i:]); got != uint16(i) && !math.IsNaN(float64(v)) {
				t.Fatalf("%s %04x became %v and %04x", typ, i, v, got)
			}
		}
	}
}

func FuzzJSONField(f *testing.F) {
	f.Add(`{"a":[1,{"b":2}]}`, "a[1].b", "FP32")
	f.Add(`{"a":"x"}`, "$.a", "BYTES")
	f.Add(`[`, "[0]", "INT8")
	f.Fuzz(func(t *testing.T, document, path, datatype string) {
		with, err := json.Marshal(map[string]any{"path": path, "datatype": datatype})
		if err != nil {
			t.Fatal(err) // strings always marshal
		}
		got, err := alone(t, "json_field", string(with), tensors{"json": texts([]int64{1}, document)}, "value")
		if err == nil && !json.Valid([]byte(document)) {
			t.Errorf("%q is no JSON and gave %v", document, got)
		}
	})
}

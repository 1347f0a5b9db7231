package onnx_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/onnx"
)

// walker writes a random model in the wire format and, beside it, the plain answer that reading it must give.
type walker struct {
	*rand.Rand
	want    onnx.Model
	visible []string // names that a node may take, by scope from the outside in
	next    int
}

func (w *walker) name(prefix string) string {
	w.next++
	return fmt.Sprintf("%s%d%s", prefix, w.next, []string{"", ":0", "/é", " x"}[w.IntN(4)])
}

func (w *walker) pick() string { return w.visible[w.IntN(len(w.visible))] }

// bits of an element in raw data, by ONNX's number.
var bits = map[int64]int64{1: 32, 2: 8, 3: 8, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 16: 16, 21: 4, 22: 4, 25: 2}

// tensor writes a tensor with content inside the file or outside it.
func (w *walker) tensor(name string) (msg, onnx.Tensor) {
	element := []int64{1, 2, 3, 6, 7, 9, 10, 11, 16, 21, 22, 25}[w.IntN(12)]
	var dims []int64
	count := int64(1)
	for range w.IntN(4) {
		dims = append(dims, w.Int64N(5))
		count *= dims[len(dims)-1]
	}
	length := (count*bits[element] + 7) / 8
	kept := onnx.Tensor{Name: name, Type: onnx.Element(element), Dims: dims, Bytes: length}
	switch {
	case w.IntN(4) == 0:
		e := onnx.External{Tensor: name, Location: []string{"w.bin", "dir/v.bin"}[w.IntN(2)], Length: length}
		content := []string{"location", e.Location}
		if w.IntN(2) == 0 {
			e.Offset = w.Int64N(1 << 40)
			content = append(content, "offset", fmt.Sprint(e.Offset))
		}
		if w.IntN(2) == 0 {
			content = append(content, "length", fmt.Sprint(length), "checksum", "x")
		}
		w.want.External = append(w.want.External, e)
		return tensorOf(name, element, dims, entries(content...)), kept
	case element == 7 && w.IntN(2) == 0:
		return tensorOf(name, element, dims, msg{}.packed(7, make([]int64, count)...)), kept
	default:
		return tensorOf(name, element, dims, raw(int(length))), kept
	}
}

// node writes an operator that takes what is visible and gives one new name.
func (w *walker) node(depth int) msg {
	op := []string{"Add", "Relu", "MatMul", "Split"}[w.IntN(4)]
	w.want.Nodes++
	w.want.Ops["ai.onnx::"+op]++
	in := names(w.pick())
	if w.IntN(3) == 0 {
		in = append(in, "", w.pick())
	}
	var more []msg
	if w.IntN(4) == 0 {
		t, _ := w.tensor("inline")
		more = append(more, attribute("value", msg{}.num(20, 4).sub(5, t)))
	}
	if depth < 3 && w.IntN(6) == 0 {
		outside := len(w.visible)
		more = append(more, attribute("body", msg{}.sub(6, w.graph(depth+1, false))))
		w.visible = w.visible[:outside]
	}
	if w.IntN(5) == 0 {
		more = append(more, attribute("numbers", msg{}.packed(8, 1, -2, 3)), attribute("text", msg{}.str(4, "\xff")))
	}
	out := w.name("n")
	w.visible = append(w.visible, out)
	return node(op, in, names(out, ""), more...)
}

func (w *walker) value(name string) (msg, onnx.Value) {
	v := onnx.Value{Name: name, Kind: onnx.KindTensor, Type: []onnx.Element{1, 7, 8, 9}[w.IntN(4)], Ranked: true}
	var dims []any
	for range w.IntN(4) {
		switch w.IntN(3) {
		case 0:
			v.Dims, dims = append(v.Dims, onnx.Dim{Size: 7}), append(dims, 7)
		case 1:
			v.Dims, dims = append(v.Dims, onnx.Dim{Size: -1, Symbol: "batch"}), append(dims, "batch")
		default:
			v.Dims, dims = append(v.Dims, onnx.Dim{Size: -1}), append(dims, nil)
		}
	}
	return typeOf(int64(v.Type), dims...), v
}

// graph writes a graph; its parts stand in any order, as protobuf allows, but for the order among nodes.
func (w *walker) graph(depth int, main bool) msg {
	var parts []msg
	for range 1 + w.IntN(3) {
		name := w.name("in")
		kind, v := w.value(name)
		parts = append(parts, input(name, kind))
		w.visible = append(w.visible, name)
		if main {
			w.want.Inputs = append(w.want.Inputs, v)
		}
	}
	for range w.IntN(4) {
		name := w.name("w")
		t, kept := w.tensor(name)
		parts = append(parts, msg{}.sub(5, t))
		w.visible = append(w.visible, name)
		if main {
			w.want.Constants = append(w.want.Constants, kept)
			count := int64(1)
			for _, d := range kept.Dims {
				count *= d
			}
			w.want.Parameters += count
		}
	}
	for range 1 + w.IntN(6) {
		parts = append(parts, w.node(depth))
	}
	last := w.visible[len(w.visible)-1]
	kind, v := w.value(last)
	parts = append(parts, output(last, kind))
	if main {
		w.want.Graph = "g"
		w.want.Outputs = append(w.want.Outputs, v)
	}
	if w.IntN(2) == 0 { // the order in which the usual writers put them: nodes before what they take
		parts = inOrder(parts)
	}
	return graphOf(parts...)
}

// inOrder puts the parts of a graph in the order of their field numbers, keeping the order among equals.
func inOrder(parts []msg) (sorted []msg) {
	for field := range byte(32) {
		for _, p := range parts {
			if p[0]>>3 == field {
				sorted = append(sorted, p)
			}
		}
	}
	return sorted
}

// Whatever model is written, reading it gives the plain one back.
func TestReadRandomModels(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for round := range 500 {
		w := &walker{Rand: rand.New(rand.NewPCG(seed, uint64(round)))}
		w.want = onnx.Model{IRVersion: 8, Producer: "test", Opsets: map[string]int64{"ai.onnx": 17}, Ops: map[string]int64{}}
		file := modelOf(w.graph(0, true))
		got, err := onnx.Read(bytes.NewReader(file), int64(len(file)), onnx.Limits{})
		if err != nil {
			t.Fatalf("seed %d round %d: %v", seed, round, err)
		}
		sameExternal(got, &w.want)
		if !reflect.DeepEqual(*got, w.want) {
			t.Fatalf("seed %d round %d:\ngot  %+v\nwant %+v", seed, round, *got, w.want)
		}
	}
}

// sameExternal forgets the order of external tensors when the sets are the same: initializers are read before nodes.
func sameExternal(got, want *onnx.Model) {
	count := map[onnx.External]int{}
	for _, e := range got.External {
		count[e]++
	}
	for _, e := range want.External {
		count[e]--
	}
	for _, n := range count {
		if n != 0 {
			return
		}
	}
	got.External, want.External = nil, nil
}

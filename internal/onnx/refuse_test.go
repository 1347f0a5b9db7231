package onnx_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/penstock/penstock/internal/onnx"
)

type hostile struct {
	name  string
	file  []byte
	rule  onnx.Rule
	limit string
}

func external(name string, pairs ...string) msg {
	return msg{}.sub(5, tensorOf(name, 1, []int64{2}, entries(pairs...)))
}

// hostileFiles are files that break one rule each.
func hostileFiles() []hostile {
	w := func(more msg) []byte { return modelOf(plain(msg{}.sub(5, more))) }
	files := []hostile{
		// the wire
		{"empty", nil, onnx.RuleWire, ""},
		{"unknown field of the model", modelOf(plain(), msg{}.num(9, 1)), onnx.RuleWire, ""},
		{"field number over 31", modelOf(plain(), msg{}.num(1000, 1)), onnx.RuleWire, ""},
		{"tensor in pieces", w(tensorOf("w", 1, []int64{1}, raw(4), msg{}.sub(3, msg{}.num(1, 0)))), onnx.RuleWire, ""},
		{"graph as a number", join(msg{}.num(1, 8).num(7, 3), opset("", 17)), onnx.RuleWire, ""},
		{"group", append(modelOf(plain()), 7<<3|3), onnx.RuleWire, ""},
		{"two graphs", modelOf(plain(), msg{}.sub(7, plain())), onnx.RuleWire, ""},
		{"two raw data", w(tensorOf("w", 1, []int64{1}, raw(4), raw(4))), onnx.RuleWire, ""},
		{"two element types", w(tensorOf("w", 1, []int64{1}, raw(4), msg{}.num(2, 1))), onnx.RuleWire, ""},
		{"length bomb", append(msg{}.num(1, 8), 7<<3|2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f), onnx.RuleWire, ""},
		{"length of 11 bytes", append(append(msg{}.num(1, 8), 7<<3|2), bytes.Repeat([]byte{0x80}, 11)...), onnx.RuleWire, ""},
		{"number of 11 bytes", append([]byte{1 << 3}, bytes.Repeat([]byte{0xff}, 11)...), onnx.RuleWire, ""},
		{"field number 0", []byte{0, 0}, onnx.RuleWire, ""},
		{"child longer than its parent", modelOf(append(plain(), 1<<3|2, 0x7f)), onnx.RuleWire, ""},
		{"packed number cut off", w(tensorOf("w", 7, []int64{1}, msg{}.str(7, "\x80"))), onnx.RuleWire, ""},
		{"packed floats of 5 bytes", w(tensorOf("w", 1, []int64{1}, msg{}.str(4, "12345"))), onnx.RuleWire, ""},
		{"type of two kinds", modelOf(graphOf(input("x", join(floats(), msg{}.sub(4, msg{}))), node("Relu", names("x"), names("y")), output("y", floats()))), onnx.RuleWire, ""},
		{"dimension with size and name", modelOf(graphOf(input("x", msg{}.sub(1, msg{}.num(1, 1).sub(2, msg{}.sub(1, msg{}.num(1, 1).str(2, "n"))))), node("Relu", names("x"), names("y")), output("y", floats()))), onnx.RuleWire, ""},

		// texts
		{"producer not UTF-8", join(msg{}.num(1, 8).str(2, "\xff").sub(7, plain()), opset("", 17)), onnx.RuleText, ""},
		{"name cut inside a rune", modelOf(plain(msg{}.str(10, "caf\xc3"))), onnx.RuleText, ""},
		{"long doc not UTF-8 at its end", modelOf(plain(msg{}.str(10, strings.Repeat("é", 100_000)+"\xe9"))), onnx.RuleText, ""},
		{"surrogate", modelOf(plain(msg{}.str(10, "\xed\xa0\x80"))), onnx.RuleText, ""},
		{"metadata not UTF-8", modelOf(plain(), msg{}.sub(14, msg{}.str(1, "k").str(2, "\xfe"))), onnx.RuleText, ""},
		{"line break in a name", modelOf(graphOf(input("x\n2026 level=error", floats()), node("Relu", nil, names("y")), output("y", floats()))), onnx.RuleText, ""},
		{"NUL in a name", modelOf(graphOf(input("x\x00", floats()), node("Relu", nil, names("y")), output("y", floats()))), onnx.RuleText, ""},

		// versions and domains
		{"no IR version", join(msg{}.sub(7, plain()), opset("", 17)), onnx.RuleVersion, ""},
		{"IR version 2", join(msg{}.num(1, 2).sub(7, plain()), opset("", 17)), onnx.RuleVersion, ""},
		{"IR version 999", join(msg{}.num(1, 999).sub(7, plain()), opset("", 17)), onnx.RuleVersion, ""},
		{"IR version negative", join(msg{}.num(1, -1).sub(7, plain()), opset("", 17)), onnx.RuleVersion, ""},
		{"no graph", join(msg{}.num(1, 8), opset("", 17)), onnx.RuleGraph, ""},
		{"no operator set", msg{}.num(1, 8).sub(7, plain()), onnx.RuleVersion, ""},
		{"operator set 999", join(msg{}.num(1, 8).sub(7, plain()), opset("", 999)), onnx.RuleVersion, ""},
		{"operator set 0", join(msg{}.num(1, 8).sub(7, plain()), opset("", 0)), onnx.RuleVersion, ""},
		{"operator set negative", join(msg{}.num(1, 8).sub(7, plain()), opset("", -5)), onnx.RuleVersion, ""},
		{"operator set 6 of ai.onnx.ml", modelOf(plain(), opset("ai.onnx.ml", 6)), onnx.RuleVersion, ""},
		{"default domain imported in both spellings", modelOf(plain(), opset("ai.onnx", 17)), onnx.RuleVersion, ""},
		{"custom domain", modelOf(plain(node("Evil", nil, names("z"), msg{}.str(7, "evil.so"))), opset("evil.so", 1)), onnx.RuleDomain, ""},
		{"training domain", modelOf(plain(node("Adam", nil, names("z"), msg{}.str(7, "ai.onnx.preview.training"))), opset("ai.onnx.preview.training", 1)), onnx.RuleDomain, ""},
		{"domain like a known one", modelOf(plain(node("Evil", nil, names("z"), msg{}.str(7, "AI.onnx"))), opset("AI.onnx", 1)), onnx.RuleDomain, ""},
		{"domain not imported", modelOf(plain(node("Scaler", nil, names("z"), msg{}.str(7, "ai.onnx.ml")))), onnx.RuleDomain, ""},
		{"custom domain in a subgraph", modelOf(plain(node("If", names("x"), names("z"), attribute("then_branch", msg{}.sub(6, graphOf(node("Evil", nil, names("q"), msg{}.str(7, "e")), output("q", floats()))))))), onnx.RuleDomain, ""},
		{"65 imports", modelOf(plain(), func() (m msg) {
			for i := range 65 {
				m = join(m, opset(fmt.Sprint("d", i), 1))
			}
			return m
		}()), onnx.RuleLimit, "opset imports"},

		// the graph
		{"no output", modelOf(graphOf(input("x", floats()))), onnx.RuleGraph, ""},
		{"circle of two", modelOf(graphOf(node("Relu", names("b"), names("a")), node("Relu", names("a"), names("b")), output("b", floats()))), onnx.RuleGraph, ""},
		{"circle of one", modelOf(graphOf(node("Relu", names("a"), names("a")), output("a", floats()))), onnx.RuleGraph, ""},
		{"not in order", modelOf(graphOf(input("x", floats()), node("Relu", names("a"), names("b")), node("Relu", names("x"), names("a")), output("b", floats()))), onnx.RuleGraph, ""},
		{"subgraph takes its own node's output", modelOf(graphOf(input("c", typeOf(9)), node("If", names("c"), names("y"), attribute("then_branch", msg{}.sub(6, graphOf(node("Relu", names("y"), names("q")), output("q", floats()))))), output("y", floats()))), onnx.RuleGraph, ""},
		{"output that nothing gives", modelOf(plain(output("z", floats()))), onnx.RuleGraph, ""},
		{"output twice", modelOf(plain(output("y", floats()))), onnx.RuleGraph, ""},
		{"output without a name", modelOf(plain(output("", floats()))), onnx.RuleGraph, ""},
		{"input twice", modelOf(plain(input("x", floats()))), onnx.RuleGraph, ""},
		{"input without a name", modelOf(plain(input("", floats()))), onnx.RuleGraph, ""},
		{"input without a type", modelOf(plain(msg{}.sub(11, msg{}.str(1, "z")))), onnx.RuleGraph, ""},
		{"input of type 0", modelOf(plain(input("z", typeOf(0, 1)))), onnx.RuleGraph, ""},
		{"input of type 99", modelOf(plain(input("z", typeOf(99, 1)))), onnx.RuleGraph, ""},
		{"input of -7 rows", modelOf(plain(input("z", floats(-7)))), onnx.RuleGraph, ""},
		{"input of rank 1000", modelOf(plain(input("z", floats(make([]any, 1000)...)))), onnx.RuleGraph, ""},
		{"initializer twice", modelOf(plain(msg{}.sub(5, tensorOf("w", 1, []int64{0}), tensorOf("w", 1, []int64{0})))), onnx.RuleGraph, ""},
		{"initializer without a name", w(tensorOf("", 1, []int64{0})), onnx.RuleGraph, ""},
		{"node gives an input", modelOf(plain(node("Relu", names("x"), names("x")))), onnx.RuleGraph, ""},
		{"node gives an initializer", modelOf(plain(node("Relu", names("x"), names("w")), msg{}.sub(5, tensorOf("w", 1, []int64{0})))), onnx.RuleGraph, ""},
		{"given twice", modelOf(plain(node("Relu", names("x"), names("y")))), onnx.RuleGraph, ""},
		{"node without an operator", modelOf(plain(node("", names("x"), names("z")))), onnx.RuleGraph, ""},
		{"graphs 17 deep", modelOf(nestedIf(17)), onnx.RuleLimit, "GraphDepth"},
		{"graphs 3000 deep", modelOf(nestedIf(3000)), onnx.RuleLimit, "GraphDepth"},
		{"types 10000 deep", modelOf(plain(input("z", func() msg {
			m := floats()
			for range 10_000 {
				m = msg{}.sub(4, msg{}.sub(1, m))
			}
			return m
		}()))), onnx.RuleLimit, "TypeDepth"},
		{"name of 5000 bytes", modelOf(plain(input(strings.Repeat("n", 5000), floats()))), onnx.RuleLimit, "NameBytes"},
		{"200,001 nodes", modelOf(plain(bytes.Repeat(node("A", nil, nil), 200_001))), onnx.RuleLimit, "Nodes"},
		{"1,000,000 nodes", modelOf(plain(bytes.Repeat(node("A", nil, nil), 1_000_000))), onnx.RuleLimit, "Nodes"},
		{"1,000,000 initializers", modelOf(plain(bytes.Repeat(msg{}.sub(5, msg{}), 1_000_000))), onnx.RuleLimit, "Initializers"},
		{"5000 inputs", modelOf(plain(bytes.Repeat(msg{}.sub(11, msg{}), 5000))), onnx.RuleLimit, "Values"},
		{"5000 outputs", modelOf(plain(bytes.Repeat(msg{}.sub(12, msg{}), 5000))), onnx.RuleLimit, "Values"},
		{"3000 operators", modelOf(plain(func() (m msg) {
			for i := range 3000 {
				m = join(m, node(fmt.Sprint("Op", i), nil, nil))
			}
			return m
		}())), onnx.RuleLimit, "Operators"},

		// functions
		{"function defined twice", modelOf(plain(), function("f", "A"), function("f", "A")), onnx.RuleFunction, ""},
		{"function without a name", modelOf(plain(), msg{}.sub(25, msg{}.str(10, "f"))), onnx.RuleFunction, ""},
		{"function with an input twice", modelOf(plain(), msg{}.sub(25, msg{}.str(1, "A").str(10, "f").str(4, "a").str(4, "a"))), onnx.RuleFunction, ""},
		{"function without its output", modelOf(plain(), function("f", "A")), onnx.RuleFunction, ""},
		{"function calls itself", modelOf(plain(), function("f", "A", calling("A", "a", "b"))), onnx.RuleFunction, ""},
		{"functions in a circle", modelOf(plain(), function("f", "A", calling("B", "a", "b")), function("f", "B", calling("C", "a", "b")), function("f", "C", calling("A", "a", "b"))), onnx.RuleFunction, ""},
		{"circle through a subgraph", modelOf(plain(), function("f", "A", node("If", names("a"), names("b"), attribute("then_branch", msg{}.sub(6, graphOf(calling("A", "a", "q"), output("q", floats()))))))), onnx.RuleFunction, ""},
		{"functions that double 40 times", modelOf(plain(), doubling(40)), onnx.RuleLimit, "Nodes"},
		{"graphs deep through functions", modelOf(plain(calling("F0", "x", "z")), opset("f", 1), nestedCalls(20)), onnx.RuleLimit, "GraphDepth"},
		{"custom operator in a function", modelOf(plain(), function("f", "A", node("Evil", names("a"), names("b"), msg{}.str(7, "evil")))), onnx.RuleDomain, ""},

		// tensors
		{"type 0", w(tensorOf("w", 0, []int64{1}, raw(4))), onnx.RuleTensor, ""},
		{"type 99", w(tensorOf("w", 99, []int64{1}, raw(4))), onnx.RuleTensor, ""},
		{"type negative", w(tensorOf("w", -1, []int64{1}, raw(4))), onnx.RuleTensor, ""},
		{"dimensions overflow", w(tensorOf("w", 1, []int64{1 << 33, 1 << 33}, raw(4))), onnx.RuleTensor, ""},
		{"dimensions overflow to 0", w(tensorOf("w", 1, []int64{1 << 32, 1 << 32}, raw(0))), onnx.RuleTensor, ""},
		{"dimension negative", w(tensorOf("w", 1, []int64{-1}, raw(4))), onnx.RuleTensor, ""},
		{"dimension lowest", w(tensorOf("w", 1, []int64{math.MinInt64}, raw(4))), onnx.RuleTensor, ""},
		{"two negative dimensions", w(tensorOf("w", 1, []int64{-1, -1}, raw(4))), onnx.RuleTensor, ""},
		{"rank 33", w(tensorOf("w", 1, make([]int64, 33))), onnx.RuleTensor, ""},
		{"rank 33 packed", w(tensorOf("w", 1, nil, msg{}.packed(1, make([]int64, 33)...))), onnx.RuleTensor, ""},
		{"raw data short", w(tensorOf("w", 1, []int64{3}, raw(11))), onnx.RuleTensor, ""},
		{"raw data long", w(tensorOf("w", 1, []int64{3}, raw(13))), onnx.RuleTensor, ""},
		{"raw data absent", w(tensorOf("w", 1, []int64{3})), onnx.RuleTensor, ""},
		{"scalar without data", w(tensorOf("w", 1, nil)), onnx.RuleTensor, ""},
		{"half a byte short", w(tensorOf("w", 22, []int64{3}, raw(1))), onnx.RuleTensor, ""},
		{"floats in the int field", w(tensorOf("w", 1, []int64{1}, msg{}.packed(5, 1))), onnx.RuleTensor, ""},
		{"one entry short", w(tensorOf("w", 7, []int64{3}, msg{}.packed(7, 1, 2))), onnx.RuleTensor, ""},
		{"raw and typed", w(tensorOf("w", 7, []int64{1}, msg{}.packed(7, 1), raw(8))), onnx.RuleTensor, ""},
		{"strings in raw data", w(tensorOf("w", 8, []int64{1}, raw(4))), onnx.RuleTensor, ""},
		{"string missing", w(tensorOf("w", 8, []int64{2}, msg{}.str(6, "a"))), onnx.RuleTensor, ""},
		{"data location 2", w(tensorOf("w", 1, []int64{1}, raw(4), msg{}.num(14, 2))), onnx.RuleTensor, ""},
		{"sparse without indices", modelOf(plain(msg{}.sub(15, msg{}.sub(1, tensorOf("w", 1, []int64{1}, raw(4))).num(3, 9)))), onnx.RuleTensor, ""},
		{"sparse with float indices", modelOf(plain(sparseOf(tensorOf("", 1, []int64{1}, raw(4))))), onnx.RuleTensor, ""},
		{"sparse with too many indices", modelOf(plain(sparseOf(tensorOf("", 7, []int64{2}, raw(16))))), onnx.RuleTensor, ""},
		{"sparse dimensions overflow", modelOf(plain(sparseOf(tensorOf("", 7, []int64{1}, raw(8)), 1<<40, 1<<40))), onnx.RuleTensor, ""},

		// external data, as far as the file itself tells
		{"no location", modelOf(plain(external("w", "offset", "0"))), onnx.RuleExternal, ""},
		{"unknown key", modelOf(plain(external("w", "location", "w.bin", "basepath", "/"))), onnx.RuleExternal, ""},
		{"location twice", modelOf(plain(external("w", "location", "w.bin", "location", "/etc/passwd"))), onnx.RuleExternal, ""},
		{"nine entries", modelOf(plain(external("w", strings.Split(strings.Repeat("location,w.bin,", 9)+"location,w.bin", ",")...))), onnx.RuleExternal, ""},
		{"entry without a key", modelOf(plain(msg{}.sub(5, tensorOf("w", 1, []int64{2}, msg{}.sub(13, msg{}.str(2, "w.bin")).num(14, 1))))), onnx.RuleExternal, ""},
		{"external without saying so", modelOf(plain(msg{}.sub(5, tensorOf("w", 1, []int64{1}, raw(4), msg{}.sub(13, msg{}.str(1, "location").str(2, "w.bin")))))), onnx.RuleExternal, ""},
		{"here and there", modelOf(plain(msg{}.sub(5, tensorOf("w", 1, []int64{1}, raw(4), entries("location", "w.bin"))))), onnx.RuleExternal, ""},
		{"external strings", modelOf(plain(msg{}.sub(5, tensorOf("w", 8, []int64{1}, entries("location", "w.bin"))))), onnx.RuleExternal, ""},
		{"length too short", modelOf(plain(external("w", "location", "w.bin", "length", "7"))), onnx.RuleExternal, ""},
		{"length too long", modelOf(plain(external("w", "location", "w.bin", "length", "9"))), onnx.RuleExternal, ""},
	}
	for _, location := range []string{"", "/etc/passwd", "../../../etc/passwd", "a/../../b", "..", "a/..", "a/../b", "./w.bin", "a//b", "a/", ".",
		`C:\w.bin`, `..\w.bin`, `a\b`, "C:w.bin", "http://host/w.bin", "file:///etc/passwd", "w.bin\x00.txt", "w\nbin", "*/_ORT_MEM_ADDR_/*", "w?.bin", "\xff"} {
		rule := onnx.RuleExternal
		if strings.ContainsAny(location, "\x00\n") || !utf8.ValidString(location) {
			rule = onnx.RuleText
		}
		if location != "" {
			files = append(files, hostile{fmt.Sprintf("location %q", location), modelOf(plain(external("w", "location", location))), rule, ""})
		}
	}
	for _, n := range []string{"-1", "+1", "", " 1", "0x10", "1_0", "1e3", "9223372036854775808", "18446744073709551615", "٣"} {
		files = append(files,
			hostile{fmt.Sprintf("offset %q", n), modelOf(plain(external("w", "location", "w.bin", "offset", n))), onnx.RuleExternal, ""},
			hostile{fmt.Sprintf("length %q", n), modelOf(plain(external("w", "location", "w.bin", "length", n))), onnx.RuleExternal, ""})
	}
	var scattered msg
	for i := range 5000 {
		scattered = join(scattered, external(fmt.Sprint("w", i), "location", fmt.Sprint(i)))
	}
	files = append(files, hostile{"5000 external files", modelOf(plain(scattered)), onnx.RuleLimit, "ExternalFiles"})
	for _, location := range []string{"../w.bin", "../../../etc/passwd", "a/../../b", "/etc/passwd", `C:\w.bin`, "https://host/w.bin"} {
		for place, file := range hiddenTensors(tensorOf("w", 1, []int64{2}, entries("location", location))) {
			files = append(files, hostile{fmt.Sprintf("location %q in %s", location, place), file, onnx.RuleExternal, ""})
		}
	}
	for place, file := range hiddenTensors(tensorOf("w", 1, []int64{2}, raw(7))) {
		files = append(files, hostile{"raw data short in " + place, file, onnx.RuleTensor, ""})
	}
	return files
}

func sparseOf(indices msg, dims ...int64) msg {
	if dims == nil {
		dims = []int64{9}
	}
	m := msg{}.sub(1, tensorOf("s", 1, []int64{1}, raw(4))).sub(2, indices)
	for _, d := range dims {
		m = m.num(3, d)
	}
	return msg{}.sub(15, m)
}

// doubling is a chain of functions, each calling the next one twice.
func doubling(n int) (m msg) {
	for i := range n {
		next := fmt.Sprint("F", i+1)
		m = join(m, function("f", fmt.Sprint("F", i), calling(next, "a", "q"), calling(next, "q", "b")))
	}
	return join(m, function("f", fmt.Sprint("F", n), node("Relu", names("a"), names("b"))))
}

// nestedCalls is a chain of functions, each calling the next one from a subgraph.
func nestedCalls(n int) (m msg) {
	for i := range n {
		inner := graphOf(calling(fmt.Sprint("F", i+1), "a", "q"), output("q", floats()))
		m = join(m, function("f", fmt.Sprint("F", i), node("If", names("a"), names("b"), attribute("then_branch", msg{}.sub(6, inner)))))
	}
	return join(m, function("f", fmt.Sprint("F", n), node("Relu", names("a"), names("b"))))
}

// hiddenTensors puts a tensor in every place of a file that can hold one.
func hiddenTensors(w msg) map[string][]byte {
	indices := tensorOf("", 7, []int64{2}, raw(16))
	sparse := msg{}.sub(1, w).sub(2, indices).num(3, 9)
	asIndices := msg{}.sub(1, tensorOf("s", 1, []int64{2}, raw(8))).sub(2, w).num(3, 9)
	constant := node("Constant", nil, names("q"), attribute("value", msg{}.sub(5, w)))
	inner := graphOf(constant, output("q", floats()))
	return map[string][]byte{
		"initializer":           modelOf(plain(msg{}.sub(5, w))),
		"sparse initializer":    modelOf(plain(msg{}.sub(15, sparse))),
		"sparse indices":        modelOf(plain(msg{}.sub(15, asIndices))),
		"Constant.value":        holding(msg{}.sub(5, w)),
		"Constant.sparse_value": holding(msg{}.sub(22, sparse)),
		"attribute tensors":     holding(msg{}.sub(10, tensorOf("ok", 1, []int64{0}), w)),
		"attribute sparses":     holding(msg{}.sub(23, sparse)),
		"mislabelled attribute": holding(msg{}.num(20, 2).num(3, 1).sub(5, w)),
		"subgraph":              holding(msg{}.sub(6, inner)),
		"subgraphs":             holding(msg{}.sub(11, inner)),
		"subgraph initializer":  holding(msg{}.sub(6, graphOf(msg{}.sub(5, w), node("Relu", nil, names("q")), output("q", floats())))),
		"subgraph of subgraph":  holding(msg{}.sub(6, graphOf(node("If", nil, names("q"), attribute("else_branch", msg{}.sub(6, inner))), output("q", floats())))),
		"function body":         modelOf(plain(), function("f", "A", node("Relu", names("a"), names("b")), constant)),
		"function default":      modelOf(plain(), msg{}.sub(25, msg{}.str(1, "A").str(10, "f").sub(11, msg{}.str(1, "v").sub(5, w)))),
		"unused function":       modelOf(plain(), function("nobody", "A", node("Relu", names("a"), names("b")), constant)),
		"training start":        modelOf(plain(), msg{}.sub(20, msg{}.sub(1, inner))),
		"training step":         modelOf(plain(), msg{}.sub(20, msg{}.sub(2, inner))),
	}
}

func TestReadRefuses(t *testing.T) {
	for _, c := range hostileFiles() {
		t.Run(c.name, func(t *testing.T) {
			model, err := onnx.Read(bytes.NewReader(c.file), int64(len(c.file)), onnx.Limits{})
			var refusal *onnx.Refusal
			if !errors.As(err, &refusal) {
				t.Fatalf("got %v, %v; want a refusal by rule %s", model, err, c.rule)
			}
			if refusal.Rule != c.rule || refusal.Limit != c.limit {
				t.Fatalf("refused by %s %s: %v; want %s %s", refusal.Rule, refusal.Limit, err, c.rule, c.limit)
			}
			if refusal.Reason == "" || len(err.Error()) > 1000 {
				t.Fatalf("the reason is empty or too long: %q", err)
			}
			if c.limit != "" && !strings.Contains(err.Error(), fmt.Sprintf("limit %s = %d", c.limit, refusal.Value)) {
				t.Fatalf("the error does not name the limit and its value: %v", err)
			}
		})
	}
}

// A tensor in any of the hidden places is found, not only a bad one.
func TestReadFindsEveryExternalTensor(t *testing.T) {
	for place, file := range hiddenTensors(tensorOf("w", 1, []int64{2}, entries("location", "a/w.bin", "offset", "8"))) {
		model, err := onnx.Read(bytes.NewReader(file), int64(len(file)), onnx.Limits{})
		if place == "sparse indices" { // floats cannot be indices
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", place, err)
			continue
		}
		want := onnx.External{Tensor: "w", Location: "a/w.bin", Offset: 8, Length: 8}
		if len(model.External) != 1 || model.External[0] != want {
			t.Errorf("%s: external tensors %v, want %v", place, model.External, want)
		}
		if files := model.ExternalFiles(); len(files) != 1 || files[0] != "a/w.bin" {
			t.Errorf("%s: external files %v", place, files)
		}
		if err := model.CheckFiles(map[string]int64{"a/w.bin": 16}); err != nil {
			t.Errorf("%s: with its file: %v", place, err)
		}
		for _, siblings := range []map[string]int64{nil, {"w.bin": 16}, {"a/w.bin": 15}} {
			if err := model.CheckFiles(siblings); err == nil {
				t.Errorf("%s: taken with %v beside it", place, siblings)
			}
		}
	}
}

func TestCheckFiles(t *testing.T) {
	file := modelOf(plain(
		external("w", "location", "w.bin"),
		external("v", "location", "w.bin", "offset", "8", "length", "8"),
		external("both", "location", "w.bin", "offset", "4", "length", "8"),
		external("far", "location", "far.bin", "offset", "9223372036854775807")))
	model, err := onnx.Read(bytes.NewReader(file), int64(len(file)), onnx.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		siblings map[string]int64
		want     string
	}{
		{"no files", nil, "not given with the model"},
		{"other file", map[string]int64{"W.bin": 100, "far.bin": math.MaxInt64}, "not given with the model"},
		{"one byte short", map[string]int64{"w.bin": 15, "far.bin": math.MaxInt64}, `"v" takes 8 bytes from byte 8 of "w.bin", which has 15 bytes`},
		{"empty file", map[string]int64{"w.bin": 0, "far.bin": math.MaxInt64}, `"w" takes 8 bytes`},
		{"offset and length overflow", map[string]int64{"w.bin": 16, "far.bin": math.MaxInt64}, `"far" takes 8 bytes`},
	} {
		err := model.CheckFiles(c.siblings)
		var refusal *onnx.Refusal
		if !errors.As(err, &refusal) || refusal.Rule != onnx.RuleExternal || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	// Tensors that overlap are taken: models tie weights so, and each lies inside the file.
	model.External = model.External[:3]
	if err := model.CheckFiles(map[string]int64{"w.bin": 16, "unused.bin": 3}); err != nil {
		t.Errorf("the right file: %v", err)
	}
}

// A limit that is given holds, and the limit's value is in the error.
func TestLimits(t *testing.T) {
	two := modelOf(plain(node("Abs", names("x"), names("z")), msg{}.sub(5, tensorOf("w", 1, []int64{0}), tensorOf("v", 1, []int64{0}))),
		opset("f", 1), function("f", "A", node("Relu", names("a"), names("b"))), function("f", "B", node("Relu", names("a"), names("b"))))
	for _, c := range []struct {
		limits onnx.Limits
		limit  string
	}{
		{onnx.Limits{FileBytes: int64(len(two)) - 1}, "FileBytes"},
		{onnx.Limits{Nodes: 1}, "Nodes"},
		{onnx.Limits{Initializers: 1}, "Initializers"},
		{onnx.Limits{Functions: 1}, "Functions"},
		{onnx.Limits{Operators: 1}, "Operators"},
		{onnx.Limits{NameBytes: 3}, "NameBytes"},
		{onnx.Limits{AllNamesBytes: 6}, "AllNamesBytes"},
		{onnx.Limits{Fields: 20}, "Fields"},
	} {
		_, err := onnx.Read(bytes.NewReader(two), int64(len(two)), c.limits)
		var refusal *onnx.Refusal
		if !errors.As(err, &refusal) || refusal.Limit != c.limit || refusal.Rule != onnx.RuleLimit {
			t.Errorf("%s: %v", c.limit, err)
		}
	}
	if _, err := onnx.Read(bytes.NewReader(two), int64(len(two)), onnx.DefaultLimits()); err != nil {
		t.Errorf("the default limits: %v", err)
	}
	// Much text costs time, so it counts as fields too.
	wordy := modelOf(plain(), msg{}.str(6, strings.Repeat("d", 100_000)))
	_, err := onnx.Read(bytes.NewReader(wordy), int64(len(wordy)), onnx.Limits{Fields: 1000})
	if refusal := (*onnx.Refusal)(nil); !errors.As(err, &refusal) || refusal.Limit != "Fields" {
		t.Errorf("much text: %v", err)
	}
	deep := modelOf(nestedIf(16))
	if _, err := onnx.Read(bytes.NewReader(deep), int64(len(deep)), onnx.Limits{}); err != nil {
		t.Errorf("graphs 16 deep: %v", err)
	}
}

type broken struct{ err error }

func (b broken) ReadAt([]byte, int64) (int, error) { return 0, b.err }

// A disk that fails is not the file's fault; a file that is shorter than announced is.
func TestReadTellsSourceFromFile(t *testing.T) {
	failure := errors.New("input/output error")
	_, err := onnx.Read(broken{failure}, 1000, onnx.Limits{})
	var refusal *onnx.Refusal
	if !errors.Is(err, failure) || errors.As(err, &refusal) {
		t.Errorf("a failing source: %v", err)
	}
	_, err = onnx.Read(broken{io.EOF}, 1000, onnx.Limits{})
	if !errors.As(err, &refusal) || refusal.Rule != onnx.RuleWire {
		t.Errorf("a short source: %v", err)
	}
}

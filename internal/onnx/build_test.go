package onnx_test

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// msg is a protobuf message under construction; the field numbers below are those of onnx.proto.
type msg []byte

func (m msg) num(field int, value int64) msg {
	return protowire.AppendVarint(protowire.AppendTag(m, protowire.Number(field), protowire.VarintType), uint64(value))
}

func (m msg) str(field int, value string) msg {
	return protowire.AppendString(protowire.AppendTag(m, protowire.Number(field), protowire.BytesType), value)
}

func (m msg) sub(field int, values ...msg) msg {
	for _, v := range values {
		m = protowire.AppendBytes(protowire.AppendTag(m, protowire.Number(field), protowire.BytesType), v)
	}
	return m
}

func (m msg) float(field int, value float32) msg {
	return protowire.AppendFixed32(protowire.AppendTag(m, protowire.Number(field), protowire.Fixed32Type), math.Float32bits(value))
}

func (m msg) packed(field int, values ...int64) msg {
	var run []byte
	for _, v := range values {
		run = protowire.AppendVarint(run, uint64(v))
	}
	return m.str(field, string(run))
}

func join(parts ...msg) (m msg) {
	for _, p := range parts {
		m = append(m, p...)
	}
	return m
}

func opset(domain string, version int64) msg {
	if domain == "" {
		return msg{}.sub(8, msg{}.num(2, version))
	}
	return msg{}.sub(8, msg{}.str(1, domain).num(2, version))
}

// modelOf is a model of IR version 8 and operator set 17 around a graph; more are further fields.
func modelOf(graph msg, more ...msg) []byte {
	return join(msg{}.num(1, 8).str(2, "test").sub(7, graph), opset("", 17), join(more...))
}

func graphOf(parts ...msg) msg { return join(msg{}.str(2, "g"), join(parts...)) }

func node(op string, in, out []string, more ...msg) msg {
	var m msg
	for _, n := range in {
		m = m.str(1, n)
	}
	for _, n := range out {
		m = m.str(2, n)
	}
	return msg{}.sub(1, join(m.str(4, op), join(more...)))
}

func names(n ...string) []string { return n }

func attribute(name string, content msg) msg { return msg{}.sub(5, join(msg{}.str(1, name), content)) }

// tensorOf has no content; float and others add it.
func tensorOf(name string, element int64, dims []int64, more ...msg) msg {
	var m msg
	for _, d := range dims {
		m = m.num(1, d)
	}
	m = m.num(2, element)
	if name != "" {
		m = m.str(8, name)
	}
	return join(m, join(more...))
}

func raw(n int) msg { return msg{}.str(9, string(make([]byte, n))) }

func entries(pairs ...string) (m msg) {
	for i := 0; i < len(pairs); i += 2 {
		m = m.sub(13, msg{}.str(1, pairs[i]).str(2, pairs[i+1]))
	}
	return m.num(14, 1)
}

func typeOf(element int64, dims ...any) msg {
	var shape msg
	for _, d := range dims {
		switch d := d.(type) {
		case int:
			shape = shape.sub(1, msg{}.num(1, int64(d)))
		case string:
			shape = shape.sub(1, msg{}.str(2, d))
		case nil:
			shape = shape.sub(1, msg{})
		}
	}
	return msg{}.sub(1, msg{}.num(1, element).sub(2, shape))
}

func input(name string, kind msg) msg  { return msg{}.sub(11, msg{}.str(1, name).sub(2, kind)) }
func output(name string, kind msg) msg { return msg{}.sub(12, msg{}.str(1, name).sub(2, kind)) }

func floats(dims ...any) msg { return typeOf(1, dims...) }

// plain is the smallest useful graph, y = op(x), with more fields.
func plain(more ...msg) msg {
	return graphOf(input("x", floats("n", 4)), node("Relu", names("x"), names("y")), output("y", floats("n", 4)), join(more...))
}

// holding is a graph whose one node holds an attribute.
func holding(content msg) []byte {
	return modelOf(graphOf(node("Constant", nil, names("y"), attribute("value", content)), output("y", floats())))
}

func function(domain, name string, nodes ...msg) msg {
	var body msg
	for _, n := range nodes {
		// node() wraps for a graph's field 1; a function holds nodes in field 7.
		content, _ := protowire.ConsumeBytes(n[1:])
		body = body.sub(7, content)
	}
	return msg{}.sub(25, join(msg{}.str(1, name).str(10, domain).str(4, "a").str(5, "b").sub(9, msg{}.num(2, 17)).
		sub(9, msg{}.str(1, "f").num(2, 1)), body))
}

func calling(name, in, out string) msg { return node(name, names(in), names(out), msg{}.str(7, "f")) }

// nestedIf is a graph that holds a graph, depth times.
func nestedIf(depth int) msg {
	inner := graphOf(node("Constant", nil, names("y"), attribute("value_float", msg{}.float(2, 1))), output("y", floats()))
	for range depth {
		inner = graphOf(node("If", names("c"), names("y"), attribute("then_branch", msg{}.sub(6, inner))), output("y", floats()))
	}
	return join(inner, input("c", typeOf(9)))
}

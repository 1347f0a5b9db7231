package chain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// dim is one dimension: its size, or -1 where any size may come. Two dimensions of one chain with the same symbol have
// the same size, whatever it is; an empty symbol says nothing.
type dim struct {
	size   int64
	symbol string
}

func fixed(size int64) dim { return dim{size: size} }

var unknown = dim{size: -1}

// port is what is known of a tensor before it is there. An open one may have any shape.
type port struct {
	typ  tensor.Type
	dims []dim
	open bool
}

// portOf reads a type as an interface describes it. scope keeps the symbols of one model apart from another's.
func portOf(spec api.TensorSpec, scope string) (port, error) {
	typ, ok := tensor.ParseType(spec.Datatype)
	if !ok {
		return port{}, fmt.Errorf("datatype %q is not known", spec.Datatype)
	}
	if len(spec.Shape) > tensor.MaxRank {
		return port{}, fmt.Errorf("%d dimensions; the limit is %d", len(spec.Shape), tensor.MaxRank)
	}
	p := port{typ: typ, dims: make([]dim, len(spec.Shape))}
	for i, size := range spec.Shape {
		if size < -1 {
			return port{}, fmt.Errorf("shape %v: a dimension is -1 or its size", spec.Shape)
		}
		p.dims[i].size = size
		if size < 0 && i < len(spec.Symbols) && spec.Symbols[i] != "" {
			p.dims[i].symbol = scope + spec.Symbols[i]
		}
	}
	return p, nil
}

// actual is the port of a tensor that is there.
func actual(t *tensor.Tensor) port {
	p := port{typ: t.Type, dims: make([]dim, len(t.Shape))}
	for i, size := range t.Shape {
		p.dims[i].size = size
	}
	return p
}

func (p port) spec(name string) api.TensorSpec {
	s := api.TensorSpec{Name: name, Datatype: p.typ.String(), Shape: p.sizes()}
	if slices.ContainsFunc(p.dims, func(d dim) bool { return d.symbol != "" }) {
		s.Symbols = make([]string, len(p.dims))
		for i, d := range p.dims {
			s.Symbols[i] = d.symbol
		}
	}
	return s
}

func (p port) sizes() []int64 {
	sizes := make([]int64, len(p.dims))
	for i, d := range p.dims {
		sizes[i] = d.size
	}
	return sizes
}

// String writes a port as people read it: "FP32 [batch, 64]".
func (p port) String() string {
	if p.open {
		return p.typ.String() + " of any shape"
	}
	parts := make([]string, len(p.dims))
	for i, d := range p.dims {
		switch {
		case d.size >= 0:
			parts[i] = fmt.Sprint(d.size)
		case d.symbol != "":
			parts[i] = d.symbol
		default:
			parts[i] = "?"
		}
	}
	return fmt.Sprintf("%s [%s]", p.typ, strings.Join(parts, ", "))
}

// elements multiplies the sizes; it refuses what is not known or too large to count.
func (p port) elements() (int64, error) { return tensor.Elements(p.sizes()) }

// axis turns an axis that may count from the end into an index.
func (p port) axis(axis int) (int, error) {
	at := axis
	if at < 0 {
		at += len(p.dims)
	}
	if at < 0 || at >= len(p.dims) {
		return 0, fmt.Errorf("axis %d is not one of its %d dimensions", axis, len(p.dims))
	}
	return at, nil
}

// meet gives what is known of one dimension when it is both a and b; ok is false when it cannot be.
func meet(a, b dim) (_ dim, ok bool) {
	switch {
	case a.size >= 0 && b.size >= 0:
		return a, a.size == b.size
	case a.size >= 0:
		return a, true
	case b.size >= 0:
		return b, true
	case a.symbol == "":
		return b, true
	}
	return a, true
}

// both gives what is known of a tensor that is both a and b.
func both(a, b port) (port, error) {
	if a.typ != b.typ {
		return port{}, fmt.Errorf("the datatypes %s and %s differ", a.typ, b.typ)
	}
	if a.open || b.open {
		if a.open {
			a = b
		}
		return a, nil
	}
	if len(a.dims) != len(b.dims) {
		return port{}, fmt.Errorf("%s and %s differ in rank", a, b)
	}
	m := port{typ: a.typ, dims: make([]dim, len(a.dims))}
	for i := range a.dims {
		var ok bool
		if m.dims[i], ok = meet(a.dims[i], b.dims[i]); !ok {
			return port{}, fmt.Errorf("%s and %s differ in dimension %d", a, b, i)
		}
	}
	return m, nil
}

// bindings hold what a model's own symbols stand for where it is used.
type bindings map[string]dim

// take holds what comes against what a model takes, and learns what the model's symbols stand for.
func (b bindings) take(want, given port) error {
	if want.typ != given.typ {
		return fmt.Errorf("datatype %s comes, %s is taken", given.typ, want.typ)
	}
	if given.open {
		return nil
	}
	if len(want.dims) != len(given.dims) {
		return fmt.Errorf("%s comes, %s is taken: the ranks differ", given, want)
	}
	for i, w := range want.dims {
		g := given.dims[i]
		if _, ok := meet(w, g); !ok {
			return fmt.Errorf("%s comes, %s is taken: dimension %d differs", given, want, i)
		}
		if w.size >= 0 || w.symbol == "" {
			continue
		}
		known, bound := b[w.symbol]
		if !bound {
			b[w.symbol] = g
			continue
		}
		met, ok := meet(known, g)
		if !ok {
			return fmt.Errorf("%s comes: dimension %d is %q, which is %d in another tensor of the step", given, i, w.symbol, known.size)
		}
		b[w.symbol] = met
	}
	return nil
}

// give says what a model's output is where the model is used.
func (b bindings) give(p port, step string) port {
	out := port{typ: p.typ, dims: slices.Clone(p.dims)}
	for i, d := range out.dims {
		if d.size >= 0 || d.symbol == "" {
			continue
		}
		if known, bound := b[d.symbol]; bound {
			out.dims[i] = known
		} else {
			out.dims[i].symbol = step + "." + d.symbol
		}
	}
	// A model's output without a dimension may be one number, or of a rank that the file does not tell.
	out.open = len(p.dims) == 0
	return out
}

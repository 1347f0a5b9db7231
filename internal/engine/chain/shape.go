package chain

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/penstock/penstock/internal/tensor"
)

// reshape gives the same elements another shape, without touching them.
type reshape struct{ shape []int64 }

func newReshape(o *options) (operation, []string, error) {
	var s struct {
		Shape []int64 `json:"shape"`
	}
	if err := o.into(&s); err != nil {
		return nil, nil, err
	}
	if s.Shape == nil || len(s.Shape) > tensor.MaxRank {
		return nil, nil, fmt.Errorf("with.shape: a list of at most %d sizes is wanted; 0 keeps a size, one -1 takes what is left", tensor.MaxRank)
	}
	free, known := 0, int64(1)
	for i, size := range s.Shape {
		switch {
		case size < -1:
			return nil, nil, fmt.Errorf("with.shape[%d] is %d; 0 keeps a size, -1 takes what is left", i, size)
		case size == -1:
			free++
		case size > 0 && known > stepBytesMax/size:
			return nil, nil, fmt.Errorf("with.shape %v has more elements than the limit of %d", s.Shape, stepBytesMax)
		case size > 0:
			known *= size
		}
	}
	if free > 1 {
		return nil, nil, errors.New("with.shape has more than one -1")
	}
	return reshape{s.Shape}, []string{"x"}, nil
}

func (r reshape) infer(in []port) ([]port, error) {
	p := in[0]
	out := port{typ: p.typ, dims: make([]dim, len(r.shape))}
	free, known, kept := -1, int64(1), make([]bool, len(p.dims))
	for i, size := range r.shape {
		switch {
		case size == -1:
			free = i
		case size > 0:
			out.dims[i] = fixed(size)
			known *= size
		case p.open:
			out.dims[i] = unknown
		case i >= len(p.dims):
			return nil, fmt.Errorf("with.shape[%d] keeps dimension %d, but %s has none", i, i, p)
		default:
			out.dims[i], kept[i] = p.dims[i], true
		}
	}
	total, rest := moved(p, kept)
	switch {
	case total < 0 && free >= 0 && rest.others == known:
		out.dims[free] = rest.dim // everything but the one dimension that is not known was named
	case total < 0 && free >= 0:
		out.dims[free] = unknown
	case total < 0:
	case free >= 0 && total%known == 0:
		out.dims[free] = fixed(total / known)
	case free >= 0 || total != known:
		all, err := p.elements()
		if err != nil {
			return nil, fmt.Errorf("%s does not fit the shape %v", p, r.shape)
		}
		return nil, fmt.Errorf("%s has %d elements, which do not fit the shape %v", p, all, r.shape)
	}
	return []port{out}, nil
}

// remainder is the one dimension that is not known, and the product of the others.
type remainder struct {
	dim    dim
	others int64
}

// moved multiplies the sizes that are not kept as they are: those that the new shape shares out. The product is -1 when
// one is not known.
func moved(p port, kept []bool) (int64, remainder) {
	if p.open {
		return -1, remainder{}
	}
	rest, open := int64(1), -1
	for i, d := range p.dims {
		switch {
		case kept[i]:
		case d.size >= 0 && d.size > 0 && rest > stepBytesMax/d.size:
			return -1, remainder{} // more than can ever come
		case d.size >= 0:
			rest *= d.size
		case open >= 0:
			return -1, remainder{}
		default:
			open = i
		}
	}
	if open >= 0 {
		return -1, remainder{p.dims[open], rest}
	}
	return rest, remainder{}
}

func (r reshape) run(_ context.Context, in, out []tensor.Tensor) error {
	out[0].Data = in[0].Data
	return nil
}

// concat puts tensors one behind the other along an axis, in the order of their names.
type concat struct {
	axis  int
	names []string
}

func newConcat(o *options) (operation, []string, error) {
	s := struct {
		Axis int `json:"axis"`
	}{}
	if err := o.into(&s); err != nil {
		return nil, nil, err
	}
	if len(o.inputs) == 0 {
		return nil, nil, errors.New("concat needs at least one tensor")
	}
	return concat{s.Axis, o.inputs}, []string{"out"}, nil
}

func (c concat) infer(in []port) ([]port, error) {
	if slices.ContainsFunc(in, func(p port) bool { return p.open }) {
		return []port{{typ: in[0].typ, open: true}}, nil
	}
	axis, err := in[0].axis(c.axis)
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", c.names[0], err)
	}
	out, along := in[0], int64(0)
	for i, p := range in {
		if len(p.dims) != len(in[0].dims) {
			return nil, fmt.Errorf("tensor %q is %s and %q is %s: the ranks differ", c.names[i], p, c.names[0], in[0])
		}
		if d := p.dims[axis]; d.size < 0 || along < 0 {
			along = -1
		} else {
			along += d.size
		}
		p.dims = slices.Clone(p.dims)
		p.dims[axis] = unknown
		if i == 0 {
			out = p
			continue
		}
		if out, err = both(out, p); err != nil {
			return nil, fmt.Errorf("tensors %q and %q: %w", c.names[0], c.names[i], err)
		}
	}
	out.dims[axis] = dim{size: along}
	return []port{out}, nil
}

func (c concat) run(_ context.Context, in, out []tensor.Tensor) error {
	axis, err := actual(&in[0]).axis(c.axis)
	if err != nil {
		return err
	}
	outer := 1
	for _, d := range in[0].Shape[:axis] {
		outer *= int(d)
	}
	total := 0
	for i := range in {
		total += len(in[i].Data)
	}
	out[0].Data = make([]byte, 0, total)
	if out[0].Type == tensor.Bytes {
		return c.strings(in, out, outer)
	}
	for o := range outer {
		for i := range in {
			each := len(in[i].Data) / outer
			out[0].Data = append(out[0].Data, in[i].Data[o*each:(o+1)*each]...)
		}
	}
	return nil
}

// strings is concat of elements that vary in length: each tensor is read from where its last part ended.
func (c concat) strings(in, out []tensor.Tensor, outer int) error {
	rest, each := make([][]byte, len(in)), make([]int64, len(in))
	for i := range in {
		n, err := tensor.Elements(in[i].Shape)
		if err != nil {
			return err
		}
		rest[i], each[i] = in[i].Data, n/int64(max(outer, 1))
	}
	for range outer {
		for i := range in {
			from := rest[i]
			for range each[i] {
				_, after, ok := tensor.NextBytes(rest[i])
				if !ok {
					return fmt.Errorf("tensor %q is cut off", c.names[i])
				}
				rest[i] = after
			}
			out[0].Data = append(out[0].Data, from[:len(from)-len(rest[i])]...)
		}
	}
	return nil
}

package chain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/penstock/penstock/internal/tensor"
)

// routeBy is the tensor that chooses.
const routeBy = "by"

// route gives one of its tensors, chosen by the value of another. Only what the chosen one needs is run: the executor
// asks choose before it runs anything else on the step's behalf.
type route struct {
	names    []string // the branches are all but routeBy
	cases    map[string]string
	ranges   []routeRange
	fallback string
}

type routeRange struct {
	Below *float64 `json:"below,omitempty"`
	To    string   `json:"to"`
}

type routeSettings struct {
	Cases   map[string]string `json:"cases,omitempty"`
	Ranges  []routeRange      `json:"ranges,omitempty"`
	Default string            `json:"default,omitempty"`
}

func newRoute(o *options) (operation, []string, error) {
	var s routeSettings
	if err := o.into(&s); err != nil {
		return nil, nil, err
	}
	r := route{names: o.inputs, cases: s.Cases, ranges: s.Ranges, fallback: s.Default}
	if !slices.Contains(o.inputs, routeBy) {
		return nil, nil, fmt.Errorf("tensor %q has no source; it chooses the branch", routeBy)
	}
	if (len(s.Cases) > 0) == (len(s.Ranges) > 0) {
		return nil, nil, errors.New("with.cases or with.ranges: one of them must be given")
	}
	targets := []string{}
	for _, to := range s.Cases {
		targets = append(targets, to)
	}
	for i, next := range s.Ranges {
		targets = append(targets, next.To)
		if next.Below == nil && i < len(s.Ranges)-1 {
			return nil, nil, fmt.Errorf("with.ranges[%d] has no below; only the last may", i)
		}
		if i > 0 && next.Below != nil && *next.Below <= *s.Ranges[i-1].Below {
			return nil, nil, fmt.Errorf("with.ranges[%d].below does not rise", i)
		}
	}
	if s.Default != "" {
		targets = append(targets, s.Default)
	}
	for _, to := range targets {
		if to == routeBy || !slices.Contains(o.inputs, to) {
			return nil, nil, fmt.Errorf("with: the branch %q is no tensor of the step", clip(to))
		}
	}
	for _, name := range o.inputs {
		if name != routeBy && !slices.Contains(targets, name) {
			return nil, nil, fmt.Errorf("tensor %q is a branch that nothing chooses", name)
		}
	}
	return r, []string{"out"}, nil
}

// infer gives what all branches have in common.
func (r route) infer(in []port) ([]port, error) {
	var out *port
	for i, p := range in {
		if r.names[i] == routeBy {
			if err := r.checkBy(p); err != nil {
				return nil, err
			}
			continue
		}
		if out == nil {
			out = &p
			continue
		}
		met, err := common(*out, p)
		if err != nil {
			return nil, fmt.Errorf("branch %q does not give what the others give: %w", r.names[i], err)
		}
		out = &met
	}
	return []port{*out}, nil
}

func (r route) checkBy(p port) error {
	float := p.typ == tensor.FP16 || p.typ == tensor.FP32 || p.typ == tensor.FP64 || p.typ == tensor.BF16
	switch {
	case len(r.ranges) > 0 && p.typ == tensor.Bytes:
		return fmt.Errorf("tensor %q is BYTES; with.ranges needs numbers", routeBy)
	case len(r.cases) > 0 && float:
		return fmt.Errorf("tensor %q is %s; with.cases needs BYTES, BOOL or integers", routeBy, p.typ)
	}
	return nil
}

// common is what is known of a tensor that is either a or b. The rank must be the same, or callers could not be told it.
func common(a, b port) (port, error) {
	if a.typ != b.typ {
		return port{}, fmt.Errorf("the datatypes %s and %s differ", a.typ, b.typ)
	}
	if a.open || b.open {
		return port{typ: a.typ, open: true}, nil
	}
	if len(a.dims) != len(b.dims) {
		return port{}, fmt.Errorf("%s and %s differ in rank", a, b)
	}
	out := port{typ: a.typ, dims: slices.Clone(a.dims)}
	for i := range a.dims {
		if a.dims[i] != b.dims[i] {
			out.dims[i] = unknown
		}
	}
	return out, nil
}

// choose names the branch. All elements must choose the same: a request is not split.
func (r route) choose(by *tensor.Tensor) (string, error) {
	n, err := tensor.Elements(by.Shape)
	if err != nil {
		return "", err
	}
	if n == 0 {
		return "", fmt.Errorf("tensor %q is empty", routeBy)
	}
	var chosen string
	read, rest := func([]byte, int) number { return number{} }, by.Data
	if by.Type != tensor.Bytes {
		read = readNumber(by.Type)
	}
	for i := range int(n) {
		var to, value string
		if by.Type == tensor.Bytes {
			element, after, ok := tensor.NextBytes(rest)
			if !ok {
				return "", fmt.Errorf("tensor %q is cut off", routeBy)
			}
			rest, value = after, string(element)
			to = r.cases[value]
		} else {
			to, value = r.ofNumber(by.Type, read(by.Data, i))
		}
		if to == "" {
			to = r.fallback
		}
		if to == "" {
			return "", fmt.Errorf("tensor %q is %q, which no branch is for", routeBy, clip(value))
		}
		if i > 0 && to != chosen {
			return "", fmt.Errorf("tensor %q chooses the branch %q in one row and %q in another; send them apart", routeBy, chosen, to)
		}
		chosen = to
	}
	return chosen, nil
}

func (r route) ofNumber(t tensor.Type, n number) (to, value string) {
	if len(r.ranges) > 0 {
		v := n.toFloat()
		for _, next := range r.ranges {
			if next.Below == nil || v < *next.Below {
				return next.To, ""
			}
		}
		return "", strconv.FormatFloat(v, 'g', -1, 64)
	}
	switch {
	case t == tensor.Bool && n.u != 0:
		value = "true"
	case t == tensor.Bool:
		value = "false"
	case n.kind == unsigned:
		value = strconv.FormatUint(n.u, 10)
	default:
		value = strconv.FormatInt(n.i, 10)
	}
	return r.cases[value], value
}

// run is never asked: the executor passes the chosen tensor on.
func (r route) run(context.Context, []tensor.Tensor, []tensor.Tensor) error {
	return errors.New("a route is carried out by the chain itself")
}

package onnx

import (
	"cmp"
	"slices"
)

// body is one function, the main graph or a training graph, as a place that calls functions. The runtime replaces calls
// by the called bodies, so a small file can stand for an endless graph; expand works out how much, without doing it.
type body struct {
	nodes int64 // as written
	depth int64 // deepest graph inside it
	calls []call
}

// call says how often a body calls a function, and from how deep inside.
type call struct {
	function int32
	depth    int32
	times    int64
}

func (r *reader) newBody() int32 {
	r.bodies = append(r.bodies, body{})
	return int32(len(r.bodies) - 1)
}

func (r *reader) functionKey(domain string, name, overload []byte) uint64 {
	return r.hash([]byte(domain), name, overload)
}

// call notes a call. Calls in a row to one function share an entry; expand merges the rest.
func (r *reader) call(from, function int32, depth int64) {
	calls := r.bodies[from].calls
	if n := len(calls); n > 0 && calls[n-1].function == function {
		calls[n-1].times++
		calls[n-1].depth = max(calls[n-1].depth, int32(depth))
		return
	}
	r.bodies[from].calls = append(calls, call{function: function, depth: int32(depth), times: 1})
}

// countFunctions makes room for the functions, in proportion to the bytes that they have.
func (r *reader) countFunctions() error {
	const minFunctionBytes = 6
	var functions, bytes int64
	r.pos = 0
	err := r.each(modelMessage, r.size, func(f item) error {
		if f.number == 25 {
			functions++
			bytes += f.size() + 3
		}
		return nil
	})
	if err != nil {
		return err
	}
	if functions > r.limits.Functions {
		return overLimit("Functions", r.limits.Functions, "the file defines %d functions", functions)
	}
	room := min(functions, bytes/minFunctionBytes)
	r.functions = make(map[uint64]int32, room)
	r.bodies = make([]body, 0, room+1) // and the main graph
	return nil
}

// declare notes that a function exists; its body is read later.
func (r *reader) declare(at item) error {
	name, overload, domain := r.operatorName[:0], r.overload[:0], DomainDefault
	err := r.each(functionMessage, at.end, func(f item) error {
		if f.number != 1 && f.number != 10 && f.number != 13 {
			return nil
		}
		part, err := r.text(f)
		switch f.number {
		case 1:
			name = append(name, part...)
		case 10:
			domain = wellKnown(part)
		case 13:
			overload = append(overload, part...)
		}
		return err
	})
	r.operatorName, r.overload = name, overload
	if err != nil {
		return err
	}
	if len(name) == 0 {
		return refuse(RuleFunction, "a function has no name")
	}
	key := r.functionKey(domain, name, overload)
	if _, there := r.functions[key]; there {
		return refuse(RuleFunction, "the function %.80q of %.80q is defined twice", name, domain)
	}
	r.functions[key] = r.newBody()
	return nil
}

// function reads a function's body: what it may name, then default attributes and nodes in their order, then outputs.
func (r *reader) function(at item, owner int32) error {
	in := r.enter(nil, owner)
	defer r.leave(in)
	err := r.each(functionMessage, at.end, func(f item) (err error) {
		switch f.number {
		case 4:
			name, err := r.text(f)
			if err == nil && !define(&in.inputs, r.hash(name)) {
				err = refuse(RuleFunction, "a function has the input %.80q twice", name)
			}
			return err
		case 9:
			in.imports, err = r.opset(f, in.imports, nil)
		case 11:
			err = r.attribute(f, in)
		case 12:
			_, err = r.value(f, false)
		case 14:
			err = r.entry(f)
		}
		return err
	})
	if err != nil {
		return err
	}
	r.pos = at.start
	err = r.each(functionMessage, at.end, func(f item) error {
		if f.number == 7 {
			return r.node(f, in)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.pos = at.start
	return r.each(functionMessage, at.end, func(f item) error {
		if f.number != 5 {
			return nil
		}
		name, err := r.text(f)
		if err == nil && !in.here(r.hash(name)) {
			err = refuse(RuleFunction, "nothing in a function produces its output %.80q", name)
		}
		return err
	})
}

// expansion is the work of one body with every call in it replaced.
type expansion struct {
	state uint8 // of the walk: 0 not met, 1 being worked out, 2 known
	nodes int64
	depth int64
}

// expand works out how many operators the graphs have, and how deep they nest, once every call is replaced. A function
// that reaches itself is refused.
func (r *reader) expand() error {
	if len(r.functions) == 0 {
		return nil
	}
	known := make([]expansion, len(r.bodies))
	// An own stack, and not recursion: a chain of calls may be as long as the file has functions.
	var stack []int32
	for i := range r.bodies {
		r.bodies[i].calls = merged(r.bodies[i].calls)
	}
	for i := range r.bodies {
		if known[i].state == 2 {
			continue
		}
		stack = append(stack[:0], int32(i))
		for len(stack) > 0 {
			at := stack[len(stack)-1]
			open, err := r.unknown(at, known)
			if err != nil {
				return err
			}
			if open >= 0 {
				stack = append(stack, open)
				continue
			}
			if err := r.settle(at, known); err != nil {
				return err
			}
			stack = stack[:len(stack)-1]
		}
	}
	return nil
}

// unknown is the next function that a body calls and that is not worked out yet; -1 when there is none.
func (r *reader) unknown(at int32, known []expansion) (int32, error) {
	known[at].state = max(known[at].state, 1)
	for _, c := range r.bodies[at].calls {
		switch known[c.function].state {
		case 0:
			return c.function, nil
		case 1:
			return -1, refuse(RuleFunction, "a function calls itself, perhaps by way of others")
		}
	}
	return -1, nil
}

// settle works a body out from the bodies that it calls. Sums stop at the limit, so they cannot overflow.
func (r *reader) settle(at int32, known []expansion) error {
	total := expansion{state: 2, nodes: r.bodies[at].nodes, depth: r.bodies[at].depth}
	for _, c := range r.bodies[at].calls {
		called := known[c.function]
		if called.nodes > 0 && c.times > r.limits.Nodes/called.nodes {
			return overLimit("Nodes", r.limits.Nodes, "the functions of the file stand for more operators")
		}
		total.nodes += c.times * called.nodes
		total.depth = max(total.depth, int64(c.depth)+called.depth)
		if total.nodes > r.limits.Nodes {
			return overLimit("Nodes", r.limits.Nodes, "the functions of the file stand for more operators")
		}
	}
	if total.depth > r.limits.GraphDepth {
		return overLimit("GraphDepth", r.limits.GraphDepth, "graphs are nested %d deep through functions", total.depth)
	}
	known[at] = total
	return nil
}

// merged sums calls to the same function, in place.
func merged(calls []call) []call {
	slices.SortFunc(calls, func(a, b call) int { return cmp.Compare(a.function, b.function) })
	out := calls[:0]
	for _, c := range calls {
		if n := len(out); n > 0 && out[n-1].function == c.function {
			out[n-1].times += c.times
			out[n-1].depth = max(out[n-1].depth, c.depth)
			continue
		}
		out = append(out, c)
	}
	return out
}

package onnx

import (
	"slices"

	"github.com/penstock/penstock/internal/tensor"
)

// scope is what the nodes of one graph or function body may name. Names are kept as hashes; see scanner.hash.
type scope struct {
	parent    *scope
	depth     int64    // graphs around this one, within its body
	imports   []uint64 // domains that nodes may use
	owner     int32    // the body that its nodes are counted for
	inputs    map[uint64]struct{}
	constants map[uint64]struct{}
	results   map[uint64]struct{} // outputs of the nodes read so far
	outputs   map[uint64]struct{} // of the graph itself
}

// enter gives a scope inside parent, or outside all when parent is nil; leave takes it back. A file may have very many
// small graphs, so their scopes are used again.
func (r *reader) enter(parent *scope, owner int32) *scope {
	in := &scope{}
	if n := len(r.spare); n > 0 {
		in, r.spare = r.spare[n-1], r.spare[:n-1]
	}
	in.parent, in.owner = parent, owner
	if parent != nil {
		in.depth, in.imports = parent.depth+1, append(in.imports, parent.imports...)
	}
	return in
}

func (r *reader) leave(in *scope) {
	in.parent, in.depth, in.imports = nil, 0, in.imports[:0]
	for _, set := range []*map[uint64]struct{}{&in.inputs, &in.constants, &in.results, &in.outputs} {
		// Emptying a set costs what it once held, so a large one is left to the garbage collector.
		if len(*set) > 32 {
			*set = nil
		}
		clear(*set)
	}
	r.spare = append(r.spare, in)
}

// here says whether the name is defined in this graph itself.
func (s *scope) here(name uint64) bool {
	if _, ok := s.results[name]; ok {
		return true
	}
	if _, ok := s.constants[name]; ok {
		return true
	}
	_, ok := s.inputs[name]
	return ok
}

// visible says whether the name is defined here or in a graph around this one.
func (s *scope) visible(name uint64) bool {
	for ; s != nil; s = s.parent {
		if s.here(name) {
			return true
		}
	}
	return false
}

// define adds a name to one of the scope's sets; false when it was in that set.
func define(set *map[uint64]struct{}, name uint64) bool {
	if _, ok := (*set)[name]; ok {
		return false
	}
	if *set == nil {
		*set = make(map[uint64]struct{})
	}
	(*set)[name] = struct{}{}
	return true
}

// graph reads one graph in three passes: counts, then names that nodes may use, then the nodes in their order. The
// main graph's inputs, outputs and initializers become part of the model.
func (r *reader) graph(at item, in *scope, main bool) error {
	if in.depth > r.limits.GraphDepth {
		return overLimit("GraphDepth", r.limits.GraphDepth, "graphs are nested %d deep", in.depth)
	}
	if err := r.countGraph(at, in, main); err != nil {
		return err
	}
	r.pos = at.start
	err := r.each(graphMessage, at.end, func(f item) error { return r.definition(f, in, main) })
	if err != nil {
		return err
	}
	r.pos = at.start
	err = r.each(graphMessage, at.end, func(f item) error {
		switch f.number {
		case 1:
			return r.node(f, in)
		case 13:
			_, err := r.value(f, false)
			return err
		case 16:
			return r.entry(f)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Outputs come last: by now everything that could produce them was seen.
	r.pos = at.start
	return r.each(graphMessage, at.end, func(f item) error {
		if f.number == 12 {
			return r.output(f, in, main)
		}
		return nil
	})
}

// countGraph checks the graph's counts against the limits before anything is kept, and makes room for exactly what is
// there. A whole initializer takes at least minTensorBytes in the file, so that room stays in proportion to it.
func (r *reader) countGraph(at item, in *scope, main bool) error {
	const minTensorBytes = 10
	var inputs, outputs, constants, constantBytes int64
	err := r.each(graphMessage, at.end, func(f item) error {
		switch f.number {
		case 5, 15:
			constants++
			constantBytes += f.size() + 2
		case 11:
			inputs++
		case 12:
			outputs++
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case constants > r.limits.Initializers:
		return overLimit("Initializers", r.limits.Initializers, "a graph has %d initializers", constants)
	case inputs > r.limits.Values:
		return overLimit("Values", r.limits.Values, "a graph has %d inputs", inputs)
	case outputs > r.limits.Values:
		return overLimit("Values", r.limits.Values, "a graph has %d outputs", outputs)
	case outputs == 0:
		return refuse(RuleGraph, "a graph has no output")
	}
	if constants > 0 {
		room := min(constants, constantBytes/minTensorBytes)
		if main {
			in.constants = make(map[uint64]struct{}, room)
			r.model.Constants = make([]Tensor, 0, room)
		}
	}
	return nil
}

// definition reads an input or an initializer.
func (r *reader) definition(f item, in *scope, main bool) error {
	switch f.number {
	case 2:
		if !main {
			return nil
		}
		name, err := r.keptText(f)
		r.model.Graph = name
		return err
	case 5, 15:
		return r.initializer(f, in, main)
	case 11:
		value, err := r.value(f, main)
		if err != nil {
			return err
		}
		if value.empty {
			return refuse(RuleGraph, "a graph has an input without a name")
		}
		if !define(&in.inputs, value.key) {
			return refuse(RuleGraph, "the input %q is there twice", value.Name)
		}
		if main {
			r.model.Inputs = append(r.model.Inputs, value.Value)
		}
	}
	return nil
}

func (r *reader) initializer(f item, in *scope, main bool) (err error) {
	var found facts
	if f.number == 15 {
		found, err = r.sparse(f)
	} else {
		found, err = r.dense(f)
	}
	if err != nil {
		return err
	}
	if len(r.tensor) == 0 {
		return refuse(RuleGraph, "an initializer has no name")
	}
	if !define(&in.constants, r.hash(r.tensor)) {
		return refuse(RuleGraph, "the initializer %.80q is there twice", r.tensor)
	}
	if !main {
		return nil
	}
	name, err := r.keep(r.tensor)
	if err != nil {
		return err
	}
	kept := Tensor{Name: name, Type: found.element, Bytes: found.bytes}
	if found.rank > 0 {
		kept.Dims = append(make([]int64, 0, found.rank), r.dims[:found.rank]...)
	}
	r.model.Constants = append(r.model.Constants, kept)
	r.model.Parameters += found.count
	return nil
}

func (r *reader) output(f item, in *scope, main bool) error {
	value, err := r.value(f, main)
	if err != nil {
		return err
	}
	switch {
	case value.empty:
		return refuse(RuleGraph, "a graph has an output without a name")
	case !in.visible(value.key):
		return refuse(RuleGraph, "nothing produces the output %.80q", r.name)
	case !define(&in.outputs, value.key):
		return refuse(RuleGraph, "the output %.80q is there twice", r.name)
	}
	if main {
		r.model.Outputs = append(r.model.Outputs, value.Value)
	}
	return nil
}

// node reads one operator: first what it is and takes, then its attributes, then what it gives. A name that it takes
// must have been produced before, which also rules circles out.
func (r *reader) node(at item, in *scope) error {
	if r.model.Nodes++; r.model.Nodes > r.limits.Nodes {
		return overLimit("Nodes", r.limits.Nodes, "the file has more operators")
	}
	if err := r.operator(at, in); err != nil {
		return err
	}
	r.pos = at.start
	err := r.each(nodeMessage, at.end, func(f item) error {
		switch f.number {
		case 1:
			name, err := r.text(f)
			if err == nil && len(name) > 0 && !in.visible(r.hash(name)) {
				err = refuse(RuleGraph, "a %s takes %.80q, which nothing before it gives: the graph is not in order, or circular", r.key, name)
			}
			return err
		case 9:
			return r.entry(f)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.pos = at.start
	err = r.each(nodeMessage, at.end, func(f item) error {
		if f.number == 5 {
			return r.attribute(f, in)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.pos = at.start
	return r.each(nodeMessage, at.end, func(f item) error {
		if f.number != 2 {
			return nil
		}
		name, err := r.text(f)
		if err != nil || len(name) == 0 { // an output that nobody wants has no name
			return err
		}
		if key := r.hash(name); in.here(key) || !define(&in.results, key) {
			return refuse(RuleGraph, "%.80q is given twice", name)
		}
		return nil
	})
}

// operator reads what a node calls, and refuses what is neither of an allowed domain nor a function of the file. It
// leaves the operator's full name in r.key, for messages.
func (r *reader) operator(at item, in *scope) error {
	name, overload, domain := r.operatorName[:0], r.overload[:0], DomainDefault
	r.pos = at.start
	err := r.each(nodeMessage, at.end, func(f item) error {
		if f.number != 4 && f.number != 7 && f.number != 8 {
			return nil
		}
		part, err := r.text(f)
		switch f.number {
		case 4:
			name = append(name, part...)
		case 7:
			domain = wellKnown(part)
		case 8:
			overload = append(overload, part...)
		}
		return err
	})
	r.operatorName, r.overload = name, overload
	if err != nil {
		return err
	}
	if len(name) == 0 {
		return refuse(RuleGraph, "a node has no operator")
	}
	r.key = append(append(append(r.key[:0], domain...), "::"...), name...)
	called, local := r.functions[r.functionKey(domain, name, overload)]
	switch {
	case local:
		r.call(in.owner, called, in.depth)
	case newestOpset(domain) == 0:
		return refuse(RuleDomain, "the operator %.200s is of a custom domain, and not a function of the file", r.key)
	}
	if key := r.hash([]byte(domain)); !slices.Contains(in.imports, key) {
		return refuse(RuleDomain, "the operator %.200s is used, but the operator sets of its domain are not imported", r.key)
	}
	r.bodies[in.owner].nodes++
	r.bodies[in.owner].depth = max(r.bodies[in.owner].depth, in.depth)
	return r.countOperator()
}

// countOperator adds one to the operator in r.key.
func (r *reader) countOperator() error {
	n, known := r.model.Ops[string(r.key)]
	if !known {
		if int64(len(r.model.Ops)) >= r.limits.Operators {
			return overLimit("Operators", r.limits.Operators, "the file has more different operators")
		}
		operator, err := r.keep(r.key)
		if err != nil {
			return err
		}
		r.model.Ops[operator] = 1
		return nil
	}
	r.model.Ops[string(r.key)] = n + 1
	return nil
}

// attribute walks everything that an attribute may hold, whatever its declared type says that it holds.
func (r *reader) attribute(at item, in *scope) error {
	return r.each(attributeMessage, at.end, func(f item) (err error) {
		switch f.number {
		case 5, 10:
			_, err = r.dense(f)
		case 22, 23:
			_, err = r.sparse(f)
		case 6, 11:
			inner := r.enter(in, in.owner)
			err = r.graph(f, inner, false)
			r.leave(inner)
		case 14, 15:
			err = r.typed(f, &Value{}, 0, false)
		case 7, 8:
			_, err = r.count(attributeMessage, f)
		}
		return err
	})
}

// named is a value with the hash of its name.
type named struct {
	Value
	key   uint64
	empty bool
}

// value reads an input or output. Its name and type become part of it only when keep is set; a value that is kept must
// have a type.
func (r *reader) value(at item, keep bool) (v named, err error) {
	v.empty = true
	r.name = r.name[:0]
	err = r.each(valueMessage, at.end, func(f item) (err error) {
		switch f.number {
		case 2:
			err = r.typed(f, &v.Value, 0, keep)
		case 4:
			err = r.entry(f)
		}
		return err
	})
	if err != nil {
		return v, err
	}
	// The name is read last, so that it is still in r.name when the caller refuses the value.
	r.pos = at.start
	err = r.each(valueMessage, at.end, func(f item) error {
		if f.number != 1 {
			return nil
		}
		name, err := r.text(f)
		if err != nil {
			return err
		}
		v.key, v.empty = r.hash(name), len(name) == 0
		if keep {
			v.Name, err = r.keep(name)
		}
		return err
	})
	if err == nil && keep && (v.Kind == KindUnknown || v.Kind == KindTensor && !v.Type.known()) {
		err = refuse(RuleGraph, "the input or output %q has no type that this reader knows (%s, %s)", v.Name, v.Kind, v.Type)
	}
	return v, err
}

// typed reads a type into v; its dimensions only when keep is set.
func (r *reader) typed(at item, v *Value, depth int64, keep bool) error {
	if depth > r.limits.TypeDepth {
		return overLimit("TypeDepth", r.limits.TypeDepth, "types are nested %d deep", depth)
	}
	alternatives := 0
	return r.each(typeMessage, at.end, func(f item) error {
		kind := [...]Kind{1: KindTensor, 4: KindSequence, 5: KindMap, 6: KindUnknown, 7: KindOpaque, 8: KindSparse, 9: KindOptional}[f.number]
		if f.number == 6 {
			return nil
		}
		if alternatives++; alternatives > 1 {
			return refuse(RuleWire, "a type is two kinds at once")
		}
		if depth == 0 {
			v.Kind = kind
		}
		switch kind {
		case KindTensor, KindSparse:
			return r.tensorType(f, v, keep)
		case KindSequence, KindOptional:
			return r.each(holderTypeMessage, f.end, func(f item) error { return r.typed(f, v, depth+1, keep) })
		case KindMap:
			return r.each(mapTypeMessage, f.end, func(f item) error {
				if f.number == 2 {
					return r.typed(f, v, depth+1, keep)
				}
				return nil
			})
		default:
			return r.each(opaqueTypeMessage, f.end, func(item) error { return nil })
		}
	})
}

func (r *reader) tensorType(at item, v *Value, keep bool) error {
	return r.each(tensorTypeMessage, at.end, func(f item) error {
		if f.number == 1 {
			v.Type = Element(int32(f.value))
			return nil
		}
		v.Ranked = true
		var dims [tensor.MaxRank]Dim
		rank := 0
		err := r.each(shapeMessage, f.end, func(f item) (err error) {
			if rank == len(dims) {
				return refuse(RuleGraph, "a shape has more than %d dimensions", len(dims))
			}
			dims[rank], err = r.dim(f, keep)
			rank++
			return err
		})
		if err == nil && keep && rank > 0 {
			v.Dims = append(make([]Dim, 0, rank), dims[:rank]...)
		}
		return err
	})
}

// dim reads one dimension. Some exporters write -1 for a free one.
func (r *reader) dim(at item, keep bool) (Dim, error) {
	d := Dim{Size: -1}
	alternatives := 0
	err := r.each(dimMessage, at.end, func(f item) (err error) {
		switch f.number {
		case 1:
			if d.Size = int64(f.value); d.Size < -1 {
				return refuse(RuleGraph, "a dimension is %d", d.Size)
			}
			alternatives++
		case 2:
			alternatives++
			name, nameErr := r.text(f)
			if nameErr != nil {
				return nameErr
			}
			if keep {
				d.Symbol, err = r.keep(name)
			}
		}
		return err
	})
	if err == nil && alternatives > 1 {
		err = refuse(RuleWire, "a dimension has both a size and a name")
	}
	return d, err
}

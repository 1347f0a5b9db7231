package chain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// slot numbers the tensors of one request: the chain's inputs first, then what each step gives.
type slot int

// node is one step, ready to run.
type node struct {
	name   string
	op     operation // nil: a model
	route  *route    // the same as op, when it is one
	heavy  bool      // worth a goroutine of its own
	views  bool      // the outputs may be views of the inputs
	member api.Digest
	takes  []string // names of the inputs, as the step knows them
	from   []slot   // where they come from
	gives  []string // names of all outputs
	wanted []string // names of those that somebody reads: a model is asked for no others
	base   slot     // of the first output
	ports  []port   // of the outputs
	reads  steps    // steps that it reads, any of them
}

// steps is a set of steps by their numbers; bit inputBit stands for the request's own tensors.
type steps uint64

const inputBit = 63

func (s steps) has(i int) bool { return s>>i&1 != 0 }

func only(i int) steps { return 1 << i }

// graph is a chain made quick to run. It is immutable.
type graph struct {
	chain  *api.Chain
	inputs []port
	nodes  []node
	owner  []int  // of a slot: the step that gives it, or inputBit
	outs   []slot // of the chain's outputs
	sinks  steps  // steps that the outputs read
}

// wrong makes the error for a fault of one step.
func wrong(step, format string, args ...any) *api.Error {
	return api.Fail(api.CodeBadRequest, "step "+clip(step), format, args...)
}

// compile checks a resolved chain and makes it ready to run. Every type is inferred here, also at the worker's end:
// what does not fit is refused before a request comes.
func compile(c *api.Chain) (*graph, error) {
	if len(c.Steps) > api.ChainStepsMax {
		return nil, api.Fail(api.CodeBadRequest, "", "the chain has %d steps; the limit is %d", len(c.Steps), api.ChainStepsMax)
	}
	g := &graph{chain: c}
	b := builder{graph: g, slots: map[string]slot{}}
	for _, spec := range c.Inputs {
		p, err := portOf(spec, "")
		if err != nil {
			return nil, api.Fail(api.CodeBadRequest, "input "+clip(spec.Name), "%w", err)
		}
		b.slots[spec.Name] = slot(len(g.owner))
		g.inputs, g.owner, b.ports = append(g.inputs, p), append(g.owner, inputBit), append(b.ports, p)
	}
	for i := range c.Steps {
		if err := b.add(&c.Steps[i]); err != nil {
			return nil, err
		}
	}
	for _, o := range c.Outputs {
		at, ok := b.slots[o.From]
		if !ok {
			return nil, api.Fail(api.CodeBadRequest, "output "+clip(o.Name), "the source %q is not known", clip(o.From))
		}
		g.outs = append(g.outs, at)
		g.sinks |= only(g.owner[at])
		b.want(at)
	}
	if len(g.owner) > api.ChainTensorsMax {
		return nil, api.Fail(api.CodeBadRequest, "", "%d tensors pass through the chain; the limit is %d", len(g.owner), api.ChainTensorsMax)
	}
	return g, b.complete()
}

// builder holds what is needed only while a graph is made.
type builder struct {
	*graph
	slots map[string]slot // by "input" or "step.tensor"
	ports []port          // by slot
}

func (b *builder) add(step *api.ChainStep) error {
	n := node{name: step.Name, base: slot(len(b.owner)), member: step.Digest}
	var in []port
	for _, link := range step.Inputs {
		at, ok := b.slots[link.From]
		if !ok {
			return wrong(step.Name, "tensor %q: the source %q is not known", clip(link.Tensor), clip(link.From))
		}
		n.takes, n.from, in = append(n.takes, link.Tensor), append(n.from, at), append(in, b.ports[at])
		n.reads |= only(b.owner[at])
		b.want(at)
	}
	var out []port
	var err error
	if step.Op != "" {
		out, err = n.operate(step, in)
	} else {
		out, err = n.model(step, in)
	}
	if err != nil {
		return err
	}
	n.ports = out
	for i, name := range n.gives {
		b.slots[step.Name+"."+name] = slot(len(b.owner))
		b.owner, b.ports = append(b.owner, len(b.nodes)), append(b.ports, out[i])
	}
	b.nodes = append(b.nodes, n)
	return nil
}

// operate builds a built-in step and infers what it gives.
func (n *node) operate(step *api.ChainStep, in []port) ([]port, error) {
	var err error
	if n.op, n.gives, _, err = build(step.Op, &options{with: step.With, inputs: n.takes}); err != nil {
		return nil, wrong(step.Name, "%s: %w", clip(step.Op), err)
	}
	if r, ok := n.op.(route); ok {
		n.route = &r
	}
	k := kinds()[step.Op]
	n.heavy, n.views = k.heavy, k.views
	out, err := n.op.infer(in)
	if err != nil {
		return nil, wrong(step.Name, "%s: %w", step.Op, err)
	}
	return out, nil
}

// model holds a step's tensors against the signature of its version, and says what comes out here.
func (n *node) model(step *api.ChainStep, in []port) ([]port, error) {
	n.heavy = true
	bound := bindings{}
	for i, name := range n.takes {
		at := slices.IndexFunc(step.Takes, func(s api.TensorSpec) bool { return s.Name == name })
		if at < 0 {
			return nil, wrong(step.Name, "the model has no input %q; it takes %s", clip(name), names(step.Takes))
		}
		want, err := portOf(step.Takes[at], "")
		if err == nil {
			err = bound.take(want, in[i])
		}
		if err != nil {
			return nil, wrong(step.Name, "tensor %q from %s: %w", clip(name), clip(step.Inputs[i].From), err)
		}
	}
	for _, s := range step.Takes {
		if !slices.Contains(n.takes, s.Name) {
			return nil, wrong(step.Name, "tensor %q has no source; the model takes %s", clip(s.Name), names(step.Takes))
		}
	}
	var out []port
	for _, s := range step.Gives {
		p, err := portOf(s, "")
		if err != nil {
			return nil, wrong(step.Name, "output %q: %w", clip(s.Name), err)
		}
		n.gives, out = append(n.gives, s.Name), append(out, bound.give(p, step.Name))
	}
	return out, nil
}

func names(specs []api.TensorSpec) string {
	list := make([]string, len(specs))
	for i, s := range specs {
		list[i] = fmt.Sprintf("%q", clip(s.Name))
	}
	return strings.Join(list, ", ")
}

// want notes that somebody reads a slot.
func (b *builder) want(at slot) {
	if b.owner[at] == inputBit {
		return
	}
	n := &b.nodes[b.owner[at]]
	if name := n.gives[at-n.base]; !slices.Contains(n.wanted, name) {
		n.wanted = append(n.wanted, name)
	}
}

// complete refuses what would never be used: it is a mistake more often than a wish.
func (b *builder) complete() error {
	used := b.sinks
	for i := range b.nodes {
		used |= b.nodes[i].reads
	}
	for i := range b.nodes {
		if !used.has(i) {
			return wrong(b.nodes[i].name, "nothing reads what it gives")
		}
	}
	for i, spec := range b.chain.Inputs {
		read := slices.Contains(b.outs, slot(i)) || slices.ContainsFunc(b.nodes, func(n node) bool { return slices.Contains(n.from, slot(i)) })
		if !read {
			return api.Fail(api.CodeBadRequest, "input "+clip(spec.Name), "no step reads it")
		}
	}
	return nil
}

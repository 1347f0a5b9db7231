package chain

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// Catalog is what a chain is resolved against: versions by their references, and the files of versions.
type Catalog interface {
	Version(ref string) (api.Version, error)
	File(ref, path string, limit int64) ([]byte, error)
}

// namePattern is the rule for names of steps and of the chain's own tensors. A dot stands between step and tensor.
const namePattern = `[A-Za-z0-9_][A-Za-z0-9_-]{0,62}`

var nameRule = regexp.MustCompile(`^` + namePattern + `$`)

// Resolve checks a chain as the user wrote it and gives it with every reference resolved and every type known. Errors
// name the step, the tensor and the rule.
func Resolve(spec *api.ChainSpec, catalog Catalog) (*api.Chain, error) {
	r := resolver{spec: spec, catalog: catalog, steps: map[string]int{}, inputs: map[string]int{}}
	for _, stage := range []func() error{r.names, r.make, r.link, r.order, r.types} {
		if err := stage(); err != nil {
			return nil, err
		}
	}
	g, err := compile(&r.chain)
	if err != nil {
		return nil, err
	}
	for i := range g.nodes {
		step := &r.chain.Steps[i]
		if step.Op != "" {
			for j, p := range g.nodes[i].ports {
				step.Gives = append(step.Gives, p.spec(g.nodes[i].gives[j]))
			}
		}
	}
	for i, o := range r.chain.Outputs {
		r.chain.Gives = append(r.chain.Gives, g.port(g.outs[i]).spec(o.Name))
	}
	_, err = r.chain.Digest() // over the limit of bytes
	return &r.chain, err
}

// port gives the type of a slot.
func (g *graph) port(at slot) port {
	if g.owner[at] == inputBit {
		return g.inputs[at]
	}
	n := &g.nodes[g.owner[at]]
	return n.ports[at-n.base]
}

// resolver goes through a spec in stages; each relies on those before.
type resolver struct {
	spec    *api.ChainSpec
	catalog Catalog
	steps   map[string]int // index in spec.Steps
	inputs  map[string]int // index in spec.Inputs
	made    []api.ChainStep
	reads   [][]int // of each step: the steps that it reads
	chain   api.Chain
}

// names checks counts and names.
func (r *resolver) names() error {
	s := r.spec
	switch {
	case len(s.Steps) == 0 || len(s.Steps) > api.ChainStepsMax:
		return api.Fail(api.CodeBadRequest, "", "%d steps; a chain has 1 to %d", len(s.Steps), api.ChainStepsMax)
	case len(s.Inputs) == 0 || len(s.Outputs) == 0 || len(s.Inputs)+len(s.Outputs) > api.ChainTensorsMax:
		return api.Fail(api.CodeBadRequest, "", "%d inputs and %d outputs; a chain has at least one of each, at most %d together",
			len(s.Inputs), len(s.Outputs), api.ChainTensorsMax)
	}
	check := func(what, name string) error {
		if !nameRule.MatchString(name) {
			return api.Fail(api.CodeBadName, "", "%s name %q breaks the rule %s", what, clip(name), namePattern)
		}
		return nil
	}
	for i, in := range s.Inputs {
		if err := check("input", in.Name); err != nil {
			return err
		}
		if _, twice := r.inputs[in.Name]; twice {
			return api.Fail(api.CodeBadRequest, "input "+in.Name, "two inputs have this name")
		}
		r.inputs[in.Name] = i
	}
	for i, step := range s.Steps {
		if err := check("step", step.Name); err != nil {
			return err
		}
		_, input := r.inputs[step.Name]
		if _, twice := r.steps[step.Name]; twice || input {
			return wrong(step.Name, "a step or an input has this name already")
		}
		if (step.Model == "") == (step.Op == "") {
			return wrong(step.Name, "model or op: one of them must be given")
		}
		if step.Model != "" && len(step.With) > 0 {
			return wrong(step.Name, "with: a model has no settings; they are for op")
		}
		r.steps[step.Name] = i
	}
	seen := map[string]bool{}
	for _, out := range s.Outputs {
		if err := check("output", out.Name); err != nil {
			return err
		}
		if seen[out.Name] {
			return api.Fail(api.CodeBadRequest, "output "+out.Name, "two outputs have this name")
		}
		seen[out.Name] = true
	}
	return nil
}

// make turns every step into its resolved form, without its sources.
func (r *resolver) make() error {
	for i := range r.spec.Steps {
		s := &r.spec.Steps[i]
		step := api.ChainStep{Name: s.Name, Op: s.Op}
		if s.Model != "" {
			v, err := r.catalog.Version(s.Model)
			if err != nil {
				e := *api.AsError(err)
				e.Message = fmt.Sprintf("step %s: model %s: %s", s.Name, clip(s.Model), e.Message)
				return &e
			}
			step.Model, step.Version, step.Digest, step.Format = v.Model, v.Number, v.Digest, v.Format
			step.Takes, step.Gives = v.Signature.Inputs, v.Signature.Outputs
			r.made = append(r.made, step)
			continue
		}
		with, err := json.Marshal(s.With)
		if err != nil {
			return wrong(s.Name, "with: it is not JSON")
		}
		read := func(model, path string) ([]byte, error) { return r.catalog.File(model, path, labelsFileMax) }
		_, gives, told, err := build(s.Op, &options{with: with, inputs: slices.Sorted(maps.Keys(s.Inputs)), read: read})
		if err != nil {
			return wrong(s.Name, "%s: %w", clip(s.Op), err)
		}
		step.With = told
		for _, name := range gives {
			step.Gives = append(step.Gives, api.TensorSpec{Name: name}) // typed in the end
		}
		r.made = append(r.made, step)
	}
	return nil
}

// link finds every source.
func (r *resolver) link() error {
	r.reads = make([][]int, len(r.made))
	for i := range r.made {
		given := r.spec.Steps[i].Inputs
		for _, name := range slices.Sorted(maps.Keys(given)) {
			from, step, err := r.source(given[name])
			if err != nil {
				return wrong(r.made[i].Name, "tensor %q: %w", clip(name), err)
			}
			if step >= 0 {
				r.reads[i] = append(r.reads[i], step)
			}
			r.made[i].Inputs = append(r.made[i].Inputs, api.ChainLink{Tensor: name, From: from})
		}
		if len(given) == 0 {
			return wrong(r.made[i].Name, "inputs: a step takes at least one tensor")
		}
	}
	for _, out := range r.spec.Outputs {
		from, _, err := r.source(out.From)
		if err != nil {
			return api.Fail(api.CodeBadRequest, "output "+out.Name, "%w", err)
		}
		r.chain.Outputs = append(r.chain.Outputs, api.ChainOutput{Name: out.Name, From: from})
	}
	return nil
}

// source reads "input", "step.tensor", or "step" when that gives one tensor.
func (r *resolver) source(text string) (from string, step int, _ error) {
	if _, ok := r.inputs[text]; ok {
		return text, -1, nil
	}
	name, tensor, dotted := strings.Cut(text, ".")
	at, ok := r.steps[name]
	if !ok {
		return "", 0, fmt.Errorf("the source %q is neither an input of the chain nor a step", clip(text))
	}
	gives := r.made[at].Gives
	if !dotted {
		if len(gives) != 1 {
			return "", 0, fmt.Errorf("the source %q gives %s; write %s.TENSOR", clip(text), names(gives), name)
		}
		return name + "." + gives[0].Name, at, nil
	}
	if !slices.ContainsFunc(gives, func(s api.TensorSpec) bool { return s.Name == tensor }) {
		return "", 0, fmt.Errorf("step %s gives no tensor %q; it gives %s", name, clip(tensor), names(gives))
	}
	return text, at, nil
}

// order sorts the steps so that each follows what it reads, and refuses cycles.
func (r *resolver) order() error {
	const fresh, open, closed = 0, 1, 2
	state, depth, trail := make([]int, len(r.made)), make([]int, len(r.made)), []string{}
	var visit func(i int) error
	visit = func(i int) error {
		trail = append(trail, r.made[i].Name)
		defer func() { trail = trail[:len(trail)-1] }()
		switch state[i] {
		case open:
			from := slices.Index(trail, r.made[i].Name)
			return wrong(r.made[i].Name, "it reads itself: %s", strings.Join(trail[from:], " reads "))
		case closed:
			return nil
		}
		state[i] = open
		for _, before := range r.reads[i] {
			if err := visit(before); err != nil {
				return err
			}
			depth[i] = max(depth[i], depth[before])
		}
		state[i] = closed
		if depth[i]++; depth[i] > api.ChainDepthMax {
			return wrong(r.made[i].Name, "more than %d steps follow each other up to here", api.ChainDepthMax)
		}
		r.chain.Steps = append(r.chain.Steps, r.made[i])
		return nil
	}
	for i := range r.made {
		if err := visit(i); err != nil {
			return err
		}
	}
	return nil
}

// types fixes the chain's inputs: as written, or as the first step that reads one takes it.
func (r *resolver) types() error {
	for _, in := range r.spec.Inputs {
		spec := api.TensorSpec{Name: in.Name, Datatype: in.Datatype, Shape: in.Shape}
		if in.Parameter {
			if in.Datatype != "" || in.Shape != nil {
				return api.Fail(api.CodeBadRequest, "input "+in.Name, "a parameter is one BYTES element; leave datatype and shape out")
			}
			spec.Datatype, spec.Shape = "BYTES", []int64{1}
			r.chain.Inputs = append(r.chain.Inputs, spec)
			r.chain.Parameters = append(r.chain.Parameters, api.Parameter{Name: in.Name, Value: in.Default})
			continue
		}
		if in.Default != "" {
			return api.Fail(api.CodeBadRequest, "input "+in.Name, "default is for parameters; a tensor must be given")
		}
		taken, known := r.takenAs(in.Name)
		if spec.Datatype == "" {
			spec.Datatype = taken.Datatype
		}
		if spec.Shape == nil {
			spec.Shape, spec.Symbols = taken.Shape, taken.Symbols
		}
		if !known && (in.Datatype == "" || in.Shape == nil) {
			return api.Fail(api.CodeBadRequest, "input "+in.Name, "datatype and shape must be given: no step that reads it fixes them")
		}
		if spec.Shape == nil {
			spec.Shape = []int64{}
		}
		r.chain.Inputs = append(r.chain.Inputs, spec)
	}
	for i := range r.chain.Steps {
		if r.chain.Steps[i].Op != "" {
			r.chain.Steps[i].Gives = nil
		}
	}
	return nil
}

// takenAs finds a step that takes an input in one way only.
func (r *resolver) takenAs(input string) (api.TensorSpec, bool) {
	for _, step := range r.chain.Steps {
		for _, link := range step.Inputs {
			if link.From != input {
				continue
			}
			for _, s := range step.Takes {
				if s.Name == link.Tensor {
					return s, true
				}
			}
			if step.Op == "decode_image" || step.Op == "json_field" {
				return api.TensorSpec{Datatype: "BYTES", Shape: []int64{-1}}, true
			}
		}
	}
	return api.TensorSpec{}, false
}

package registry

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/onnx"
)

// diffChangesMax is how many changes of one section are listed.
const diffChangesMax = 200

// comparison gathers what differs.
type comparison struct{ api.VersionDiff }

// Diff compares two versions of a tenant: signature, graph, parameters, metadata, metrics and files. Of graphs that are too
// large to be read again it compares the counts of operators, and says so.
func (c *Catalog) Diff(ctx context.Context, t api.TenantID, from, to api.Ref) (api.VersionDiff, error) {
	a, err := c.Resolve(ctx, t, from)
	if err != nil {
		return api.VersionDiff{}, err
	}
	b, err := c.Resolve(ctx, t, to)
	if err != nil {
		return api.VersionDiff{}, err
	}
	d := &comparison{api.VersionDiff{From: a.Ref().String(), To: b.Ref().String(), Changes: []api.Change{}}}
	d.texts("signature", tensorTexts(&a), tensorTexts(&b))
	entryA, _ := a.Entry()
	entryB, _ := b.Entry()
	if entryA.Digest != entryB.Digest {
		if err := c.diffGraphs(ctx, d, &a, &b); err != nil {
			return d.VersionDiff, err
		}
	}
	d.texts("metadata", metadataTexts(&a), metadataTexts(&b))
	d.texts("metrics", figureTexts(&a), figureTexts(&b))
	d.texts("files", fileTexts(&a), fileTexts(&b))
	return d.VersionDiff, nil
}

// add notes a change, or counts it when the section has enough.
func (d *comparison) add(section, name, from, to string) {
	listed := 0
	for i := len(d.Changes) - 1; i >= 0 && d.Changes[i].Section == section; i-- {
		listed++
	}
	if listed >= diffChangesMax {
		if d.More == nil {
			d.More = map[string]int{}
		}
		d.More[section]++
		return
	}
	d.Changes = append(d.Changes, api.Change{Section: section, Name: name, From: from, To: to})
}

// texts compares what has names.
func (d *comparison) texts(section string, from, to map[string]string) {
	names := maps.Clone(from)
	maps.Copy(names, to)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if from[name] != to[name] {
			d.add(section, name, from[name], to[name])
		}
	}
}

func tensorTexts(v *api.Version) map[string]string {
	all := map[string]string{}
	for _, spec := range v.Signature.Inputs {
		all["input "+spec.Name] = spec.String()
	}
	for _, spec := range v.Signature.Outputs {
		all["output "+spec.Name] = spec.String()
	}
	return all
}

func metadataTexts(v *api.Version) map[string]string {
	all := map[string]string{"format": v.Format, "state": string(v.State), "label": v.Label, "task": v.Notes.Task, "owner": v.Notes.Owner,
		"licence": v.Notes.Licence, "description": v.Notes.Description, "keywords": strings.Join(v.Notes.Keywords, ", "), "framework": v.Origin.Framework,
		"datasets": strings.Join(v.Origin.Datasets, ", "), "base models": strings.Join(v.Origin.BaseModels, ", "), "producer": v.Info.Producer,
		"parameters": strconv.FormatInt(v.Info.Parameters, 10), "nodes": strconv.FormatInt(v.Info.Nodes, 10), "size": strconv.FormatInt(v.Size, 10)}
	for domain, opset := range v.Info.Opsets {
		all["opset "+domain] = strconv.FormatInt(opset, 10)
	}
	for key, value := range v.Tags {
		all["tag "+key] = value
	}
	for _, g := range v.Gates {
		all["gate "+g.Name] = map[bool]string{true: "passed", false: "failed"}[g.Passed]
	}
	return all
}

func figureTexts(v *api.Version) map[string]string {
	all := map[string]string{}
	for name, n := range v.Metrics {
		all[name] = strconv.FormatFloat(n, 'g', -1, 64)
	}
	for _, r := range v.Notes.Results {
		all[strings.TrimRight(r.Metric+" on "+r.Dataset+" "+r.Split, " ")] = strconv.FormatFloat(r.Value, 'g', -1, 64)
	}
	return all
}

func fileTexts(v *api.Version) map[string]string {
	all := map[string]string{}
	for _, a := range v.Artifacts {
		all[a.Path] = a.Digest.Short()
	}
	return all
}

// diffGraphs compares the graphs node by node, or by the counts of their operators where one cannot be read again.
func (c *Catalog) diffGraphs(ctx context.Context, d *comparison, a, b *api.Version) error {
	from, err := c.sketch(ctx, a)
	if err != nil {
		return err
	}
	to, err := c.sketch(ctx, b)
	if err != nil {
		return err
	}
	if from == nil || to == nil {
		counts := func(v *api.Version) map[string]string {
			all := map[string]string{}
			for op, n := range v.Info.Ops {
				all[op] = strconv.FormatInt(n, 10)
			}
			return all
		}
		d.texts("graph", counts(a), counts(b))
		d.Notes = append(d.Notes, "a graph could not be read again: operators are compared by their count")
		return nil
	}
	if from.Partly || to.Partly {
		d.Notes = append(d.Notes, fmt.Sprintf("content beyond %d bytes is compared by type and shape alone", onnx.SketchBytesMax))
	}
	d.nodes(from.Nodes, to.Nodes)
	d.parameters(from.Tensors, to.Tensors)
	return nil
}

// sketch reads a version's graph; nil when this reader does not take its format.
func (c *Catalog) sketch(ctx context.Context, v *api.Version) (*onnx.Sketch, error) {
	entry, ok := v.Entry()
	if !ok || !strings.EqualFold(path.Ext(entry.Path), ".onnx") && v.Format != "onnx" {
		return nil, nil
	}
	file, done, err := c.openAt(ctx, entry.Digest)
	if err != nil {
		return nil, fmt.Errorf("open %s of %s: %w", shown(entry.Path), v.Ref(), err)
	}
	defer done()
	s, err := onnx.ReadSketch(file, entry.Size, c.limits.ONNX)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// pairing matches the things of two lists; -1 is none. It is stable: what was matched first stays.
type pairing struct{ from, to []int }

func newPairing(from, to int) pairing {
	p := pairing{slices.Repeat([]int{-1}, from), slices.Repeat([]int{-1}, to)}
	return p
}

// match pairs what has the same key, in order, where both are alone still. An empty key matches nothing.
func (p pairing) match(from, to func(int) string) {
	waiting := map[string][]int{}
	for j := range p.to {
		if key := to(j); p.to[j] < 0 && key != "" {
			waiting[key] = append(waiting[key], j)
		}
	}
	for i := range p.from {
		key := from(i)
		if all := waiting[key]; p.from[i] < 0 && key != "" && len(all) > 0 {
			p.from[i], p.to[all[0]], waiting[key] = all[0], i, all[1:]
		}
	}
}

// nodes aligns two graphs: by what a node does and gives, by its name, and then by what it is alone, in order. So a node that
// an optimizer renamed is the same node, and one that was put in shifts nothing.
func (d *comparison) nodes(from, to []onnx.SketchNode) {
	p := newPairing(len(from), len(to))
	for _, key := range []func(n *onnx.SketchNode) string{
		func(n *onnx.SketchNode) string { return n.Operator + "\x00" + strings.Join(n.Outputs, "\x00") },
		func(n *onnx.SketchNode) string {
			if n.Name == "" {
				return ""
			}
			return "name " + n.Name
		},
		func(n *onnx.SketchNode) string { return strings.Join(n.Outputs, "\x00") },
		func(n *onnx.SketchNode) string { return n.Operator + "\x00" + n.Attributes },
		func(n *onnx.SketchNode) string { return n.Operator },
	} {
		p.match(func(i int) string { return key(&from[i]) }, func(j int) string { return key(&to[j]) })
	}
	for i, j := range p.from {
		if j < 0 {
			d.add("graph", nodeName(&from[i]), nodeText(&from[i]), "")
		} else if from[i].Operator != to[j].Operator || from[i].Attributes != to[j].Attributes {
			d.add("graph", nodeName(&to[j]), nodeText(&from[i]), nodeText(&to[j]))
		}
	}
	for j, i := range p.to {
		if i < 0 {
			d.add("graph", nodeName(&to[j]), "", nodeText(&to[j]))
		}
	}
}

func nodeName(n *onnx.SketchNode) string {
	first := ""
	if len(n.Outputs) > 0 {
		first = n.Outputs[0]
	}
	return "node " + cmp.Or(n.Name, first, n.Operator)
}

func nodeText(n *onnx.SketchNode) string {
	text := strings.TrimPrefix(n.Operator, onnx.DomainDefault+"::")
	if n.Attributes != "" {
		text += " with attributes " + n.Attributes
	}
	return text
}

// parameters aligns initializers by name: the names are what nodes take, and so part of the graph.
func (d *comparison) parameters(from, to []onnx.SketchTensor) {
	p := newPairing(len(from), len(to))
	p.match(func(i int) string { return from[i].Name }, func(j int) string { return to[j].Name })
	for i, j := range p.from {
		if j < 0 {
			d.add("parameters", from[i].Name, tensorText(&from[i]), "")
			continue
		}
		a, b := tensorText(&from[i]), tensorText(&to[j])
		if a == b && from[i].Print != to[j].Print && from[i].Print != "" && to[j].Print != "" {
			a, b = a+" "+from[i].Print, b+" "+to[j].Print
		}
		if a != b {
			d.add("parameters", from[i].Name, a, b)
		}
	}
	for j, i := range p.to {
		if i < 0 {
			d.add("parameters", to[j].Name, "", tensorText(&to[j]))
		}
	}
}

func tensorText(t *onnx.SketchTensor) string {
	dims := make([]string, len(t.Dims))
	for i, size := range t.Dims {
		dims[i] = strconv.FormatInt(size, 10)
	}
	return t.Type.String() + "[" + strings.Join(dims, ",") + "]"
}

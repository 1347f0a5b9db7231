package chain

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/penstock/penstock/internal/tensor"
)

// Limits of labels: classes of one list, and bytes of the file that they may come from.
const (
	labelsMax     = 65536
	labelsFileMax = 256 << 10
)

// labels names the classes that scores stand for. They come from the settings, or from a file of a version, which is
// read when the chain is deployed: what serves does not change with the file.
type labels struct {
	Labels     []string    `json:"labels,omitempty"`
	LabelsFrom *labelsFrom `json:"labels_from,omitempty"`
}

type labelsFrom struct {
	Model string `json:"model"`
	File  string `json:"file"`
}

func (l *labels) load(o *options) error {
	if l.LabelsFrom != nil {
		if len(l.Labels) > 0 {
			return errors.New("with.labels and with.labels_from: only one may be given")
		}
		if o.read == nil {
			return errors.New("with.labels_from: no file can be read here")
		}
		text, err := o.read(l.LabelsFrom.Model, l.LabelsFrom.File)
		if err != nil {
			return fmt.Errorf("with.labels_from: %w", err)
		}
		if l.Labels, err = parseLabels(text); err != nil {
			return fmt.Errorf("with.labels_from: %s: %w", clip(l.LabelsFrom.File), err)
		}
		l.LabelsFrom = nil
	}
	if len(l.Labels) > labelsMax {
		return fmt.Errorf("with.labels has %d entries; the limit is %d", len(l.Labels), labelsMax)
	}
	return nil
}

// parseLabels reads a JSON array of strings, or one label a line.
func parseLabels(text []byte) ([]string, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 && trimmed[0] == '[' {
		var list []string
		if err := json.Unmarshal(trimmed, &list); err != nil {
			return nil, errors.New("it is not a JSON array of strings")
		}
		return list, nil
	}
	var list []string
	for line := range bytes.Lines(text) {
		list = append(list, string(bytes.TrimRight(line, "\r\n")))
	}
	if len(list) == 0 {
		return nil, errors.New("it holds no labels")
	}
	return list, nil
}

// fit holds the labels against the number of classes.
func (l *labels) fit(classes dim) error {
	if n := int64(len(l.Labels)); n > 0 && classes.size >= 0 && n != classes.size {
		return fmt.Errorf("there are %d labels for %d classes", n, classes.size)
	}
	return nil
}

// scores checks a tensor of floats and finds the axis of its classes.
func scores(p port, axis int) (int, error) {
	switch p.typ {
	case tensor.FP32, tensor.FP64, tensor.FP16, tensor.BF16:
	default:
		return 0, fmt.Errorf("tensor \"scores\" is %s; floats are taken", p.typ)
	}
	if p.open {
		return 0, nil
	}
	at, err := p.axis(axis)
	if err != nil {
		return 0, fmt.Errorf("tensor \"scores\": %w", err)
	}
	return at, nil
}

// lines gives how a tensor falls into lines along an axis: line n begins at start(n) and its elements are step apart.
func lines(shape []int64, axis int) (count, length, step int) {
	count, step = 1, 1
	for i, d := range shape {
		switch {
		case i < axis:
			count *= int(d)
		case i > axis:
			step *= int(d)
			count *= int(d)
		}
	}
	return count, int(shape[axis]), step
}

func start(line, length, step int) int { return line/step*length*step + line%step }

// softmax turns scores into shares that add up to 1.
type softmax struct{ axis int }

func newSoftmax(o *options) (operation, []string, error) {
	s := struct {
		Axis int `json:"axis"`
	}{-1}
	if err := o.into(&s); err != nil {
		return nil, nil, err
	}
	return softmax{s.Axis}, []string{"shares"}, nil
}

func (s softmax) infer(in []port) ([]port, error) {
	if _, err := scores(in[0], s.axis); err != nil {
		return nil, err
	}
	out := in[0]
	out.typ = tensor.FP32
	return []port{out}, nil
}

func (s softmax) run(_ context.Context, in, out []tensor.Tensor) error {
	axis, err := actual(&in[0]).axis(s.axis)
	if err != nil {
		return err
	}
	data, get := allocate(&out[0]), float32s(&in[0])
	count, length, step := lines(in[0].Shape, axis)
	for line := range count {
		from := start(line, length, step)
		most := math.Inf(-1)
		for i := range length {
			most = max(most, float64(get(from+i*step)))
		}
		if math.IsInf(most, 0) { // infinities would make NaN: of equal ones each has its share
			softmaxInfinite(data, get, from, length, step, most)
			continue
		}
		sum := 0.0
		for i := range length {
			sum += math.Exp(float64(get(from+i*step)) - most)
		}
		for i := range length {
			at := from + i*step
			putFloat(data, at, float32(math.Exp(float64(get(at))-most)/sum))
		}
	}
	return nil
}

func softmaxInfinite(data []byte, get func(int) float32, from, length, step int, most float64) {
	equal := 0
	for i := range length {
		if float64(get(from+i*step)) == most {
			equal++
		}
	}
	for i := range length {
		at := from + i*step
		if v := float64(get(at)); v == most {
			putFloat(data, at, 1/float32(equal))
		} else {
			putFloat(data, at, 0)
		}
	}
}

func putFloat(data []byte, i int, v float32) {
	binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(v))
}

func putInt(data []byte, i int, v int64) {
	binary.LittleEndian.PutUint64(data[8*i:], uint64(v))
}

// topK finds the k greatest scores along the last axis, or the one along any axis when drop is set.
type topK struct {
	labels
	k    int
	axis int
	drop bool // argmax: the axis goes away
}

type topKSettings struct {
	labels
	K int `json:"k"`
}

type argMaxSettings struct {
	labels
	Axis int `json:"axis"`
}

func newTopK(o *options) (operation, []string, error) {
	s := topKSettings{K: 5}
	if err := o.into(&s); err != nil {
		return nil, nil, err
	}
	if s.K < 1 || s.K > labelsMax {
		return nil, nil, fmt.Errorf("with.k is %d; 1 to %d is wanted", s.K, labelsMax)
	}
	if err := s.load(o); err != nil {
		return nil, nil, err
	}
	t := topK{labels: s.labels, k: s.K, axis: -1}
	return t, t.names("indices", "values", "labels"), nil
}

func newArgMax(o *options) (operation, []string, error) {
	s := argMaxSettings{Axis: -1}
	if err := o.into(&s); err != nil {
		return nil, nil, err
	}
	if err := s.load(o); err != nil {
		return nil, nil, err
	}
	t := topK{labels: s.labels, k: 1, axis: s.Axis, drop: true}
	return t, t.names("index", "value", "label"), nil
}

func (t topK) names(all ...string) []string {
	if len(t.Labels) == 0 {
		return all[:2]
	}
	return all
}

func (t topK) infer(in []port) ([]port, error) {
	p := in[0]
	axis, err := scores(p, t.axis)
	if err != nil {
		return nil, err
	}
	out := port{dims: slices.Clone(p.dims), open: p.open}
	if !p.open {
		if err := t.fit(p.dims[axis]); err != nil {
			return nil, err
		}
		size := p.dims[axis].size
		switch {
		case t.drop && size == 0:
			return nil, errors.New("tensor \"scores\" has no classes")
		case t.drop:
			out.dims = slices.Delete(out.dims, axis, axis+1)
		case size >= 0:
			out.dims[axis] = fixed(min(size, int64(t.k)))
		case len(t.Labels) > 0:
			out.dims[axis] = fixed(int64(min(len(t.Labels), t.k)))
		default:
			out.dims[axis] = unknown // the classes may be fewer than k
		}
	}
	ports := make([]port, 0, 3)
	for _, typ := range []tensor.Type{tensor.Int64, tensor.FP32, tensor.Bytes}[:len(t.names("", "", ""))] {
		p := out
		p.typ = typ
		ports = append(ports, p)
	}
	return ports, nil
}

func (t topK) run(_ context.Context, in, out []tensor.Tensor) error {
	axis, err := actual(&in[0]).axis(t.axis)
	if err != nil {
		return err
	}
	get := float32s(&in[0])
	count, length, step := lines(in[0].Shape, axis)
	indices, values := allocate(&out[0]), allocate(&out[1])
	k := min(t.k, length)
	best := make([]int, 0, k+1)
	for line := range count {
		from := start(line, length, step)
		best = greatest(best[:0], k, length, func(i int) float32 { return get(from + i*step) })
		for rank, i := range best {
			putInt(indices, line*k+rank, int64(i))
			putFloat(values, line*k+rank, get(from+i*step))
			if len(t.Labels) > 0 {
				out[2].Data = tensor.AppendBytes(out[2].Data, []byte(t.Labels[i]))
			}
		}
	}
	return nil
}

// greatest finds the k greatest of n values, in falling order, of equal ones the first; NaN counts as the least.
func greatest(best []int, k, n int, get func(int) float32) []int {
	if k > 64 { // insertion would be slow
		for i := range n {
			best = append(best, i)
		}
		slices.SortStableFunc(best, func(a, b int) int { return cmp.Compare(get(b), get(a)) })
		return best[:k]
	}
	for i := range n {
		v := get(i)
		if len(best) == k && cmp.Compare(v, get(best[k-1])) <= 0 {
			continue
		}
		at := len(best)
		for at > 0 && cmp.Compare(v, get(best[at-1])) > 0 {
			at--
		}
		best = slices.Insert(best, at, i)
		best = best[:min(len(best), k)]
	}
	return best
}

// average gives the weighted mean of several tensors of one shape, as FP32.
type average struct {
	names   []string
	weights []float64 // add up to 1
}

func newAverage(o *options) (operation, []string, error) {
	var s struct {
		Weights map[string]float64 `json:"weights,omitempty"`
	}
	if err := o.into(&s); err != nil {
		return nil, nil, err
	}
	if len(o.inputs) == 0 {
		return nil, nil, errors.New("average needs at least one tensor")
	}
	a := average{names: o.inputs, weights: make([]float64, len(o.inputs))}
	sum := 0.0
	for i, name := range o.inputs {
		w, given := s.Weights[name]
		if !given {
			w = 1
			if len(s.Weights) > 0 {
				return nil, nil, fmt.Errorf("with.weights has none for %q", name)
			}
		}
		if w < 0 || math.IsInf(w, 0) || math.IsNaN(w) {
			return nil, nil, fmt.Errorf("with.weights.%s is %v; 0 or more is wanted", name, w)
		}
		a.weights[i] = w
		sum += w
	}
	for name := range s.Weights {
		if !slices.Contains(o.inputs, name) {
			return nil, nil, fmt.Errorf("with.weights.%s: the step has no such tensor", clip(name))
		}
	}
	if sum <= 0 || math.IsInf(sum, 0) {
		return nil, nil, errors.New("with.weights: they must add up to more than 0")
	}
	for i := range a.weights {
		a.weights[i] /= sum
	}
	return a, []string{"out"}, nil
}

func (a average) infer(in []port) ([]port, error) {
	out := in[0]
	for i, p := range in {
		if !numeric(p.typ) {
			return nil, fmt.Errorf("tensor %q is %s; numbers are taken", a.names[i], p.typ)
		}
		p.typ = out.typ
		var err error
		if out, err = both(out, p); err != nil {
			return nil, fmt.Errorf("tensors %q and %q: %w", a.names[0], a.names[i], err)
		}
	}
	out.typ = tensor.FP32
	return []port{out}, nil
}

func (a average) run(_ context.Context, in, out []tensor.Tensor) error {
	data := allocate(&out[0])
	get := make([]func(int) float32, len(in))
	for i := range in {
		get[i] = float32s(&in[i])
	}
	for at := range len(data) / 4 {
		sum := 0.0
		for i, w := range a.weights {
			if w > 0 { // nothing times infinity would be NaN
				sum += w * float64(get[i](at))
			}
		}
		putFloat(data, at, float32(sum))
	}
	return nil
}

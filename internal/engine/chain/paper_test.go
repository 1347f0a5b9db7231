package chain_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/chain"
	"github.com/penstock/penstock/internal/tensor"
)

// paper is an engine whose models are written on paper: functions of tensors by the names of their files. Memory that
// is given back is written over at once, so that whoever still reads it reads nonsense.
type paper struct {
	models map[string]func(ctx context.Context, in []tensor.Tensor) ([]tensor.Tensor, error)
	done   chan struct{}

	mu     sync.Mutex // guards what follows
	loaded map[string]string
	calls  map[string]int // by file
	out    int            // answers that nobody gave back yet
	most   int            // the most of them at the same time
}

func newPaper() *paper {
	p := &paper{done: make(chan struct{}), loaded: map[string]string{}, calls: map[string]int{}}
	p.models = map[string]func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error){
		"add": func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			return []tensor.Tensor{each("y", in[0], func(v float32) float32 { return v + 1 })}, nil
		},
		"pair": func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			return []tensor.Tensor{each("double", in[0], func(v float32) float32 { return 2 * v }), each("half", in[0], func(v float32) float32 { return v / 2 })}, nil
		},
		"fail": func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) {
			return nil, api.Fail(api.CodeInferenceFailed, "inner", "it will not")
		},
		"panic": func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) { panic("as told") },
		"wait": func(ctx context.Context, _ []tensor.Tensor) ([]tensor.Tensor, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}
	return p
}

func each(name string, t tensor.Tensor, f func(float32) float32) tensor.Tensor {
	values := t.Float32s()
	for i := range values {
		values[i] = f(values[i])
	}
	return tensor.FromFloat32(name, slices.Clone(t.Shape), values)
}

func (p *paper) Load(_ context.Context, load engine.Load) (engine.Loaded, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.models[load.Path]; !known {
		return engine.Loaded{}, api.Fail(api.CodeLoadFailed, load.Instance, "no file %s", load.Path)
	}
	p.loaded[load.Instance] = load.Path
	return engine.Loaded{}, nil
}

func (p *paper) Unload(_ context.Context, instance string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.loaded, instance)
	return nil
}

func (p *paper) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	p.mu.Lock()
	path, known := p.loaded[req.Instance]
	p.calls[path]++
	p.mu.Unlock()
	if !known {
		return nil, api.Fail(api.CodeNotLoaded, req.Instance, "not here")
	}
	all, err := p.models[path](ctx, req.Inputs)
	if err != nil {
		return nil, err
	}
	var out []tensor.Tensor
	for _, name := range req.Outputs {
		out = append(out, all[slices.IndexFunc(all, func(t tensor.Tensor) bool { return t.Name == name })])
	}
	p.mu.Lock()
	p.out++
	p.most = max(p.most, p.out)
	p.mu.Unlock()
	return engine.NewAnswer(out, func() {
		for _, t := range all {
			for i := range t.Data {
				t.Data[i] = 0xff
			}
		}
		p.mu.Lock()
		p.out--
		p.mu.Unlock()
	}), nil
}

func (p *paper) Stats(context.Context) (engine.Stats, error) { return engine.Stats{PID: 1}, nil }
func (p *paper) Done() <-chan struct{}                       { return p.done }
func (p *paper) Close() error                                { close(p.done); return nil }

func (p *paper) held() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for _, path := range p.loaded {
		names = append(names, path)
	}
	slices.Sort(names)
	return names
}

// digestOf makes up the digest of a file.
func digestOf(path string) api.Digest {
	return api.Digest("sha256:" + strings.Repeat(fmt.Sprintf("%02x", path[0]), 32))
}

// papers is the catalog of the paper models; "add@1" is the version of the file "add".
type papers struct{}

func (papers) Version(ref string) (api.Version, error) {
	name, _, _ := strings.Cut(ref, "@")
	open := func(name string) api.TensorSpec {
		return api.TensorSpec{Name: name, Datatype: "FP32", Shape: []int64{-1, -1}, Symbols: []string{"rows", "columns"}}
	}
	v := api.Version{Model: api.ModelName(name), Number: 1, Digest: digestOf(name), Format: "paper", Signature: api.Signature{Inputs: []api.TensorSpec{open("x")}, Outputs: []api.TensorSpec{open("y")}}}
	switch name {
	case "pair":
		v.Signature.Outputs = []api.TensorSpec{open("double"), open("half")}
	case "add", "fail", "panic", "wait":
	case "wide":
		v.Signature.Inputs = []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 7}, Symbols: []string{"batch", ""}}}
	case "two":
		v.Signature.Inputs = append(v.Signature.Inputs, open("z"))
	case "square":
		v.Signature.Inputs = []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, -1}, Symbols: []string{"n", "n"}}}
	default:
		return v, api.Fail(api.CodeModelNotFound, ref, "no such model in this tenant")
	}
	return v, nil
}

func (papers) File(ref, path string, _ int64) ([]byte, error) {
	switch path {
	case "labels.txt":
		return []byte("zero\none\r\ntwo\n"), nil
	case "labels.json":
		return []byte(`["null", "eins", "zwei"]`), nil
	case "bad.json":
		return []byte(`["null", 1]`), nil
	}
	return nil, api.Fail(api.CodeNotFound, ref, "the version has no file %q", path)
}

// members names the files of a chain.
func members(c *api.Chain) (list []engine.Member) {
	for _, m := range c.Members() {
		list = append(list, engine.Member{Digest: m.Digest, Path: string(m.Model)})
	}
	return list
}

// bench is an engine of paper models with a chain on it.
type bench struct {
	*chain.Engine
	paper *paper
}

func newBench(t testing.TB) bench {
	t.Helper()
	p := newPaper()
	b := bench{chain.New(p, chain.Config{Log: slog.New(slog.DiscardHandler)}), p}
	t.Cleanup(func() {
		if err := b.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return b
}

// put resolves a chain and loads it.
func (b bench) put(t testing.TB, name string, spec *api.ChainSpec) *api.Chain {
	t.Helper()
	c, err := chain.Resolve(spec, papers{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Load(t.Context(), engine.Load{Instance: name, Format: api.FormatChain, Options: api.LoadOptions{Chain: c}, Members: members(c)}); err != nil {
		t.Fatal(err)
	}
	return c
}

// in is a map of a step's sources, "tensor=source" each.
func in(pairs ...string) map[string]string {
	m := map[string]string{}
	for _, p := range pairs {
		tensor, source, _ := strings.Cut(p, "=")
		m[tensor] = source
	}
	return m
}

// outs are a chain's outputs, "name=source" each.
func outs(pairs ...string) (list []api.ChainOutput) {
	for _, p := range pairs {
		name, source, _ := strings.Cut(p, "=")
		list = append(list, api.ChainOutput{Name: name, From: source})
	}
	return list
}

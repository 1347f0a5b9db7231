package chain_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/chain"
	"github.com/penstock/penstock/internal/engine/echo"
	"github.com/penstock/penstock/internal/engine/enginetest"
	"github.com/penstock/penstock/internal/engine/onnxruntime"
	"github.com/penstock/penstock/internal/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newRuntime(t testing.TB) engine.Engine {
	t.Helper()
	cache := filepath.Join(os.TempDir(), "penstock-test-onnxruntime")
	return onnxruntime.New(onnxruntime.Config{CacheDir: cache, IntraThreads: 1})
}

// TestPassesOthersThrough: what is no chain is the inner engine's.
func TestPassesOthersThrough(t *testing.T) {
	models := enginetest.WriteModels(t)
	enginetest.Run(t, func(t testing.TB) engine.Engine { return chain.New(newRuntime(t), chain.Config{}) }, models)
}

// asChains loads every model as a chain of one step, under the model's own names, so that the suite cannot tell.
type asChains struct {
	*chain.Engine
	signature func(path string) api.Signature
}

func (a asChains) Load(ctx context.Context, load engine.Load) (engine.Loaded, error) {
	s := a.signature(load.Path)
	spec := &api.ChainSpec{Steps: []api.ChainStepSpec{{Name: "model", Model: "m", Inputs: map[string]string{}}}}
	for _, in := range s.Inputs {
		spec.Inputs = append(spec.Inputs, api.ChainInput{Name: in.Name})
		spec.Steps[0].Inputs[in.Name] = in.Name
	}
	for _, out := range s.Outputs {
		spec.Outputs = append(spec.Outputs, api.ChainOutput{Name: out.Name, From: "model." + out.Name})
	}
	digest := api.Digest("sha256:" + strings.Repeat(fmt.Sprintf("%02x", len(load.Path)), 32))
	made, err := chain.Resolve(spec, shelf{"m": {Digest: digest, Format: "onnx", Signature: s, State: api.VersionReady}})
	if err != nil {
		return engine.Loaded{}, err
	}
	load.Options.Chain, load.Members = made, []engine.Member{{Digest: digest, Path: load.Path}}
	return a.Engine.Load(ctx, load)
}

func TestConformance(t *testing.T) {
	models := enginetest.WriteModels(t)
	enginetest.Run(t, func(t testing.TB) engine.Engine {
		e := newRuntime(t)
		signatures := map[string]api.Signature{}
		for _, path := range []string{models.Quick.Path, models.Slow.Path} {
			loaded, err := e.Load(t.Context(), engine.Load{Instance: "look", Format: "onnx", Path: path})
			if err != nil {
				t.Fatal(err)
			}
			signatures[path] = loaded.Signature
			if err := e.Unload(t.Context(), "look"); err != nil {
				t.Fatal(err)
			}
		}
		return asChains{chain.New(e, chain.Config{}), func(path string) api.Signature {
			if s, ok := signatures[path]; ok {
				return s
			}
			return signatures[models.Quick.Path] // of a broken file
		}}
	}, models)
}

// shelf is a catalog of versions by reference, and of files by "reference/path".
type shelf map[string]api.Version

func (s shelf) Version(ref string) (api.Version, error) {
	v, ok := s[ref]
	if !ok {
		return v, api.Fail(api.CodeVersionNotFound, ref, "no such version")
	}
	return v, nil
}

func (s shelf) File(ref, path string, _ int64) ([]byte, error) {
	if path != "labels.txt" {
		return nil, api.Fail(api.CodeNotFound, ref, "no such file")
	}
	return []byte("zero\none\r\ntwo\n"), nil
}

func TestModelThenTopK(t *testing.T) {
	signature := api.Signature{Inputs: []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 3}, Symbols: []string{"batch", ""}}},
		Outputs: []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 3}, Symbols: []string{"batch", ""}}}}
	digest := api.Digest("sha256:" + strings.Repeat("ab", 32))
	made, err := chain.Resolve(&api.ChainSpec{
		Inputs: []api.ChainInput{{Name: "x"}},
		Steps: []api.ChainStepSpec{
			{Name: "top", Op: "top_k", With: map[string]any{"k": 2., "labels_from": map[string]any{"model": "m@1", "file": "labels.txt"}}, Inputs: map[string]string{"scores": "model"}},
			{Name: "model", Model: "m@1", Inputs: map[string]string{"x": "x"}}},
		Outputs: []api.ChainOutput{{Name: "label", From: "top.labels"}, {Name: "score", From: "top.values"}},
	}, shelf{"m@1": {Digest: digest, Format: "onnx", Signature: signature}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", made)
	e := chain.New(echo.New(echo.Config{}), chain.Config{})
	defer e.Close()
	load := engine.Load{Instance: "c", Format: "chain", Options: api.LoadOptions{Chain: made}, Members: []engine.Member{{Digest: digest, Path: "m"}}}
	if _, err := e.Load(t.Context(), load); err != nil {
		t.Fatal(err)
	}
	answer, err := e.Infer(t.Context(), engine.Request{Instance: "c", Inputs: []tensor.Tensor{tensor.FromFloat32("x", []int64{2, 3}, []float32{1, 3, 2, 9, 7, 8})}})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Release()
	t.Logf("%+v %q", answer, answer.Outputs[0].Data)
}

package batch_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/batch"
	"github.com/penstock/penstock/internal/engine/onnxruntime"
	"github.com/penstock/penstock/internal/ort/orttest"
	"github.com/penstock/penstock/internal/tensor"
)

// TestBitsStayAsTheyWere asks real models, many callers at once, and compares every answer with that of the same request
// to an instance that does not batch.
func TestBitsStayAsTheyWere(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 9))
	models := map[string][]byte{"dense": layers(random, 64, 128, 10).Encode(), "wide": layers(random, 1024, 1024, 1024, 10).Encode(),
		"images": convolution(random, 3, 8).Encode(), "text": orttest.Identity(orttest.String).Encode()}
	for _, name := range []string{"digits-v1", "digits-v2", "cancer-v1"} {
		content, err := os.ReadFile(filepath.Join("..", "..", "..", "demo", name+".onnx"))
		if err != nil {
			t.Fatal(err)
		}
		models[name] = content
	}
	e := batch.New(onnxruntime.New(onnxruntime.Config{CacheDir: t.TempDir(), IntraThreads: 2}), batch.Config{})
	defer func() { _ = e.Close() }()
	folder := t.TempDir()
	for name, content := range models {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(folder, name+".onnx")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			var loaded engine.Loaded
			for _, mode := range []api.BatchMode{api.BatchOff, api.BatchOn} {
				var err error
				loaded, err = e.Load(t.Context(), engine.Load{Instance: name + string(mode), Format: "onnx", Path: path, Warm: true,
					Options: api.LoadOptions{Batching: &api.Batching{Mode: mode, MaxSize: 16}}})
				if err != nil {
					t.Fatal(err)
				}
			}
			t.Log(loaded.Batch.Why)
			askAll(t, e, random, name, loaded.Signature.Inputs)
		})
	}
}

// askAll sends requests of 1 to 3 rows from many goroutines.
func askAll(t *testing.T, e engine.Engine, random *rand.Rand, name string, specs []api.TensorSpec) {
	t.Helper()
	const callers, turns = 16, 30
	var mu sync.Mutex // guards random and joined
	joined := 0
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for range turns {
				mu.Lock()
				inputs := makeUp(random, specs)
				mu.Unlock()
				want, err := e.Infer(t.Context(), engine.Request{Instance: name + string(api.BatchOff), Inputs: inputs})
				if err != nil {
					t.Error(err)
					return
				}
				got, err := e.Infer(t.Context(), engine.Request{Instance: name + string(api.BatchOn), Inputs: inputs})
				if err != nil {
					t.Error(err)
					return
				}
				for i := range want.Outputs {
					w, g := &want.Outputs[i], &got.Outputs[i]
					if g.Name != w.Name || !slices.Equal(g.Shape, w.Shape) || !bytes.Equal(g.Data, w.Data) {
						t.Errorf("output %s, run with %d rows, differs from what it is alone", w.Name, got.Batch)
					}
				}
				mu.Lock()
				if got.Batch > 0 {
					joined++
				}
				mu.Unlock()
				got.Release()
				want.Release()
			}
		})
	}
	group.Wait()
	t.Logf("%d of %d requests were run with others", joined, callers*turns)
}

func makeUp(random *rand.Rand, specs []api.TensorSpec) []tensor.Tensor {
	rows := int64(1 + random.IntN(3))
	side := int64(8 << random.IntN(2)) // two shapes where the model takes any
	var inputs []tensor.Tensor
	for _, spec := range specs {
		shape := slices.Clone(spec.Shape)
		shape[0] = rows
		n := 1
		for i := range shape {
			if shape[i] < 0 {
				shape[i] = side
			}
			n *= int(shape[i])
		}
		if spec.Datatype == "BYTES" {
			var data []byte
			for range n {
				data = tensor.AppendBytes(data, []byte(fmt.Sprint(random.IntN(1e6))))
			}
			inputs = append(inputs, tensor.Tensor{Name: spec.Name, Type: tensor.Bytes, Shape: shape, Data: data})
			continue
		}
		inputs = append(inputs, tensor.FromFloat32(spec.Name, shape, floats(n, random)))
	}
	return inputs
}

package batch_test

import (
	"math/rand/v2"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/batch"
	"github.com/penstock/penstock/internal/engine/onnxruntime"
	"github.com/penstock/penstock/internal/tensor"
)

// small loads a small model in an engine and gives a request of one row to it.
func small(t testing.TB, e engine.Engine, mode api.BatchMode) engine.Request {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	load(t, e, write(t, layers(random, 64, 10)), &api.Batching{Mode: mode})
	return engine.Request{Instance: "m", Inputs: []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 64}, floats(64, random))}}
}

// BenchmarkIdle is a request to an instance that nobody else uses, with batching and without.
func BenchmarkIdle(b *testing.B) {
	for _, mode := range []api.BatchMode{api.BatchOff, api.BatchOn} {
		b.Run(string(mode), func(b *testing.B) {
			e := batch.New(onnxruntime.New(onnxruntime.Config{CacheDir: b.TempDir(), IntraThreads: 1}), batch.Config{})
			defer func() { _ = e.Close() }()
			req := small(b, e, mode)
			b.ReportAllocs()
			for b.Loop() {
				answer, err := e.Infer(b.Context(), req)
				if err != nil {
					b.Fatal(err)
				}
				answer.Release()
			}
		})
	}
}

// BenchmarkLoaded is what 32 callers get through, of a model that gains from batches.
func BenchmarkLoaded(b *testing.B) {
	for _, mode := range []api.BatchMode{api.BatchOff, api.BatchAuto} {
		b.Run(string(mode), func(b *testing.B) {
			e := batch.New(onnxruntime.New(onnxruntime.Config{CacheDir: b.TempDir(), IntraThreads: 1}), batch.Config{})
			defer func() { _ = e.Close() }()
			random := rand.New(rand.NewPCG(1, 2))
			load(b, e, write(b, layers(random, 1024, 2048, 2048, 10)), &api.Batching{Mode: mode})
			req := engine.Request{Instance: "m", Inputs: []tensor.Tensor{tensor.FromFloat32("x", []int64{1, 1024}, floats(1024, random))}}
			b.ResetTimer()
			b.SetParallelism(16)
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					answer, err := e.Infer(b.Context(), req)
					if err != nil {
						b.Error(err)
						return
					}
					answer.Release()
				}
			})
		})
	}
}

// TestIdleCostsNoAllocation: a request that finds its instance idle must cost no more than without a batcher.
func TestIdleCostsNoAllocation(t *testing.T) {
	allocations := map[api.BatchMode]float64{}
	for _, mode := range []api.BatchMode{api.BatchOff, api.BatchOn} {
		e := open(t)
		req := small(t, e, mode)
		allocations[mode] = testing.AllocsPerRun(200, func() {
			answer, err := e.Infer(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			answer.Release()
		})
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	if allocations[api.BatchOn] > allocations[api.BatchOff] {
		t.Errorf("%v allocations a request, %v without batching", allocations[api.BatchOn], allocations[api.BatchOff])
	}
}

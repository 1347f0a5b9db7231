package onnxruntime_test

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/onnxruntime"
	"github.com/penstock/penstock/internal/ort/orttest"
	"github.com/penstock/penstock/internal/tensor"
)

// The benchmarks want to be run as a worker is: one processor, and the C allocator's setting.
//
//	MALLOC_MMAP_THRESHOLD_=65536 go test -cpu 1 -run - -bench Infer ./internal/engine/onnxruntime

// subject is a model to measure and what to ask it.
type subject struct {
	name  string
	path  string
	input tensor.Tensor
}

// subjects writes the models that are measured: the demo's, one of about 5 ms, a small convolution, and one with 600 KB in
// and 600 KB out.
func subjects(tb testing.TB) []subject {
	tb.Helper()
	folder := tb.TempDir()
	write := func(name string, m orttest.Model) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, m.Encode(), 0o600); err != nil {
			tb.Fatal(err)
		}
		return path
	}
	zeros := func(name string, shape ...int64) tensor.Tensor {
		n, err := tensor.Elements(shape)
		if err != nil {
			tb.Fatal(err)
		}
		return tensor.Tensor{Name: name, Type: tensor.FP32, Shape: shape, Data: make([]byte, 4*n)}
	}
	return []subject{
		{"digits", "../../../demo/digits-v1.onnx", zeros("image", 1, 64)},
		{"layered", write("layered.onnx", orttest.Layered(64, 256, 60)), zeros("x", 64, 256)},
		{"conv", write("conv.onnx", orttest.Convolutions(16, 28, 3)), zeros("x", 1, 16, 28, 28)},
		{"picture", write("picture.onnx", orttest.Picture(224)), zeros("x", 1, 3, 224, 224)},
	}
}

// infer asks once and gives the answer back.
func (l *subject) infer(tb testing.TB, e engine.Engine) {
	answer, err := e.Infer(tb.Context(), engine.Request{Instance: "m", Inputs: []tensor.Tensor{l.input}})
	if err != nil {
		tb.Error(err)
	}
	answer.Release()
}

// spent reports what the operating system counted: processor time, page faults, threads given up and taken away.
func spent(b *testing.B, act func()) {
	var before, after syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
		b.Fatal(err)
	}
	act()
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
		b.Fatal(err)
	}
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	per := func(n int64) float64 { return float64(n) / float64(b.N) }
	b.ReportMetric(per(cpu), "cpu-ns/op")
	b.ReportMetric(per(after.Minflt-before.Minflt), "faults/op")
	b.ReportMetric(per(after.Nvcsw-before.Nvcsw), "waits/op")
	b.ReportMetric(per(after.Nivcsw-before.Nivcsw), "preempted/op")
}

// BenchmarkInfer asks from one goroutine, from a new one each time, and from 16 at once.
func BenchmarkInfer(b *testing.B) {
	for _, l := range subjects(b) {
		e := onnxruntime.New(onnxruntime.Config{CacheDir: b.TempDir(), IntraThreads: 1})
		if _, err := e.Load(b.Context(), engine.Load{Instance: "m", Format: "onnx", Path: l.path, Warm: true}); err != nil {
			b.Fatal(err)
		}
		b.Run(l.name+"/loop", func(b *testing.B) {
			b.ReportAllocs()
			spent(b, func() {
				for range b.N {
					l.infer(b, e)
				}
			})
		})
		b.Run(l.name+"/fresh", func(b *testing.B) {
			b.ReportAllocs()
			spent(b, func() {
				done := make(chan struct{})
				for range b.N {
					go func() { l.infer(b, e); done <- struct{}{} }()
					<-done
				}
			})
		})
		b.Run(l.name+"/16", func(b *testing.B) {
			b.ReportAllocs()
			spent(b, func() {
				todo := make(chan struct{}, b.N)
				for range b.N {
					todo <- struct{}{}
				}
				close(todo)
				var all sync.WaitGroup
				for range 16 {
					all.Go(func() {
						for range todo {
							l.infer(b, e)
						}
					})
				}
				all.Wait()
			})
		})
		if err := e.Close(); err != nil {
			b.Error(err)
		}
	}
}

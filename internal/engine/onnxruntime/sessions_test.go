package onnxruntime_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/onnxruntime"
	"github.com/penstock/penstock/internal/tensor"
)

// BenchmarkSessions compares one session that all callers share with a session of each caller's own. Passes of both
// alternate, so that whatever else the machine does meets both; reported are the medians, in requests per second.
//
//	MALLOC_MMAP_THRESHOLD_=65536 go test -cpu 1,2 -run - -bench Sessions -benchtime 41x ./internal/engine/onnxruntime
func BenchmarkSessions(b *testing.B) {
	const most = 8 // callers
	e := onnxruntime.New(onnxruntime.Config{CacheDir: b.TempDir(), IntraThreads: 1})
	b.Cleanup(func() { e.Close() })
	for _, s := range subjects(b) {
		content, err := os.ReadFile(s.path)
		if err != nil {
			b.Fatal(err)
		}
		for i := range most { // a file that lies elsewhere is another model
			path := filepath.Join(b.TempDir(), fmt.Sprintf("%d.onnx", i))
			if err := os.WriteFile(path, content, 0o600); err != nil {
				b.Fatal(err)
			}
			name := fmt.Sprintf("%s%d", s.name, i)
			if _, err := e.Load(b.Context(), engine.Load{Instance: name, Format: "onnx", Path: path, Warm: true}); err != nil {
				b.Fatal(err)
			}
		}
		for _, callers := range []int{2, most} {
			b.Run(fmt.Sprintf("%s/%d", s.name, callers), func(b *testing.B) {
				var shared, own []float64
				for range b.N {
					shared = append(shared, s.pass(b, e, callers, func(int) string { return s.name + "0" }))
					own = append(own, s.pass(b, e, callers, func(i int) string { return fmt.Sprintf("%s%d", s.name, i) }))
				}
				slices.Sort(shared)
				slices.Sort(own)
				b.ReportMetric(shared[len(shared)/2], "shared/s")
				b.ReportMetric(own[len(own)/2], "own/s")
				b.ReportMetric(0, "ns/op") // of both together: says nothing
			})
		}
	}
}

// pass has every caller ask its instance for a while and gives the requests per second of all.
func (s *subject) pass(tb testing.TB, e engine.Engine, callers int, instance func(caller int) string) float64 {
	const length = 40 * time.Millisecond
	var all sync.WaitGroup
	counts := make([]int, callers)
	began := time.Now()
	for i := range callers {
		all.Go(func() {
			name := instance(i)
			for time.Since(began) < length {
				answer, err := e.Infer(tb.Context(), engine.Request{Instance: name, Inputs: []tensor.Tensor{s.input}})
				if err != nil {
					tb.Error(err)
					return
				}
				answer.Release()
				counts[i]++
			}
		})
	}
	all.Wait()
	total := 0
	for _, n := range counts {
		total += n
	}
	return float64(total) / time.Since(began).Seconds()
}

package process_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/arena"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/process"
	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/worker"
)

// reader looks at every cache line of its inputs and answers with a few bytes.
type reader struct{ *mirror }

func (reader) Infer(_ context.Context, req engine.Request) (*engine.Answer, error) {
	var sum uint64
	for _, t := range req.Inputs {
		for i := 0; i+8 <= len(t.Data); i += 64 {
			sum += binary.LittleEndian.Uint64(t.Data[i:])
		}
	}
	out := binary.LittleEndian.AppendUint64(nil, sum)
	a := engine.NewAnswer([]tensor.Tensor{{Name: "y", Type: tensor.Uint64, Shape: []int64{1}, Data: out}}, nil)
	a.Compute = 20 * time.Microsecond
	return a, nil
}

func cpu(b *testing.B) time.Duration {
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// BenchmarkLarge sends one tensor and gets a few bytes back, with the worker in the same process: the hop alone. cpu-us
// is the processor time of both ends.
func BenchmarkLarge(b *testing.B) {
	for _, size := range []int{16 << 10, 32 << 10, 64 << 10, 128 << 10, 602112, 4 << 20, 16 << 20} {
		for _, way := range []string{"socket", "shared"} {
			for _, callers := range []int{1, 16} {
				b.Run(fmt.Sprintf("%s/%dK/callers=%d", way, size>>10, callers), func(b *testing.B) {
					memory, err := arena.New(arena.Config{Bytes: 512 << 20})
					if err != nil {
						b.Fatal(err)
					}
					defer memory.Close()
					config := process.Config{}
					if way == "shared" {
						config.Memory = memory
					}
					address, stop := serve(b, reader{newMirror()}, worker.Config{})
					defer stop()
					e := dial(b, address, config)
					defer e.Close()
					b.SetBytes(int64(size))
					b.SetParallelism((callers + 1) / 2)
					before := cpu(b)
					if callers == 1 {
						data := memory.Take(size)[:size]
						for b.Loop() {
							ask(b, e, data)
						}
						memory.Give(data)
					} else {
						b.RunParallel(func(p *testing.PB) {
							data := memory.Take(size)[:size]
							for p.Next() {
								ask(b, e, data)
							}
							memory.Give(data)
						})
					}
					b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
				})
			}
		}
	}
}

func ask(b *testing.B, e *process.Engine, data []byte) {
	answer, err := e.Infer(context.Background(), engine.Request{Instance: "a", Inputs: []tensor.Tensor{raw("x", data)}})
	if err != nil {
		b.Error(err)
		return
	}
	answer.Release()
}

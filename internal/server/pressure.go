package server

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	memoryEvery = 250 * time.Millisecond // between two looks
	memoryTight = 0.85                   // of the limit, from which on nothing new is begun
	memoryLoose = 0.80                   // of it, below which it is again
)

// watchMemory refuses new requests while the memory is nearly used up, where the runtime was given a limit (GOMEMLIMIT):
// beyond it the collector takes the processors, and beyond the system's own limit the process is gone with everybody's
// requests. Between the two marks it stays as it was.
func (s *System) watchMemory(ctx context.Context) error {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	tight := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		used := float64(memoryUsed()) / float64(limit)
		if now := used >= memoryTight || tight && used > memoryLoose; now != tight {
			tight = now
			s.path.Tighten(tight)
			s.log.Warn("memory", "nearly used up", tight, "used_mb", int(used*float64(limit))>>20, "limit_mb", limit>>20)
		}
	}
}

// memoryUsed is what the limit is about: all that the runtime has from the system and has not given back.
func memoryUsed() uint64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64() - samples[1].Value.Uint64()
}

package onnxruntime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/ort"
)

// besides is what a session takes besides what its allocator knows of, about: the graph, the kernels, the buffers of calls.
const besides = 128 << 10

// bytes is what the model takes, by ONNX Runtime's own statistics. Of the arena's first blocks only what is in use counts,
// since the rest was never written to; what the arena took since then, a large request has written to all of it, and it
// stays until the session ends.
func (m *model) bytes() int64 {
	stats, err := m.session.AllocatorStats()
	if err != nil {
		return 0 // it was closed just now
	}
	used, err := strconv.ParseInt(stats["InUse"], 10, 64)
	if err != nil {
		return 0 // without an arena there is nothing to tell
	}
	taken, err := strconv.ParseInt(stats["TotalAllocated"], 10, 64)
	if err != nil {
		return 0
	}
	m.first.CompareAndSwap(0, taken)
	return used + besides + max(0, taken-m.first.Load())
}

// trimWait is how long after a session was closed the C allocator gives back what it kept of it, together with what was
// closed since. Most of a model goes back at once, in blocks that the allocator maps one by one. The rest it looks for in
// all that it holds, with its lock held: with hundreds of models that takes as long as a part of a load, and the models
// that are loaded meanwhile use the same memory again.
const trimWait = 500 * time.Millisecond

// trimSoon lets a trim come, unless one is to come already. Close trims by itself.
func (e *Engine) trimSoon() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.trim != nil || e.closed() {
		return
	}
	e.trims.Add(1)
	e.trim = time.AfterFunc(trimWait, func() {
		defer e.trims.Done()
		e.mu.Lock()
		e.trim = nil
		e.mu.Unlock()
		ort.TrimMemory()
	})
}

// endTrim trims for the last time, when the engine is closed.
func (e *Engine) endTrim() {
	e.mu.Lock()
	if e.trim != nil && e.trim.Stop() {
		e.trims.Done()
	}
	e.mu.Unlock()
	e.trims.Wait()
	ort.TrimMemory()
}

// Stats reports this process's memory and what is loaded.
func (e *Engine) Stats(_ context.Context) (engine.Stats, error) {
	e.mu.Lock()
	if e.closed() {
		e.mu.Unlock()
		return engine.Stats{}, lost("")
	}
	stats := engine.Stats{PID: os.Getpid(), Runtime: "onnxruntime"}
	if e.runtime != nil {
		stats.Runtime += " " + e.runtime.Version()
	}
	loaded := make([]*instance, 0, len(e.loaded))
	for _, in := range e.loaded {
		if in.isReady() {
			loaded = append(loaded, in)
		}
	}
	e.mu.Unlock() // requests need it, and there may be thousands of models
	for _, in := range loaded {
		stats.Instances = append(stats.Instances, in.stats())
	}
	slices.SortFunc(stats.Instances, func(a, b engine.InstanceStats) int { return strings.Compare(a.Instance, b.Instance) })
	var err error
	if stats.Resident, stats.Private, err = processMemory(); err != nil {
		return engine.Stats{}, fmt.Errorf("read this process's memory: %w", err)
	}
	return stats, nil
}

// processMemory reads the second and third field of statm, which count the resident pages, and those of files and of
// memory shared with other processes among them.
func processMemory() (resident, private int64, err error) {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, 0, err
	}
	fields := bytes.Fields(raw)
	if len(fields) < 3 {
		return 0, 0, errors.New("statm has fewer than three fields")
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0, 0, err
	}
	shared, err := strconv.ParseInt(string(fields[2]), 10, 64)
	page := int64(os.Getpagesize())
	return pages * page, (pages - shared) * page, err
}

package cache

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/penstock/penstock/internal/tensor"
)

// entryOverhead is what an entry costs beside its tensors: itself, what the allocator rounds up on its small parts, and its
// place in a map, which was measured to take three times what it holds while it grows.
const entryOverhead = int64(unsafe.Sizeof(Entry{})) + 48 + 3*int64(unsafe.Sizeof(Key{})+unsafe.Sizeof(uintptr(0)))

// Entry is an answer in the cache's own memory. It is kept once and read by many; its bytes count until the last of them
// released it.
type Entry struct {
	outputs []tensor.Tensor
	size    int64
	refs    atomic.Int64
	cache   *Cache // nil for one that was never kept

	// Guarded by the cache's mu; set once before others see the entry, but for freq and the queue.
	key        Key
	born       time.Time
	kept       bool
	freq       uint8
	in         *queue
	prev, next *Entry
}

// Outputs are the answer's tensors. They are only read, and not after Release.
func (e *Entry) Outputs() []tensor.Tensor { return e.outputs }

// Size is what the entry counts for, in bytes.
func (e *Entry) Size() int64 { return e.size }

// Kept reports whether the cache took the entry in.
func (e *Entry) Kept() bool { return e.kept }

// Release ends one reading. It is called once for each.
func (e *Entry) Release() {
	if e.refs.Add(-1) == 0 && e.cache != nil {
		e.cache.used.Add(-e.size)
		e.cache.budget.used.Add(-e.size)
	}
}

// read reports whether anybody beside the cache holds the entry. Needs the cache's mu, under which alone readers come.
func (e *Entry) read() bool { return e.refs.Load() > 1 }

// copied makes an entry of an answer, held once by the caller. All bytes lie in one block, so that its cost is known.
func copied(outputs []tensor.Tensor) *Entry {
	var bytes, dims, letters int
	for i := range outputs {
		t := &outputs[i]
		bytes, dims, letters = bytes+len(t.Data), dims+len(t.Shape), letters+len(t.Name)
	}
	var names strings.Builder
	names.Grow(letters)
	for i := range outputs {
		names.WriteString(outputs[i].Name)
	}
	// Grow shows what the allocator really gave: it rounds up to its classes, and what it adds is counted.
	text, shapes, block := names.String(), slices.Grow([]int64(nil), dims), slices.Grow([]byte(nil), bytes)
	e := &Entry{outputs: make([]tensor.Tensor, len(outputs))}
	e.size = cost(len(outputs), cap(shapes), letters, cap(block))
	for i := range outputs {
		from, to := &outputs[i], &e.outputs[i]
		to.Name, text = text[:len(from.Name)], text[len(from.Name):]
		to.Type = from.Type
		shapes = append(shapes, from.Shape...)
		to.Shape = shapes[len(shapes)-len(from.Shape) : len(shapes) : len(shapes)]
		block = append(block, from.Data...)
		to.Data = block[len(block)-len(from.Data) : len(block) : len(block)]
	}
	e.refs.Store(1)
	return e
}

// sizeOf is the least that an answer costs in a cache.
func sizeOf(outputs []tensor.Tensor) int64 {
	var bytes, dims, letters int
	for i := range outputs {
		t := &outputs[i]
		bytes, dims, letters = bytes+len(t.Data), dims+len(t.Shape), letters+len(t.Name)
	}
	return cost(len(outputs), dims, letters, bytes)
}

func cost(tensors, dims, letters, bytes int) int64 {
	return entryOverhead + int64(tensors)*int64(unsafe.Sizeof(tensor.Tensor{})) + int64(8*dims+letters+bytes)
}

// queue is a first-in first-out list of entries; last is the oldest.
type queue struct {
	first, last *Entry
	bytes       int64
}

func (q *queue) push(e *Entry) {
	e.in, e.prev, e.next = q, nil, q.first
	if q.first != nil {
		q.first.prev = e
	} else {
		q.last = e
	}
	q.first = e
	q.bytes += e.size
}

func (q *queue) remove(e *Entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		q.first = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		q.last = e.prev
	}
	e.in, e.prev, e.next = nil, nil, nil
	q.bytes -= e.size
}

package hop

import (
	"math/bits"
	"sync"
)

// Buffers are pooled by powers of two. Those allocations are aligned to their size or to a page, which is what makes
// tensor views aligned. Larger ones are left to the garbage collector, so that one giant request is not kept forever.
const (
	minClass = 12 // 4 KiB
	maxClass = 26 // 64 MiB
)

// Pool recycles messages and the buffers under them. The zero value works; it may be shared by many connections.
type Pool struct {
	messages sync.Pool
	buffers  [maxClass + 1]sync.Pool // of *[]byte with exactly 1<<class capacity
	headers  sync.Pool               // empty *[]byte, so that putting a buffer back allocates nothing
}

func (p *Pool) message() *Message {
	if m, ok := p.messages.Get().(*Message); ok {
		m.pool = p
		return m
	}
	m := &Message{pool: p}
	m.free = m.Release
	return m
}

// Release gives the message and the memory under its tensors back. It is safe on nil, but not a second time.
func (m *Message) Release() {
	if m == nil || m.pool == nil {
		return
	}
	p := m.pool
	p.put(m.buffer)
	if m.shared != nil {
		m.shared.Release()
	}
	clear(m.Tensors)
	clear(m.names)
	*m = Message{Tensors: m.Tensors[:0], names: m.names[:0], dims: m.dims[:0], places: m.places[:0], free: m.free}
	p.messages.Put(m)
}

// Free is Release as a value that does not allocate.
func (m *Message) Free() func() { return m.free }

func class(n int) int { return max(minClass, bits.Len(uint(max(n, 1)-1))) }

// get returns an empty buffer that holds n bytes, or, when none is pooled, one that may be allocated ahead of arrival.
func (p *Pool) get(n, step int) []byte {
	if n == 0 {
		return nil
	}
	c := class(n)
	if c <= maxClass {
		if b, ok := p.buffers[c].Get().(*[]byte); ok {
			buffer := (*b)[:0]
			*b = nil
			p.headers.Put(b)
			return buffer
		}
	}
	return make([]byte, 0, size(min(n, step)))
}

// size rounds up to a pooled size where there is one.
func size(n int) int {
	if c := class(n); c <= maxClass {
		return 1 << c
	}
	return n
}

func (p *Pool) put(buffer []byte) {
	c := class(cap(buffer))
	if cap(buffer) == 0 || c > maxClass || cap(buffer) != 1<<c {
		return
	}
	b, ok := p.headers.Get().(*[]byte)
	if !ok {
		b = new([]byte)
	}
	*b = buffer
	p.buffers[c].Put(b)
}

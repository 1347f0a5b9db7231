package arena

import (
	"iter"
	bit "math/bits"
)

// bits is a set of slots.
type bits struct {
	words []uint64
	size  int
}

// run is slots one after the other.
type run struct{ from, slots int }

func newBits(size int) bits { return bits{words: make([]uint64, (size+63)/64), size: size} }

func (b bits) has(i int) bool { return b.words[i/64]>>(i%64)&1 == 1 }

// any reports whether one of n slots is in the set.
func (b bits) any(from, n int) bool {
	for i := from; i < from+n; i++ {
		if b.has(i) {
			return true
		}
	}
	return false
}

func (b bits) set(from, n int) {
	for i := from; i < from+n; i++ {
		b.words[i/64] |= 1 << (i % 64)
	}
}

func (b bits) clear(from, n int) {
	for i := from; i < from+n; i++ {
		b.words[i/64] &^= 1 << (i % 64)
	}
}

func (b bits) count() (n int) {
	for _, w := range b.words {
		n += bit.OnesCount64(w)
	}
	return n
}

// gap finds the first n slots in a row that are not in the set; -1 when there are none.
func (b bits) gap(n int) int {
	free := 0
	for i := 0; i < b.size; {
		switch w := b.words[i/64]; {
		case i%64 == 0 && w == ^uint64(0):
			free, i = 0, i+64
			continue
		case i%64 == 0 && w == 0:
			step := min(64, b.size-i)
			free, i = free+step, i+step
		case w>>(i%64)&1 == 1:
			free, i = 0, i+1
			continue
		default:
			free, i = free+1, i+1
		}
		if free >= n {
			return i - free
		}
	}
	return -1
}

// without gives the runs of b that are not in other.
func (b bits) without(other bits) iter.Seq[run] {
	return func(yield func(run) bool) {
		scan(run{0, b.size}, func(i int) bool { return b.has(i) && !other.has(i) }, yield)
	}
}

// within gives the runs of b inside r.
func (b bits) within(r run) iter.Seq[run] {
	return func(yield func(run) bool) { scan(r, b.has, yield) }
}

func scan(r run, in func(int) bool, yield func(run) bool) {
	from := r.from
	for i := r.from; i <= r.from+r.slots; i++ {
		if i < r.from+r.slots && in(i) {
			continue
		}
		if i > from && !yield(run{from, i - from}) {
			return
		}
		from = i + 1
	}
}

package fleet

import (
	"hash/fnv"
)

// choose needs mu: the worker for one more copy, nil when every one has one. A worker that runs is better than one that
// has to start, one where the last attempt did not fail better than one where it did, one with fewer requests waiting for
// a load better than one with more. Of equal ones the instance's name decides, so that the choice is the same after every
// restart.
func (c *Controller) choose(w *want) *slot {
	var best *slot
	var least [3]int
	var most uint64
	for _, s := range c.slots {
		if s.pool != w.pool || w.on(s) {
			continue
		}
		rank := [3]int{0, 0, s.pending}
		if !s.alive() {
			rank[0] = 1
		}
		if s.ending {
			rank[0] = 2
		}
		if s == w.avoid {
			rank[1] = 1
		}
		points := score(s.name, w.Instance)
		if best == nil || before(rank, least) || rank == least && points > most {
			best, least, most = s, rank, points
		}
	}
	return best
}

func before(a, b [3]int) bool {
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

// on reports whether the want has a copy on a slot that counts, or will have.
func (w *want) on(s *slot) bool {
	for _, h := range w.copies {
		if h.slot == s && (h.counts() || h.stage == ready) {
			return true
		}
	}
	return false
}

func score(worker, instance string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(instance))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(worker))
	// FNV alone leaves names that end alike close to each other; one multiplication and shift spreads them.
	v := h.Sum64()
	v ^= v >> 33
	v *= 0xff51afd7ed558ccd
	return v ^ v>>33
}

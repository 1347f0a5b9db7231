package fleet

import (
	"cmp"
	"hash/fnv"
	"slices"

	"github.com/penstock/penstock/api"
)

// place chooses the workers that hold a want: all, or the n that score highest for its name. The score depends on the
// two names alone, so that the choice is the same after every restart and moves nothing when other wants come and go.
func (c *Controller) place(w api.Want) []string {
	names := make([]string, len(c.slots))
	for i, s := range c.slots {
		names[i] = s.name
	}
	if w.Replicas <= 0 || w.Replicas >= len(names) {
		return names
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(score(b, w.Instance), score(a, w.Instance)), cmp.Compare(a, b))
	})
	names = names[:w.Replicas]
	slices.Sort(names)
	return names
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

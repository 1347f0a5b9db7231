// Package split assigns units to weighted arms by a hash alone, so that canary, A/B test and shadow agree on every
// replica and after every restart without any stored state. It knows nothing of endpoints or experiments; whoever needs
// an assignment calls Pick.
package split

import "math/bits"

// Pick gives the index of the arm that (salt, unit) falls on. Weights are relative and must not be negative; the result
// is -1 when their sum is 0 or overflows. It is pure and allocates nothing.
//
// The hash is 64-bit FNV-1a over salt, 0xFF, unit with MurmurHash3's finaliser; the bucket is the high word of
// hash x sum, so that there is no modulo bias and a weight as small as one in 2^40 is expressed exactly. Arms are
// ranges in order: raising the last arm's weight moves units only into it.
func Pick(salt, unit string, weights []int64) int {
	var sum uint64
	for _, w := range weights {
		if w < 0 || sum+uint64(w) < sum {
			return -1
		}
		sum += uint64(w)
	}
	if sum == 0 {
		return -1
	}
	at, _ := bits.Mul64(hash(salt, unit), sum)
	for i, w := range weights {
		if at < uint64(w) {
			return i
		}
		at -= uint64(w)
	}
	return -1 // unreachable: at < sum
}

func hash(salt, unit string) uint64 {
	const (
		offset = 0xcbf29ce484222325
		prime  = 0x100000001b3
	)
	h := uint64(offset)
	for i := range len(salt) {
		h = (h ^ uint64(salt[i])) * prime
	}
	h = (h ^ 0xff) * prime
	for i := range len(unit) {
		h = (h ^ uint64(unit[i])) * prime
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

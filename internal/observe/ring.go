package observe

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/api"
)

const (
	shardCount = 8  // a power of two: many writers seldom meet on one
	chunkLen   = 64 // exchanges per chunk, about 20 KiB
	keepChunks = 4  // chunks that an idle buffer keeps; the rest returns to the heap after a burst
)

// ring holds exchanges between the request path and the drain. Each shard is a pair of buffers: writers fill one, the
// drain takes it whole and leaves the other, so that a writer never waits for the drain's work. The memory is made as
// a backlog needs it and reused after: an idle server does not pay for 65,536 places.
type ring struct {
	shards  [shardCount]shard
	dropped atomic.Uint64
}

type shard struct {
	mu     sync.Mutex // guards filled and n; held for one copy, never across anything that can wait
	filled buffer
	n      int
	limit  int
	spare  buffer   // belongs to the drain
	_      [64]byte // keeps two shards off one cache line
}

type buffer []*[chunkLen]api.Exchange

// init divides the capacity among the shards.
func (r *ring) init(capacity int) {
	for i := range r.shards {
		s := &r.shards[i]
		s.limit = capacity / shardCount
		if i < capacity%shardCount {
			s.limit++
		}
		s.filled, s.spare = buffer{new([chunkLen]api.Exchange)}, buffer{new([chunkLen]api.Exchange)}
	}
}

// push takes the exchange in, or counts it as dropped when every shard is full. The first pass takes any shard that is
// free this instant; only when none is, the second waits for the short copy of another writer.
func (r *ring) push(e *api.Exchange) bool {
	start := int(rand.Uint32())
	for i := range shardCount {
		s := &r.shards[(start+i)%shardCount]
		if s.mu.TryLock() {
			taken := s.add(e)
			s.mu.Unlock()
			if taken {
				return true
			}
		}
	}
	for i := range shardCount {
		s := &r.shards[(start+i)%shardCount]
		s.mu.Lock()
		taken := s.add(e)
		s.mu.Unlock()
		if taken {
			return true
		}
	}
	r.dropped.Add(1)
	return false
}

// add needs mu.
func (s *shard) add(e *api.Exchange) bool {
	if s.n == s.limit {
		return false
	}
	chunk := s.n / chunkLen
	if chunk == len(s.filled) {
		s.filled = append(s.filled, new([chunkLen]api.Exchange))
	}
	s.filled[chunk][s.n%chunkLen] = *e
	s.n++
	return true
}

// drain hands every waiting exchange to each and tells how many there were. Only one drain may run at a time.
func (r *ring) drain(each func(*api.Exchange)) int {
	total := 0
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		n, full := s.n, s.filled
		if n > 0 {
			s.filled, s.n = s.spare, 0
		} else {
			s.filled = full.trimmed()
		}
		s.mu.Unlock()
		if n == 0 {
			s.spare = s.spare.trimmed()
			continue
		}
		for at := 0; at < n; at += chunkLen {
			part := full[at/chunkLen][:min(chunkLen, n-at)]
			for k := range part {
				each(&part[k])
			}
			clear(part) // lets go of the strings
		}
		s.spare = full
		total += n
	}
	return total
}

// trimmed gives what a burst needed back to the heap. Only a shard found empty is trimmed: under load both buffers keep
// their size, and no writer allocates.
func (b buffer) trimmed() buffer {
	if len(b) > keepChunks {
		clear(b[keepChunks:])
		return b[:keepChunks]
	}
	return b
}

package bench

import (
	"math/rand/v2"
	"sync"
	"time"
)

// schedule says when the requests of an open loop are due, whatever became of those before. It is asked by all clients;
// nothing runs of itself: what became due since the last call is looked up by the next, which comes to the same.
type schedule struct {
	plan       *Plan
	begin, end time.Duration

	mu      sync.Mutex // guards all below
	random  *rand.Rand
	next    time.Duration // when the next request is due
	drawn   float64       // the same in ns and exactly, where gaps are random
	number  int           // of the next request
	waiting []arrival     // due and not begun: a ring
	head    int           // of the ring
	length  int           // of the ring
	counted Schedule
	over    bool
}

// arrival is one request that is due.
type arrival struct {
	at     time.Duration
	number int
}

// Schedule is what became of the requests that were due while an open loop was measured.
type Schedule struct {
	// Due is how many there were.
	Due int64 `json:"due"`
	// NeverSent were due while the backlog was full, or still waited at the end. They are in no latency.
	NeverSent int64 `json:"never_sent"`
	// Overflowed are those of NeverSent that met a full backlog.
	Overflowed int64 `json:"overflowed"`
}

func newSchedule(p *Plan, begin, end time.Duration) *schedule {
	s := &schedule{plan: p, begin: begin, end: end, random: rand.New(rand.NewPCG(p.Seed, 0x9e3779b97f4a7c15)), waiting: make([]arrival, max(p.Backlog, 1))}
	s.advance()
	return s
}

// advance finds when the next request is due. Equal gaps are counted from the start: adding them up would add up their
// rounding, too.
func (s *schedule) advance() {
	if s.plan.Poisson {
		s.drawn += s.random.ExpFloat64() / s.plan.Rate * 1e9
		s.next = time.Duration(s.drawn)
	} else {
		s.next = time.Duration(float64(s.number) / s.plan.Rate * 1e9)
	}
}

// draw takes the next request off the schedule. ok is false when there is none any more.
func (s *schedule) draw() (a arrival, ok bool) {
	if s.next >= s.end || s.plan.Count > 0 && s.counted.Due >= s.plan.Count {
		return a, false
	}
	a = arrival{s.next, s.number}
	if a.at >= s.begin {
		s.counted.Due++
	}
	s.number++
	s.advance()
	return a, true
}

// fill lets all become due that is due by now. With no backlog one may still wait: whoever asks takes it at once.
func (s *schedule) fill(now time.Duration) {
	for s.next <= now {
		a, ok := s.draw()
		if !ok {
			return
		}
		if s.length == len(s.waiting) {
			s.lose(a)
			if a.at >= s.begin {
				s.counted.Overflowed++
			}
			continue
		}
		s.waiting[(s.head+s.length)%len(s.waiting)] = a
		s.length++
	}
}

func (s *schedule) lose(a arrival) {
	if a.at >= s.begin {
		s.counted.NeverSent++
	}
}

// take gives a client what it shall send next: the request that has waited longest, or the next one, ahead of its time.
func (s *schedule) take(now time.Duration) (a arrival, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return a, false
	}
	s.fill(min(now, s.end))
	if now >= s.end {
		s.finish()
		return a, false
	}
	if s.length > 0 {
		a = s.waiting[s.head]
		s.head = (s.head + 1) % len(s.waiting)
		s.length--
		return a, true
	}
	return s.draw()
}

// finish gives up what still waits.
func (s *schedule) finish() {
	s.over = true
	for ; s.length > 0; s.length-- {
		s.lose(s.waiting[s.head])
		s.head = (s.head + 1) % len(s.waiting)
	}
}

// unsent takes back one that a client had taken but did not bring to its end.
func (s *schedule) unsent(a arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose(a)
}

// close ends the schedule, now or at its own end, and tells what became of all.
func (s *schedule) close(now time.Duration) Schedule {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.fill(min(now, s.end))
		s.finish()
	}
	return s.counted
}

package bench

import (
	"errors"
	"sync"
	"time"
)

const (
	slicesMax  = 64                     // slices of a run that are kept
	sliceFirst = 100 * time.Millisecond // length of a slice at first; doubles when there are too many
	flushEvery = 50 * time.Millisecond  // how often a client hands over what it counted
	backOffMax = time.Second            // longest pause of a client whose requests fail
)

// sample is the end of one request.
type sample struct {
	at       time.Duration // when it ended
	took     time.Duration
	late     time.Duration // open loop: how long it waited for a free client
	woken    time.Duration // open loop: how long after its time the waiting client woke
	measured bool
	err      error
}

// recorder is a client's own count. It takes no lock but when it is handed over.
type recorder struct {
	tally     *tally
	open      bool
	asked     int64         // with warm-up and failures
	good      int64         // measured and answered
	measuring time.Duration // when its first measured request began
	last      time.Duration // when its last request ended
	ended     time.Duration // when its last measured request ended
	failures  int           // in a row
	due       time.Duration // when to hand over
	latency   Histogram
	failed    int64
	late      int64 // open loop: requests that waited for a free client
	waits     *Histogram
	wakes     *Histogram
}

func (r *recorder) add(s sample) {
	r.asked++
	r.last = s.at
	if s.err == nil {
		r.failures = 0
	}
	if s.measured {
		r.ended = s.at
		if s.err != nil {
			r.failed++
			r.tally.fault(s.err)
		} else {
			r.good++
			r.latency.Record(s.took)
		}
		if r.open {
			r.lateness(s)
		}
	}
	if s.at >= r.due {
		r.flush(s.at)
	}
}

func (r *recorder) lateness(s sample) {
	if r.waits == nil {
		r.waits, r.wakes = new(Histogram), new(Histogram)
	}
	if s.late > 0 {
		r.late++
		r.waits.Record(s.late)
	} else {
		r.wakes.Record(s.woken)
	}
}

// backOff is the pause after a failure: none after the server's own answer, which took its time, and a growing one when
// there was no answer, so that a server that is gone is not asked a million times.
func (r *recorder) backOff(err error) time.Duration {
	r.failures++
	if a := (*AnswerError)(nil); errors.As(err, &a) {
		return 0
	}
	return min(time.Millisecond<<min(r.failures, 10), backOffMax)
}

// flush hands over what was counted since the last time.
func (r *recorder) flush(now time.Duration) {
	r.due = now - now%flushEvery + flushEvery
	r.tally.take(now, r)
	r.latency.Reset()
	r.failed = 0
}

// Slice is a part of the measured time.
type Slice struct {
	Latency *Histogram `json:"latency"` // of what was answered
	Failed  int64      `json:"failed,omitempty"`
}

// tally puts the clients' counts together.
type tally struct {
	begin time.Duration

	mu      sync.Mutex // guards all below
	latency Histogram
	failed  int64
	length  time.Duration // of a slice
	slices  []Slice
	faults  map[string]*Fault
}

func (t *tally) open(begin time.Duration) {
	t.begin, t.length, t.faults = begin, sliceFirst, map[string]*Fault{}
}

// take adds what a client counted up to now.
func (t *tally) take(now time.Duration, r *recorder) {
	if r.latency.Count() == 0 && r.failed == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.latency.Merge(&r.latency)
	t.failed += r.failed
	for int((now-t.begin)/t.length) >= slicesMax {
		t.fold()
	}
	at := int(max(now-t.begin, 0) / t.length)
	for len(t.slices) <= at {
		t.slices = append(t.slices, Slice{Latency: new(Histogram)})
	}
	t.slices[at].Latency.Merge(&r.latency)
	t.slices[at].Failed += r.failed
}

// fold makes slices twice as long.
func (t *tally) fold() {
	t.length *= 2
	half := 0
	for i := 0; i < len(t.slices); i += 2 {
		s := t.slices[i]
		if i+1 < len(t.slices) {
			s.Latency.Merge(t.slices[i+1].Latency)
			s.Failed += t.slices[i+1].Failed
		}
		t.slices[half] = s
		half++
	}
	clear(t.slices[half:])
	t.slices = t.slices[:half]
}

// fault counts an error by its code and keeps the first one's text.
func (t *tally) fault(err error) {
	code, text := codeOf(err)
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.faults[code]
	if f == nil && len(t.faults) >= faultsMax {
		code = "other"
		f = t.faults[code]
	}
	if f == nil {
		if len(text) > exampleMax {
			text = text[:exampleMax] + "…"
		}
		f = &Fault{Code: code, Example: text}
		t.faults[code] = f
	}
	f.Count++
}

// Snapshot is what was measured so far.
type Snapshot struct {
	Elapsed  time.Duration // since the start
	Measured time.Duration // since the warm-up
	Count    uint64        // answered
	Failed   int64
	P50, P99 time.Duration
}

func (r *run) snapshot() Snapshot {
	t := &r.tally
	now := r.since()
	t.mu.Lock()
	defer t.mu.Unlock()
	return Snapshot{Elapsed: now, Measured: max(now-r.begin, 0), Count: t.latency.Count(), Failed: t.failed, P50: t.latency.Quantile(.5), P99: t.latency.Quantile(.99)}
}

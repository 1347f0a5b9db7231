package worker

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/wire/hop"
)

// inTurnOver is handOver for runs that are in turn. The request's deadline is watched from then on, or from when it is relieved.
// Every look takes a processor from a run. Tests change it.
var inTurnOver = 20 * time.Millisecond

// spareFor is how long runs have to be in turn no more before Config.Spare is told.
const spareFor = 50 * time.Millisecond

// isInTurn reports whether the leader should run a request itself, however long, since it will be told when anything is sent that
// cannot wait for that. One that was taken over may still be before it: then it waits in the engine, as what comes behind would.
func (l *link) isInTurn(m *hop.Message) bool {
	return m.InTurn && m.Lane > 0 && len(l.lanes) > 0 && !m.Refused && l.host.isInTurn() && l.host.relieved.Load() < m.ID
}

// relieve has another goroutine read on beside a run that is not in turn any more: that of the request upTo, or of an earlier one.
// Those that have not begun yet see it when they do.
func (h *host) relieve(upTo uint64) {
	h.spare.together()
	h.mu.Lock()
	h.relieved.Store(max(upTo, h.relieved.Load()))
	links := slices.Collect(maps.Keys(h.links))
	h.mu.Unlock()
	for _, l := range links {
		l.relieve(upTo)
	}
}

func (l *link) relieve(upTo uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.lead.run
	serial := r.serial.Load()
	if id := r.inTurn.Load(); serial != taken && serial%2 != 0 && id != 0 && id <= upTo {
		l.takeOver(r, serial)
	}
}

// spare tells Config.Spare whether runs are in turn.
type spare struct {
	tell func(inTurn bool) // nil: nobody wants to know
	want atomic.Bool

	mu    sync.Mutex // held while tell is called
	told  bool
	later *time.Timer
}

// inTurn is called for a run that is; it does not wait for what tell does.
func (s *spare) inTurn() {
	if s.tell != nil && !s.want.Load() && !s.want.Swap(true) {
		go s.turn()
	}
}

// together is called when one is not.
func (s *spare) together() {
	if !s.want.Load() || !s.want.Swap(false) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.later == nil {
		s.later = time.AfterFunc(spareFor, s.turn)
	} else {
		s.later.Reset(spareFor)
	}
}

// turn tells what has changed.
func (s *spare) turn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := s.want.Load(); want != s.told {
		s.tell(want)
		s.told = want
	}
}

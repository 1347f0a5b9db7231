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

// spareAfter is how many runs in a row have to be in turn before Config.Spare is told.
const spareAfter = 8

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

// spare tells Config.Spare whether runs come in turn.
type spare struct {
	tell func(inTurn bool) // nil: nobody wants to know
	runs atomic.Int64      // that were in turn, in a row
	want atomic.Bool

	mu   sync.Mutex // held while tell is called
	told bool
}

// inTurn counts a run.
func (s *spare) inTurn() {
	if s.runs.Add(1) == spareAfter {
		s.turn(true)
	}
}

// together ends the row.
func (s *spare) together() {
	if s.runs.Load() != 0 {
		s.runs.Store(0)
	}
	if s.want.Load() {
		s.turn(false)
	}
}

// turn does not wait for what tell does.
func (s *spare) turn(inTurn bool) {
	if s.tell == nil || s.want.Swap(inTurn) == inTurn {
		return
	}
	go func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if want := s.want.Load(); want != s.told {
			s.tell(want)
			s.told = want
		}
	}()
}

package worker

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/internal/wire/hop"
)

// aloneLooks is for how many looks of the watch a leader may be in one run that is alone. The request's deadline is watched from
// then on, or from when it is relieved. Tests change it.
var aloneLooks = 4

// spareAfter is how many runs in a row have to be alone before Config.Spare is told.
const spareAfter = 8

// alone reports whether the leader should run a request itself, however long, since it will be told when anything else is sent.
func (l *link) alone(m *hop.Message) bool {
	return m.Alone && m.Lane > 0 && len(l.lanes) > 0 && !m.Refused && l.host.isIdle() && l.host.relieved.Load() != m.ID
}

// relieve has another goroutine read on beside a run that is not alone any more. One that has not begun yet sees it when it does.
func (h *host) relieve(id uint64) {
	h.relieved.Store(id)
	h.spare.together()
	h.mu.Lock()
	links := slices.Collect(maps.Keys(h.links))
	h.mu.Unlock()
	for _, l := range links {
		l.relieve(id)
	}
}

func (l *link) relieve(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.lead.run
	if serial := r.serial.Load(); serial != taken && serial%2 != 0 && r.alone.Load() == id {
		l.takeOver(r, serial)
	}
}

// spare tells Config.Spare whether runs come alone.
type spare struct {
	tell func(alone bool) // nil: nobody wants to know
	runs atomic.Int64     // that were alone, in a row
	want atomic.Bool

	mu   sync.Mutex // held while tell is called
	told bool
}

// alone counts a run.
func (s *spare) alone() {
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
func (s *spare) turn(alone bool) {
	if s.tell == nil || s.want.Swap(alone) == alone {
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

package process

import (
	"time"

	"github.com/penstock/penstock/internal/wire/hop"
)

const (
	// inTurnAfter is how many requests in a row have to find nobody waiting before the worker is told that they are in turn: who comes
	// then all the same costs it a frame more and some wake-ups.
	inTurnAfter = 8
	// inTurnCrowd is how many have to find none but their like waiting, if any. Another's run would wait then until the monitor of the
	// worker's Go wakes, for up to 10 ms: where such come several times a second, they do not.
	inTurnCrowd = 64
	// inTurnBelow is the usual length of a run below which it may keep the worker from reading on. Longer ones gain nothing that
	// shows; worker.inTurnOver is what it has to fit.
	inTurnBelow = 15 * time.Millisecond
)

// inTurn is what a link knows of the runs that may keep the worker from reading on: one of a caller who is alone, or those of one
// instance that run in turn anyway. It is guarded by link.mu.
type inTurn struct {
	instance string    // whose
	same     int       // how many runs of it wait
	row      int       // requests in a row that found none but these, or nobody
	told     int       // how many of them the worker was told to be in turn, and no more
	last     uint64    // the highest id of those
	relieved uint64    // the highest id of those that are not any more
	answered time.Time // when the last of them was
}

// join is for a request that is about to be among those that wait. It says whether it is in turn, and reports up to which request
// those before it have to be relieved for that; 0 is none.
func (l *link) join(m *hop.Message, c *call) (relieved uint64) {
	t := &l.turn
	if t.same == 0 {
		t.instance = m.Instance
	}
	c.counts = m.Kind == hop.KindInfer && m.Instance == t.instance
	switch {
	case m.Kind != hop.KindInfer: // who finds it waiting ends the row
	case !c.counts || t.same < len(l.pending) || t.same > 0 && !l.engine.runsInTurn(m.Instance):
		t.row = 0
	case t.row < inTurnCrowd:
		t.row++
	}
	m.InTurn = c.lane != nil && (l.alone >= inTurnAfter || t.row >= inTurnCrowd) && m.Expect >= laneFrom && m.Expect < inTurnBelow && len(l.engine.links) > 1 &&
		m.ID > t.relieved // ids are given out in no order
	if c.told = m.InTurn; !c.told {
		relieved = t.relieve()
	} else {
		t.told++
		t.last = max(t.last, m.ID)
	}
	if c.counts {
		t.same++
	}
	return relieved
}

// relieve reports up to which request the worker has to be told that they are not in turn any more; 0 is none.
func (t *inTurn) relieve() (upTo uint64) {
	if t.told == 0 {
		return 0
	}
	t.told, t.relieved = 0, t.last
	return t.last
}

// leave is for a request that does not wait any more.
func (t *inTurn) leave(id uint64, c *call) {
	if c.counts {
		t.same--
	}
	if c.told && id > t.relieved {
		t.told--
	}
}

// wait adds to an answer how long the request waited, unread, for the run before it.
func (t *inTurn) wait(m *hop.Message, c *call) {
	if !c.told {
		return
	}
	m.Queue = max(m.Queue, t.answered.Sub(c.started)) // of which the worker saw a part, if it was relieved
	t.answered = time.Now()
}

// relieve has the worker read on beside the runs up to a request, which it was told are in turn. That goes by another connection,
// as it does not read this one.
func (l *link) relieve(upTo uint64) {
	if upTo == 0 {
		return
	}
	w := l.engine.links[1].writer
	f := w.Frame()
	if err := f.Encode(&hop.Message{Kind: hop.KindRelieve, ID: upTo}, l.engine.config.Limits); err == nil {
		w.Post(f)
	}
}

// runsInTurn reports whether an instance's runs go on one at a time.
func (e *Engine) runsInTurn(instance string) bool {
	_, ok := e.turns.Load(instance)
	return ok
}

package worker

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/expiry"
	"github.com/penstock/penstock/internal/wire/hop"
)

const (
	// quickRun is the longest that runs of an instance may usually take for the connection's leader to do them itself. A
	// goroutine of its own for each costs more than such a run, and its answer would leave alone.
	quickRun = 100 * time.Microsecond
	// worthJoining is from where on requests to an instance that batches are left to its batcher when several came at
	// once: joining them costs some microseconds for each.
	worthJoining = 30 * time.Microsecond
	// The leader looks for the next request behind one with a lane before it waits: for at least leastLooks, or a part of what
	// its run took, but for mostLooks at most.
	leastLooks = 100 * time.Microsecond
	mostLooks  = 500 * time.Microsecond
	looksPart  = 16
	// looksAway is how many looks there are between two at which other goroutines, such as the leader of another connection, are
	// let run.
	looksAway = 8
	// quickPayload is the most bytes of inputs for that.
	quickPayload = 64 << 10
	// handOver is how often a busy leader is looked at; one that is in the same run since the last look is replaced.
	handOver = 5 * time.Millisecond
	// idleLooks is how many looks without a run end the looking.
	idleLooks = 200
)

// cost is what is known of an instance's runs.
type cost struct {
	nanoseconds atomic.Int64 // what they usually took lately, joined or not; 0: not known
	single      atomic.Int64 // what half of those that were not joined took less than, in nanoseconds; 0: not known
	joins       atomic.Bool  // whether requests are run together
}

// learn begins the knowledge of an instance that was loaded.
func (h *host) learn(instance string, joins bool) {
	c, _ := h.costs.LoadOrStore(instance, &cost{})
	c.(*cost).joins.Store(joins)
}

// took learns what a run took.
func (h *host) took(instance string, answer *engine.Answer) {
	if c, ok := h.costs.Load(instance); ok { // else it is on its way out
		c.(*cost).learn(answer.Compute+answer.Wait, answer.Batch > 0) // a leader that waits for a batch reads nobody in who would join it
	}
}

// learn moves what runs usually take. That is no mean, which every run that other processes interrupted would lift by a multiple
// of itself, but about the 72nd percentile: where steps of a quarter up and of a twelfth down are in balance. What a single one
// takes is the median, since on a machine with more work than processors a quarter of the runs of a tiny model may be interrupted;
// and a joined run, which takes longer, is no reason to join.
func (c *cost) learn(took time.Duration, joined bool) {
	move(&c.nanoseconds, int64(took), 4)
	if !joined {
		move(&c.single, int64(took), 12)
	}
}

// move goes a twelfth of itself down to what a run took, or the part up of itself up to it.
func move(at *atomic.Int64, took, up int64) {
	old, now := at.Load(), max(1, took)
	switch {
	case old == 0:
		at.Store(now)
	case now > old:
		at.Store(min(now, old+max(1, old/up)))
	case now < old:
		at.Store(max(now, old-max(1, old/12)))
	}
}

// isQuick reports whether runs usually are short enough for the leader to do them itself.
func (c *cost) isQuick() bool {
	took := time.Duration(c.nanoseconds.Load())
	return took > 0 && took < quickRun
}

// isWorthJoining reports whether joining requests takes less than running them one after the other.
func (c *cost) isWorthJoining() bool {
	return c.joins.Load() && c.single.Load() > int64(worthJoining)
}

// own says why the leader runs a request itself.
type own uint8

const (
	ownNot    own = iota
	ownQuick      // a goroutine of its own would take longer; it does not queue for a place in the engine behind long ones
	ownInTurn     // nothing that comes meanwhile could not wait for it
)

// own says whether the leader should run a request itself.
func (l *link) own(m *hop.Message) own {
	switch {
	case m.Kind != hop.KindInfer:
		return ownNot
	case l.isInTurn(m):
		return ownInTurn
	case l.isQuick(m):
		return ownQuick
	}
	return ownNot
}

func (l *link) isQuick(m *hop.Message) bool {
	if m.Payload() > quickPayload || m.Refused {
		return false
	}
	found, ok := l.host.costs.Load(m.Instance)
	if !ok {
		return false
	}
	c := found.(*cost)
	// What came together shall run together, unless coming to that would take longer than running.
	if c.isWorthJoining() && l.reader.Buffered() {
		return false
	}
	return c.isQuick()
}

// leader watches what a link's leader runs itself. The watch, a timer that is set while there is something to see, takes
// a run over that takes long: from then on it can be cancelled, has its deadline, and another goroutine leads.
type leader struct {
	run   *ownRun      // replaced with link.mu held, when another leads on, before it does
	every atomic.Int64 // nanoseconds from one look of the watch to the next; 0: it is off
	timer *time.Timer

	// Guarded by link.mu.
	seen int64         // serial at the last look
	same time.Duration // for which that run was seen
	idle int           // looks in a row that saw no run
}

// ownRun is one leader's runs, one after the other.
type ownRun struct {
	serial atomic.Int64  // odd while a run is under way, rising; taken: it was taken over
	inTurn atomic.Uint64 // the run's request, if it is in turn; 0 is not

	// Written by the leader while no run is under way, read by who took the run over.
	message *hop.Message

	life  expiry.Context // of all these runs
	leave func() bool    // the connection's end does not end life any more

	late    *time.Timer // guarded by link.mu: the deadline of the run that was taken over
	expired bool        // guarded by link.mu
}

// end ends what the runs' context holds.
func (r *ownRun) end() {
	if r.leave != nil {
		r.leave()
	}
	r.life.Cancel()
}

// taken is the serial of a run that was taken over.
const taken = -1

// stopWatch ends the watch, when nobody leads any more.
func (l *link) stopWatch() {
	l.lead.run.end()
	l.lead.timer.Stop()
}

// runOwn runs a request on the leader's own goroutine and holds its answer back for the next flush, unless nobody shares it. It
// reports whether the caller still leads.
func (l *link) runOwn(m *hop.Message, why own) (leads bool) {
	if !l.admit(m) {
		return true
	}
	r := l.lead.run
	id, most := uint64(0), handOver
	if why == ownInTurn {
		id, most = m.ID, inTurnOver
	}
	r.inTurn.Store(id)
	if r.leave == nil {
		r.leave = context.AfterFunc(l.ctx, r.life.Cancel)
	}
	r.message = m
	serial := r.serial.Add(1)
	if every := l.lead.every.Load(); every == 0 || every > int64(most) {
		l.lead.watch(most)
	}
	if l.host.relieved.Load() >= id && id != 0 { // between isInTurn and Add
		l.relieve(id)
	}
	reply, answer := l.execute(&r.life, m, why == ownQuick)
	reply.Answers(m)
	if r.serial.Swap(serial+1) == taken {
		l.finishTaken(r, m, &reply)
		l.done(m, answer)
		return false
	}
	w := l.way(&reply)
	if f := l.encode(w, &reply); f != nil && (reply.Lane > 0 || !w.Hold(f)) { // nobody follows on a lane
		_ = w.Send(context.Background(), f, false) // a broken connection has told shut
	}
	soon := reply.Lane > 0 // whoever asked alone is likely to ask again, and of many another
	l.done(m, answer)
	if soon && l.host.isIdle() {
		if l.looks++; l.looks%looksAway == 0 {
			runtime.Gosched() // as it never would, if every look were in time
		}
		l.pair.Look(min(max(leastLooks, reply.Compute/looksPart), mostLooks))
	}
	return true
}

// finishTaken answers a request that was taken over: another leads, and this is one like those that begin starts.
func (l *link) finishTaken(r *ownRun, m *hop.Message, reply *hop.Message) {
	l.mu.Lock() // the watch holds it until everything below is set
	delete(l.running, m.ID)
	if r.late != nil {
		r.late.Stop()
	}
	expired := r.expired
	l.mu.Unlock()
	r.end()
	if expired && reply.Kind == hop.KindFailure {
		reply.Failure = l.failure(&r.life, context.DeadlineExceeded)
	}
	l.send(reply)
}

// look is the watch: it takes over a run that it sees again.
func (l *link) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := &l.lead
	serial, most := d.run.serial.Load(), handOver
	if d.run.inTurn.Load() != 0 {
		most = inTurnOver
	}
	switch {
	case serial != d.seen:
		d.seen, d.same, d.idle = serial, 0, 0
	case serial%2 == 0:
		d.idle++
	default:
		if d.same += time.Duration(d.every.Load()); d.same >= most {
			l.takeOver(d.run, serial)
		}
	}
	if d.idle >= idleLooks {
		d.idle = 0
		d.every.Store(0)
		// A leader sets its serial before it looks whether it is watched, so one of the two sees the other.
		if d.run.serial.Load() == serial || !d.every.CompareAndSwap(0, int64(most)) {
			return
		}
	}
	d.watch(most)
}

// watch sets when the next look is.
func (d *leader) watch(every time.Duration) {
	d.every.Store(int64(every))
	d.timer.Reset(every)
}

// takeOver needs mu. It makes a leader's run one like any other and lets another goroutine lead.
func (l *link) takeOver(r *ownRun, serial int64) {
	if !r.serial.CompareAndSwap(serial, taken) {
		return // it is done after all
	}
	m := r.message
	l.running[m.ID] = r.life.Cancel
	if m.Budget > 0 {
		ran := time.Duration(0) // at least; one or two looks less than it did
		if l.lead.seen == serial {
			ran = l.lead.same
		}
		r.late = time.AfterFunc(max(0, m.Budget-ran), func() {
			l.mu.Lock()
			r.expired = true
			l.mu.Unlock()
			r.life.Cancel()
		})
	}
	l.lead.run = &ownRun{}
	l.lead.seen, l.lead.same = 0, 0
	go l.leadOn()
}

// Package queue shares the workers' time fairly among tenants. It decides when a request may go to a worker and to which
// one: at once while there is room, else by turns. It sends nothing and knows neither the plan nor any protocol.
// Callers: serve.
package queue

import (
	"sync"
	"time"

	"github.com/penstock/penstock/api"
)

// Band orders the requests of one tenant among themselves. It moves nobody ahead of another tenant.
type Band uint8

// The bands. Critical goes first, then Standard; Batch gets what they leave, but at least batchFloor.
const (
	Critical Band = iota
	Standard
	Batch
	bands = 3
)

const (
	// batchFloor is Batch's least part of a tenant's time while it waits.
	batchFloor = 0.05

	// together is how long after another tenant's request a tenant is not alone.
	together = int64(time.Second)

	// leadMax is the most, in execution time per weight, that a tenant is behind the others for what it used before. It
	// may have been on workers that nobody else wanted.
	leadMax = float64(time.Second)

	// doubt is the part of a predicted wait, one in so many, by which it may be longer. In an overload every request that is let
	// in is one that just fits: without it half of them would come too late to their turn, or be run for nothing. A queue that
	// is a little shorter keeps the workers as busy.
	doubt = 8

	// unit is a whole run in a worker; a request that is batched with others is a part of one.
	unit = int64(1) << 20
)

// Config bounds the sharing. Zero fields take their defaults.
type Config struct {
	Waiting int              // requests of one tenant that wait while others compete; default 50
	Runs    int              // runs that a worker carries out at the same time; default 1
	Credit  time.Duration    // execution time per weight that a tenant that used less than its share is let ahead; default 250 ms
	Ahead   time.Duration    // work that a worker is sent ahead of time for each of its runs, so that it never idles; default 1 ms
	Now     func() time.Time // default time.Now
}

// Limit is the most requests of one tenant that wait while others compete.
func (c Config) Limit() int { return c.orDefault().Waiting }

func (c Config) orDefault() Config {
	if c.Waiting <= 0 {
		c.Waiting = 50
	}
	if c.Runs <= 0 {
		c.Runs = 1
	}
	if c.Credit <= 0 {
		c.Credit = 250 * time.Millisecond
	}
	if c.Ahead <= 0 {
		c.Ahead = time.Millisecond
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Fair grants places in workers. Each tenant has a counter of the execution time it was given, divided by its weight; the
// waiting tenant with the lowest counter is next. A request counts with its expected time when it is granted, and with the
// measured one when it is done. All methods may be called from many goroutines; none blocks.
type Fair struct {
	config Config
	begin  time.Time

	mu       sync.Mutex // guards everything below, and all flows, lanes, pools and waiters
	flows    map[api.TenantID]*Flow
	lanes    map[string]*lane // by worker: as many as ever had a name of their own
	pools    map[string]*Pool
	waiting  tree[*Flow] // those with a request that waits
	weights  float64     // of those
	last     float64     // counter of the last that was served while nobody waited
	serial   uint64      // of the last request that came to wait
	turns    uint64      // places that were granted
	lastFlow *Flow       // whose request came last
	switched int64       // when a request came of another tenant than the one before
	recent   *Flow       // the tenant whose request came last, and behind it the others in this order
	heldBack bool        // somebody waits for a run that is kept for another tenant
	lines    []*line     // not used now
	waiters  []*Waiter   // the same
}

// New makes a queue that nobody waits in.
func New(c Config) *Fair {
	f := &Fair{config: c.orDefault(), flows: map[api.TenantID]*Flow{}, lanes: map[string]*lane{}, pools: map[string]*Pool{}}
	f.begin = f.config.Now()
	f.switched = -together
	return f
}

// now is nanoseconds since the beginning.
func (f *Fair) now() int64 { return int64(f.config.Now().Sub(f.begin)) }

// Request asks for a place.
type Request struct {
	Flow  *Flow
	Pool  *Pool
	Band  Band
	Cost  time.Duration // expected execution time
	Part  int64         // a batched request's share of a run, as PartOf gives it; 0 for a run of its own
	Tail  time.Duration // time that hardly any request takes longer to execute than, for Until
	Until time.Time     // its deadline; zero for none
	Owner any           // whatever Evict shall find it by; comparable
	Alone bool          // it needs a worker that has nothing in hand, and that gets nothing else until it has left

	Again  bool   // it was let in before, and may wait whatever the limits say
	Serial uint64 // of its Waiter, when it waited before: it keeps its turn
}

// need is what a request takes of a worker.
type need struct {
	cost, part int64
	alone      bool
}

func needOf(r *Request) need {
	n := need{cost: max(1, int64(r.Cost)), part: r.Part, alone: r.Alone}
	if n.part == 0 {
		n.part = unit
	}
	return n
}

// PartOf is the share of a run that a request of some rows takes of a batch of size rows.
func PartOf(rows, size int64) int64 {
	if size <= 1 {
		return 0
	}
	return max(1, unit*max(1, min(rows, size))/size)
}

// Place is a granted place in a worker, to be given back once with Leave.
type Place struct {
	lane  *lane
	flow  *Flow
	cost  int64
	part  int64
	alone bool
	ahead int64
}

// Ahead is the longest that a run is expected to wait in the worker, for those that were sent there before.
func (p Place) Ahead() time.Duration { return time.Duration(p.ahead) }

// Granted reports whether it is a place at all.
func (p Place) Granted() bool { return p.lane != nil }

// Alone reports that nothing else has a place in its worker, for as long as it is held.
func (p Place) Alone() bool { return p.alone }

// Worker is where the place is.
func (p Place) Worker() string { return p.lane.worker }

// Reason says why a request was refused.
type Reason uint8

// The reasons.
const (
	Fits      Reason = iota // it was not
	OverShare               // the tenant has as many waiting as it may while others compete
	Late                    // it would not be done by its deadline
	Shed                    // a more urgent request of the same tenant took its turn
	reasons
)

// Refusal is why a request got neither a place nor a turn, and when to try again.
type Refusal struct {
	Reason  Reason
	Waiting int           // of the tenant
	Expect  time.Duration // until an answer, if it had waited
	Retry   time.Duration // after which the tenant's queue will be empty
}

// Enter gives a place at once, or a waiter when the request has to wait for its turn, or a refusal.
func (f *Fair) Enter(r *Request) (Place, *Waiter, Refusal) {
	need := needOf(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	flow := r.Flow
	now := f.now()
	if f.lastFlow != flow {
		if f.lastFlow != nil {
			f.switched = now
		}
		f.lastFlow = flow
	}
	f.see(flow, r.Pool, now)
	f.lift(flow, need.cost)
	if l := f.free(r.Pool, flow, need); l != nil {
		return f.occupy(l, flow, need), nil, Refusal{}
	}
	if refusal := f.refuse(r); refusal.Reason != Fits {
		flow.refused[refusal.Reason]++
		return Place{}, nil, refusal
	}
	w := f.newWaiter(r, need)
	if w.serial == 0 {
		f.serial++
		w.serial = f.serial
	}
	f.enqueue(w)
	return Place{}, w, Refusal{}
}

// free finds the lane for a request that need not wait: none whose room others wait for. While there is not much to do,
// it is the first: one worker stays awake with its caches warm, and what it is sent and answers travels together. Else it
// is the one with the least work in hand.
func (f *Fair) free(p *Pool, flow *Flow, need need) *lane {
	var best *lane
	least := int64(0)
	for _, l := range p.lanes {
		if len(l.pools) > 0 || !f.room(l, need) || f.held(l, p, flow, need) {
			continue
		}
		work := l.work
		if work <= int64(LittleWork) {
			return l
		}
		if best == nil || work < least {
			best, least = l, work
		}
	}
	return best
}

// room reports whether a lane takes another request now. A worker is given as many runs as it carries out at the same time,
// and short ones ahead, so that it does not idle between two. A tenant that is alone has one more run ready there; where
// others compete, it would stand before theirs. One that must be alone waits until the worker is empty, and the lane waits
// with it: who is next is not passed by.
func (f *Fair) room(l *lane, need need) bool {
	switch {
	case l.parts == 0:
		return true
	case l.alone || need.alone:
		return false
	case l.work+need.cost <= l.runs*int64(f.config.Ahead):
		return true
	}
	spare := l.runs*unit - l.parts - need.part
	return spare >= 0 || spare >= -unit && f.alone()
}

// alone reports that one tenant has had the workers to itself for a while.
func (f *Fair) alone() bool {
	return len(f.waiting) <= 1 && f.now()-f.switched >= together
}

// lift keeps a tenant that used nothing from saving up: it is at most the credit ahead of those who wait, or of the last
// that did not have to. It also forgives what lies too far back.
func (f *Fair) lift(flow *Flow, cost int64) {
	if flow.waits > 0 {
		return
	}
	base := f.last
	if len(f.waiting) > 0 {
		base = f.waiting.first().counter
	}
	if least := base - float64(f.config.Credit)/flow.weight; flow.counter < least {
		flow.counter = least
	}
	if most := base + max(leadMax, 4*float64(cost)/flow.weight); flow.counter > most {
		flow.counter = most
	}
}

// occupy puts a request into a lane.
func (f *Fair) occupy(l *lane, flow *Flow, need need) Place {
	ahead := int64(0)
	if l.parts+need.part > l.runs*unit {
		ahead = l.work / l.runs
	}
	l.work += need.cost
	l.parts += need.part
	l.alone = need.alone
	flow.running++
	f.turns++
	flow.turn = f.turns
	f.charge(flow, need.cost)
	return Place{lane: l, flow: flow, cost: need.cost, part: need.part, alone: need.alone, ahead: ahead}
}

// charge adds execution time to a tenant's counter, and puts it in its new order.
func (f *Fair) charge(flow *Flow, cost int64) {
	flow.counter += float64(cost) / flow.weight
	if flow.waits > 0 {
		f.waiting.fix(flow.at)
		for _, n := range flow.lines {
			n.pool.lines.fix(n.at)
		}
	} else if len(f.waiting) == 0 && flow.counter > f.last {
		f.last = flow.counter
	}
}

// Leave gives a place back. Took is the execution time measured; negative when the request never ran, 0 when it ran for
// nobody knows how long.
func (f *Fair) Leave(p Place, took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leave(p, took)
}

func (f *Fair) leave(p Place, took time.Duration) {
	l, flow := p.lane, p.flow
	l.work -= p.cost
	l.parts -= p.part
	l.alone = l.alone && !p.alone
	flow.running--
	cost := int64(took)
	switch {
	case took < 0:
		cost = 0
	case took == 0:
		cost = p.cost
	}
	if cost != p.cost {
		f.charge(flow, cost-p.cost)
	}
	now := f.now()
	flow.spent.add(now, cost)
	l.measure(now, cost)
	f.fill(l)
	if f.heldBack {
		f.release(l)
	}
}

// fill grants a lane's room to those whose turn it is, and tells whether it was anybody's.
func (f *Fair) fill(l *lane) (granted bool) {
	for ; len(l.pools) > 0; granted = true {
		n := l.next()
		w := n.head()
		if !f.room(l, w.need) {
			return granted // whoever comes next does not pass by: it would wait for ever
		}
		if f.held(l, w.pool, w.flow, w.need) {
			f.heldBack = true
			return granted
		}
		f.pass(n, w)
		f.remove(w)
		w.place = f.occupy(l, w.flow, w.need)
		w.granted <- struct{}{} // has room: it is granted once
	}
	return granted
}

// pass keeps the account of what Batch is owed.
func (f *Fair) pass(n *line, w *Waiter) {
	switch {
	case w.band == Batch:
		n.flow.owed = max(0, n.flow.owed-float64(w.cost))
	case n.queues[Batch].first != nil:
		n.flow.owed += float64(w.cost) * batchFloor / (1 - batchFloor)
	}
}

// Overdue refuses what Enter would refuse of a tenant, whatever it was: one that is over its share and asks for workers that
// are busy.
func (f *Fair) Overdue(flow *Flow, p *Pool) Refusal {
	f.mu.Lock()
	defer f.mu.Unlock()
	if flow.waits < f.config.Waiting {
		return Refusal{}
	}
	refusal := f.refuse(&Request{Flow: flow, Pool: p, Band: Batch})
	if refusal.Reason != Fits {
		flow.refused[refusal.Reason]++
	}
	return refusal
}

// refuse says why a request may not even wait.
func (f *Fair) refuse(r *Request) Refusal {
	flow := r.Flow
	weights := f.weights
	if flow.waits == 0 {
		weights += flow.weight
	}
	speed := r.Pool.speed() * flow.weight / weights
	ahead := int64(0)
	for b := Critical; b <= r.Band; b++ {
		ahead += flow.ahead[b]
	}
	now := f.now()
	wait := time.Duration(float64(ahead) / speed)
	no := Refusal{Waiting: flow.waits, Retry: time.Duration(float64(flow.ahead[Critical]+flow.ahead[Standard]+flow.ahead[Batch]) / speed),
		Expect: wait + wait/doubt + r.Cost + r.Tail} // the cost is for a run that is laid ready behind another
	switch {
	case r.Again:
	case !r.Until.IsZero() && int64(no.Expect) > int64(r.Until.Sub(f.begin))-now:
		no.Reason = Late
	case flow.waits >= f.config.Waiting && (len(f.waiting) > 1 || now-f.switched < together):
		no.Reason = OverShare
	}
	return no
}

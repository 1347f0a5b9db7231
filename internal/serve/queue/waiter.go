package queue

// Waiter is a request that waits for its turn. Its owner waits for Granted and then calls Fair.Take, or else Fair.Cancel;
// exactly one of them, and it must not touch the waiter afterwards.
type Waiter struct {
	flow *Flow
	pool *Pool
	band Band
	need
	owner  any
	serial uint64

	granted chan struct{}

	// Guarded by Fair.mu.
	line       *line // nil when it waits no more
	next, prev *Waiter
	place      Place // when it was granted
	evicted    bool
}

// kept bounds the waiters, and the lines, that are kept for reuse.
const kept = 1024

// newWaiter needs mu.
func (f *Fair) newWaiter(r *Request, need need) *Waiter {
	var w *Waiter
	if last := len(f.waiters) - 1; last >= 0 {
		w = f.waiters[last]
		f.waiters = f.waiters[:last]
	} else {
		w = &Waiter{granted: make(chan struct{}, 1)}
	}
	w.flow, w.pool, w.band, w.need, w.owner, w.serial = r.Flow, r.Pool, r.Band, need, r.Owner, r.Serial
	return w
}

// forget keeps a waiter that nobody has any more for reuse; its channel is empty. Needs mu.
func (f *Fair) forget(w *Waiter) {
	*w = Waiter{granted: w.granted}
	if len(f.waiters) < kept {
		f.waiters = append(f.waiters, w)
	}
}

// Granted gives one value when the waiting is over.
func (w *Waiter) Granted() <-chan struct{} { return w.granted }

// Serial marks a request's turn, so that it keeps it when it has to wait again.
func (w *Waiter) Serial() uint64 { return w.serial }

// enqueue lets a request wait in its turn. Needs mu.
func (f *Fair) enqueue(w *Waiter) {
	flow := w.flow
	n := w.pool.byFlow[flow]
	if n == nil {
		n = f.newLine(w.pool, flow)
	}
	w.line = n
	n.queues[w.band].insert(w)
	n.count++
	flow.waits++
	flow.ahead[w.band] += w.cost
	if flow.waits == 1 {
		f.waiting.push(flow)
		f.weights += flow.weight
	}
	if n.count == 1 {
		if len(n.pool.lines) == 0 {
			for _, l := range n.pool.lanes {
				l.pools = append(l.pools, n.pool)
			}
		}
		n.pool.lines.push(n)
		flow.lines = append(flow.lines, n)
	}
	// It may be its turn already: a lane can have room that is too small for the one who was next.
	for _, l := range w.pool.lanes {
		f.fill(l)
	}
}

// remove ends a request's waiting. Needs mu.
func (f *Fair) remove(w *Waiter) {
	n, flow := w.line, w.flow
	w.line = nil
	n.queues[w.band].remove(w)
	n.count--
	flow.waits--
	flow.ahead[w.band] -= w.cost
	if n.count == 0 {
		f.dropLine(n)
	}
	if flow.waits == 0 {
		f.waiting.remove(flow.at)
		f.weights -= flow.weight
		flow.owed = 0
		if len(f.waiting) == 0 {
			f.weights = 0 // what rounding left
		}
		f.last = max(f.last, flow.counter)
	}
}

// Take ends a waiting whose Granted has given its value. evicted true means that there is no place: another request of the
// same tenant took the turn.
func (f *Fair) Take(w *Waiter) (place Place, evicted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	place, evicted = w.place, w.evicted
	f.forget(w)
	return place, evicted
}

// Cancel ends a waiting, whatever has become of it meanwhile: a place that was just granted goes to the next.
func (f *Fair) Cancel(w *Waiter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.line != nil {
		f.unblock(w)
	} else {
		<-w.granted // it is there: it was put in with mu held
		if !w.evicted {
			f.leave(w.place, -1)
		}
	}
	f.forget(w)
}

// unblock takes a waiter out; one behind it may have been waiting only for it, when it was too large for the room. Needs mu.
func (f *Fair) unblock(w *Waiter) {
	p := w.pool
	f.remove(w)
	for _, l := range p.lanes {
		f.fill(l)
	}
}

// Evict ends the waiting of the newest request with this owner and a lower band, to make room for a more urgent one.
func (f *Fair) Evict(flow *Flow, owner any, above Band) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for band := Batch; band > above; band-- {
		var newest *Waiter
		for _, n := range flow.lines {
			for w := n.queues[band].last; w != nil; w = w.prev {
				if w.owner == owner {
					if newest == nil || w.serial > newest.serial {
						newest = w
					}
					break
				}
			}
		}
		if newest != nil {
			f.unblock(newest)
			newest.evicted = true
			flow.refused[Shed]++
			newest.granted <- struct{}{} // has room: it was not granted
			return true
		}
	}
	return false
}

// list is a queue of waiters in the order of their serials.
type list struct{ first, last *Waiter }

// insert puts a waiter in its place, which nearly always is the end.
func (l *list) insert(w *Waiter) {
	before := l.last
	for before != nil && before.serial > w.serial {
		before = before.prev
	}
	w.prev = before
	if before == nil {
		w.next, l.first = l.first, w
	} else {
		w.next, before.next = before.next, w
	}
	if w.next == nil {
		l.last = w
	} else {
		w.next.prev = w
	}
}

func (l *list) remove(w *Waiter) {
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.next, w.prev = nil, nil
}

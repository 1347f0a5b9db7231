package process

import "time"

// Lanes reports how many of an engine's lanes no request has, and how many there are.
func Lanes(e *Engine) (idle, all int) {
	l := e.links[0]
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.idle), len(l.lanes)
}

// Pending is how many requests wait on the first connection.
func Pending(e *Engine) int {
	l := e.links[0]
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending)
}

// The usual lengths of a run from which it gets a lane beside others, and below which it may be in turn, after so many that were.
const (
	LaneFrom    = laneFrom
	InTurnBelow = inTurnBelow
	InTurnAfter = inTurnAfter
	InTurnCrowd = inTurnCrowd
)

// SetWorked has an engine believe that its worker ran, and waited for a processor, for these times. Before the first request.
func (e *Engine) SetWorked(f func() (ran, waited time.Duration)) {
	e.worked = func(int) (w worked) {
		w.ran, w.waited = f()
		return w
	}
}

// Worked is what the system says of a process.
func Worked(pid int) (ran, waited time.Duration) {
	w := workedBy(pid)
	return w.ran, w.waited
}

// Another tells whether a run gets another chance whose worker had this of the processors since the first.
func Another(before int, ran, waited, chance time.Duration) bool {
	c := call{chances: before}
	return c.another(worked{ran: ran, waited: waited}, chance)
}

// SetPatience bounds the pings by which a worker is asked whether it reads. Before the first request.
func (e *Engine) SetPatience(d time.Duration) { e.patience = d }

// Large is the payload from which a request goes by another connection than the small ones.
const Large = largeRequest

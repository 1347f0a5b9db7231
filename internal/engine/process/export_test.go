package process

// Lanes reports how many of an engine's lanes no request has, and how many there are.
func Lanes(e *Engine) (idle, all int) {
	l := e.links[0]
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.idle), len(l.lanes)
}

// LaneFrom is the usual length of a run from which it gets a lane beside others.
const LaneFrom = laneFrom

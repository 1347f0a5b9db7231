package queue

import (
	"maps"
	"time"
)

// LittleWork is how much work in hand makes no difference between workers: it is done before a second one has woken.
const LittleWork = 250 * time.Microsecond

// lane is one worker: what it was sent and has not answered. Guarded by Fair.mu.
type lane struct {
	worker string
	runs   int64   // that it carries out at the same time
	work   int64   // nanoseconds expected of what is in hand
	parts  int64   // of runs in hand
	alone  bool    // what is in hand wants nothing beside it
	pools  []*Pool // with requests that wait for it among others

	speed float64 // execution time done per time while somebody waited; starts at runs
	since int64   // when the present measurement began; 0 while nobody waits
	done  int64   // execution time in it
}

const (
	measureFor = int64(100 * time.Millisecond) // shortest time that a lane's speed is taken from
	slowest    = 0.05                          // of its runs: a lane that answers nothing for a while has not stopped for good
)

// measure learns how fast the lane works off a queue. What is done while nobody waits says nothing.
func (l *lane) measure(now, cost int64) {
	switch {
	case len(l.pools) == 0:
		l.since = 0
		return
	case l.since == 0:
		l.since, l.done = max(1, now), 0
		return
	}
	l.done += cost
	if elapsed := now - l.since; elapsed >= measureFor {
		seen := float64(l.done) / float64(elapsed)
		l.speed = max(l.speed+(seen-l.speed)/4, slowest*float64(l.runs))
		l.since, l.done = now, 0
	}
}

// next is the line whose turn it is in this lane.
func (l *lane) next() *line {
	best := l.pools[0].lines[0]
	for _, p := range l.pools[1:] {
		if e := p.lines[0]; e.before(best.order) {
			best = e
		}
	}
	return best.node
}

// Pool is a set of workers that the same requests may go to, in the order of preference. It never changes.
type Pool struct {
	lanes  []*lane
	lines  tree[*line]     // guarded by Fair.mu: those of the tenants that wait for it
	byFlow map[*Flow]*line // the same
}

// poolsKept is how many pools there may be before those that nobody waits for are forgotten. A forgotten one still works:
// whoever has it and whoever gets a new one for the same workers share these workers' lanes.
const poolsKept = 4096

// Pool finds the pool of some workers. Each carries out Config.Runs runs at the same time.
func (f *Fair) Pool(workers []string) *Pool {
	var key []byte
	for _, w := range workers {
		key = append(append(key, w...), 0)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.pools[string(key)]; p != nil {
		return p
	}
	p := &Pool{byFlow: map[*Flow]*line{}}
	for _, w := range workers {
		l := f.lanes[w]
		if l == nil {
			l = &lane{worker: w, runs: int64(f.config.Runs), speed: float64(f.config.Runs)}
			f.lanes[w] = l
		}
		p.lanes = append(p.lanes, l)
	}
	if len(f.pools) >= poolsKept {
		maps.DeleteFunc(f.pools, func(_ string, p *Pool) bool { return len(p.lines) == 0 })
	}
	f.pools[string(key)] = p
	return p
}

// speed is the execution time that the pool works off per time.
func (p *Pool) speed() float64 {
	sum := 0.0
	for _, l := range p.lanes {
		sum += l.speed
	}
	return max(sum, slowest)
}

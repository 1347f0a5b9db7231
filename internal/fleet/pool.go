package fleet

import (
	"strconv"

	"github.com/penstock/penstock/api"
)

// statePooled is a worker's place in a pool that nobody uses: it has no process.
const statePooled = "free"

// A pool is workers that hold the instances of one tenant or one endpoint alone. Its places are made at the start and stand
// free until somebody asks for a pool, so that there are never more workers than were allowed for. Pool 0 is everybody's.

// addPools makes the places of the pools.
func (c *Controller) addPools() {
	if c.config.InProcess != nil {
		return
	}
	for pool := range c.config.Pools {
		for i := range c.config.PoolWorkers {
			c.slots = append(c.slots, &slot{name: "p" + strconv.Itoa(pool+1) + "w" + strconv.Itoa(i+1), number: len(c.slots), pool: pool + 1, state: statePooled})
		}
	}
}

// enroll needs mu: it finds the pool that a want asks for, or takes a free one for it.
func (c *Controller) enroll(w *want) *api.Error {
	w.pool = 0
	if w.Pool == "" || c.config.InProcess != nil {
		return nil
	}
	free := -1
	for i, name := range c.pools {
		switch {
		case name == w.Pool:
			w.pool = i
			return nil
		case i > 0 && name == "" && free < 0:
			free = i
		}
	}
	if free < 0 {
		return api.Fail(api.CodeUnavailable, w.Subject, "all %d pools of workers are in use", c.config.Pools).
			WithCure("Deploy with `--pool shared`, let another pool go, or start the server with more --pools.")
	}
	c.pools[free] = w.Pool
	w.pool = free
	for _, s := range c.slots {
		if s.pool == free {
			s.stale = s.life != nil // of who had the pool before: its successor shall find nothing of theirs
			s.state = stateStarting
			c.hint(s.name)
		}
	}
	return nil
}

// dissolve needs mu: it gives a pool up when the last want that asked for it is gone.
func (c *Controller) dissolve(pool int) {
	if pool == 0 || c.pools[pool] == "" {
		return
	}
	for _, w := range c.wants {
		if w.pool == pool {
			return
		}
	}
	c.pools[pool] = ""
	for _, s := range c.slots {
		if s.pool == pool {
			c.hint(s.name)
		}
	}
}

// used needs mu: whether a slot has a process at all.
func (c *Controller) used(s *slot) bool { return s.pool == 0 || c.pools[s.pool] != "" }

// poolSize needs mu: the workers of a pool.
func (c *Controller) poolSize(pool int) (n int) {
	for _, s := range c.slots {
		if s.pool == pool {
			n++
		}
	}
	return n
}

// retire ends the worker of a pool that nobody uses any more, or that another uses by now.
func (c *Controller) retire(s *slot, l *life) {
	c.mu.Lock()
	if c.used(s) && !s.stale || l.retired {
		c.mu.Unlock()
		return
	}
	l.retired = true
	c.mu.Unlock()
	l.end(c.config.StopGrace)
}

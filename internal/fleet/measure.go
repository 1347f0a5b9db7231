package fleet

import (
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/fleet/cache"
)

// measure needs mu: it brings the sizes of a worker's copies up to date with what it told, and the budget with what it takes
// beside them. Models take what the runtime's allocator says; the process takes what the system says; the difference (the
// runtime itself, what the allocator keeps, requests) is nobody's, but has to fit as well.
func (c *Controller) measure(s *slot, l *life, told []engine.InstanceStats, asked time.Time) {
	seen := make(map[string]int64, len(told))
	for i := range told {
		seen[told[i].Instance] = told[i].Bytes
	}
	var sum int64
	for instance, h := range s.held {
		if h.stage != ready || h.loaded.After(asked) {
			continue
		}
		bytes, there := seen[instance]
		if !there {
			c.config.Log.Error("worker has lost a model", "worker", s.name, "instance", instance)
			c.remove(h)
			c.settle(h.want)
			continue
		}
		if bytes > 0 {
			sum += bytes
			h.bytes = bytes
			c.resize(h.want)
		}
	}
	if l.private > 0 {
		beside := max(0, l.private-sum)
		if l.beside > 0 {
			beside = (l.beside + beside) / 2
		}
		l.beside = beside
		c.allow()
	}
}

// resize needs mu: a want's size is that of its largest copy.
func (c *Controller) resize(w *want) {
	size := cache.Size{}
	for _, h := range w.copies {
		size.RAM = max(size.RAM, h.bytes)
	}
	if size != (cache.Size{}) && size != w.size {
		w.size = size
		c.count(w)
		c.weigh(w)
	}
}

// leastPart is the part of the memory, one in so many, that models have whatever the workers take beside them.
const leastPart = 4

// allow needs mu: it gives the models what the workers leave of the memory.
func (c *Controller) allow() {
	if c.config.Memory == unlimited {
		return
	}
	left := c.config.Memory
	for _, s := range c.slots {
		if s.alive() {
			left.RAM -= s.life.beside
		}
	}
	left.RAM = max(left.RAM, c.config.Memory.RAM/leastPart)
	c.cache.SetBudget(left)
	c.plenty = min(c.plenty, c.sums.measure(left))
}

// untried is what a model is batched with that was loaded while a request waited for it: what batching brings is found out
// when it is loaded at leisure.
var untried = api.BatchPlan{Why: "not tried yet: the model was loaded while a request waited for it"}

// spare leaves out of a load what was found out before, and what a request that waits need not wait for.
func (c *Controller) spare(h *held, load *engine.Load) {
	if load == nil || load.Options.Chain != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w := h.want
	switch {
	case w.batch != nil && !w.untried:
		load.Known = w.batch
	case h.urgent && !w.Loaded:
		load.Known, h.untried = &untried, true
	}
}

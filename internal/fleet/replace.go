package fleet

import (
	"fmt"
	"time"

	"github.com/penstock/penstock/api"
)

// A worker is replaced when it takes more than bloatPart of all memory, one in so many, and more than bloatLeast beside its
// models, at bloatLooks looks in a row: its memory does not come back. No worker is replaced twice within bloatPause, and
// one at a time.
const (
	bloatPart  = 8
	bloatLeast = 256 << 20
	bloatLooks = 5
	bloatPause = 10 * time.Minute
)

// bloat is what a worker may take beside its models.
func (c *Controller) bloat() int64 {
	if c.config.Bloat > 0 {
		return c.config.Bloat
	}
	return max(bloatLeast, c.config.Memory.RAM/bloatPart)
}

// replace needs mu: it has the models of a worker whose memory does not come back move to others, by renew, and ends the
// worker when it holds none. Its successor starts at once. With one worker alone, models move when no request holds them,
// and requests wait for the successor.
func (c *Controller) replace(now time.Time) {
	for _, s := range c.slots {
		if s.ending {
			if s.alive() && len(s.held) == 0 && s.life.process != nil && !s.life.retired {
				l := s.life
				l.retired = true
				s.ended = now
				c.later(l.worker, fmt.Sprintf("worker %s (process %d) took %d MiB beside its models, and is replaced", l.worker, l.pid, l.beside>>20))
				c.lives.Go(func() { l.end(c.config.StopGrace) })
			}
			return
		}
	}
	for _, s := range c.slots {
		if !s.alive() || s.life.process == nil || s.life.beside <= c.bloat() {
			s.bloated = 0
			continue
		}
		s.bloated++
		if s.bloated >= bloatLooks && (s.ended.IsZero() || now.Sub(s.ended) > bloatPause) {
			s.ending, s.bloated = true, 0
			c.config.Log.Warn("worker does not give memory back: its models move", "worker", s.name, "beside_bytes", s.life.beside, "limit_bytes", c.bloat())
			return
		}
	}
}

// later needs mu: it keeps an event for when the lock is given back.
func (c *Controller) later(subject, text string) {
	c.news = append(c.news, api.Event{Kind: "worker.replaced", Subject: subject, Text: text})
}

// evictionsTold is how often it is told that models are put to sleep, at most.
const evictionsTold = time.Minute

// tellEvictions needs mu. Evictions come by the thousand: they are told of together.
func (c *Controller) tellEvictions(now time.Time) {
	n := c.evicted[evictedForRoom] + c.evicted[evictedForLess] - c.told
	if n == 0 || now.Sub(c.toldAt) < evictionsTold {
		return
	}
	since := "since the start"
	if !c.toldAt.IsZero() {
		since = "in the last " + now.Sub(c.toldAt).Round(time.Second).String()
	}
	c.told, c.toldAt = c.told+n, now
	c.news = append(c.news, api.Event{Kind: "models.evicted", Subject: "memory",
		Text: fmt.Sprintf("memory is short: %d models were put to sleep %s; %d MiB of %d are used", n, since, c.cache.Used().RAM>>20, c.cache.Budget().RAM>>20)})
}

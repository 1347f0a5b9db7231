package gateway

import (
	"sync/atomic"
	"time"
)

const (
	hangUpTick  = 100 * time.Millisecond // between two walks over the requests under way
	hangUpTicks = 8                      // the most ticks between two looks at one of them
)

// hangUps notices callers who went away before their answers, and requests whose time is over. One timer does it for all: a
// timer for each would wake the server several times for every request that waits, which costs most when most wait.
type hangUps struct {
	server *HTTP
	armed  atomic.Bool
	timer  *time.Timer
}

func newHangUps(s *HTTP) *hangUps {
	h := &hangUps{server: s}
	h.timer = time.AfterFunc(time.Hour, h.walk)
	h.timer.Stop() // until a request is served
	return h
}

// arm sees to it that a walk comes.
func (h *hangUps) arm() {
	if !h.armed.Load() && h.armed.CompareAndSwap(false, true) {
		h.timer.Reset(hangUpTick)
	}
}

// walk looks at the requests whose time has come. It comes again as long as there are any.
func (h *hangUps) walk() {
	h.armed.Store(false) // before the walk: a request that it does not see any more arms the next
	var due []*lean
	at := time.Now()
	h.server.mu.Lock()
	for l := range h.server.open {
		serving, now := l.tick(at)
		if serving {
			h.arm()
		}
		if now {
			due = append(due, l)
		}
	}
	h.server.mu.Unlock()
	for _, l := range due {
		l.look()
	}
}

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/wire/hop"
)

// StuckError is why an engine is done whose worker answers, but has a run that was told to end and does not.
type StuckError struct {
	Instance string        // whose run it is
	Late     time.Duration // since it should have ended
}

// Error says what happened.
func (e *StuckError) Error() string {
	return fmt.Sprintf("a run of %s was told to end and did not within %v", e.Instance, e.Late.Round(time.Millisecond))
}

// errMute is why an engine is done of whose connections one answers nothing, while another does.
var errMute = errors.New("one of its connections answers nothing")

// Fault says why a worker that still lives is of no use: a run that does not end, or answers that break the protocol, after
// which nothing it says can be believed. nil while it is in use, and when it hung up.
func (e *Engine) Fault() error {
	err := e.Err()
	var stuck *StuckError
	if errors.As(err, &stuck) {
		return stuck
	}
	for _, broken := range []error{hop.ErrMagic, hop.ErrVersion, hop.ErrKind, hop.ErrOversize, hop.ErrMalformed, hop.ErrUnknownID, hop.ErrOrder, hop.ErrStalled, errMute} {
		if errors.Is(err, broken) {
			return fmt.Errorf("its answers cannot be trusted: %w", err)
		}
	}
	return nil
}

// pingPatience is how long a worker with an overdue run may take to show that it reads at all. One that does not is stopped,
// or the machine is overloaded: that is no run's fault, and who watches over the workers' health sees to it.
const pingPatience = 5 * time.Second

// mutePatience is how long a connection may take to answer when another has just answered.
const mutePatience = time.Second

// watch looks after requests that were given up and not answered yet. It costs a timer while there are any.
type watch struct {
	engine *Engine
	looks  sync.WaitGroup // under way

	mu      sync.Mutex // guards the fields below; never held together with a link's
	timer   *time.Timer
	next    time.Time // when timer ends; zero while it does not run
	stopped bool
}

// by has the requests looked at when this one is due. A look that comes earlier sets the next.
func (w *watch) by(due time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped || !w.next.IsZero() && !due.Before(w.next) {
		return
	}
	w.next = due
	if w.timer == nil {
		w.timer = time.AfterFunc(time.Until(due), w.look)
		return
	}
	w.timer.Reset(time.Until(due))
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// look is the timer's.
func (w *watch) look() {
	w.mu.Lock()
	if w.stopped {
		w.mu.Unlock()
		return
	}
	w.next = time.Time{}
	w.looks.Add(1)
	w.mu.Unlock()
	defer w.looks.Done()
	grace := w.engine.config.RunGrace
	asked := time.Now()
	late, by, next := w.engine.overdue(asked, nil)
	if late != nil {
		if !w.reads(by, pingPatience) {
			// Other connections are other goroutines of the worker: one may be lost to it, and with it the answers of runs that
			// have ended.
			if first := w.engine.links[0]; by != first && w.reads(first, pingPatience) && !w.reads(by, mutePatience) {
				w.engine.end(errMute)
				return
			}
			w.by(time.Now().Add(grace))
			return
		}
		// It reads, but perhaps only since a moment ago: a worker that was stopped, or whose machine was, slept through the grace,
		// and its runs with it. So each has a chance from here, and others while its worker waits for a processor or the ping takes long.
		now, had := time.Now(), w.engine.worked(w.engine.pid)
		late, _, next = w.engine.overdue(now, &had)
		if late != nil && now.Sub(asked) < grace/chancePart {
			w.engine.end(late)
			return
		}
		if late != nil {
			next = now.Add(grace / chancePart)
		}
	}
	if !next.IsZero() {
		w.by(next)
	}
}

const (
	chancePart = 2 // the part of the grace, one in so many, that a run has from when its worker was seen to read
	chancesMax = 8 // such times that it has at most
)

// worked is what a process had of the processors.
type worked struct {
	ran    time.Duration // by all threads
	waited time.Duration // to run, while others did
}

// workedBy asks the system, which does not know of processes that are not on this machine: all is 0 then.
func workedBy(pid int) (w worked) {
	threads, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/schedstat")
	if err != nil {
		return worked{}
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		var ran, waited time.Duration
		if _, err := fmt.Sscan(string(text), (*int64)(&ran), (*int64)(&waited)); err == nil {
			w.ran, w.waited = w.ran+ran, w.waited+waited
		}
	}
	return w
}

// another tells whether a run that is overdue gets more time: the first time in any case, and then while its worker mostly waited for a processor
// that others had, and did not have one for long enough to end.
func (c *call) another(had worked, chance time.Duration) bool {
	switch {
	case c.chances == 0:
		c.seen = had
		return true
	case c.chances >= chancesMax:
		return false
	}
	return had.waited-c.seen.waited >= time.Duration(c.chances)*chance/2 && had.ran-c.seen.ran < chance/2
}

// reads reports whether the worker answers anything by a connection.
func (w *watch) reads(by *link, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), min(patience, w.engine.patience))
	defer cancel()
	return !api.Is(w.engine.ping(ctx, by), api.CodeDeadline)
}

// overdue gives the run that should have ended longest ago, nil when there is none, and the connection that it came by; next is when
// another will be due. had is what the worker had of the processors, when it was just seen to read: runs get another chance then.
func (e *Engine) overdue(now time.Time, had *worked) (late *StuckError, by *link, next time.Time) {
	var worst time.Time
	chance := e.config.RunGrace / chancePart
	for _, l := range e.links {
		l.mu.Lock()
		for _, c := range l.pending {
			switch {
			case !c.givenUp || c.instance == "":
				continue
			case had != nil && !c.due.After(now) && c.another(*had, chance):
				c.chances, c.due = c.chances+1, now.Add(chance)
			}
			switch {
			case c.due.After(now):
				if next.IsZero() || c.due.Before(next) {
					next = c.due
				}
			case worst.IsZero() || c.due.Before(worst):
				worst, by = c.due, l
				late = &StuckError{Instance: c.instance, Late: now.Sub(c.due) + e.config.RunGrace + time.Duration(c.chances)*chance}
			}
		}
		l.mu.Unlock()
	}
	return late, by, next
}

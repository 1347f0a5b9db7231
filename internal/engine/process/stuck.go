package process

import (
	"context"
	"errors"
	"fmt"
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

// Fault says why a worker that still lives is of no use: a run that does not end, or answers that break the protocol, after
// which nothing it says can be believed. nil while it is in use, and when it hung up.
func (e *Engine) Fault() error {
	err := e.Err()
	var stuck *StuckError
	if errors.As(err, &stuck) {
		return stuck
	}
	for _, broken := range []error{hop.ErrMagic, hop.ErrVersion, hop.ErrKind, hop.ErrOversize, hop.ErrMalformed, hop.ErrUnknownID, hop.ErrOrder, hop.ErrStalled} {
		if errors.Is(err, broken) {
			return fmt.Errorf("its answers cannot be trusted: %w", err)
		}
	}
	return nil
}

// pingPatience is how long a worker with an overdue run may take to show that it reads at all. One that does not is stopped,
// or the machine is overloaded: that is no run's fault, and who watches over the workers' health sees to it.
const pingPatience = 5 * time.Second

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
	late, next := w.engine.overdue(asked, false)
	if late != nil {
		if !w.reads() {
			w.by(time.Now().Add(grace))
			return
		}
		// It reads, but perhaps only since a moment ago: a worker that was stopped, or whose machine was, slept through the grace,
		// and its runs with it. So each has a last chance from here, and another one when the ping took long.
		now := time.Now()
		late, next = w.engine.overdue(now, true)
		if late != nil && now.Sub(asked) < grace/lastChance {
			w.engine.end(late)
			return
		}
		if late != nil {
			next = now.Add(grace / lastChance)
		}
	}
	if !next.IsZero() {
		w.by(next)
	}
}

// lastChance is the part of the grace that a run has from when its worker was seen to read.
const lastChance = 2

// reads reports whether the worker answers anything.
func (w *watch) reads() bool {
	ctx, cancel := context.WithTimeout(context.Background(), pingPatience)
	defer cancel()
	err := w.engine.Ping(ctx)
	return !api.Is(err, api.CodeDeadline)
}

// overdue gives the run that should have ended longest ago, nil when there is none; next is when another will be due. When the
// worker was just seen to read, runs that had no last chance yet get theirs.
func (e *Engine) overdue(now time.Time, reads bool) (late *StuckError, next time.Time) {
	var worst time.Time
	chance := e.config.RunGrace / lastChance
	for _, l := range e.links {
		l.mu.Lock()
		for _, c := range l.pending {
			switch {
			case !c.givenUp || c.instance == "":
				continue
			case reads && !c.last && !c.due.After(now):
				c.last, c.due = true, now.Add(chance)
			}
			switch {
			case c.due.After(now):
				if next.IsZero() || c.due.Before(next) {
					next = c.due
				}
			case worst.IsZero() || c.due.Before(worst):
				worst = c.due
				late = &StuckError{Instance: c.instance, Late: now.Sub(c.due) + e.config.RunGrace}
				if c.last {
					late.Late += chance
				}
			}
		}
		l.mu.Unlock()
	}
	return late, next
}

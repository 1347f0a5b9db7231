// Package reconcile runs keyed, level-triggered loops: a key is looked at when it was hinted at, when it asked to be
// looked at again, and after a fault with growing pauses. It knows nothing of what a key means; rooms with a controller
// use it.
package reconcile

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Step looks at one key: it reads what is wanted and what is, takes one step, and says when to come back (0: only when
// hinted). An error means: come back with back-off. Steps of one key never overlap.
type Step[K comparable] func(ctx context.Context, key K) (after time.Duration, err error)

// Loop owns the goroutines that look at keys. Make it with New, then call Run once; Hint may be called at any time.
type Loop[K comparable] struct {
	name string
	step Step[K]
	max  int // steps at the same time

	mu      sync.Mutex // guards the fields below
	due     []K        // keys to look at now, in order
	queued  map[K]bool // keys in due
	busy    map[K]bool // keys being looked at; true: hinted meanwhile
	faults  map[K]int
	timers  map[K]*time.Timer
	wake    chan struct{}
	stopped bool
}

// Back-off after a fault: doubling from backoffMin to backoffMax.
const (
	backoffMin = 50 * time.Millisecond
	backoffMax = 30 * time.Second
)

// New makes a loop that takes at most concurrency steps at a time.
func New[K comparable](name string, concurrency int, step Step[K]) *Loop[K] {
	return &Loop[K]{name: name, step: step, max: max(1, concurrency),
		queued: map[K]bool{}, busy: map[K]bool{}, faults: map[K]int{}, timers: map[K]*time.Timer{},
		wake: make(chan struct{}, 1)}
}

// Hint asks for the key to be looked at soon. It never blocks; many hints for one key are one look.
func (l *Loop[K]) Hint(key K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enqueue(key)
}

// enqueue needs mu.
func (l *Loop[K]) enqueue(key K) {
	if l.stopped {
		return
	}
	if _, running := l.busy[key]; running {
		l.busy[key] = true
		return
	}
	if t := l.timers[key]; t != nil {
		t.Stop()
		delete(l.timers, key)
	}
	if l.queued[key] {
		return
	}
	l.queued[key] = true
	l.due = append(l.due, key)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run looks at keys until ctx ends, then waits for the steps under way.
func (l *Loop[K]) Run(ctx context.Context) error {
	var steps sync.WaitGroup
	slots := make(chan struct{}, l.max)
	defer func() {
		steps.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.stopped = true
		for _, t := range l.timers {
			t.Stop()
		}
	}()
	for {
		key, ok := l.next()
		if !ok {
			select {
			case <-ctx.Done():
				return nil
			case <-l.wake:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case slots <- struct{}{}:
		}
		steps.Go(func() {
			defer func() { <-slots }()
			after, err := l.step(ctx, key)
			l.done(ctx, key, after, err)
		})
	}
}

func (l *Loop[K]) next() (key K, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.due) == 0 {
		return key, false
	}
	key = l.due[0]
	l.due = l.due[1:]
	delete(l.queued, key)
	l.busy[key] = false
	return key, true
}

func (l *Loop[K]) done(ctx context.Context, key K, after time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	hinted := l.busy[key]
	delete(l.busy, key)
	if err != nil && ctx.Err() == nil {
		l.faults[key]++
		after = min(backoffMax, backoffMin<<min(l.faults[key]-1, 16))
		slog.Warn("loop step failed", "loop", l.name, "key", key, "faults", l.faults[key], "again_in", after, "error", err)
	} else {
		delete(l.faults, key)
	}
	switch {
	case hinted:
		l.enqueue(key)
	case after > 0 && !l.stopped && ctx.Err() == nil:
		var t *time.Timer
		t = time.AfterFunc(after, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.timers[key] == t {
				delete(l.timers, key)
				l.enqueue(key)
			}
		})
		l.timers[key] = t
	}
}

package expiry_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/expiry"
)

func ended(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c expiry.Context
		if c.Within(time.Now(), time.Hour) {
			t.Error("one that nobody looks at took a deadline")
		}
		c.Init(time.Now(), time.Second)
		if _, has := c.Deadline(); has || c.Err() != nil || ended(&c) {
			t.Fatal("a fresh one has a deadline, or has ended")
		}
		now := time.Now()
		if c.Within(now, 19*time.Second) {
			t.Error("a deadline that would be noticed by more than 5 % too late was set")
		}
		if !c.Within(now, 20*time.Second) || c.Within(now, time.Hour) {
			t.Error("a deadline was not set, or a second one beside it")
		}
		if by, has := c.Deadline(); !has || by.Sub(now) != 20*time.Second {
			t.Errorf("the deadline is %v, %v", by.Sub(now), has)
		}
		child, stop := context.WithCancel(&c)
		defer stop()
		c.Look(now.Add(20*time.Second - 1))
		if c.Err() != nil {
			t.Error("it ended before its time")
		}
		c.Look(now.Add(20 * time.Second))
		if !errors.Is(context.Cause(&c), context.DeadlineExceeded) || !ended(&c) {
			t.Errorf("ended by %v", context.Cause(&c))
		}
		synctest.Wait()
		if !errors.Is(child.Err(), context.DeadlineExceeded) {
			t.Errorf("its child: %v", child.Err())
		}
		c.Cancel()
		if !errors.Is(c.Err(), context.DeadlineExceeded) {
			t.Errorf("it ended a second time: %v", c.Err())
		}
	})
}

// TestWalk holds it beside a context of package context, by random steps.
func TestWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 2000 {
		synctest.Test(t, func(t *testing.T) { walk(t, random) })
	}
}

func walk(t *testing.T, random *rand.Rand) {
	var c expiry.Context
	c.Init(time.Now(), time.Millisecond)
	model, cancel := context.WithCancel(t.Context())
	defer cancel()
	var by time.Time // of the model; zero is none
	var due error
	asked := random.IntN(2) == 0 // for Done before the end
	if asked && ended(&c) {
		t.Fatal("ended at once")
	}
	var called, kept atomic.Int64
	for range random.IntN(12) {
		switch random.IntN(7) {
		case 0:
			limit := time.Duration(20+random.IntN(100)) * time.Millisecond
			if set := c.Within(time.Now(), limit); set != by.IsZero() {
				t.Fatalf("set %v with a deadline at %v", set, by)
			} else if set {
				by = time.Now().Add(limit)
			}
		case 1:
			c.Free()
			by = time.Time{}
		case 2:
			c.Cancel()
			if cancel(); due == nil {
				due = context.Canceled
			}
		case 3, 4:
			<-time.After(time.Duration(random.IntN(60)) * time.Millisecond)
			c.Look(time.Now())
			if !by.IsZero() && !time.Now().Before(by) {
				if cancel(); due == nil {
					due = context.DeadlineExceeded
				}
				by = time.Time{}
			}
		case 5:
			f := func() { called.Add(1) }
			if !c.Hook(&f) {
				t.Fatal("hooked already")
			}
			stopModel := context.AfterFunc(model, func() { kept.Add(1) })
			if random.IntN(4) == 0 {
				c.Cancel()
				cancel()
				if due == nil {
					due = context.Canceled
				}
			}
			synctest.Wait()
			if a, b := c.Unhook(&f), stopModel(); a != b {
				t.Fatalf("unhooked %v, the model %v", a, b)
			}
		default:
			stop := c.AfterFunc(func() { called.Add(1) })
			stopModel := context.AfterFunc(model, func() { kept.Add(1) })
			if random.IntN(2) == 0 {
				synctest.Wait()
				if a, b := stop(), stopModel(); a != b {
					t.Fatalf("stop gives %v, the model %v", a, b)
				}
			}
		}
		if got, has := c.Deadline(); has == by.IsZero() || has && !got.Equal(by) {
			t.Fatalf("the deadline is %v (%v), not %v", got, has, by)
		}
		if !errors.Is(c.Err(), due) {
			t.Fatalf("ended by %v, not %v", c.Err(), due)
		}
	}
	synctest.Wait()
	if called.Load() != kept.Load() || ended(&c) != (due != nil) {
		t.Fatalf("%d functions called, %d by the model; ended %v", called.Load(), kept.Load(), ended(&c))
	}
}

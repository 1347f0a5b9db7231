package reconcile_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/reconcile"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil))) // faults are what these tests are made of
	m.Run()
}

func TestHintsForOneKeyAreOneLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		l := reconcile.New("test", 1, func(context.Context, string) (time.Duration, error) { looks++; return 0, nil })
		for range 100 {
			l.Hint("a")
		}
		stop := start(t, l)
		synctest.Wait()
		if looks != 1 {
			t.Errorf("%d looks for 100 hints before the start, want 1", looks)
		}
		l.Hint("a")
		synctest.Wait()
		if looks != 2 {
			t.Errorf("%d looks after one more hint, want 2", looks)
		}
		stop()
	})
}

func TestStepsOfOneKeyNeverOverlapAndNoHintIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		running, looks := map[int]bool{}, 0
		l := reconcile.New("test", 4, func(_ context.Context, key int) (time.Duration, error) {
			mu.Lock()
			if running[key] {
				t.Errorf("key %d is looked at twice at the same time", key)
			}
			running[key] = true
			looks++
			mu.Unlock()
			<-time.After(time.Second)
			mu.Lock()
			delete(running, key)
			mu.Unlock()
			return 0, nil
		})
		stop := start(t, l)
		l.Hint(1)
		<-time.After(500 * time.Millisecond)
		l.Hint(1) // while it is being looked at: must lead to one more look
		<-time.After(5 * time.Second)
		stop()
		if looks != 2 {
			t.Errorf("%d looks, want 2", looks)
		}
	})
}

func TestComesBackAfterAndBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		begin := time.Now()
		var fail atomic.Bool
		fail.Store(true)
		l := reconcile.New("test", 1, func(context.Context, string) (time.Duration, error) {
			at = append(at, time.Since(begin))
			if fail.Load() {
				return 0, errors.New("not yet")
			}
			return time.Minute, nil
		})
		stop := start(t, l)
		l.Hint("a")
		<-time.After(400 * time.Millisecond) // looks at 0, 50, 150, 350 ms
		fail.Store(false)
		<-time.After(130 * time.Second) // 750 ms, then each minute
		stop()
		want := []time.Duration{0, 50 * time.Millisecond, 150 * time.Millisecond, 350 * time.Millisecond,
			750 * time.Millisecond, 60750 * time.Millisecond, 120750 * time.Millisecond}
		if len(at) != len(want) {
			t.Fatalf("looked at %v, want %v", at, want)
		}
		for i := range want {
			if at[i] != want[i] {
				t.Errorf("look %d at %v, want %v", i, at[i], want[i])
			}
		}
	})
}

// TestRandomHintsAlwaysEndWithAFreshLook is the promise of a level-triggered loop: after the last change of a key there
// is a look that began after it.
func TestRandomHintsAlwaysEndWithAFreshLook(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 1))
		var mu sync.Mutex
		changed, seen := map[int]int{}, map[int]int{}
		l := reconcile.New("test", 3, func(_ context.Context, key int) (time.Duration, error) {
			mu.Lock()
			now, pause, fail := changed[key], time.Duration(random.IntN(5))*time.Millisecond, random.IntN(4) == 0
			mu.Unlock()
			<-time.After(pause)
			if fail {
				return 0, errors.New("fault")
			}
			mu.Lock()
			seen[key] = now
			mu.Unlock()
			return 0, nil
		})
		stop := start(t, l)
		for range 2000 {
			mu.Lock()
			key, pause := random.IntN(8), time.Duration(random.IntN(3))*time.Millisecond
			changed[key]++
			mu.Unlock()
			l.Hint(key)
			<-time.After(pause)
		}
		<-time.After(10 * time.Minute)
		stop()
		for key, n := range changed {
			if seen[key] != n {
				t.Errorf("key %d: last look saw change %d of %d", key, seen[key], n)
			}
		}
	})
}

func start[K comparable](t *testing.T, l *reconcile.Loop[K]) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

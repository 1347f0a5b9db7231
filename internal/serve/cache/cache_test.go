package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/internal/serve/cache"
	"github.com/penstock/penstock/internal/tensor"
)

func text(s string) []tensor.Tensor {
	return []tensor.Tensor{{Name: "y", Type: tensor.Uint8, Shape: []int64{int64(len(s))}, Data: []byte(s)}}
}

// TestKey tells every two different requests apart, also those whose texts are the same when written in a row.
func TestKey(t *testing.T) {
	one := func(name string, kind tensor.Type, data string, shape ...int64) tensor.Tensor {
		return tensor.Tensor{Name: name, Type: kind, Shape: shape, Data: []byte(data)}
	}
	x := one("x", tensor.Uint8, "ab", 2)
	requests := map[string]struct {
		inputs  []tensor.Tensor
		outputs []string
	}{
		"plain":              {inputs: []tensor.Tensor{x}},
		"other bytes":        {inputs: []tensor.Tensor{one("x", tensor.Uint8, "ac", 2)}},
		"other type":         {inputs: []tensor.Tensor{one("x", tensor.Int8, "ab", 2)}},
		"other shape":        {inputs: []tensor.Tensor{one("x", tensor.Uint8, "ab", 1, 2)}},
		"other shape, again": {inputs: []tensor.Tensor{one("x", tensor.Uint8, "ab", 2, 1)}},
		"other name":         {inputs: []tensor.Tensor{one("z", tensor.Uint8, "ab", 2)}},
		"outputs":            {inputs: []tensor.Tensor{x}, outputs: []string{"y"}},
		"outputs, joined":    {inputs: []tensor.Tensor{x}, outputs: []string{"yz"}},
		"outputs, apart":     {inputs: []tensor.Tensor{x}, outputs: []string{"y", "z"}},
		"outputs, turned":    {inputs: []tensor.Tensor{x}, outputs: []string{"z", "y"}},
		"twice":              {inputs: []tensor.Tensor{x, x}},
		"bytes moved over":   {inputs: []tensor.Tensor{one("x", tensor.Uint8, "a", 1), one("x", tensor.Uint8, "bab", 3)}},
		"nothing":            {},
	}
	seen := map[cache.Key]string{}
	for name, r := range requests {
		k := cache.KeyOf(r.inputs, r.outputs)
		if other := seen[k]; other != "" {
			t.Errorf("%q and %q have one key", name, other)
		}
		seen[k] = name
		if k != cache.KeyOf(r.inputs, r.outputs) {
			t.Errorf("%q has two keys", name)
		}
	}
}

// TestAge gives an answer until the very moment that it is too old.
func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var budget cache.Budget
		c := cache.New(cache.Limits{Bytes: 1 << 20, Total: 1 << 20, TTL: time.Second}, &budget, time.Now)
		k := cache.KeyOf(text("q"), nil)
		c.Put(k, text("a")).Release()
		<-time.After(time.Second - 1)
		e := c.Get(k)
		if e == nil {
			t.Fatal("gone a nanosecond early")
		}
		<-time.After(1)
		if c.Get(k) != nil {
			t.Error("given when it was too old")
		}
		if budget.Used() == 0 || string(e.Outputs()[0].Data) != "a" {
			t.Error("an answer that is being read was let go")
		}
		e.Release()
		if budget.Used() != 0 {
			t.Errorf("%d bytes left", budget.Used())
		}
	})
}

// TestLimitsChange shrinks a cache while an answer is read: it may keep no more than it is allowed now, and the answer stays
// whole for its reader.
func TestLimitsChange(t *testing.T) {
	var budget cache.Budget
	c := cache.New(cache.Limits{Bytes: 1 << 20, Total: 1 << 20}, &budget, time.Now)
	for i := range 100 {
		c.Put(cache.KeyOf(text(fmt.Sprint(i)), nil), text(fmt.Sprintf("%04000d", i))).Release()
	}
	e := c.Get(cache.KeyOf(text("7"), nil))
	c.Set(cache.Limits{Bytes: 64 << 10, Total: 1 << 20})
	if s := c.Stats(); s.Bytes > 64<<10 || s.Entries == 0 {
		t.Errorf("%+v", s)
	}
	c.Set(cache.Limits{Bytes: 1, Total: 1 << 20})
	if s := c.Stats(); s.Entries != 0 || s.Bytes != e.Size() || string(e.Outputs()[0].Data) != fmt.Sprintf("%04000d", 7) {
		t.Errorf("%+v with one reader", s)
	}
	e.Release()
	if budget.Used() != 0 {
		t.Errorf("%d bytes left", budget.Used())
	}
}

// TestTotal: caches together never hold more than their budget, whatever each may.
func TestTotal(t *testing.T) {
	var budget cache.Budget
	limits := cache.Limits{Bytes: 1 << 20, Total: 1<<20 + 1<<19}
	a, b := cache.New(limits, &budget, time.Now), cache.New(limits, &budget, time.Now)
	for i := range 1000 {
		for _, c := range []*cache.Cache{a, b} {
			c.Put(cache.KeyOf(text(fmt.Sprint(i)), nil), text(fmt.Sprintf("%04000d", i))).Release()
			if budget.Used() > limits.Total {
				t.Fatalf("%d bytes of %d", budget.Used(), limits.Total)
			}
		}
	}
	if a.Stats().Bytes < 1<<19 || budget.Used() < limits.Total-(8<<10) {
		t.Errorf("a holds %+v, b %+v", a.Stats(), b.Stats())
	}
	a.Close()
	if budget.Used() != b.Stats().Bytes {
		t.Error("a closed cache still counts")
	}
}

// TestFlightWalk sends identical and different requests from many goroutines at random; some go away while they lead or
// wait, some runs fail. Everybody who stayed must get the answer of their own question or the run's error, no question is
// asked twice at the same time, and nothing is left behind.
func TestFlightWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for round := range 30 {
		synctest.Test(t, func(t *testing.T) { flights(t, seed+uint64(round)) })
	}
}

// errRun is a run's own failure.
var errRun = errors.New("the run failed")

func flights(t *testing.T, seed uint64) {
	const questions = 5
	var budget cache.Budget
	c := cache.New(cache.Limits{Bytes: 4 << 10, Total: 1 << 20}, &budget, time.Now)
	var running [questions]atomic.Int64
	var all sync.WaitGroup
	for g := range 40 {
		rng := rand.New(rand.NewPCG(seed, uint64(g)))
		all.Go(func() {
			for range 25 {
				<-time.After(time.Duration(rng.IntN(20)) * time.Millisecond)
				q := rng.IntN(questions)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rng.IntN(30))*time.Millisecond)
				got, err := ask(ctx, c, q, &running[q], rng)
				stayed := ctx.Err() == nil
				cancel()
				switch {
				case err == nil && got != fmt.Sprint("answer ", q):
					t.Errorf("question %d got %.20q", q, got)
				case err != nil && !errors.Is(err, errRun) && stayed:
					t.Errorf("question %d got %v, which is another's", q, err)
				}
			}
		})
	}
	all.Wait()
	c.Close()
	if budget.Used() != 0 {
		t.Errorf("%d bytes left", budget.Used())
	}
}

func ask(ctx context.Context, c *cache.Cache, q int, running *atomic.Int64, rng *rand.Rand) (string, error) {
	entry, flight, lead := c.Join(cache.KeyOf(text(fmt.Sprint(q)), nil))
	if entry == nil && !lead {
		var err error
		if entry, lead, err = flight.Wait(ctx); err != nil {
			return "", err
		}
	}
	if entry != nil {
		defer entry.Release()
		return string(entry.Outputs()[0].Data)[:len("answer 0")], nil
	}
	if !lead { // the others were left to themselves
		return fmt.Sprint("answer ", q), nil
	}
	if running.Add(1) != 1 {
		return "", errors.New("two lead at once")
	}
	select {
	case <-ctx.Done():
		running.Add(-1)
		flight.Leave()
		return "", ctx.Err()
	case <-time.After(time.Duration(rng.IntN(25)) * time.Millisecond):
	}
	running.Add(-1)
	switch n := rng.IntN(10); n {
	case 0:
		flight.Fail(errRun)
		return "", errRun
	case 1:
		flight.Part()
		return fmt.Sprint("answer ", q), nil
	}
	answer := fmt.Sprintf("answer %d%0*d", q, rng.IntN(1500), 0) // some are too large to be kept
	if e := flight.Land(text(answer)); e != nil {
		e.Release()
	}
	return answer[:len("answer 0")], nil
}

func BenchmarkKey(b *testing.B) {
	for _, size := range []int{64, 4 << 10, 600 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			in := []tensor.Tensor{{Name: "x", Type: tensor.Uint8, Shape: []int64{1, int64(size)}, Data: make([]byte, size)}}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				cache.KeyOf(in, nil)
			}
		})
	}
}

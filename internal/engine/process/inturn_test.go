package process_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/process"
	"github.com/penstock/penstock/internal/wire/hop"
	"github.com/penstock/penstock/internal/worker"
)

// crowd asks a puppet. Runs of "turns" go on one at a time, those of others together.
type crowd struct {
	*testing.T
	p       *puppet
	e       *process.Engine
	callers sync.WaitGroup
}

func newCrowd(t *testing.T) *crowd {
	c := &crowd{T: t, p: newPuppet(t)}
	c.e = dial(t, c.p.address, process.Config{})
	c.load("turns", true)
	c.load("together", false)
	return c
}

func (c *crowd) load(instance string, inTurn bool) {
	c.Helper()
	c.callers.Go(func() {
		if loaded, err := c.e.Load(c.Context(), engine.Load{Instance: instance}); err != nil || loaded.InTurn != inTurn {
			c.Errorf("load of %s: %+v, %v", instance, loaded, err)
		}
	})
	c.p.reply(c.T, c.next(hop.KindLoad), hop.Message{Loaded: hop.Loaded{InTurn: inTurn}})
	c.callers.Wait()
}

// next is what comes next by the first connection.
func (c *crowd) next(kind hop.Kind) *hop.Message {
	c.Helper()
	return c.p.next(c.T, 0, kind)
}

// ask has a request on its way.
func (c *crowd) ask(ctx context.Context, instance string, expect time.Duration) *hop.Message {
	c.Helper()
	c.callers.Go(func() { _, _ = c.e.Infer(ctx, engine.Request{Instance: instance, Expect: expect}) })
	return c.next(hop.KindInfer)
}

func (c *crowd) answer(all ...*hop.Message) {
	c.Helper()
	for _, m := range all {
		c.p.answer(c.T, m)
	}
}

// pass asks and answers.
func (c *crowd) pass(instance string, expect time.Duration) (inTurn bool) {
	c.Helper()
	m := c.ask(c.Context(), instance, expect)
	inTurn = m.InTurn
	c.answer(m)
	c.callers.Wait()
	return inTurn
}

// first is the first request that is in turn, on its way.
func (c *crowd) first(ctx context.Context, instance string) *hop.Message {
	c.Helper()
	for range 2 * process.InTurnAfter {
		m := c.ask(ctx, instance, time.Millisecond)
		if m.InTurn {
			return m
		}
		c.answer(m)
		c.callers.Wait()
	}
	c.Fatal("never told that a request is in turn")
	return nil
}

// long is the first request of a crowd that may be in turn, on its way.
func (c *crowd) long() *hop.Message {
	c.Helper()
	for range process.InTurnCrowd {
		c.pass("turns", time.Millisecond)
	}
	return c.first(c.Context(), "turns")
}

// relieved is up to which request none is in turn any more, which the worker is told by the connection that it still reads.
func (c *crowd) relieved(upTo *hop.Message) {
	c.Helper()
	if r := c.p.next(c.T, 1, hop.KindRelieve); r.ID != upTo.ID {
		c.Fatalf("up to request %d they are relieved, want %d", r.ID, upTo.ID)
	}
}

// cancelled is a request that was given up, of those in turn the last.
func (c *crowd) cancelled(last *hop.Message) {
	c.Helper()
	c.relieved(last)
	if m := c.next(hop.KindCancel); m.ID != last.ID {
		c.Errorf("request %d is cancelled, want %d", m.ID, last.ID)
	}
}

// ping has one on its way.
func (c *crowd) ping() *hop.Message {
	c.Helper()
	c.callers.Go(func() { _ = c.e.Ping(c.Context()) })
	return c.next(hop.KindPing)
}

// pending waits until answers have arrived.
func (c *crowd) pending(n int) {
	for process.Pending(c.e) > n {
		<-time.After(time.Millisecond)
	}
}

// quiet ends the test: nothing else was said by the second connection.
func (c *crowd) quiet() {
	c.Helper()
	c.callers.Wait()
	select {
	case m := <-c.p.asked[1]:
		c.Errorf("asked %+v by the second connection at the end", m)
	default:
	}
}

// TestAlone: the worker is told that a request is in turn after some that found nobody waiting, and at once when that is not so any
// more.
func TestAlone(t *testing.T) {
	for _, beside := range []string{"a run", "its like", "a ping", "none", "given up"} {
		t.Run(beside, func(t *testing.T) {
			c := newCrowd(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			instance := "together"
			if beside == "its like" {
				instance = "turns"
			}
			first := c.first(ctx, instance)
			switch beside {
			case "its like":
				second := c.ask(ctx, instance, time.Millisecond)
				c.relieved(first)
				if second.InTurn {
					t.Error("beside another, a request is said to be in turn after a short row")
				}
				c.answer(second)
			case "a run":
				second := c.ask(ctx, "together", time.Millisecond)
				c.relieved(first)
				third := c.ask(ctx, "together", time.Millisecond) // relieves nobody
				if second.InTurn || third.InTurn {
					t.Error("beside another that it could join, a request is said to be in turn")
				}
				c.answer(second, third)
			case "a ping":
				ping := c.ping()
				c.relieved(first)
				c.answer(ping)
			case "given up":
				cancel()
				c.cancelled(first)
			}
			c.answer(first)
			c.quiet()
		})
	}
	c := newCrowd(t)
	for range process.InTurnAfter {
		c.pass("together", time.Millisecond)
	}
	c.answer(c.ping()) // nobody waits, and it does not either
	c.callers.Wait()
	for expect, want := range map[time.Duration]bool{0: false, process.LaneFrom - 1: false, process.LaneFrom: true, process.InTurnBelow - 1: true, process.InTurnBelow: false} {
		if c.pass("together", expect) != want {
			t.Errorf("a run of %v is said to be in turn: %v", expect, !want)
		}
	}
	c.quiet()
}

// beside has a request beside those that wait.
func (c *crowd) beside(inTurn bool) {
	c.Helper()
	m := c.ask(c.Context(), "turns", time.Millisecond)
	if m.InTurn != inTurn {
		c.Errorf("it is said to be in turn: %v", m.InTurn)
	}
	c.answer(m)
}

// TestInTurn: requests for an instance whose runs go on one at a time are in turn beside each other, until anything else is sent.
func TestInTurn(t *testing.T) {
	for _, beside := range []string{"another's run", "one for longer", "a ping", "given up", "unloaded"} {
		t.Run(beside, func(t *testing.T) {
			c := newCrowd(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			first := c.long()
			second, third := c.ask(t.Context(), "turns", time.Millisecond), c.ask(ctx, "turns", time.Millisecond)
			if !second.InTurn || !third.InTurn {
				t.Fatal("beside another of its instance, a request is not said to be in turn")
			}
			c.answer(first)
			c.pending(2)    // each has a lane while it waits, and there are four
			inTurn := false // whether the next one should be
			switch beside {
			case "another's run":
				other := c.ask(t.Context(), "together", time.Millisecond)
				c.relieved(third)
				c.beside(false)
				c.answer(other)
			case "one for longer":
				long := c.ask(t.Context(), "turns", process.InTurnBelow)
				c.relieved(third)
				c.answer(long)
				c.pending(2)
				inTurn = true
			case "a ping":
				ping := c.ping()
				c.relieved(third)
				c.beside(false)
				c.answer(ping)
			case "given up":
				cancel()
				c.cancelled(third)
				inTurn = true
			case "unloaded":
				c.callers.Go(func() { _ = c.e.Unload(t.Context(), "turns") })
				unload := c.next(hop.KindUnload)
				c.relieved(third)
				c.answer(unload)
				c.pending(2)
			}
			c.beside(inTurn)
			c.answer(second, third)
			c.callers.Wait()
			c.answer(c.first(t.Context(), "turns")) // when the row is long enough again
			c.quiet()
		})
	}
}

// TestInTurnQueue: the time that a request was not read because another's run was before it counts as waiting.
func TestInTurnQueue(t *testing.T) {
	c := newCrowd(t)
	first := c.long()
	infer := func() (*hop.Message, <-chan *engine.Answer) {
		answers := make(chan *engine.Answer, 1)
		c.callers.Go(func() {
			a, err := c.e.Infer(t.Context(), engine.Request{Instance: "turns", Expect: time.Millisecond})
			if err != nil {
				t.Error(err)
			}
			answers <- a
		})
		return c.next(hop.KindInfer), answers
	}
	second, behind := infer()
	const long = 20 * time.Millisecond
	<-time.After(long)
	c.answer(first)
	c.pending(1)
	third, last := infer()
	c.answer(second)
	if a := <-behind; a.Queue < long {
		t.Errorf("%v behind a run of %v", a.Queue, long)
	}
	c.p.reply(t, third, hop.Message{Queue: time.Hour})
	if a := <-last; a.Queue != time.Hour { // the worker saw more of it
		t.Errorf("%v behind a run, of which the worker saw an hour", a.Queue)
	}
	fourth, alone := infer()
	c.p.reply(t, fourth, hop.Message{Queue: time.Nanosecond})
	if a := <-alone; a.Queue != time.Nanosecond {
		t.Errorf("%v behind nobody", a.Queue)
	}
	c.quiet()
}

// naps by turns: those of the instance "turns" one at a time, in order.
type turns struct {
	naps
	turn chan struct{}
}

func (e turns) Load(_ context.Context, load engine.Load) (engine.Loaded, error) {
	return engine.Loaded{InTurn: load.Instance == "turns"}, nil
}

func (e turns) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	if req.Instance == "turns" {
		select {
		case e.turn <- struct{}{}:
			defer func() { <-e.turn }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return e.naps.Infer(ctx, req)
}

// TestInTurnWalk has callers of an instance whose runs go on one at a time, with and without others beside them: all are answered, with
// what is their own, and nobody waits for runs of another instance.
func TestInTurnWalk(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	address, _ := serve(t, turns{naps{newMirror()}, make(chan struct{}, 1)}, worker.Config{Concurrency: 64})
	e := dial(t, address, process.Config{})
	for _, instance := range []string{"turns", "others"} {
		if loaded, err := e.Load(t.Context(), engine.Load{Instance: instance}); err != nil || loaded.InTurn != (instance == "turns") {
			t.Fatalf("load: %+v, %v", loaded, err)
		}
	}
	var callers sync.WaitGroup
	for i := range 4 {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		callers.Go(func() {
			for n := range 500 {
				inTurnRound(t, e, random, i, fmt.Appendf(nil, "%d/%d", i, n))
			}
		})
	}
	callers.Wait()
	awaitIdle(t, e)
	if err := e.Err(); err != nil {
		t.Error(err)
	}
}

// inTurnRound is one request of the walk.
func inTurnRound(t *testing.T, e *process.Engine, random *rand.Rand, caller int, own []byte) {
	length := time.Duration(300+random.IntN(1000)) * time.Microsecond
	instance := "turns"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	switch random.IntN(400) {
	case 0:
		instance, length = "others", 0
	case 1:
		defer time.AfterFunc(time.Duration(random.IntN(3000))*time.Microsecond, cancel).Stop()
	case 2:
		length = time.Duration(random.IntN(60)) * time.Millisecond
	case 3:
		if err := e.Ping(ctx); err != nil {
			t.Error(err)
		}
	case 4:
		short, stop := context.WithTimeout(ctx, time.Duration(1+random.IntN(100))*time.Millisecond)
		defer stop()
		ctx = short
	case 5:
		if caller > 0 {
			<-time.After(time.Duration(random.IntN(30)) * time.Millisecond) // others are fewer meanwhile
		}
	}
	a, err := e.Infer(ctx, engine.Request{Instance: instance, Inputs: nap(length, own), Expect: time.Millisecond})
	defer a.Release()
	if err == nil && (binary.LittleEndian.Uint32(a.Outputs[0].Data) != uint32(length.Microseconds()) || !bytes.Equal(a.Outputs[0].Data[4:], own)) {
		t.Errorf("%s got %q", own, a.Outputs[0].Data[4:])
	}
	if err != nil && ctx.Err() == nil && !api.Is(err, api.CodeDeadline) { // the worker's clock may be a little ahead
		t.Errorf("%s: %v", own, err)
	}
}

package worker_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/wire/hop"
	"github.com/penstock/penstock/internal/worker"
)

// turns is a connection with lanes, whose requests are in turn unless another one says that they are not, and the other.
type turns struct {
	*line
	other  *line
	engine *fickle
	id     uint64
}

func openTurns(t *testing.T, config worker.Config) (s *turns, stop func(), over <-chan error) {
	t.Helper()
	f := &fickle{gated: newGated()}
	other, stop, over := open(t, f, config)
	return &turns{line: other.split(), other: other, engine: f, id: 1}, stop, over
}

// inTurn sends a request that is.
func (s *turns) inTurn(data byte, budget time.Duration) (id uint64) {
	s.t.Helper()
	s.id++
	m := infer(s.id)
	m.Lane, m.InTurn, m.Budget, m.Tensors[0].Data = 1, true, budget, []byte{data}
	s.send(m)
	return s.id
}

// hang is one that waits for the gate.
func (s *turns) hang(budget time.Duration) (id uint64) {
	s.t.Helper()
	id = s.inTurn(hanging, budget)
	<-s.engine.entered
	return id
}

func (s *turns) answered(kind hop.Kind, id uint64, code api.Code) {
	s.t.Helper()
	s.expectBy(s.lanes[0], kind, id, code)
}

func (s *turns) quick() {
	s.t.Helper()
	s.answered(hop.KindInfer.Result(), s.inTurn(0, 0), "")
}

func (s *turns) relieve(id uint64) {
	s.t.Helper()
	s.other.send(hop.Message{Kind: hop.KindRelieve, ID: id})
}

// reads proves that a connection is read.
func (s *turns) reads(l *line) {
	s.t.Helper()
	s.id++
	l.send(hop.Message{Kind: hop.KindPing, ID: s.id})
	l.expect(hop.KindPing.Result(), s.id, "")
}

// ping asks whether the connection is read; the channel is closed when it is.
func (s *turns) ping() <-chan struct{} {
	s.t.Helper()
	s.id++
	id, read := s.id, make(chan struct{})
	s.send(hop.Message{Kind: hop.KindPing, ID: id})
	go func() {
		defer close(read)
		s.expect(hop.KindPing.Result(), id, "")
	}()
	return read
}

// isUnread gives a ping some time.
func isUnread(read <-chan struct{}) bool {
	select {
	case <-read:
		return false
	case <-time.After(20 * time.Millisecond):
		return true
	}
}

// unread sees that the connection is not read beside a run that is in turn, until that is relieved.
func (s *turns) unread(run uint64) {
	s.t.Helper()
	read := s.ping()
	if !isUnread(read) {
		s.t.Error("the connection is read beside a run that is in turn")
	}
	s.relieve(run)
	<-read
}

// untilUnread has a run that is in turn and relieves it, once those before it are gone, which they may not be when their answers are there.
func (s *turns) untilUnread() {
	s.t.Helper()
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); {
		run, read := s.hang(0), s.ping()
		if isUnread(read) {
			s.relieve(run)
			<-read
			return
		}
		s.open(1)
	}
	s.t.Fatal("the connection is read beside a run that is in turn")
}

// open lets runs end that hang, in any order.
func (s *turns) open(runs int) {
	s.t.Helper()
	for range runs {
		s.engine.gate <- struct{}{}
	}
	for range runs {
		m, err := s.lanes[0].Next()
		if err != nil || m.Kind != hop.KindInfer.Result() {
			s.t.Fatalf("got %+v, %v", m, err)
		}
		m.Release()
	}
}

func (s *turns) end(stop func(), over <-chan error) {
	s.t.Helper()
	stop()
	if err := <-over; err != nil {
		s.t.Error(err)
	}
}

// TestInTurnIsRelieved: a run that is in turn keeps its connection from being read until it is relieved, and from then on is one like
// any other: it can be cancelled, has its deadline and is answered.
func TestInTurnIsRelieved(t *testing.T) {
	defer worker.WithoutWatch()()
	s, stop, over := openTurns(t, worker.Config{})
	s.quick()

	stuck := s.hang(0)
	s.relieve(stuck)
	s.reads(s.line)
	s.send(hop.Message{Kind: hop.KindCancel, ID: stuck})
	s.answered(hop.KindFailure, stuck, api.CodeCanceled)
	s.quick()

	early := s.id + 2 // behind the ping
	s.relieve(early)
	s.reads(s.other)
	if got := s.hang(0); got != early {
		t.Fatalf("request %d, want %d", got, early)
	}
	s.reads(s.line)
	s.engine.gate <- struct{}{}
	s.answered(hop.KindInfer.Result(), early, "")

	s.relieve(early) // nobody's any more
	s.reads(s.other)
	s.quick()

	const budget = 20 * time.Millisecond
	long := s.hang(0)
	<-time.After(2 * budget) // what the watch saw of this run is not the next one's
	s.engine.gate <- struct{}{}
	s.answered(hop.KindInfer.Result(), long, "")
	began := time.Now()
	late := s.hang(budget)
	s.relieve(late)
	s.answered(hop.KindFailure, late, api.CodeDeadline)
	if took := time.Since(began); took < budget {
		t.Errorf("a run with %v had its deadline after %v", budget, took)
	}
	s.quick()

	// Beside a run that is not in turn, none is.
	m := infer(1 << 40)
	m.Tensors[0].Data = []byte{hanging}
	s.other.send(m)
	<-s.engine.entered
	second := s.hang(0)
	s.reads(s.line)
	close(s.engine.gate)
	s.answered(hop.KindInfer.Result(), second, "")
	s.other.expect(hop.KindInfer.Result(), 1<<40, "")
	s.end(stop, over)
}

// TestInTurnBehind: one behind another that was taken over keeps the connection from being read as that did.
func TestInTurnBehind(t *testing.T) {
	defer worker.WithoutWatch()()
	s, stop, over := openTurns(t, worker.Config{})
	s.relieve(s.hang(0) + 1) // up to one that never comes
	s.reads(s.line)
	second := s.hang(0) // in the engine beside the first, which this one allows
	s.unread(second)
	s.open(2)

	// Who is relieved stays so, whatever comes later, and so do those before.
	next := s.id + 2 // behind the ping
	s.relieve(next + 1)
	s.relieve(next - 1)
	s.reads(s.other)
	if got := s.hang(0); got != next {
		t.Fatalf("request %d, want %d", got, next)
	}
	s.reads(s.line)
	s.open(1)
	s.end(stop, over)
}

// TestInTurnAndQuick: the watch looks after runs of both kinds, of which one may take longer.
func TestInTurnAndQuick(t *testing.T) {
	defer worker.WithoutWatch()()
	s, stop, over := openTurns(t, worker.Config{})
	load(s.line)
	for range 3 {
		s.quick()
		s.id++
		m := infer(s.id)
		m.Lane, m.Tensors[0].Data = 1, []byte{hanging}
		s.send(m)
		<-s.engine.entered
		s.reads(s.line) // nobody had to relieve it
		s.open(1)
		s.untilUnread()
		s.open(1)
	}
	s.end(stop, over)
}

// TestInTurnAgain: another gateway's requests have ids of their own, of which none is relieved.
func TestInTurnAgain(t *testing.T) {
	defer worker.WithoutWatch()()
	s, stop, over := openTurns(t, worker.Config{})
	s.relieve(1 << 60)
	s.reads(s.other)
	s.hang(0)
	s.reads(s.line)
	s.open(1)
	for until, unread := time.Now().Add(10*time.Second), false; !unread; { // those before may not be gone at once
		if time.Now().After(until) {
			t.Fatal("another gateway's requests are not in turn")
		}
		_ = s.conn.Close()
		_ = s.other.conn.Close()
		s.other = dial(t, s.other.address)
		s.other.send(hop.Message{Kind: hop.KindHello, ID: 1, Token: "token"})
		s.other.expect(hop.KindHello.Result(), 1, "")
		s.line, s.id = s.other.split(), 1
		s.hang(0)
		read := s.ping()
		unread = isUnread(read)
		s.open(1)
		<-read
	}
	s.end(stop, over)
}

// TestInTurnTooLong: nobody has to relieve a run that takes long.
func TestInTurnTooLong(t *testing.T) {
	s, stop, over := openTurns(t, worker.Config{})
	stuck := s.hang(0)
	s.reads(s.line)
	s.send(hop.Message{Kind: hop.KindCancel, ID: stuck})
	s.answered(hop.KindFailure, stuck, api.CodeCanceled)
	late := s.hang(50 * time.Millisecond)
	s.answered(hop.KindFailure, late, api.CodeDeadline)
	s.hang(0)
	s.conn.Close() // only its end can end this one
	s.end(stop, over)
}

// TestInTurnWithoutLanes: on a connection that has none, saying so changes nothing.
func TestInTurnWithoutLanes(t *testing.T) {
	defer worker.WithoutWatch()()
	s, stop, over := openTurns(t, worker.Config{})
	m := infer(2)
	m.InTurn, m.Tensors[0].Data = true, []byte{hanging}
	s.other.send(m)
	<-s.engine.entered
	s.reads(s.other)
	s.engine.gate <- struct{}{}
	s.other.expect(hop.KindInfer.Result(), 2, "")
	s.end(stop, over)
}

// TestInTurnWalk has runs that are in turn relieved at random, early and late, and cancelled: each is answered exactly once.
func TestInTurnWalk(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	defer worker.WithoutWatch()()
	s, stop, over := openTurns(t, worker.Config{})
	for range 1000 {
		next := s.id + 1
		if random.IntN(4) == 0 {
			s.relieve(next) // before it, or in the middle
		}
		if random.IntN(2) == 0 {
			s.quick()
			continue
		}
		s.hang(time.Hour)
		if random.IntN(2) == 0 {
			s.relieve(next)
			s.send(hop.Message{Kind: hop.KindCancel, ID: next})
			s.answered(hop.KindFailure, next, api.CodeCanceled)
			continue
		}
		s.engine.gate <- struct{}{}
		s.answered(hop.KindInfer.Result(), next, "")
		if random.IntN(4) == 0 {
			s.relieve(next) // after it
		}
	}
	s.end(stop, over)
}

// TestSpare: who wants to know whether requests run in turn is told when they begin to, and when they have not for some time.
func TestSpare(t *testing.T) {
	told := make(chan bool, 16)
	s, stop, over := openTurns(t, worker.Config{Spare: func(inTurn bool) { told <- inTurn }})
	together := func() {
		t.Helper()
		s.id++
		s.other.send(infer(s.id))
		s.other.expect(hop.KindInfer.Result(), s.id, "")
	}
	for round := range 3 {
		s.quick()
		if !<-told {
			t.Fatalf("round %d: told that they do not", round)
		}
		long := 0
		for range 2 { // not for long, unless the machine is busy
			began := time.Now()
			together()
			s.quick()
			if time.Since(began) >= worker.SpareFor {
				long++
			}
		}
		for quiet := false; !quiet; {
			select {
			case got := <-told:
				if long--; long < 0 || got || !<-told {
					t.Fatalf("round %d: told %v although they do", round, got)
				}
			case <-time.After(2 * worker.SpareFor):
				quiet = true
			}
		}
		began := time.Now()
		if round == 1 {
			stuck := s.hang(0)
			s.relieve(stuck)
			s.engine.gate <- struct{}{}
			s.answered(hop.KindInfer.Result(), stuck, "")
		} else {
			together()
		}
		if <-told {
			t.Fatalf("round %d: told twice that they do", round)
		}
		if took := time.Since(began); took < worker.SpareFor {
			t.Errorf("round %d: told after %v", round, took)
		}
	}
	s.end(stop, over)
}

package worker_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/wire/hop"
	"github.com/penstock/penstock/internal/worker"
)

// sole is a connection with lanes, whose requests are alone unless another one says that they are not, and the other.
type sole struct {
	*line
	other  *line
	engine *fickle
	id     uint64
}

func openSole(t *testing.T, config worker.Config) (s *sole, stop func(), over <-chan error) {
	t.Helper()
	f := &fickle{gated: newGated()}
	other, stop, over := open(t, f, config)
	return &sole{line: other.split(), other: other, engine: f, id: 1}, stop, over
}

// alone sends a request that says it is.
func (s *sole) alone(data byte, budget time.Duration) (id uint64) {
	s.t.Helper()
	s.id++
	m := infer(s.id)
	m.Lane, m.Alone, m.Budget, m.Tensors[0].Data = 1, true, budget, []byte{data}
	s.send(m)
	return s.id
}

// hang is one that waits for the gate.
func (s *sole) hang(budget time.Duration) (id uint64) {
	s.t.Helper()
	id = s.alone(hanging, budget)
	<-s.engine.entered
	return id
}

func (s *sole) answered(kind hop.Kind, id uint64, code api.Code) {
	s.t.Helper()
	s.expectBy(s.lanes[0], kind, id, code)
}

func (s *sole) quick() {
	s.t.Helper()
	s.answered(hop.KindInfer.Result(), s.alone(0, 0), "")
}

func (s *sole) relieve(id uint64) {
	s.t.Helper()
	s.other.send(hop.Message{Kind: hop.KindRelieve, ID: id})
}

// reads proves that a connection is read.
func (s *sole) reads(l *line) {
	s.t.Helper()
	s.id++
	l.send(hop.Message{Kind: hop.KindPing, ID: s.id})
	l.expect(hop.KindPing.Result(), s.id, "")
}

func (s *sole) end(stop func(), over <-chan error) {
	s.t.Helper()
	stop()
	if err := <-over; err != nil {
		s.t.Error(err)
	}
}

// TestAloneIsRelieved: a run that is alone keeps its connection from being read until it is relieved, and from then on is one like
// any other: it can be cancelled, has its deadline and is answered.
func TestAloneIsRelieved(t *testing.T) {
	defer worker.WithoutWatch()()
	s, stop, over := openSole(t, worker.Config{})
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
	s.relieve(1 << 60)
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

	// Beside another's run nobody is alone.
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

// TestAloneTooLong: nobody has to relieve a run that takes long.
func TestAloneTooLong(t *testing.T) {
	s, stop, over := openSole(t, worker.Config{})
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

// TestAloneWithoutLanes: on a connection that has none, saying so changes nothing.
func TestAloneWithoutLanes(t *testing.T) {
	defer worker.WithoutWatch()()
	s, stop, over := openSole(t, worker.Config{})
	m := infer(2)
	m.Alone, m.Tensors[0].Data = true, []byte{hanging}
	s.other.send(m)
	<-s.engine.entered
	s.reads(s.other)
	s.engine.gate <- struct{}{}
	s.other.expect(hop.KindInfer.Result(), 2, "")
	s.end(stop, over)
}

// TestAloneWalk has runs that are alone relieved at random, early and late, and cancelled: each is answered exactly once.
func TestAloneWalk(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	defer worker.WithoutWatch()()
	s, stop, over := openSole(t, worker.Config{})
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

// TestSpare: who wants to know whether requests come alone is told when several in a row did, and when one does not.
func TestSpare(t *testing.T) {
	told := make(chan bool, 16)
	s, stop, over := openSole(t, worker.Config{Spare: func(alone bool) { told <- alone }})
	for round := range 3 {
		for range worker.SpareAfter - 1 {
			s.quick()
		}
		select {
		case got := <-told:
			t.Fatalf("round %d: told %v too early", round, got)
		default:
		}
		for len(told) == 0 { // the one before may not have been done with yet, and ended the row
			s.quick()
		}
		if !<-told {
			t.Fatalf("round %d: told that they do not come alone", round)
		}
		if round == 1 {
			stuck := s.hang(0)
			s.relieve(stuck)
			s.engine.gate <- struct{}{}
			s.answered(hop.KindInfer.Result(), stuck, "")
		} else {
			s.id++
			s.other.send(infer(s.id))
			s.other.expect(hop.KindInfer.Result(), s.id, "")
		}
		if <-told {
			t.Fatalf("round %d: told twice that they come alone", round)
		}
	}
	s.end(stop, over)
}

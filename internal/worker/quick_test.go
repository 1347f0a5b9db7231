package worker_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/wire/hop"
	"github.com/penstock/penstock/internal/worker"
)

// fickle answers at once, so that its runs count as quick, except to requests that ask it to wait for its gate.
type fickle struct{ *gated }

// hanging is what such a request holds.
const hanging = 8

func (f *fickle) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	if req.Inputs[0].Data[0] == hanging {
		return f.gated.Infer(ctx, req)
	}
	a := engine.NewAnswer(req.Inputs, nil)
	a.Compute = time.Microsecond
	return a, nil
}

// load makes the instance known, as a gateway does.
func load(l *line) {
	l.send(hop.Message{Kind: hop.KindLoad, ID: 1, Load: hop.Load{Instance: "a"}})
	l.expect(hop.KindLoad.Result(), 1, "")
}

// TestAQuickRunThatTakesLong lets an instance learned as quick hang in the reading goroutine: the connection goes on
// being read, and the request can be cancelled, has its deadline and is answered.
func TestAQuickRunThatTakesLong(t *testing.T) {
	f := &fickle{gated: newGated()}
	l, stop, over := open(t, f, worker.Config{})
	load(l)
	id := uint64(1)
	quick := func() {
		t.Helper()
		for range 3 {
			id++
			l.send(infer(id))
			l.expect(hop.KindInfer.Result(), id, "")
		}
	}
	hang := func(budget time.Duration) uint64 {
		id++
		m := infer(id)
		m.Budget, m.Tensors[0].Data = budget, []byte{hanging}
		l.send(m)
		<-f.entered
		return id
	}
	ping := func() {
		t.Helper()
		id++
		l.send(hop.Message{Kind: hop.KindPing, ID: id})
		l.expect(hop.KindPing.Result(), id, "")
	}
	quick()
	stuck := hang(time.Hour)
	ping()
	l.send(hop.Message{Kind: hop.KindCancel, ID: stuck})
	l.expect(hop.KindFailure, stuck, api.CodeCanceled)
	quick()
	l.expect(hop.KindFailure, hang(20*time.Millisecond), api.CodeDeadline)
	quick()
	stuck = hang(0)
	ping()
	f.gate <- struct{}{}
	l.expect(hop.KindInfer.Result(), stuck, "")
	quick()
	hang(0)
	l.conn.Close() // only its end can end this one
	stop()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// TestQuickWalk mixes quick, slow and cancelled requests on one connection: each is answered exactly once.
func TestQuickWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	f := &fickle{gated: newGated()}
	f.entered = make(chan struct{}, 1<<16)
	l, stop, over := open(t, f, worker.Config{})
	load(l)
	open := map[uint64]bool{}
	var slow []uint64 // not cancelled yet, the oldest first
	answered := make(chan uint64, 1<<16)
	go func() {
		defer close(answered)
		for {
			m, err := l.reader.Next()
			if err != nil {
				return
			}
			answered <- m.ID
			m.Release()
		}
	}()
	take := func(id uint64) {
		if !open[id] {
			t.Fatalf("request %d answered twice, or never asked", id)
		}
		delete(open, id)
	}
	for id := uint64(2); id < 2000; id++ {
		open[id] = true
		m := infer(id)
		m.Budget = time.Hour
		hangs := random.IntN(20) == 0
		if hangs {
			m.Tensors[0].Data = []byte{hanging}
			slow = append(slow, id)
		}
		l.send(m)
		if !hangs && random.IntN(2) == 0 {
			for len(open) > len(slow) { // quick ones in hand
				take(<-answered)
			}
		}
		if len(slow) > 2 || len(slow) > 0 && random.IntN(10) == 0 {
			l.send(hop.Message{Kind: hop.KindCancel, ID: slow[0]})
			for open[slow[0]] {
				take(<-answered)
			}
			slow = slow[1:]
		}
	}
	close(f.gate)
	for len(open) > 0 {
		take(<-answered)
	}
	stop()
	if err := <-over; err != nil {
		t.Error(err)
	}
	if id, more := <-answered; more {
		t.Errorf("request %d answered twice", id)
	}
}

// TestUsual: single runs that were interrupted do not make a quick instance slow, nor do single short ones make a slow one
// quick; and one that changes is seen within some tens of runs.
func TestUsual(t *testing.T) {
	const short, long = 5 * time.Microsecond, 5 * time.Millisecond
	mix := func(n int, every int, most, some time.Duration) (runs []time.Duration) {
		for i := range n {
			runs = append(runs, most)
			if i%every == every-1 {
				runs[i] = some
			}
		}
		return runs
	}
	for _, c := range []struct {
		name  string
		runs  []time.Duration
		quick bool
		most  time.Duration // of what is usual; 0 is no bound
	}{
		{"none", nil, false, 0},
		{"first", mix(1, 2, short, 0), true, short},
		{"first long", mix(1, 2, long, 0), false, 0},
		{"interrupted", mix(10000, 10, short, long), true, 4 * short},
		{"two of five long", slices.Concat(mix(200, 5, short, long), slices.Repeat([]time.Duration{long, short, long, short, short}, 200)), false, 0},
		{"short ones between", mix(10000, 10, long, short), false, 0},
		{"becomes long", slices.Concat(mix(1000, 2, short, short), mix(20, 2, long, long)), false, 0},
		{"becomes quick", slices.Concat(mix(1000, 2, long, long), mix(60, 2, short, short)), true, 0},
	} {
		usual, quick, _ := worker.Usual(c.runs)
		if quick != c.quick || c.most > 0 && usual > c.most {
			t.Errorf("%s: usually %v, quick %v", c.name, usual, quick)
		}
	}
}

// TestWorthJoining: runs that were joined do not make it worth joining, nor do the four of ten that were interrupted.
func TestWorthJoining(t *testing.T) {
	const short, between, long = 5 * time.Microsecond, 50 * time.Microsecond, time.Millisecond
	joined := slices.Repeat([]time.Duration{long}, 100)
	runs := slices.Repeat([]time.Duration{short, long, short, long, short}, 1000)
	if usual, _, worth := worker.Usual(runs, joined...); worth || usual != long {
		t.Errorf("runs usually take %v, worth joining %v", usual, worth)
	}
	if usual, quick, worth := worker.Usual(slices.Repeat([]time.Duration{between}, 10)); !worth || !quick {
		t.Errorf("runs usually take %v, quick %v, worth joining %v", usual, quick, worth)
	}
}

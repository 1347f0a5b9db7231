package process_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/process"
	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/worker"
)

// deaf is an engine whose runs of "deaf" do not listen to their contexts; they end when the test says so.
type deaf struct {
	*mirror
	release chan struct{}
}

func (d *deaf) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	if req.Instance == "deaf" {
		d.entered <- req.Instance
		<-d.release
		return engine.NewAnswer(req.Inputs, nil), nil
	}
	return d.mirror.Infer(ctx, req)
}

// stuck serves a deaf engine and makes one run of it overdue for its caller, with the limit given.
func stuck(t *testing.T, grace, limit time.Duration) (d *deaf, e *process.Engine) {
	t.Helper()
	return stuckBehind(t, grace, limit, nil, func(address string) string { return address })
}

// stuckBehind does so behind something that passes on what comes to the address that it gives. had, when set, is what the
// worker's process had of the processors.
func stuckBehind(t *testing.T, grace, limit time.Duration, had func() (ran, waited time.Duration), behind func(address string) string) (d *deaf, e *process.Engine) {
	t.Helper()
	d = &deaf{mirror: newMirror(), release: make(chan struct{})}
	address, stop := serve(t, d, worker.Config{})
	t.Cleanup(stop)
	e = dial(t, behind(address), process.Config{RunGrace: grace})
	if had != nil {
		e.SetWorked(had)
	}
	t.Cleanup(func() {
		select {
		case <-d.release:
		default:
			close(d.release)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := e.Infer(ctx, engine.Request{Instance: "deaf", Limit: limit}); !api.Is(err, api.CodeDeadline) {
		t.Fatalf("the caller of a run that does not end: %v", err)
	}
	<-d.entered
	return d, e
}

// TestARunThatDoesNotEnd: its caller has its deadline; then the worker is given up, with those that are with it, and the
// reason has a name.
func TestARunThatDoesNotEnd(t *testing.T) {
	d, e := stuck(t, 20*time.Millisecond, 0)
	peer := make(chan error, 1)
	go func() {
		_, err := e.Infer(t.Context(), engine.Request{Instance: "hang"})
		peer <- err
	}()
	if err := <-peer; !api.Is(err, api.CodeWorkerLost) {
		t.Errorf("a peer: %v", err) // serve sends it elsewhere
	}
	<-e.Done()
	var why *process.StuckError
	if !errors.As(e.Err(), &why) || why.Instance != "deaf" || why.Late < 20*time.Millisecond || e.Fault() == nil {
		t.Errorf("reason %v", e.Err())
	}
	close(d.release)
}

// TestARunThatEndsInTime: one that ends within the grace, or that may still go on by its own limit, costs nobody a worker.
func TestARunThatEndsInTime(t *testing.T) {
	d, e := stuck(t, time.Hour, 0)
	close(d.release)
	if err := e.Ping(t.Context()); err != nil || e.Fault() != nil {
		t.Error(err, e.Fault())
	}
	d, e = stuck(t, time.Millisecond, time.Hour)
	for range 20 { // longer than the grace
		<-time.After(time.Millisecond)
		if err := e.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	close(d.release)
	_ = e.Close()
}

// TestAWorkerThatStoodStill: a worker that was stopped for all of the grace reads before its run has ended; that is no run's
// fault, and the run has another chance from there.
func TestAWorkerThatStoodStill(t *testing.T) {
	var gate sync.RWMutex // held to let nothing pass
	d, e := stuckBehind(t, time.Second, 0, nil, func(address string) string { return relay(t, address, &gate) })
	gate.Lock()
	<-time.After(1200 * time.Millisecond)
	gate.Unlock()
	if err := e.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-time.After(20 * time.Millisecond) // the worker has read, and the run goes on
	close(d.release)
	if err := e.Ping(t.Context()); err != nil || e.Fault() != nil {
		t.Error(err, e.Fault())
	}
	if _, err := e.Infer(t.Context(), engine.Request{Instance: "m"}); err != nil {
		t.Error(err)
	}
}

// TestAMuteConnection: of two connections the one that has large requests answers nothing any more. Its run has ended, and is not blamed; the
// worker is given up, since its answers are lost.
func TestAMuteConnection(t *testing.T) {
	address, stop := serve(t, newMirror(), worker.Config{})
	t.Cleanup(stop)
	var none, gate sync.RWMutex
	var connections atomic.Int32
	e := dial(t, relayEach(t, address, func() *sync.RWMutex {
		if connections.Add(1) == 2 {
			return &gate
		}
		return &none
	}), process.Config{RunGrace: 50 * time.Millisecond})
	e.SetPatience(100 * time.Millisecond)
	large := engine.Request{Instance: "m", Inputs: []tensor.Tensor{{Name: "x", Type: tensor.Uint8, Shape: []int64{process.Large}, Data: make([]byte, process.Large)}}}
	answer, err := e.Infer(t.Context(), large)
	if err != nil {
		t.Fatal(err)
	}
	answer.Release()
	gate.Lock()
	defer gate.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := e.Infer(ctx, large); !api.Is(err, api.CodeDeadline) {
		t.Fatal(err)
	}
	<-e.Done()
	var run *process.StuckError
	if errors.As(e.Err(), &run) || e.Fault() == nil || !strings.Contains(e.Fault().Error(), "one of its connections answers nothing") {
		t.Errorf("%v; fault %v", e.Err(), e.Fault())
	}
}

// TestARunThatWaitsForAProcessor: while others have the processors that its worker wants, a run that does not end is no run's fault; but
// that is believed for a while only.
func TestARunThatWaitsForAProcessor(t *testing.T) {
	const grace = 100 * time.Millisecond
	direct := func(address string) string { return address }
	began := time.Now()
	_, e := stuckBehind(t, grace, 0, func() (ran, waited time.Duration) { return 0, time.Since(began) }, direct)
	<-e.Done()
	var why *process.StuckError
	if took := time.Since(began); took < 4*grace || !errors.As(e.Err(), &why) || why.Late < 4*grace {
		t.Errorf("given up after %v: %v", took, e.Err())
	}
	// Twice the grace is longer than the first chance; the last ends after five times the grace.
	d, e := stuckBehind(t, 4*grace, 0, func() (ran, waited time.Duration) { return 0, time.Duration(time.Now().UnixNano()) }, direct)
	<-time.After(8 * grace)
	close(d.release)
	if err := e.Ping(t.Context()); err != nil || e.Fault() != nil {
		t.Error(err, e.Fault())
	}
}

// TestAnotherChance: the first is everybody's; then it takes a worker that waited for half of the time, and had not half a chance's time to run.
func TestAnotherChance(t *testing.T) {
	const chance = 100 * time.Millisecond
	for _, c := range []struct {
		before      int
		ran, waited time.Duration
		another     bool
	}{
		{0, time.Hour, 0, true},
		{1, 0, chance, true},
		{1, 0, chance / 2, true},
		{1, 0, chance/2 - 1, false}, // it slept
		{2, 0, chance, true},
		{2, 0, chance - 1, false},
		{1, chance/2 - 1, chance / 2, true},
		{1, chance / 2, chance / 2, false}, // it had its time
		{7, 0, time.Hour, true},
		{8, 0, time.Hour, false},
	} {
		if got := process.Another(c.before, c.ran, c.waited, chance); got != c.another {
			t.Errorf("after %d chances, %v run, %v waited: %v", c.before, c.ran, c.waited, got)
		}
	}
}

// TestWorked: the system knows how long this process ran and waited.
func TestWorked(t *testing.T) {
	before, _ := process.Worked(os.Getpid())
	for until := time.Now().Add(50 * time.Millisecond); time.Now().Before(until); {
	}
	if after, _ := process.Worked(os.Getpid()); after <= before {
		t.Errorf("it ran for %v before, %v after", before, after)
	}
	if ran, waited := process.Worked(1 << 30); ran != 0 || waited != 0 {
		t.Errorf("no process ran for %v and waited for %v", ran, waited)
	}
}

// relay passes on what comes to an address of its own, in both directions, while the gate is open.
func relay(t *testing.T, to string, gate *sync.RWMutex) string {
	t.Helper()
	return relayEach(t, to, func() *sync.RWMutex { return gate })
}

// relayEach is relay with a gate for each connection.
func relayEach(t *testing.T, to string, gateOf func() *sync.RWMutex) string {
	t.Helper()
	address := filepath.Join(t.TempDir(), "r.sock")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	pass := func(from, to net.Conn, gate *sync.RWMutex) {
		defer from.Close()
		defer to.Close()
		b := make([]byte, 4096)
		for {
			n, err := from.Read(b)
			if err != nil {
				return
			}
			gate.RLock()
			_, err = to.Write(b[:n])
			gate.RUnlock()
			if err != nil {
				return
			}
		}
	}
	all.Go(func() {
		for {
			here, err := l.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial("unix", to)
			if err != nil {
				here.Close()
				return
			}
			gate := gateOf()
			all.Go(func() { pass(here, there, gate) })
			all.Go(func() { pass(there, here, gate) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return address
}

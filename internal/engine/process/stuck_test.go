package process_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/process"
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
	return stuckBehind(t, grace, limit, func(address string) string { return address })
}

// stuckBehind does so behind something that passes on what comes to the address that it gives.
func stuckBehind(t *testing.T, grace, limit time.Duration, behind func(address string) string) (d *deaf, e *process.Engine) {
	t.Helper()
	d = &deaf{mirror: newMirror(), release: make(chan struct{})}
	address, stop := serve(t, d, worker.Config{})
	t.Cleanup(stop)
	e = dial(t, behind(address), process.Config{RunGrace: grace})
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
	d, e := stuckBehind(t, time.Second, 0, func(address string) string { return relay(t, address, &gate) })
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

// relay passes on what comes to an address of its own, in both directions, while the gate is open.
func relay(t *testing.T, to string, gate *sync.RWMutex) string {
	t.Helper()
	address := filepath.Join(t.TempDir(), "r.sock")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	pass := func(from, to net.Conn) {
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
			all.Go(func() { pass(here, there) })
			all.Go(func() { pass(there, here) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return address
}

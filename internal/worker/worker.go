// Package worker serves an engine to the gateway over the hop, on a unix socket: it is what runs inside a worker
// process. It knows models and tensors, nothing of tenants' data or the store, and decides neither what is loaded nor
// when to stop. Callers: server (the worker role).
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/wire/hop"
)

// Config tunes a worker. Zero fields take their defaults.
type Config struct {
	Token       string        // shared secret that a connection has to open with; must not be empty
	Requests    int           // requests in hand at the same time, waiting ones included; default 1024
	Concurrency int           // inferences inside the engine at the same time; default twice the processors, at least 4
	Bytes       int64         // tensor bytes of requests in hand; default 512 MiB
	Connections int           // connections at the same time; default 64
	Hello       time.Duration // longest wait for a new connection's first frame; default 5 s
	Drain       time.Duration // longest wait for requests in hand when Serve's ctx ends; default 5 s
	Limits      hop.Limits    // of one frame
	Log         *slog.Logger  // default slog.Default()

	// Spare, when set, is told when requests begin to run one at a time, with nothing to do for the worker beside them, and some
	// time after they do not any more: one call at a time, at first with true.
	Spare func(inTurn bool)
}

func (c Config) orDefault() Config {
	setInt := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	setTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	setInt(&c.Requests, 1024)
	setInt(&c.Concurrency, max(4, 2*runtime.GOMAXPROCS(0)))
	setInt(&c.Connections, 64)
	setTime(&c.Hello, 5*time.Second)
	setTime(&c.Drain, 5*time.Second)
	if c.Bytes <= 0 {
		c.Bytes = 512 << 20
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// host is one Serve call.
type host struct {
	config Config
	engine engine.Engine
	pool   hop.Pool
	runs   chan struct{} // a place inside the engine
	bytes  atomic.Int64  // tensor bytes of requests in hand
	costs  sync.Map      // by instance: *cost

	relieved atomic.Uint64 // up to which request none is in turn any more; written with mu held
	spare    spare

	mu       sync.Mutex // guards the fields below
	draining bool
	count    int            // requests in hand
	turns    int            // those of them that came in turn
	requests sync.WaitGroup // the same, to wait for; Add only while not draining
	links    map[*link]struct{}
}

// Serve answers on the listener until ctx ends, then refuses new requests, lets those in hand finish within
// Config.Drain and returns nil. It returns an error when the listener or the engine ends first. It closes the listener;
// the engine stays its caller's.
func Serve(ctx context.Context, listener net.Listener, eng engine.Engine, config Config) error {
	if config.Token == "" {
		_ = listener.Close()
		return errors.New("worker: serve without a token")
	}
	h := &host{config: config.orDefault(), engine: eng, links: map[*link]struct{}{}}
	h.runs = make(chan struct{}, h.config.Concurrency)
	h.spare.tell = h.config.Spare
	var failed error
	accepting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	unhook := context.AfterFunc(accepting, func() { _ = listener.Close() })
	defer unhook()
	watch := make(chan struct{})
	go func() {
		defer close(watch)
		select {
		case <-eng.Done():
			stop(errors.New("worker: the engine ended"))
		case <-accepting.Done():
		}
	}()

	// Requests outlive ctx by the drain; what ends them early is the end of their connection or of the drain.
	serving, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	var links sync.WaitGroup
	for {
		conn, err := listener.Accept()
		if err != nil {
			if accepting.Err() == nil {
				failed = fmt.Errorf("worker: accept: %w", err)
				stop(failed)
			} else if ctx.Err() == nil {
				failed = context.Cause(accepting)
			}
			break
		}
		if l := h.open(conn); l != nil {
			links.Go(func() { l.serve(serving) })
		}
	}
	<-watch
	h.drain(kill)
	links.Wait()
	return failed
}

// open makes room for a connection, or closes it when there are too many.
func (h *host) open(conn net.Conn) *link {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining || len(h.links) >= h.config.Connections {
		h.config.Log.Warn("worker: connection refused", "open", len(h.links), "limit", h.config.Connections)
		_ = conn.Close()
		return nil
	}
	if len(h.links) == 0 {
		h.relieved.Store(0) // another gateway's requests have other ids
	}
	l := newLink(h, conn)
	h.links[l] = struct{}{}
	return l
}

func (h *host) close(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.links, l)
}

// begin takes a request in hand; why says why not.
func (h *host) begin(m *hop.Message) (why refusal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.draining:
		return refuseStopping
	case h.count >= h.config.Requests:
		return refuseFull
	}
	h.count++
	if m.InTurn {
		h.turns++
	}
	h.requests.Add(1)
	return refuseNot
}

// end lets go of a request in hand.
func (h *host) end(m *hop.Message) {
	h.bytes.Add(-int64(m.Payload()))
	h.mu.Lock()
	h.count--
	if m.InTurn {
		h.turns--
	}
	h.mu.Unlock()
	h.requests.Done()
}

// isIdle reports that no request is in hand.
func (h *host) isIdle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count == 0
}

// isInTurn reports that all requests in hand came in turn.
func (h *host) isInTurn() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count == h.turns
}

// admit counts the bytes of a payload that is about to be read.
func (h *host) admit(payload int) bool {
	if h.bytes.Add(int64(payload)) <= h.config.Bytes {
		return true
	}
	h.bytes.Add(-int64(payload))
	return false
}

// drain waits for the requests in hand, stops those that take too long, and ends the connections.
func (h *host) drain(kill func()) {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	done := make(chan struct{})
	go func() {
		h.requests.Wait()
		close(done)
	}()
	patience := time.NewTimer(h.config.Drain)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
		kill()
	}
	h.mu.Lock()
	links := slices.Collect(maps.Keys(h.links))
	h.mu.Unlock()
	flush := time.NewTimer(flushLimit)
	defer flush.Stop()
	for _, l := range links { // the last answers may still be on their way to the socket
		for _, w := range l.writers() {
			select {
			case <-w.Idle():
			case <-flush.C:
				flush.Reset(0) // for all of them together
			}
		}
		l.shut(hop.ErrClosed)
	}
	<-done
}

// flushLimit is the longest that a stopping worker waits for other ends to take their last answers.
const flushLimit = time.Second

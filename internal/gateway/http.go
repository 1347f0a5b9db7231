package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// HTTP serves HTTP/1.1 with this package's limits. Requests of the plainest form to the data plane's paths are read and
// answered here, at half the cost of net/http; a connection on which anything else comes goes to net/http with all that
// was read, and stays there. So whatever can be read in two ways is read by net/http alone, behind the same guard.
type HTTP struct {
	config  Config
	handler http.Handler
	full    *http.Server
	log     *slog.Logger
	date    atomic.Pointer[date]
	handed  *handed
	hangUps *hangUps
	leans   sync.WaitGroup

	mu        sync.Mutex // guards the fields below
	open      map[*lean]struct{}
	listeners map[net.Listener]struct{}
	closing   bool
}

// HTTP makes a server for a handler, with this configuration's limits and the path guard before it.
func (c Config) HTTP(h http.Handler, log *slog.Logger) *HTTP {
	if log == nil {
		log = slog.Default()
	}
	s := &HTTP{config: c, handler: c.guardPath(h), log: log, open: map[*lean]struct{}{}, listeners: map[net.Listener]struct{}{}}
	s.hangUps = newHangUps(s)
	s.handed = &handed{conns: make(chan net.Conn), closed: make(chan struct{})}
	s.full = c.standard(s.handler, log)
	return s
}

// Standard makes a server that is net/http's alone, with the same limits and guard: for a door that sends files, which
// net/http leaves to the system.
func (c Config) Standard(h http.Handler, log *slog.Logger) *http.Server {
	if log == nil {
		log = slog.Default()
	}
	return c.standard(c.guardPath(h), log)
}

func (c Config) standard(guarded http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           guarded,
		ReadHeaderTimeout: c.HeaderTimeout,
		IdleTimeout:       c.IdleTimeout,
		// net/http allows itself 4 KiB more than it is told.
		MaxHeaderBytes: max(c.HeaderBytes-4<<10, 1),
		HTTP2:          &http.HTTP2Config{MaxConcurrentStreams: int(c.StreamsPerConn)},
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext:    connContext,

		DisableGeneralOptionsHandler: true, // "OPTIONS *" would pass by the guard
	}
}

// Limit bounds the time for a whole request and for its answer, where they are not plain ones to the data plane, which bound
// theirs by their pace. It must not be called once the server serves.
func (s *HTTP) Limit(read, write time.Duration) {
	s.full.ReadTimeout, s.full.WriteTimeout = read, write
}

// Serve answers on the listener until Shutdown or Close, and then returns http.ErrServerClosed. It closes the listener.
func (s *HTTP) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		_ = l.Close()
		return http.ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.handed.address = l.Addr()
	s.mu.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- s.full.Serve(s.handed) }()
	err := s.accept(l)
	if errors.Is(err, http.ErrServerClosed) {
		return <-ended // net/http was told to stop, too, or is about to be: were its listener shut before that, it would call it a fault
	}
	s.handed.shut()
	if full := <-ended; !errors.Is(full, net.ErrClosed) { // it ends with the listener that was just shut
		err = errors.Join(err, full)
	}
	return err
}

func (s *HTTP) accept(l net.Listener) error {
	defer l.Close()
	for pause := time.Duration(0); ; {
		c, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.begin(c)
		case s.stopped():
			return http.ErrServerClosed
		case temporary(err):
			// Out of descriptors, most likely: some will be free in a moment. This is what net/http does, too.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			wait := time.NewTimer(pause)
			<-wait.C
		default:
			return err
		}
	}
}

// temporary reports faults of one connection that say nothing about the listener.
func temporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

// begin answers on a connection.
func (s *HTTP) begin(c net.Conn) {
	own, ok := c.(*conn)
	if !ok {
		own = &conn{Conn: c, leave: func() {}}
	}
	l := newLean(s, own)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		_ = own.Close()
		return
	}
	s.open[l] = struct{}{}
	s.leans.Go(l.serve)
}

func (s *HTTP) stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

func (s *HTTP) forget(l *lean) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, l)
}

// stop takes no connection any more and ends those that wait for a request, or all of them.
func (s *HTTP) stop(all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for l := range s.listeners {
		_ = l.Close()
	}
	for l := range s.open {
		l.dismiss(all)
	}
}

// Shutdown lets requests under way end, as long as ctx does not, and takes no more.
func (s *HTTP) Shutdown(ctx context.Context) error {
	s.stop(false)
	err := s.full.Shutdown(ctx)
	done := make(chan struct{})
	go func() {
		s.leans.Wait()
		close(done)
	}()
	select {
	case <-done:
		return err
	case <-ctx.Done():
		return errors.Join(err, ctx.Err())
	}
}

// Close ends every connection.
func (s *HTTP) Close() error {
	s.stop(true)
	err := s.full.Close()
	s.leans.Wait()
	return err
}

// handed is the listener by which connections come to net/http.
type handed struct {
	conns   chan net.Conn
	once    sync.Once
	closed  chan struct{}
	address net.Addr
}

func (h *handed) shut() { h.once.Do(func() { close(h.closed) }) }

// give hands a connection over, or closes it when nobody takes it any more.
func (h *handed) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.closed:
		_ = c.Close()
	}
}

// Accept gives the next connection that was handed over.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close ends the handing over.
func (h *handed) Close() error {
	h.shut()
	return nil
}

// Addr is the address of the listener behind.
func (h *handed) Addr() net.Addr { return h.address }

// date is the Date header of one second.
type date struct {
	second int64
	text   string
}

// today gives the Date header's value.
func (s *HTTP) today(now time.Time) string {
	if d := s.date.Load(); d != nil && d.second == now.Unix() {
		return d.text
	}
	d := &date{second: now.Unix(), text: now.UTC().Format(http.TimeFormat)}
	s.date.Store(d)
	return d.text
}

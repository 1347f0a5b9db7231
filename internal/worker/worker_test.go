package worker_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/hop"
	"github.com/penstock/penstock/internal/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gated answers when its gate opens, or its context ends.
type gated struct {
	entered, gate, done chan struct{}
}

func newGated() *gated {
	return &gated{entered: make(chan struct{}, 16), gate: make(chan struct{}), done: make(chan struct{})}
}
func (g *gated) Load(context.Context, engine.Load) (engine.Loaded, error) {
	return engine.Loaded{}, nil
}
func (g *gated) Unload(context.Context, string) error { return nil }
func (g *gated) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	g.entered <- struct{}{}
	select {
	case <-g.gate:
		return engine.NewAnswer(req.Inputs, nil), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
func (g *gated) Stats(context.Context) (engine.Stats, error) { return engine.Stats{}, nil }
func (g *gated) Done() <-chan struct{}                       { return g.done }
func (g *gated) Close() error                                { return nil }

// line is a client that sees every frame.
type line struct {
	t       *testing.T
	address string
	conn    net.Conn
	writer  *hop.Writer
	reader  *hop.Reader
	lanes   []*hop.Reader // of one that split made
}

func (l *line) send(m hop.Message) {
	l.t.Helper()
	f := l.writer.Frame()
	if err := f.Encode(&m, hop.Limits{}); err != nil {
		l.t.Fatal(err)
	}
	if err := l.writer.Send(l.t.Context(), f, false); err != nil {
		l.t.Fatal(err)
	}
}

func (l *line) expect(kind hop.Kind, id uint64, code api.Code) {
	l.t.Helper()
	l.expectBy(l.reader, kind, id, code)
}

func (l *line) expectBy(r *hop.Reader, kind hop.Kind, id uint64, code api.Code) {
	l.t.Helper()
	m, err := r.Next()
	if err != nil || m.Kind != kind || m.ID != id || m.Failure.Code != string(code) {
		l.t.Fatalf("got %+v %v, want kind %d of %d %s", m, err, kind, id, code)
	}
	m.Release()
}

func (l *line) expectEnd() {
	l.t.Helper()
	if m, err := l.reader.Next(); err == nil {
		l.t.Fatalf("got %+v, want the connection's end", m)
	}
}

// open serves eng and connects to it.
func open(t *testing.T, eng engine.Engine, config worker.Config) (l *line, stop func(), over <-chan error) {
	t.Helper()
	address := filepath.Join(t.TempDir(), "w")
	listener, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	config.Token, config.Log = "token", slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- worker.Serve(ctx, listener, eng, config) }()
	l = dial(t, address)
	l.send(hop.Message{Kind: hop.KindHello, ID: 1, Token: "token"})
	l.expect(hop.KindHello.Result(), 1, "")
	return l, cancel, ended
}

func dial(t *testing.T, address string) *line {
	t.Helper()
	conn, err := net.Dial("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &line{t: t, address: address, conn: conn, writer: hop.NewWriter(conn, nil), reader: hop.NewReader(conn, new(hop.Pool), hop.Limits{})}
}

// split opens another connection, with sockets for answers.
func (l *line) split() *line {
	l.t.Helper()
	s := dial(l.t, l.address)
	theirs, ours, err := hop.NewWays()
	if err != nil {
		l.t.Fatal(err)
	}
	f := s.writer.Frame()
	if err := f.Encode(&hop.Message{Kind: hop.KindHello, ID: 1, Token: "token"}, hop.Limits{}); err != nil {
		l.t.Fatal(err)
	}
	if err := hop.SendRights(s.conn.(*net.UnixConn), f, theirs); err != nil {
		l.t.Fatal(err)
	}
	s.expect(hop.KindHello.Result(), 1, "")
	pair, err := hop.Caller(s.conn.(*net.UnixConn), ours)
	if err = errors.Join(err, theirs.Close(), ours.Close()); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { pair.Close() })
	s.conn, s.writer, s.reader = pair, hop.NewWriter(pair, nil), hop.NewReader(pair, new(hop.Pool), hop.Limits{})
	for _, lane := range pair.Lanes {
		s.lanes = append(s.lanes, hop.NewReader(lane, new(hop.Pool), hop.Limits{}))
	}
	return s
}

func infer(id uint64) hop.Message {
	return hop.Message{Kind: hop.KindInfer, ID: id, Instance: "a",
		Tensors: []tensor.Tensor{{Type: tensor.Uint8, Shape: []int64{1}, Data: []byte{7}}}}
}

func TestDrainLetsRequestsFinish(t *testing.T) {
	g := newGated()
	l, stop, over := open(t, g, worker.Config{Drain: time.Minute})
	l.send(infer(2))
	<-g.entered
	stop()
	for id := uint64(3); ; id++ { // until the drain has begun
		l.send(hop.Message{Kind: hop.KindStats, ID: id})
		m, err := l.reader.Next()
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == hop.KindFailure {
			if m.Failure.Code != string(api.CodeShuttingDown) {
				t.Fatalf("refused with %s", m.Failure.Code)
			}
			break
		}
	}
	close(g.gate)
	l.expect(hop.KindInfer.Result(), 2, "")
	l.expectEnd()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

func TestDrainStopsWhatTakesTooLong(t *testing.T) {
	g := newGated()
	l, stop, over := open(t, g, worker.Config{Drain: time.Millisecond})
	l.send(infer(2))
	<-g.entered
	stop()
	if err := <-over; err != nil {
		t.Error(err)
	}
	for { // the failure may or may not have left before the end
		if _, err := l.reader.Next(); err != nil {
			break
		}
	}
}

func TestTheEnginesEndIsTheWorkers(t *testing.T) {
	g := newGated()
	l, _, over := open(t, g, worker.Config{})
	close(g.done)
	if err := <-over; err == nil {
		t.Error("Serve told no error")
	}
	l.expectEnd()
}

func TestALostClientStopsItsRequests(t *testing.T) {
	g := newGated()
	l, stop, over := open(t, g, worker.Config{Drain: time.Minute})
	l.send(infer(2))
	<-g.entered
	l.conn.Close()
	stop()
	if err := <-over; err != nil { // within the drain only because the request was stopped
		t.Error(err)
	}
}

func TestWrongClients(t *testing.T) {
	for name, send := range map[string][]hop.Message{
		"an id twice":    {infer(2), infer(2)},
		"hello twice":    {{Kind: hop.KindHello, ID: 2, Token: "token"}},
		"an answer":      {{Kind: hop.KindPing.Result(), ID: 2}},
		"another's kind": {{Kind: hop.KindFailure, ID: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			l, stop, over := open(t, newGated(), worker.Config{})
			for _, m := range send {
				l.send(m)
			}
			l.expectEnd()
			stop()
			if err := <-over; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOneAtATimeWhenTold(t *testing.T) {
	g := newGated()
	l, stop, over := open(t, g, worker.Config{Concurrency: 1})
	l.send(infer(2))
	<-g.entered
	late := infer(3)
	late.Budget = time.Millisecond
	l.send(late)
	l.expect(hop.KindFailure, 3, api.CodeDeadline) // it never got in
	l.send(hop.Message{Kind: hop.KindCancel, ID: 99})
	l.send(hop.Message{Kind: hop.KindPing, ID: 4})
	l.expect(hop.KindPing.Result(), 4, "")
	l.send(hop.Message{Kind: hop.KindCancel, ID: 2})
	l.expect(hop.KindFailure, 2, api.CodeCanceled)
	stop()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

func TestServeNeedsAToken(t *testing.T) {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "w"))
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Serve(t.Context(), listener, newGated(), worker.Config{}); err == nil {
		t.Error("served without a token")
	}
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is not closed: %v", err)
	}
}

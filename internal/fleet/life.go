package fleet

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/process"
	"github.com/penstock/penstock/internal/provider"
)

// life is one worker process from its start to its end. In the in-process mode it has an engine and no process.
type life struct {
	worker  string
	process provider.Instance // nil in process
	engine  engine.Engine
	pid     int
	started time.Time
	words   *lastWords
	gone    chan struct{} // closed when the process is reaped and exit is set
	exit    string        // how it ended; read after gone

	retired  bool   // guarded by Controller.mu: it is told to end, since nobody uses its pool or another takes its place
	lost     bool   // guarded by Controller.mu: it does not answer any more
	runtime  string // guarded by Controller.mu
	resident int64  // guarded by Controller.mu
	private  int64  // of resident, what is the worker's alone; guarded by Controller.mu
	beside   int64  // of private, what no model accounts for, smoothed; guarded by Controller.mu
}

// birth is what a worker process is started with.
type birth struct {
	name       string
	processors []int          // those that it computes on; nil for all
	hop        process.Config // how it is talked to
}

// born starts a worker process and connects to it. What fails half way is cleaned up: no process stays behind.
func (c *Controller) born(ctx context.Context, b birth) (*life, error) {
	name := b.name
	l := &life{worker: name, started: time.Now(), gone: make(chan struct{}), words: &lastWords{log: c.config.Log, worker: name}}
	if c.config.InProcess != nil {
		l.engine, l.pid = c.config.InProcess, os.Getpid()
		return l, nil
	}
	c.mu.Lock()
	dir := c.dir
	c.mu.Unlock()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails; the program ends instead
	token := hex.EncodeToString(secret)
	address := filepath.Join(dir, name+"-"+strconv.FormatInt(c.serial.Add(1), 36)+".sock")
	env := []string{TokenVariable + "=" + token, "MALLOC_MMAP_THRESHOLD_=65536"}
	if c.config.CacheDir != "" {
		env = append(env, CacheVariable+"="+c.config.CacheDir)
	}
	var err error
	l.process, err = c.config.Provider.Start(ctx, provider.Workload{Name: name, Path: c.config.Executable,
		Args: []string{"worker", "--socket", address}, Env: append(env, c.config.Env...), Log: l.words, Limits: c.config.Limits,
		Processors: b.processors, Sandbox: c.sandbox(dir)})
	if err != nil {
		return nil, err
	}
	l.pid = l.process.PID()
	if l.engine, err = c.connect(ctx, l.process, address, token, b.hop); err != nil {
		l.process.Kill()
		<-l.process.Done()
		_ = os.Remove(address)
		return nil, fmt.Errorf("worker %s (%s): %w", name, l.words.how(l.process.Exit()), err)
	}
	_ = os.Remove(address) // the connections stand, and nobody else has to find it
	return l, nil
}

// sandbox is what a worker may reach; dir is the folder of the sockets.
func (c *Controller) sandbox(dir string) *provider.Sandbox {
	if c.config.Sandbox == nil {
		return nil
	}
	return &provider.Sandbox{Read: c.config.Sandbox.Read, Sockets: append([]string{dir}, c.config.Sandbox.Sockets...)}
}

// confinement says how the worker is held, for people.
func (l *life) confinement() (out api.Confinement) {
	if confined, ok := l.process.(provider.Confined); ok {
		out = api.Confinement(confined.Confinement())
	}
	return out
}

// The pauses between attempts to connect to a worker that has not bound its socket yet.
const (
	connectFirst = time.Millisecond
	connectMax   = 20 * time.Millisecond
)

func (c *Controller) connect(ctx context.Context, p provider.Instance, address, token string, hop process.Config) (engine.Engine, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.StartTimeout)
	defer cancel()
	for pause := connectFirst; ; pause = min(2*pause, connectMax) {
		e, err := process.Dial(ctx, address, token, hop)
		if err == nil {
			return e, nil
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-p.Done():
			again.Stop()
			return nil, fmt.Errorf("it ended before it answered: %w", err)
		case <-ctx.Done():
			again.Stop()
			return nil, fmt.Errorf("it did not answer within %v: %w", c.config.StartTimeout, err)
		}
	}
}

// reapPatience is how long a worker whose connection broke may take to end by itself before it is killed; usually its
// death is what broke the connection, and how it died is worth knowing.
const reapPatience = time.Second

// watch waits for the life's end. It calls lost as soon as the worker does not answer any more, and closes gone when
// it is known how it ended. stop matters to an engine in this process alone: a process is always waited for.
func (l *life) watch(stop <-chan struct{}, lost func()) {
	if l.process == nil {
		select {
		case <-l.engine.Done():
		case <-stop: // the engine lives on, without this fleet
		}
		lost()
		l.exit = "the engine ended"
		close(l.gone)
		return
	}
	select {
	case <-l.engine.Done():
	case <-l.process.Done():
	}
	lost()
	fault := l.fault()
	if fault != nil {
		l.process.Kill() // it would not end by itself
	}
	_ = l.engine.Close()
	patience := time.NewTimer(reapPatience)
	defer patience.Stop()
	select {
	case <-l.process.Done():
	case <-patience.C:
		l.process.Kill()
		<-l.process.Done()
	}
	l.exit = l.words.how(l.process.Exit())
	if fault != nil {
		l.exit = "killed by the server: " + fault.Error()
	}
	close(l.gone)
}

// fault says why a worker that lives cannot be gone on with; nil when it ended, or may end, by itself.
func (l *life) fault() error {
	if e, ok := l.engine.(*process.Engine); ok {
		return e.Fault()
	}
	return nil
}

// end asks the worker to end and waits until it has. An engine in this process stays its giver's.
func (l *life) end(grace time.Duration) {
	if l.process == nil {
		return
	}
	if err := l.process.Stop(context.Background(), grace); err != nil {
		l.words.log.Error("worker does not end", "worker", l.worker, "error", err)
	}
	_ = l.engine.Close()
}

// kill ends the worker at once; watch sees to the rest.
func (l *life) kill() {
	if l.process != nil {
		l.process.Kill()
	}
}

// lastWords logs what a worker writes and keeps the line that says why it died: a Go process that takes a fatal signal
// exits with status 2 and tells the signal only there.
type lastWords struct {
	log    *slog.Logger
	worker string

	mu   sync.Mutex // guards line
	line string
}

// lastWordsLimit is how much of the line is kept.
const lastWordsLimit = 200

// Write takes one line.
func (w *lastWords) Write(b []byte) (int, error) {
	line := bytes.TrimRight(b, "\r\n")
	w.log.Info("worker output", "worker", w.worker, "line", string(line))
	for _, mark := range []string{"SIG", "panic:", "fatal error:", "terminate called"} {
		if bytes.HasPrefix(line, []byte(mark)) {
			w.mu.Lock()
			if w.line == "" {
				w.line = string(bytes.ToValidUTF8(line[:min(len(line), lastWordsLimit)], nil))
			}
			w.mu.Unlock()
			break
		}
	}
	return len(b), nil
}

// how joins the exit status with the last words.
func (w *lastWords) how(exit string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.line == "" {
		return exit
	}
	return exit + ", " + w.line
}

// Package local is the provider that runs workloads as child processes of this machine: scrubbed environment, own
// process group, resource limits, and no life beyond its parent's. It sandboxes nothing further and restarts nothing
// (fleet does). Callers: server.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/provider"
)

// Provider starts child processes. Make it with New and Close it when the last child is gone or may go.
type Provider struct {
	log    *slog.Logger
	starts chan func()
	closed chan struct{}
	once   sync.Once
	thread sync.WaitGroup
	live   sync.WaitGroup // one per child, until it is reaped

	mu       sync.Mutex // guards the fields below
	closing  bool
	children map[*child]struct{}
}

var _ provider.Provider = (*Provider)(nil)

// New makes a provider and the thread that starts its children; log may be nil.
//
// A child is told to die when its parent's thread dies (PDEATHSIG is about the thread that forked, not the process).
// The Go runtime ends threads as it likes, so all starts happen on one thread that lives as long as the provider.
func New(log *slog.Logger) *Provider {
	if log == nil {
		log = slog.Default()
	}
	p := &Provider{log: log, starts: make(chan func()), closed: make(chan struct{}), children: map[*child]struct{}{}}
	p.thread.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for {
			select {
			case start := <-p.starts:
				start()
			case <-p.closed:
				return
			}
		}
	})
	return p
}

// Close kills what still runs, waits until it is reaped, and ends the thread.
func (p *Provider) Close() error {
	p.mu.Lock()
	p.closing = true
	for c := range p.children {
		c.Kill()
	}
	p.mu.Unlock()
	p.live.Wait()
	p.once.Do(func() { close(p.closed) })
	p.thread.Wait()
	return nil
}

// Start launches a workload.
func (p *Provider) Start(ctx context.Context, w provider.Workload) (provider.Instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start %s: %w", w.Name, err)
	}
	var c *child
	var err error
	ready := make(chan struct{})
	start := func() {
		defer close(ready)
		c, err = p.start(w)
	}
	select {
	case p.starts <- start:
		<-ready // a fork takes milliseconds; leaving it half way would lose a child
	case <-p.closed:
		return nil, fmt.Errorf("start %s: the provider is closed", w.Name)
	case <-ctx.Done():
		return nil, fmt.Errorf("start %s: %w", w.Name, ctx.Err())
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", w.Name, err)
	}
	return c, nil
}

// start runs on the one thread.
func (p *Provider) start(w provider.Workload) (*child, error) {
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		return nil, errors.New("the provider is closed")
	}
	p.live.Add(1)
	p.mu.Unlock()
	c, err := p.launch(w)
	if err != nil {
		p.live.Done()
		return nil, err
	}
	p.mu.Lock()
	p.children[c] = struct{}{}
	late := p.closing
	p.mu.Unlock()
	if late {
		c.Kill()
	}
	go func() {
		defer p.live.Done()
		c.reap()
		p.mu.Lock()
		delete(p.children, c)
		p.mu.Unlock()
	}()
	return c, nil
}

func (p *Provider) launch(w provider.Workload) (*child, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	command := exec.Command(w.Path, w.Args...)
	command.Env = append([]string{}, w.Env...) // not nil: nil would inherit everything
	command.Dir = "/"
	command.Stdout, command.Stderr = writer, writer
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err = p.on(w.Processors, command.Start)
	_ = writer.Close() // the child has its own
	if err != nil {
		_ = reader.Close()
		return nil, err
	}
	c := &child{name: w.Name, command: command, pid: command.Process.Pid, log: p.log, done: make(chan struct{})}
	if err := limit(c.pid, w.Limits); err != nil {
		_ = unix.Kill(-c.pid, unix.SIGKILL)
		_ = command.Wait()
		_ = reader.Close()
		return nil, err
	}
	c.output = follow(reader, w.Log)
	return c, nil
}

// on starts a child that may run on these processors alone, from its first instruction: it inherits them from the thread
// that forks it, which is ours for as long. So its runtimes, too, count no other processors.
func (p *Provider) on(processors []int, start func() error) error {
	if len(processors) == 0 {
		return start()
	}
	var before, set unix.CPUSet
	for _, n := range processors {
		set.Set(n)
	}
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read the processors: %w", err)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("use processors %v: %w", processors, err)
	}
	err := start()
	if back := unix.SchedSetaffinity(0, &before); back != nil && err == nil {
		// Later children would get the wrong processors, which costs speed and nothing else.
		p.log.Warn("provider: the starting thread stays on few processors", "error", back)
	}
	return err
}

// limit sets the limits from outside, between the child's start and Start's return. A child of ours opens nothing
// foreign before it is given work, which happens after Start: so nothing hostile runs without the limits, and no shell
// or start-up flag is needed in between.
func limit(pid int, l provider.Limits) error {
	for _, set := range []struct {
		name     string
		resource int
		value    int64
		always   bool
	}{
		{"address space", unix.RLIMIT_AS, l.MemoryBytes, false},
		{"open files", unix.RLIMIT_NOFILE, l.Files, false},
		{"processes", unix.RLIMIT_NPROC, l.Processes, false},
		{"core size", unix.RLIMIT_CORE, l.CoreBytes, true},
	} {
		if set.value <= 0 && !set.always {
			continue
		}
		value := uint64(max(set.value, 0))
		var old unix.Rlimit
		if err := unix.Prlimit(pid, set.resource, nil, &old); err != nil {
			return fmt.Errorf("read limit of %s: %w", set.name, err)
		}
		value = min(value, old.Max) // a limit may only be lowered
		if err := unix.Prlimit(pid, set.resource, &unix.Rlimit{Cur: value, Max: value}, nil); err != nil {
			return fmt.Errorf("limit %s to %d: %w", set.name, value, err)
		}
	}
	return nil
}

// child is one process and its group.
type child struct {
	name    string
	command *exec.Cmd
	pid     int
	log     *slog.Logger
	output  *output
	done    chan struct{}

	mu   sync.Mutex // guards the fields below
	gone bool       // reaped, or about to be: its number may belong to another process from now on
	exit string
}

func (c *child) PID() int              { return c.pid }
func (c *child) Done() <-chan struct{} { return c.done }

// Exit describes the end.
func (c *child) Exit() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exit
}

// Kill ends the whole group at once.
func (c *child) Kill() { c.signal(unix.SIGKILL) }

// signal goes to the group, and never to a number that is not the child's any more.
func (c *child) signal(s unix.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone {
		_ = unix.Kill(-c.pid, s)
	}
}

// Stop asks, waits, and kills.
func (c *child) Stop(ctx context.Context, grace time.Duration) error {
	c.signal(unix.SIGTERM)
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case <-c.done:
		return nil
	case <-patience.C:
	case <-ctx.Done():
	}
	c.Kill()
	select {
	case <-c.done:
		return nil
	case <-time.After(reapPatience):
		return fmt.Errorf("stop %s: process %d does not end", c.name, c.pid)
	}
}

// reapPatience is how long a killed process may take to go: the kernel may first have to give back its memory.
const reapPatience = 10 * time.Second

// reap waits for the end. It looks without reaping first: as long as the leader is a zombie its number, and so the
// group's, cannot be given to another process, and the rest of the group can be killed safely.
func (c *child) reap() {
	for {
		err := unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	c.mu.Lock()
	_ = unix.Kill(-c.pid, unix.SIGKILL)
	c.gone = true
	c.mu.Unlock()
	err := c.command.Wait()
	exit := "unknown"
	if state := c.command.ProcessState; state != nil {
		exit = state.String()
	} else if err != nil {
		exit = err.Error()
	}
	c.output.finish()
	c.mu.Lock()
	c.exit = exit
	c.mu.Unlock()
	close(c.done)
}

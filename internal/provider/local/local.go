// Package local is the provider that runs workloads as child processes of this machine: scrubbed environment, own
// process group, resource limits, a sandbox where one is asked for, and no life beyond its parent's. It restarts nothing
// (fleet does). Callers: server.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
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
	groups *groups        // nil where the system does not let us make control groups
	why    error          // why not
	live   sync.WaitGroup // one per child, until it is reaped

	mu       sync.Mutex // guards the fields below
	closing  bool
	children map[*child]struct{}
	turn     int // of the processors that limited children are put on
}

var _ provider.Provider = (*Provider)(nil)

// New makes a provider; log may be nil.
func New(log *slog.Logger) *Provider {
	if log == nil {
		log = slog.Default()
	}
	p := &Provider{log: log, children: map[*child]struct{}{}}
	for _, root := range []string{cgroupRoot, filepath.Join(cgroupRoot, "unified")} {
		if p.groups, p.why = openGroups(root, "/proc/self/cgroup"); p.why == nil {
			break
		}
	}
	return p
}

// Close kills what still runs and waits until it is reaped.
func (p *Provider) Close() error {
	p.mu.Lock()
	p.closing = true
	for c := range p.children {
		c.Kill()
	}
	p.mu.Unlock()
	p.live.Wait()
	return nil
}

// Start launches a workload. A fork takes milliseconds; ctx does not leave it half way, which would lose a child.
func (p *Provider) Start(ctx context.Context, w provider.Workload) (provider.Instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start %s: %w", w.Name, err)
	}
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		return nil, fmt.Errorf("start %s: the provider is closed", w.Name)
	}
	p.live.Add(1)
	p.mu.Unlock()
	var c *child
	var err error
	ready := make(chan struct{})
	// Each child has a thread of its own for as long as it lives. It is told to die when the thread that forked it does
	// (PDEATHSIG is about that, not the process), and what its sandbox takes from it is taken from that thread first.
	go func() {
		defer p.live.Done()
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		c, err = p.launch(w)
		close(ready)
		if err == nil {
			c.reap()
			c.watching.Wait()
			p.mu.Lock()
			delete(p.children, c)
			p.mu.Unlock()
		}
	}()
	<-ready
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", w.Name, err)
	}
	if err := p.hold(c, w.Limits); err != nil {
		c.Kill()
		<-c.done
		return nil, fmt.Errorf("start %s: %w", w.Name, err)
	}
	p.mu.Lock()
	p.children[c] = struct{}{}
	late := p.closing
	p.mu.Unlock()
	if late {
		c.Kill()
	}
	return c, nil
}

// launch runs on the child's thread.
func (p *Provider) launch(w provider.Workload) (*child, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	nothing, err := os.Open(os.DevNull)
	if err != nil {
		return nil, errors.Join(err, reader.Close(), writer.Close())
	}
	command := exec.Command(w.Path, w.Args...)
	command.Env = append([]string{}, w.Env...) // not nil: nil would inherit everything
	command.Dir = "/"
	command.Stdin, command.Stdout, command.Stderr = nothing, writer, writer
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var confinement provider.Confinement
	if w.Sandbox != nil {
		var missing error
		if confinement, missing = confine(w.Sandbox); missing != nil {
			p.log.Debug("provider: a part of the sandbox is missing", "workload", w.Name, "missing", missing)
		}
	}
	processors, limited := p.share(w)
	if limited {
		confinement.CPU = "affinity"
	}
	err = p.on(processors, command.Start)
	_, _ = writer.Close(), nothing.Close() // the child has its own
	if err != nil {
		_ = reader.Close()
		return nil, err
	}
	return &child{name: w.Name, command: command, pid: command.Process.Pid, log: p.log, confinement: confinement,
		output: follow(reader, w.Log), done: make(chan struct{})}, nil
}

// on starts a child that may run on these processors alone, from its first instruction: it inherits them from the thread
// that forks it, which is its own. So its runtimes, too, count no other processors.
func (p *Provider) on(processors []int, start func() error) error {
	if len(processors) > 0 {
		var set unix.CPUSet
		for _, n := range processors {
			set.Set(n)
		}
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("use processors %v: %w", processors, err)
		}
	}
	return start()
}

// child is one process and its group.
type child struct {
	name    string
	command *exec.Cmd
	pid     int
	log     *slog.Logger
	output  *output
	done    chan struct{}

	watching sync.WaitGroup // of its memory; Add under mu and while it is not gone

	confinement provider.Confinement

	mu     sync.Mutex // guards the fields below
	gone   bool       // reaped, or about to be: its number may belong to another process from now on
	exit   string
	group  *group // nil without one
	memory int64  // bytes, the limit that is held; 0 for none
	over   bool   // it was killed for being over it
}

func (c *child) PID() int { return c.pid }

// Confinement says how it is held.
func (c *child) Confinement() provider.Confinement {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.confinement
}

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
	if c.group != nil {
		c.over = c.over || c.group.outOfMemory()
		c.group.remove()
	}
	if c.over {
		exit = "killed by its memory limit of " + mebibytes(c.memory)
	}
	c.exit = exit
	c.mu.Unlock()
	close(c.done)
}

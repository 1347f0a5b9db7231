// Package providertest is the suite that every provider must pass. It is for tests alone and starts only /bin/sh.
// Callers: the tests of provider's drivers.
package providertest

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/provider"
)

// patience bounds every wait of the suite, so that a hang is a failure with a name.
const patience = 20 * time.Second

// Run checks a provider; each part gets its own from open.
func Run(t *testing.T, open func(t *testing.T) provider.Provider) {
	for _, part := range []struct {
		name string
		run  func(*testing.T, provider.Provider)
	}{
		{"the environment is exactly what was given", environment},
		{"an exit is told and reaped", exits},
		{"stop asks first", stopAsks},
		{"stop kills who does not listen", stopKills},
		{"kill ends the whole group", killGroup},
		{"a program that is not there", missing},
		{"start after its context ended", lateStart},
		{"limits hold", limits},
		{"output is bounded", output},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, open(t)) })
	}
}

// Log is a Workload.Log that can be read while it is written.
type Log struct {
	mu     sync.Mutex // guards the fields below
	text   bytes.Buffer
	writes int
	wake   chan struct{}
}

// Write takes a line.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes++
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
	return l.text.Write(b)
}

// String is everything so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Await waits until the log holds text.
func (l *Log) Await(t *testing.T, text string) {
	t.Helper()
	late := time.After(patience)
	for {
		l.mu.Lock()
		found := strings.Contains(l.text.String(), text)
		if l.wake == nil {
			l.wake = make(chan struct{})
		}
		wake := l.wake
		l.mu.Unlock()
		if found {
			return
		}
		select {
		case <-wake:
		case <-late:
			t.Fatalf("%q was never logged; the log has %q", text, l.String())
		}
	}
}

func shell(script string, log *Log, env ...string) provider.Workload {
	return provider.Workload{Name: "suite", Path: "/bin/sh", Args: []string{"-c", script}, Env: env, Log: log}
}

func start(t *testing.T, p provider.Provider, w provider.Workload) provider.Instance {
	t.Helper()
	i, err := p.Start(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Kill)
	return i
}

func await(t *testing.T, i provider.Instance) string {
	t.Helper()
	select {
	case <-i.Done():
	case <-time.After(patience):
		t.Fatal("the process did not end")
	}
	return i.Exit()
}

func environment(t *testing.T, p provider.Provider) {
	t.Setenv("SECRET_OF_THE_PARENT", "leaked")
	log := new(Log)
	await(t, start(t, p, shell("tr '\\0' '\\n' < /proc/$$/environ", log, "ONLY=this", "PATH=/usr/bin:/bin")))
	if got := log.String(); got != "ONLY=this\nPATH=/usr/bin:/bin\n" {
		t.Errorf("environment %q", got)
	}
}

func exits(t *testing.T, p provider.Provider) {
	for script, want := range map[string]string{"exit 0": "exit status 0", "exit 3": "exit status 3", "kill -9 $$": "signal: killed"} {
		i := start(t, p, shell(script, nil))
		if got := await(t, i); got != want {
			t.Errorf("%s: told as %q, want %q", script, got, want)
		}
		i.Kill() // must reach nobody
		if err := i.Stop(t.Context(), time.Second); err != nil {
			t.Errorf("stop after the end: %v", err)
		}
	}
	i := start(t, p, shell("read wait", nil))
	_ = i.PID()
	await(t, i) // stdin is empty: nothing of the parent's is inherited
}

func stopAsks(t *testing.T, p provider.Provider) {
	log := new(Log)
	i := start(t, p, shell("trap 'echo asked; exit 7' TERM; echo up; while :; do read -t 1 x < /dev/zero; done 2>/dev/null", log))
	log.Await(t, "up")
	if exit := i.Exit(); exit != "" {
		t.Errorf("a running process has the exit %q", exit)
	}
	if err := i.Stop(t.Context(), patience); err != nil {
		t.Fatal(err)
	}
	if got := await(t, i); got != "exit status 7" {
		t.Errorf("ended with %q", got)
	}
}

func stopKills(t *testing.T, p provider.Provider) {
	log := new(Log)
	i := start(t, p, shell("trap '' TERM; echo up; while :; do :; done", log))
	log.Await(t, "up")
	if err := i.Stop(t.Context(), 10*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if got := await(t, i); got != "signal: killed" {
		t.Errorf("ended with %q", got)
	}
}

// killGroup: the grandchild holds the log's pipe; Done within patience shows that it was killed as well.
func killGroup(t *testing.T, p provider.Provider) {
	log := new(Log)
	i := start(t, p, shell("(echo inner; while :; do :; done) & echo outer; wait", log))
	log.Await(t, "inner")
	log.Await(t, "outer")
	i.Kill()
	await(t, i)
	// A leader that ends by itself takes its group along too.
	i = start(t, p, shell("(while :; do :; done) & exit 5", log))
	if got := await(t, i); got != "exit status 5" {
		t.Errorf("ended with %q", got)
	}
}

func missing(t *testing.T, p provider.Provider) {
	if _, err := p.Start(t.Context(), provider.Workload{Name: "none", Path: "/nonexistent/program"}); err == nil {
		t.Error("started a program that does not exist")
	}
}

func lateStart(t *testing.T, p provider.Provider) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Start(ctx, shell("exit 0", nil)); err == nil {
		t.Error("started after the context ended")
	}
}

// limits: the script prints its limits when it is told to go on by a signal, that is, after Start returned.
func limits(t *testing.T, p provider.Provider) {
	log := new(Log)
	w := shell("trap 'ulimit -n; ulimit -c; ulimit -d; exit 0' USR1 TERM; echo up; while :; do :; done", log)
	w.Limits = provider.Limits{Files: 64, MemoryBytes: 1 << 30}
	i := start(t, p, w)
	log.Await(t, "up")
	if err := i.Stop(t.Context(), patience); err != nil {
		t.Fatal(err)
	}
	data := "1048576" // 1 GiB; a provider may leave room for what is asked for and not used
	if !strings.Contains(log.String(), data) {
		data = "9437184"
	}
	if confined, ok := i.(provider.Confined); ok && confined.Confinement().Memory == "cgroup" {
		data = "unlimited" // the group holds it
	}
	if got := log.String(); got != "up\n64\n0\n"+data+"\n" {
		t.Errorf("limits %q", got)
	}
}

// output: a flood and a line without end must neither block the child for ever nor fill the log.
func output(t *testing.T, p provider.Provider) {
	log := new(Log)
	i := start(t, p, shell("head -c 40000000 /dev/zero | tr '\\0' 'x'; echo; yes | head -c 40000000; echo the end", log, "PATH=/usr/bin:/bin"))
	await(t, i)
	got := log.String()
	if len(got) > 8<<20 {
		t.Errorf("%d bytes were logged", len(got))
	}
	if !strings.Contains(got, "left out") {
		t.Error("what was left out is not told")
	}
}

package local_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/provider"
	"github.com/penstock/penstock/internal/provider/local"
	"github.com/penstock/penstock/internal/provider/providertest"
)

// eaterVariable makes this binary use up memory until it is stopped.
const eaterVariable = "LOCAL_TEST_EATER"

func eat() {
	var all [][]byte
	for {
		block := make([]byte, 8<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		all = append(all, block)
		runtime.KeepAlive(all)
	}
}

// TestMemoryLimitHasAName starts a process that takes all memory that it can get.
func TestMemoryLimitHasAName(t *testing.T) {
	p := local.New(slog.New(slog.DiscardHandler))
	defer p.Close()
	i, err := p.Start(t.Context(), provider.Workload{Name: "eater", Path: os.Args[0], Env: []string{eaterVariable + "=1"}, Log: new(providertest.Log),
		Limits: provider.Limits{MemoryBytes: 256 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("held by %+v", i.(provider.Confined).Confinement())
	<-i.Done()
	if i.Exit() != "killed by its memory limit of 256 MiB" {
		t.Errorf("ended with %q", i.Exit())
	}
}

// TestProcessorLimit asks a limited child where it may run, when no control group can share out time.
func TestProcessorLimit(t *testing.T) {
	p := local.New(slog.New(slog.DiscardHandler))
	defer p.Close()
	var log providertest.Log
	i, err := p.Start(t.Context(), provider.Workload{Name: "c", Path: "/bin/sh", Log: &log, Limits: provider.Limits{Processors: 0.5},
		Args: []string{"-c", "while read name value; do case $name in Cpus_allowed_list:) echo $value;; esac; done < /proc/self/status"}})
	if err != nil {
		t.Fatal(err)
	}
	<-i.Done()
	switch how := i.(provider.Confined).Confinement().CPU; how {
	case "affinity":
		if got := strings.TrimSpace(log.String()); strings.ContainsAny(got, ",-") || got == "" {
			t.Errorf("it may run on %q", got)
		}
	case "cgroup":
	default:
		t.Errorf("held by %q", how)
	}
}

// fakeTree is a folder with the files of a control group; the system's own makes them by itself.
func fakeTree(t *testing.T, controllers, enabled string) (root, self string) {
	t.Helper()
	root = t.TempDir()
	self = filepath.Join(root, "self")
	for name, text := range map[string]string{"self": "9:name=systemd:/\n0::/service\n", "service/cgroup.controllers": controllers,
		"service/cgroup.subtree_control": enabled, "service/cgroup.procs": "1\n"} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root, self
}

// TestControlGroups checks what is asked of the system, on a folder that looks like it. What a kernel makes of it is not
// shown here.
func TestControlGroups(t *testing.T) {
	root, self := fakeTree(t, "cpu memory", "")
	if _, err := local.OpenGroups(root, self); err == nil || !strings.Contains(err.Error(), "no controller for pids") {
		t.Errorf("without a controller: %v", err)
	}
	root, self = fakeTree(t, "cpu io memory pids", "")
	leftover := filepath.Join(root, "service", "penstock-worker-1-1")
	if err := os.Mkdir(leftover, 0o755); err != nil {
		t.Fatal(err)
	}
	g, err := local.OpenGroups(root, self)
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(root, "service", "cgroup.subtree_control")); string(text) != "+memory +cpu +pids" {
		t.Errorf("asked for %q", text)
	}
	if _, err := os.Stat(leftover); !os.IsNotExist(err) {
		t.Errorf("what a killed server left is still there: %v", err)
	}
	want := map[string]string{"memory.max": "536870912", "memory.high": "503316480", "cpu.max": "150000 100000", "pids.max": "64", "memory.swap.max": "0", "memory.oom.group": "1"}
	for name, text := range local.LimitsOf(provider.Limits{MemoryBytes: 512 << 20, Processors: 1.5, Processes: 64}) {
		if want[name] != text {
			t.Errorf("%s is %q, want %q", name, text, want[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("not set: %v", want)
	}
	if err := g.Place(os.Getpid(), provider.Limits{MemoryBytes: 1 << 30}); err == nil {
		t.Error("a folder without the group's files was taken")
	}
	if left, _ := filepath.Glob(filepath.Join(root, "service", "penstock-worker-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := local.OpenGroups(root, filepath.Join(root, "none")); err == nil {
		t.Error("a process in no group was given one")
	}
}

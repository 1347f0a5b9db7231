package local_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/provider"
	"github.com/penstock/penstock/internal/provider/local"
	"github.com/penstock/penstock/internal/provider/providertest"
)

const parentVariable = "LOCAL_TEST_PARENT"

// TestMain runs this binary as a parent that starts a child, tells its number, and waits to be killed.
func TestMain(m *testing.M) {
	if os.Getenv(parentVariable) != "" {
		parent()
		return
	}
	if os.Getenv(proberVariable) != "" {
		prober()
		return
	}
	if os.Getenv(eaterVariable) != "" {
		eat()
		return
	}
	goleak.VerifyTestMain(m)
}

func parent() {
	i, err := local.New(nil).Start(context.Background(), provider.Workload{Name: "child", Path: "/bin/sh",
		Args: []string{"-c", "while :; do read -t 1 x < /dev/zero; done"}})
	if err != nil {
		fmt.Fprintln(os.Stdout, err)
		return
	}
	fmt.Fprintln(os.Stdout, i.PID())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func TestSuite(t *testing.T) {
	providertest.Run(t, func(t *testing.T) provider.Provider {
		p := local.New(slog.New(slog.DiscardHandler))
		t.Cleanup(func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
		return p
	})
}

func TestCloseKillsWhatRuns(t *testing.T) {
	p := local.New(nil)
	i, err := p.Start(t.Context(), provider.Workload{Name: "c", Path: "/bin/sh", Args: []string{"-c", "while :; do :; done"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	<-i.Done()
	if _, err := p.Start(t.Context(), provider.Workload{Name: "c", Path: "/bin/sh"}); err == nil {
		t.Error("a closed provider started a process")
	}
}

// TestRunsOnItsProcessors asks a child where it may run, and a later one, which must not inherit that.
func TestRunsOnItsProcessors(t *testing.T) {
	p := local.New(nil)
	defer p.Close()
	allowed := func(processors []int) string {
		var out strings.Builder
		i, err := p.Start(t.Context(), provider.Workload{Name: "c", Path: "/bin/sh", Log: &out, Processors: processors,
			Args: []string{"-c", "while read name value; do case $name in Cpus_allowed_list:) echo $value;; esac; done < /proc/self/status"}})
		if err != nil {
			t.Fatal(err)
		}
		<-i.Done()
		return strings.TrimSpace(out.String())
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	last := 0
	for n := range 1024 {
		if set.IsSet(n) {
			last = n
		}
	}
	before := allowed(nil)
	if got := allowed([]int{last}); got != strconv.Itoa(last) {
		t.Errorf("processors %q, want %d", got, last)
	}
	if after := allowed(nil); after != before {
		t.Errorf("processors %q after a pinned child, %q before", after, before)
	}
	if _, err := p.Start(t.Context(), provider.Workload{Name: "c", Path: "/bin/sh", Processors: []int{1023}}); err == nil {
		t.Error("a child started on a processor that is not there")
	}
}

// TestDiesWithItsParent kills a parent hard and watches its child through a pidfd, which outlives the number's reuse.
func TestDiesWithItsParent(t *testing.T) {
	command := exec.Command(os.Args[0])
	command.Env = []string{parentVariable + "=1"}
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the parent said %q", line)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, int(20*time.Second/time.Millisecond))
		if err == unix.EINTR {
			continue
		}
		if n != 1 || err != nil {
			t.Fatalf("the child outlived its parent (%v)", err)
		}
		return
	}
}

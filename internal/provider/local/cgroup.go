package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/provider"
)

const (
	groupPrefix = "penstock-" // of the groups that we make; what is left of them is removed at the next start
	groupPeriod = 100_000     // microseconds over which processor time is shared out
	cgroupRoot  = "/sys/fs/cgroup"
)

// groups is the control group that workers' groups are made in (cgroups, version 2).
type groups struct {
	dir    string
	serial atomic.Int64
}

// openGroups finds the group of this process and makes sure that groups in it can be limited. root is where the system
// shows them, self the file that names this process's own.
func openGroups(root, self string) (*groups, error) {
	text, err := os.ReadFile(self)
	if err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	own := ""
	for line := range strings.Lines(string(text)) {
		if path, found := strings.CutPrefix(strings.TrimSpace(line), "0::"); found {
			own = path
		}
	}
	if own == "" {
		return nil, errors.New("cgroups: this process is in none of version 2")
	}
	g := &groups{dir: filepath.Join(root, own)}
	if err := g.enable(); err != nil {
		return nil, err
	}
	g.sweep()
	return g, nil
}

// enable has the controllers count for groups below ours. The system wants no processes in a group that does that: where
// this one is alone in it, it moves to a group below; where others are too, the group is not ours to change.
func (g *groups) enable() error {
	wanted := []string{"memory", "cpu", "pids"}
	has := func(file string) (lacking []string, err error) {
		text, err := os.ReadFile(filepath.Join(g.dir, file))
		if err != nil {
			return nil, fmt.Errorf("cgroups: %w", err)
		}
		fields := strings.Fields(string(text))
		for _, c := range wanted {
			if !slices.Contains(fields, c) {
				lacking = append(lacking, c)
			}
		}
		return lacking, nil
	}
	lacking, err := has("cgroup.controllers")
	if err != nil {
		return err
	}
	if len(lacking) > 0 {
		return fmt.Errorf("cgroups: %s has no controller for %s", g.dir, strings.Join(lacking, ", "))
	}
	if lacking, err = has("cgroup.subtree_control"); err != nil || len(lacking) == 0 {
		return err
	}
	ask := func() error { return g.write(g.dir, "cgroup.subtree_control", "+memory +cpu +pids") }
	err = ask()
	if errors.Is(err, unix.EBUSY) && g.alone() {
		own := filepath.Join(g.dir, groupPrefix+"server")
		if err = os.Mkdir(own, 0o755); err == nil || errors.Is(err, os.ErrExist) {
			if err = g.write(own, "cgroup.procs", strconv.Itoa(os.Getpid())); err == nil {
				err = ask()
			}
		}
	}
	if err != nil {
		return fmt.Errorf("cgroups: limit groups below %s: %w", g.dir, err)
	}
	return nil
}

func (g *groups) alone() bool {
	text, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	return err == nil && strings.TrimSpace(string(text)) == strconv.Itoa(os.Getpid())
}

func (g *groups) write(dir, file, text string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// sweep removes what servers left behind that were killed. A group with processes in it cannot be removed.
func (g *groups) sweep() {
	left, _ := filepath.Glob(filepath.Join(g.dir, groupPrefix+"worker-*")) // the pattern is right
	for _, dir := range left {
		_ = unix.Rmdir(dir)
	}
}

// group is the one of a child.
type group struct {
	groups *groups
	dir    string
}

// place makes a group with these limits and moves a process into it, with all threads that it has by now.
func (g *groups) place(pid int, l provider.Limits) (*group, error) {
	dir := filepath.Join(g.dir, fmt.Sprintf("%sworker-%d-%d", groupPrefix, os.Getpid(), g.serial.Add(1)))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a cgroup: %w", err)
	}
	one := &group{groups: g, dir: dir}
	for _, set := range limitsOf(l) {
		if err := g.write(dir, set[0], set[1]); err != nil && set[2] == "" {
			one.remove()
			return nil, fmt.Errorf("limit a cgroup: %w", err)
		}
	}
	if err := g.write(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
		one.remove()
		return nil, fmt.Errorf("move into a cgroup: %w", err)
	}
	return one, nil
}

// limitsOf gives file, text and whether it may be missing. Memory is reclaimed from a sixteenth below the limit on, nothing
// is swapped out, and what goes over takes the whole group along.
func limitsOf(l provider.Limits) (sets [][3]string) {
	if l.MemoryBytes > 0 {
		sets = append(sets, [3]string{"memory.max", strconv.FormatInt(l.MemoryBytes, 10), ""},
			[3]string{"memory.high", strconv.FormatInt(l.MemoryBytes-l.MemoryBytes/16, 10), ""},
			[3]string{"memory.swap.max", "0", "may be missing"}, [3]string{"memory.oom.group", "1", "may be missing"})
	}
	if l.Processors > 0 {
		sets = append(sets, [3]string{"cpu.max", fmt.Sprintf("%d %d", int64(l.Processors*groupPeriod), groupPeriod), ""})
	}
	if l.Processes > 0 {
		sets = append(sets, [3]string{"pids.max", strconv.FormatInt(l.Processes, 10), ""})
	}
	return sets
}

// outOfMemory reports whether the system killed somebody in the group for its memory.
func (g *group) outOfMemory() bool {
	text, err := os.ReadFile(filepath.Join(g.dir, "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "oom_kill" {
			return fields[1] != "0"
		}
	}
	return false
}

// remove takes the group away once nobody is in it; what cannot be removed is at the next start.
func (g *group) remove() { _ = unix.Rmdir(g.dir) }

package local

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/provider"
)

const (
	// watchEvery is how often a child's memory is looked at where no control group holds it.
	watchEvery = 25 * time.Millisecond
	// watchRoom is how much more than its limit a watched child may ask the system for at once: what it asks for and does
	// not use, such as stacks, is not memory. What it uses above the limit ends it at the next look.
	watchRoom = 8 << 30
)

func mebibytes(n int64) string { return strconv.FormatInt(n>>20, 10) + " MiB" }

// holds says how limits would be held here.
func (p *Provider) holds(l provider.Limits) (in provider.Confinement, missing error) {
	switch {
	case p.groups != nil:
		if l.MemoryBytes > 0 {
			in.Memory = "cgroup"
		}
		if l.Processors > 0 {
			in.CPU = "cgroup"
		}
	default:
		if l.MemoryBytes > 0 {
			in.Memory = "rlimit, watch"
		}
		if l.Processors > 0 {
			in.CPU = "affinity"
		}
		if l.MemoryBytes > 0 || l.Processors > 0 {
			missing = p.why
		}
	}
	return in, missing
}

// hold puts the limits on a child that has just been started. A child of ours opens nothing foreign before it is given
// work, which happens after Start: so nothing hostile runs without the limits, and no shell or start-up flag is needed in
// between.
func (p *Provider) hold(c *child, l provider.Limits) error {
	var one *group
	in, _ := p.holds(l)
	if p.groups != nil && (l.MemoryBytes > 0 || l.Processors > 0 || l.Processes > 0) {
		var err error
		if one, err = p.groups.place(c.pid, l); err != nil {
			p.log.Warn("provider: a control group was refused", "workload", c.name, "error", err)
			in.Memory, in.CPU = "", "" // affinity was not asked for: the group was expected
			if l.MemoryBytes > 0 {
				in.Memory = "rlimit, watch"
			}
		}
	}
	rlimits := l
	switch {
	case one != nil:
		rlimits.MemoryBytes, rlimits.Processes = 0, 0
	case l.MemoryBytes > 0:
		rlimits.MemoryBytes += watchRoom
	}
	c.mu.Lock()
	if c.gone {
		c.mu.Unlock()
		if one != nil {
			one.remove()
		}
		return nil // it ended at once; Exit says how
	}
	err := limit(c.pid, rlimits)
	c.group, c.memory = one, l.MemoryBytes
	c.confinement.Memory = in.Memory
	if c.confinement.CPU == "" {
		c.confinement.CPU = in.CPU
	}
	if err == nil && one == nil && l.MemoryBytes > 0 {
		c.watching.Go(func() { c.watch(l.MemoryBytes) })
	}
	c.mu.Unlock()
	return err
}

// share gives the processors for a child, and whether they are fewer because its time is limited: where no control group
// can share out time, it gets as many processors as its limit has begun.
func (p *Provider) share(w provider.Workload) (processors []int, limited bool) {
	if len(w.Processors) > 0 || w.Limits.Processors <= 0 || p.groups != nil {
		return w.Processors, false
	}
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return nil, false
	}
	var all []int
	for n := 0; len(all) < set.Count(); n++ {
		if set.IsSet(n) {
			all = append(all, n)
		}
	}
	n := min(len(all), int(math.Ceil(w.Limits.Processors)))
	p.mu.Lock()
	first := p.turn
	p.turn = (p.turn + n) % len(all)
	p.mu.Unlock()
	for i := range n {
		processors = append(processors, all[(first+i)%len(all)])
	}
	return processors, true
}

// watch kills a child that uses more memory of its own than it may.
func (c *child) watch(most int64) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-ticker.C:
		}
		if used, err := ownMemory(c.pid); err != nil || used <= most {
			continue // an error is the process's end
		}
		c.mu.Lock()
		c.over = !c.gone
		c.mu.Unlock()
		c.Kill()
		return
	}
}

// ownMemory reads how much of a process's resident memory it shares with nobody.
func ownMemory(pid int) (int64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 3 {
		return 0, fmt.Errorf("statm of %d fields", len(fields))
	}
	resident, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0, err
	}
	shared, err := strconv.ParseInt(fields[2], 10, 64)
	return (resident - shared) * int64(os.Getpagesize()), err
}

// limit sets the system's limits from outside.
func limit(pid int, l provider.Limits) error {
	for _, set := range []struct {
		name     string
		resource int
		value    int64
		always   bool
	}{
		{"memory", unix.RLIMIT_DATA, l.MemoryBytes, false},
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

// Package provider is the seam to where workloads run: child processes of this machine today, Kubernetes later. It
// starts, watches and ends processes and knows nothing of models. Callers: fleet, server.
package provider

import (
	"context"
	"io"
	"time"
)

// Provider starts workloads. It may be called from many goroutines.
type Provider interface {
	// Start launches a workload and returns when its process exists; it may not be answering yet. ctx bounds the start
	// only: the workload outlives it and ends with Stop, Kill, or this process.
	Start(ctx context.Context, w Workload) (Instance, error)
}

// Workload says what to run. The environment is exactly Env: nothing is inherited.
type Workload struct {
	Name   string   // for logs; unique among the running
	Path   string   // program
	Args   []string // without the program's name
	Env    []string // KEY=value
	Log    io.Writer
	Limits Limits

	Processors []int // that it may run on, by the system's numbers; nil means those of this process

	Sandbox *Sandbox // what it may reach; nil: everything that this process may
}

// Sandbox takes from a workload what it has no use for: the network, new privileges, other processes, and all files but
// those named. Where the system forbids a part of that, the workload runs without that part, and Confinement says so.
type Sandbox struct {
	Read    []string // files and folders that it may read, and run programs from; those that do not exist are left out
	Sockets []string // folders in which it may make unix sockets
}

// Confinement says how a workload is held, each part in words for people; empty is not at all.
type Confinement struct {
	Network string // "namespace, seccomp", "seccomp", "landlock"
	Files   string // "landlock"
	Memory  string // "cgroup", "rlimit"
	CPU     string // "cgroup", "affinity"
}

// Confined is an Instance that knows how it is held.
type Confined interface {
	Confinement() Confinement
}

// Limits bound a workload; 0 means no limit of ours.
type Limits struct {
	MemoryBytes int64   // memory of its own, not what it shares; over it, the workload is killed or refused more
	Processors  float64 // processors' worth of time
	Files       int64   // open descriptors
	Processes   int64   // processes and threads of the user
	CoreBytes   int64   // core file; 0 forbids one
}

// Instance is a running workload.
type Instance interface {
	PID() int
	// Done is closed when the process is gone and reaped; Exit then says how it ended.
	Done() <-chan struct{}
	// Exit describes the end ("exit status 2", "signal: killed", "killed by its memory limit of 512 MiB"); empty while it runs.
	Exit() string
	// Stop asks it to end, waits up to grace, then kills its whole process group.
	Stop(ctx context.Context, grace time.Duration) error
	// Kill ends its whole process group at once.
	Kill()
}

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
}

// Limits bound a workload; 0 means no limit of ours.
type Limits struct {
	MemoryBytes int64 // address space
	Files       int64 // open descriptors
	Processes   int64 // processes and threads of the user
	CoreBytes   int64 // core file; 0 forbids one
}

// Instance is a running workload.
type Instance interface {
	PID() int
	// Done is closed when the process is gone and reaped; Exit then says how it ended.
	Done() <-chan struct{}
	// Exit describes the end ("exit status 2", "signal: killed"); empty while it runs.
	Exit() string
	// Stop asks it to end, waits up to grace, then kills its whole process group.
	Stop(ctx context.Context, grace time.Duration) error
	// Kill ends its whole process group at once.
	Kill()
}

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"

	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/batch"
	"github.com/penstock/penstock/internal/engine/chain"
	"github.com/penstock/penstock/internal/engine/onnxruntime"
	"github.com/penstock/penstock/internal/fleet"
	"github.com/penstock/penstock/internal/worker"
)

// threadsVariable tells a worker with how many threads its runtime computes.
const threadsVariable = "PENSTOCK_THREADS"

// workerRequests is the most requests that a worker has in hand.
const workerRequests = 1024

// WorkerConfig is what a worker process is started with; the rest comes in its environment, which nobody else can read.
type WorkerConfig struct {
	Socket string // path of the unix socket to serve on

	// Listen makes the listener; nil is the socket's own. Tests put faults between the worker and its connections here.
	Listen func(ctx context.Context, socket string) (net.Listener, error)
}

// RunWorker is the whole life of a worker process: it serves ONNX Runtime on its socket until ctx ends.
func RunWorker(ctx context.Context, cfg WorkerConfig, stderr io.Writer) error {
	token, cache := os.Getenv(fleet.TokenVariable), os.Getenv(fleet.CacheVariable)
	if cfg.Socket == "" || token == "" || cache == "" {
		return fmt.Errorf("workers are started by `penstock serve`, not by hand: %s, %s or --socket is missing", fleet.TokenVariable, fleet.CacheVariable)
	}
	threads, err := strconv.Atoi(os.Getenv(threadsVariable))
	if err != nil {
		threads = 1
	}
	// The workers share the processors. With the default, each would keep threads for all of them awake that look for
	// goroutines to run, on the cores that the others compute on.
	runtime.GOMAXPROCS(threads)
	log := slog.New(slog.NewTextHandler(stderr, nil))
	slog.SetDefault(log)
	if err := yieldSoon(); err != nil {
		log.Warn("the system keeps its own slices: others may wait some milliseconds for a run", "error", err)
	}
	if cfg.Listen == nil {
		cfg.Listen = func(ctx context.Context, socket string) (net.Listener, error) {
			return new(net.ListenConfig).Listen(ctx, "unix", socket)
		}
	}
	listener, err := cfg.Listen(ctx, cfg.Socket)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	// Of one model, only so many runs are in the runtime as use the processors; some of other models go on beside them, so
	// that a short one does not wait for a long one. Requests wait in the engine, not before it: that is where they are seen
	// together and form batches.
	engine := runtimeOf(onnxruntime.Config{CacheDir: cache, IntraThreads: threads, MaxRuns: max(4, 2*threads), InstanceRuns: threads, Log: log})
	err = worker.Serve(ctx, listener, engine, worker.Config{Token: token, Concurrency: workerRequests, Requests: workerRequests, Log: log,
		Spare: func(inTurn bool) { spareProcessors(threads, inTurn) }})
	return errors.Join(err, engine.Close())
}

// spareProcessors gives Go's scheduler two processors more than the runtime has threads while runs are in turn. Then there is an idle
// one, and its monitor neither takes the processor of a thread that is in a run nor has to be woken after it: it sleeps, for 10 ms
// at a time. When others come, one more is for what they do, of which the monitor would not know until it wakes, and one for the
// thread that reads. Later it would look after all of them all the time.
func spareProcessors(threads int, inTurn bool) {
	if inTurn {
		threads += 2
	}
	runtime.GOMAXPROCS(threads)
}

// runtimeOf is what runs models, wherever it does: chains of steps, around batches, around ONNX Runtime.
func runtimeOf(cfg onnxruntime.Config) engine.Engine {
	batches := batch.New(onnxruntime.New(cfg), batch.Config{Runs: cfg.IntraThreads, Log: cfg.Log})
	return chain.New(batches, chain.Config{Log: cfg.Log})
}

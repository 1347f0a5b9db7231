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
	"github.com/penstock/penstock/internal/engine/chain"
	"github.com/penstock/penstock/internal/engine/onnxruntime"
	"github.com/penstock/penstock/internal/fleet"
	"github.com/penstock/penstock/internal/worker"
)

// threadsVariable tells a worker with how many threads its runtime computes.
const threadsVariable = "PENSTOCK_THREADS"

// WorkerConfig is what a worker process is started with; the rest comes in its environment, which nobody else can read.
type WorkerConfig struct {
	Socket string // path of the unix socket to serve on
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
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", cfg.Socket)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	engine := runtimeOf(onnxruntime.Config{CacheDir: cache, IntraThreads: threads, Log: log})
	err = worker.Serve(ctx, listener, engine, worker.Config{Token: token, Log: log})
	return errors.Join(err, engine.Close())
}

// runtimeOf is what runs models, wherever it does: chains of steps around ONNX Runtime.
func runtimeOf(cfg onnxruntime.Config) engine.Engine {
	return chain.New(onnxruntime.New(cfg), chain.Config{Log: cfg.Log})
}

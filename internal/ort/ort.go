// Package ort binds ONNX Runtime's C API, as thinly as it can be: environment, sessions, runs, and nothing that knows of
// engines, models in a registry or protocols. The shared library is inside the binary and is unpacked on first use.
// Callers: the onnxruntime engine, and whatever optimizes or measures models.
package ort

// #cgo LDFLAGS: -ldl
// #cgo CFLAGS: -O2 -Wall
// #include <stdlib.h>
// #include "ort.h"
import "C"

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/cgo"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Options are the settings of the environment: one thread pool that all sessions share.
type Options struct {
	// IntraThreads work together on one operator, the calling thread included. 0: one per physical core; 1: no pool.
	IntraThreads int
	// InterThreads run operators side by side in sessions with Parallel set. Default 1: nearly every session runs its
	// operators one after the other.
	InterThreads int
	// Spin lets idle pool threads turn in a loop for a moment before they sleep: less latency, more processor time.
	// Default off, as in a server with many models it costs far more than it gains.
	Spin bool
	// Log receives ONNX Runtime's own messages; default slog.Default().
	Log *slog.Logger
	// LogLevel is the least level that ONNX Runtime produces; nil is slog.LevelWarn. Info and below are very chatty.
	LogLevel slog.Leveler
}

// process is what ONNX Runtime keeps once per process whatever we do: the loaded library and the environment. It is the
// package's only variable state; Open and Close guard it.
var process struct {
	sync.Mutex
	loaded bool
	env    *environment
}

// environment is ONNX Runtime's environment, freed when the last Runtime, Session and Result that use it are closed.
type environment struct {
	env     *C.OrtEnv
	log     cgo.Handle
	refs    int // guarded by process
	options Options
	canary  uint64 // not zero; nobody outside can know it
}

// Runtime is a use of the process's environment. Its methods may be called from many goroutines.
type Runtime struct {
	env    *environment
	closed atomic.Bool
}

// Open loads the shared library, unpacking it below cacheDir if it is not there yet, and makes the environment. As long
// as one Runtime is open, another Open shares its environment and must ask for the same threads. The first call in a
// process decides where the library comes from. ErrNotFetched says that this build has no library.
func Open(cacheDir string, options Options) (*Runtime, error) {
	if options.IntraThreads < 0 || options.InterThreads < 0 {
		return nil, fmt.Errorf("onnxruntime: threads must not be negative, got %d and %d", options.IntraThreads, options.InterThreads)
	}
	options.InterThreads = max(options.InterThreads, 1)
	if options.Log == nil {
		options.Log = slog.Default()
	}
	if options.LogLevel == nil {
		options.LogLevel = slog.LevelWarn
	}
	process.Lock()
	defer process.Unlock()
	if err := load(cacheDir); err != nil {
		return nil, err
	}
	if process.env == nil {
		env, err := newEnvironment(options)
		if err != nil {
			return nil, err
		}
		process.env = env
	}
	have := process.env.options
	if have.IntraThreads != options.IntraThreads || have.InterThreads != options.InterThreads || have.Spin != options.Spin {
		return nil, fmt.Errorf("onnxruntime: the process's environment is open with %d intra and %d inter threads, spinning %t; it cannot be opened with others",
			have.IntraThreads, have.InterThreads, have.Spin)
	}
	process.env.refs++
	return &Runtime{env: process.env}, nil
}

// load loads the library once; process is locked.
func load(cacheDir string) error {
	if process.loaded {
		return nil
	}
	path, err := unpack(cacheDir)
	if err != nil {
		return err
	}
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	if message := C.ort_load(name); message != nil {
		defer C.free(unsafe.Pointer(message))
		return errors.New("load ONNX Runtime: " + C.GoString(message))
	}
	process.loaded = true
	return nil
}

func newEnvironment(options Options) (*environment, error) {
	e := &environment{log: cgo.NewHandle(options.Log), options: options, canary: rand.Uint64() | 1}
	status := C.ort_env_new(severity(options.LogLevel.Level()), C.int(options.IntraThreads), C.int(options.InterThreads),
		C.bool(options.Spin), C.uintptr_t(e.log), &e.env)
	if err := check("make the environment", status); err != nil {
		e.log.Delete()
		return nil, err
	}
	return e, nil
}

func (e *environment) acquire() {
	process.Lock()
	defer process.Unlock()
	e.refs++
}

func (e *environment) release() {
	process.Lock()
	defer process.Unlock()
	e.refs--
	if e.refs > 0 {
		return
	}
	C.ort_env_free(e.env)
	e.log.Delete()
	process.env = nil
}

// Version is the version of the loaded library, "1.30.0".
func (*Runtime) Version() string { return C.GoString(C.ort_version()) }

// Build describes how the loaded library was built.
func (*Runtime) Build() string { return C.GoString(C.ort_build()) }

// Close gives the environment up; it is freed when sessions and results that use it are closed too. A second call does
// nothing.
func (r *Runtime) Close() {
	if r.closed.CompareAndSwap(false, true) {
		r.env.release()
	}
}

// TrimMemory gives memory that the C allocator keeps for later back to the system; without it much of a closed session
// stays resident. It takes milliseconds, in which other threads may wait to allocate. It does nothing on a C library
// other than glibc.
func TrimMemory() { C.ort_trim() }

// PrepackedWeights holds weights that kernels have rearranged, for sessions to share. It may be given to many sessions,
// also at the same time, and must be closed after all of them.
//
// ONNX Runtime shares only initializers that were added to the options of both sessions, not those that stand in a file,
// and it takes two for equal by 61 bits of a hash that can be forged: sessions of files that do not trust each other must
// not meet in one container. To hold one file more than once, share its session.
type PrepackedWeights struct {
	container *C.OrtPrepacked
}

// NewPrepackedWeights makes an empty container.
func (*Runtime) NewPrepackedWeights() (*PrepackedWeights, error) {
	p := &PrepackedWeights{}
	if err := check("make a container for prepacked weights", C.ort_prepacked_new(&p.container)); err != nil {
		return nil, err
	}
	return p, nil
}

// Close frees the container. A second call does nothing.
func (p *PrepackedWeights) Close() {
	if p.container != nil {
		C.ort_prepacked_free(p.container)
		p.container = nil
	}
}

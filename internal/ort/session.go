package ort

// #include <stdlib.h>
// #include "ort.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Optimization is how far a graph is rewritten when it is loaded.
type Optimization int

// The levels. Extended and above write kernels of this machine's processor into a saved model.
const (
	OptimizeAll      Optimization = 0 // the default
	OptimizeNone     Optimization = 1
	OptimizeBasic    Optimization = 2
	OptimizeExtended Optimization = 3
	OptimizeLayout   Optimization = 4
)

// SessionOptions are the settings of one session; the zero value is a good default for serving.
type SessionOptions struct {
	Optimization Optimization
	// Config entries, by ONNX Runtime's names: "session.disable_prepacking": "1".
	Config map[string]string
	// FreeDimensions fixes symbolic dimensions by name ("batch": 1), which lets more be computed in advance.
	FreeDimensions map[string]int64
	// OwnThreads gives the session pools of its own in place of the environment's, of IntraThreads and InterThreads (0:
	// one per physical core).
	OwnThreads                 bool
	IntraThreads, InterThreads int
	// Parallel runs independent operators side by side; default off, one after the other.
	Parallel bool
	// OptimizedModelPath saves the rewritten graph there; a name that ends in .ort writes ORT's own format.
	OptimizedModelPath string
	// ProfilePrefix begins the name of a file that records each operator's time until EndProfiling; empty: none.
	ProfilePrefix string
	// Prepacked shares rearranged weights with other sessions; nil: the session has its own.
	Prepacked *PrepackedWeights
	// NoMemoryPattern and NoArena turn off planning ahead of, and keeping, memory: slower, but less stays resident.
	NoMemoryPattern, NoArena bool
	// Deterministic prefers kernels that give the same bits each time.
	Deterministic bool
	// LogID names the session in log lines.
	LogID string
}

// Info describes an input or output. Shape holds -1 where any size is taken and Symbols, of the same length, the names
// of such dimensions or "". Ranked is false when even the number of dimensions is free. For a Kind other than KindTensor
// only the name is known.
type Info struct {
	Name    string
	Kind    Kind
	Type    ElementType
	Ranked  bool
	Shape   []int64
	Symbols []string
}

// idleCalls is how many sets of buffers for calls a session keeps for later ones. More may run at once.
const idleCalls = 32

// Session is a loaded model. Its methods may be called from many goroutines at once; runs do not wait for each other.
type Session struct {
	env          *environment
	session      *C.OrtSession
	refs         atomic.Int64 // one for the open session, one per Result; freed at zero
	closed       atomic.Bool
	inputs       []Info
	outputs      []Info
	initializers []Info
	feeds        map[string]int // inputs, then initializers
	fetches      map[string]int
	feedNames    []*C.char
	fetchNames   []*C.char

	mu   sync.Mutex // guards idle
	idle []*call    // the last one used is taken first, as its memory is still in the processor's cache
}

// LoadFile makes a session from a model file; external data is found beside it. It stops early when ctx ends.
func (r *Runtime) LoadFile(ctx context.Context, path string, options SessionOptions) (*Session, error) {
	if strings.ContainsRune(path, 0) {
		return nil, errors.New("onnxruntime: the model's path has a zero byte")
	}
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	return r.load(ctx, options, func(o *C.OrtSessionOptions, p *C.OrtPrepacked, out **C.OrtSession) *C.OrtStatus {
		return C.ort_session_new(r.env.env, name, nil, 0, o, p, out)
	})
}

// LoadBytes makes a session from a model in memory, which is not used any more afterwards. It stops early when ctx ends.
func (r *Runtime) LoadBytes(ctx context.Context, model []byte, options SessionOptions) (*Session, error) {
	if len(model) == 0 {
		return nil, &Error{Act: "load model", Code: NoModel, Message: "the model is empty"}
	}
	const keeps = "session.use_ort_model_bytes_directly"
	if _, ok := options.Config[keeps]; ok {
		return nil, fmt.Errorf("onnxruntime: %s would read the model's bytes after this call, when they may be gone", keeps)
	}
	return r.load(ctx, options, func(o *C.OrtSessionOptions, p *C.OrtPrepacked, out **C.OrtSession) *C.OrtStatus {
		return C.ort_session_new(r.env.env, nil, unsafe.Pointer(unsafe.SliceData(model)), C.size_t(len(model)), o, p, out)
	})
}

type opener func(*C.OrtSessionOptions, *C.OrtPrepacked, **C.OrtSession) *C.OrtStatus

func (r *Runtime) load(ctx context.Context, options SessionOptions, open opener) (*Session, error) {
	if r.closed.Load() {
		return nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o, err := options.native()
	if err != nil {
		return nil, err
	}
	defer C.ort_options_free(o)
	var prepacked *C.OrtPrepacked
	if options.Prepacked != nil {
		prepacked = options.Prepacked.container
	}
	s := &Session{env: r.env}
	r.env.acquire()
	done := watch(ctx, func() { C.ort_status_drop(C.ort_options_cancel(o)) })
	var session *C.OrtSession // not &s.session: C may not see an object that holds Go pointers
	status := open(o, prepacked, &session)
	done()
	if err := check("load model", status); err != nil {
		r.env.release()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	s.session = session
	s.refs.Store(1)
	if err := s.describe(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// watch calls act when ctx ends; the returned function ends that and returns when act is not running any more.
func watch(ctx context.Context, act func()) (done func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		act()
	})
	return func() {
		if !stop() {
			<-ended
		}
	}
}

// native makes ONNX Runtime's options; the caller frees them.
func (o *SessionOptions) native() (*C.OrtSessionOptions, error) {
	level, ok := map[Optimization]C.int{OptimizeAll: 99, OptimizeNone: 0, OptimizeBasic: 1, OptimizeExtended: 2, OptimizeLayout: 3}[o.Optimization]
	if !ok {
		return nil, fmt.Errorf("onnxruntime: unknown optimization level %d", o.Optimization)
	}
	var text texts
	defer text.free()
	settings := C.ort_settings{
		optimized_path: text.optional(o.OptimizedModelPath), profile_prefix: text.optional(o.ProfilePrefix),
		log_id: text.optional(o.LogID), optimization: level, intra: C.int(o.IntraThreads), inter: C.int(o.InterThreads),
		own_threads: C.bool(o.OwnThreads), parallel: C.bool(o.Parallel), no_pattern: C.bool(o.NoMemoryPattern),
		no_arena: C.bool(o.NoArena), deterministic: C.bool(o.Deterministic),
	}
	var native *C.OrtSessionOptions
	if err := check("make session options", C.ort_options_new(&settings, &native)); err != nil {
		return nil, err
	}
	// In the order of their names, so that a wrong entry gives the same error each time.
	for _, key := range slices.Sorted(maps.Keys(o.Config)) {
		status := C.ort_options_config(native, text.add(key), text.add(o.Config[key]))
		if err := check("set "+key, status); err != nil {
			C.ort_options_free(native)
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.FreeDimensions)) {
		status := C.ort_options_dimension(native, text.add(name), C.int64_t(o.FreeDimensions[name]))
		if err := check("fix dimension "+name, status); err != nil {
			C.ort_options_free(native)
			return nil, err
		}
	}
	return native, nil
}

// texts are C strings that are freed together.
type texts []*C.char

func (t *texts) add(s string) *C.char {
	c := C.CString(s)
	*t = append(*t, c)
	return c
}

func (t *texts) optional(s string) *C.char {
	if s == "" {
		return nil
	}
	return t.add(s)
}

func (t texts) free() {
	for _, c := range t {
		C.free(unsafe.Pointer(c))
	}
}

// describe reads the names, types and shapes of everything that goes in and out.
func (s *Session) describe() error {
	var err error
	if s.inputs, err = s.infos(C.ort_inputs); err != nil {
		return err
	}
	if s.outputs, err = s.infos(C.ort_outputs); err != nil {
		return err
	}
	if s.initializers, err = s.infos(C.ort_initializers); err != nil {
		return err
	}
	s.feeds, s.fetches = map[string]int{}, map[string]int{}
	for _, info := range slices.Concat(s.inputs, s.initializers) {
		s.feeds[info.Name] = len(s.feedNames)
		s.feedNames = append(s.feedNames, C.CString(info.Name))
	}
	for _, info := range s.outputs {
		s.fetches[info.Name] = len(s.fetchNames)
		s.fetchNames = append(s.fetchNames, C.CString(info.Name))
	}
	return nil
}

func (s *Session) infos(which C.int) ([]Info, error) {
	var count C.size_t
	if err := check("count inputs and outputs", C.ort_session_count(s.session, which, &count)); err != nil {
		return nil, err
	}
	all := make([]Info, 0, count)
	for i := range count {
		var native C.ort_info
		if err := check("describe inputs and outputs", C.ort_session_info(s.session, which, i, &native)); err != nil {
			return nil, err
		}
		all = append(all, toInfo(&native))
		C.ort_info_free(&native)
	}
	return all, nil
}

func toInfo(native *C.ort_info) Info {
	info := Info{Name: C.GoString(native.name), Kind: Kind(native.kind), Type: ElementType(native._type), Ranked: bool(native.ranked)}
	if !info.Ranked {
		return info
	}
	info.Shape, info.Symbols = []int64{}, []string{}
	for i, size := range unsafe.Slice(native.dims, native.rank) {
		info.Shape = append(info.Shape, int64(size))
		info.Symbols = append(info.Symbols, C.GoString(unsafe.Slice(native.symbols, native.rank)[i]))
	}
	return info
}

// Inputs are what every Run must be given, in graph order. The caller must not change them.
func (s *Session) Inputs() []Info { return s.inputs }

// Outputs are what a Run can give, in graph order. The caller must not change them.
func (s *Session) Outputs() []Info { return s.outputs }

// Initializers are inputs with a default, which a Run may be given. The caller must not change them.
func (s *Session) Initializers() []Info { return s.initializers }

// AllocatorStats tells what the session's arena holds, by ONNX Runtime's names: InUse, MaxInUse, TotalAllocated,
// Limit (bytes), NumAllocs and so on. Without an arena there is nothing to tell.
func (s *Session) AllocatorStats() (map[string]string, error) {
	if !s.acquire() {
		return nil, ErrClosed
	}
	defer s.release()
	var pairs *C.OrtKeyValuePairs
	var keys, values **C.char
	var count C.size_t
	status := C.ort_session_stats(s.session, &pairs, &keys, &values, &count)
	if err := check("read allocator statistics", status); err != nil {
		return nil, err
	}
	defer C.ort_stats_free(pairs)
	stats := make(map[string]string, count)
	for i, key := range unsafe.Slice(keys, count) {
		stats[C.GoString(key)] = C.GoString(unsafe.Slice(values, count)[i])
	}
	return stats, nil
}

// EndProfiling writes the profile's file and returns its name; the session goes on without profiling.
func (s *Session) EndProfiling() (string, error) {
	if !s.acquire() {
		return "", ErrClosed
	}
	defer s.release()
	var name *C.char
	if err := check("end profiling", C.ort_session_end_profile(s.session, &name)); err != nil {
		return "", err
	}
	defer C.free(unsafe.Pointer(name))
	return C.GoString(name), nil
}

// Close ends the session: no new run begins. Its memory is freed when the runs under way have ended and their results
// are released. A second call does nothing.
func (s *Session) Close() {
	if s.closed.CompareAndSwap(false, true) {
		s.release()
	}
}

// acquire keeps the session from being freed; false when it was closed.
func (s *Session) acquire() bool {
	for !s.closed.Load() {
		n := s.refs.Load()
		if n == 0 {
			return false
		}
		if s.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

func (s *Session) release() {
	if s.refs.Add(-1) > 0 {
		return
	}
	for _, c := range s.idle {
		c.free()
	}
	C.ort_session_free(s.session)
	texts(s.feedNames).free()
	texts(s.fetchNames).free()
	s.env.release()
}

package ort

// #include <stdlib.h>
// #include "ort.h"
import "C"

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"unsafe"
)

// maxRank is the most dimensions of a tensor given to Run.
const maxRank = 32

// usualDims is the room for the dimensions of all inputs together that a call begins with.
const usualDims = 16

// Tensor is a named block of elements: row-major, little-endian. A String tensor's Data is, for every element, a
// little-endian uint32 length and that many bytes.
type Tensor struct {
	Name  string
	Type  ElementType
	Shape []int64
	Data  []byte
}

// RunOptions steer runs. One value may be used by many runs, one after the other or at once; Terminate stops them all.
type RunOptions struct {
	mu      sync.Mutex // guards options against Close while Terminate runs
	options *C.OrtRunOptions
}

// NewRunOptions makes options that change nothing yet.
func (*Runtime) NewRunOptions() (*RunOptions, error) {
	r := &RunOptions{}
	if err := check("make run options", C.ort_run_options_new(&r.options)); err != nil {
		return nil, err
	}
	return r, nil
}

// AddConfig sets an entry by ONNX Runtime's name: "memory.enable_memory_arena_shrinkage": "cpu:0". Not during a run.
func (r *RunOptions) AddConfig(key, value string) error {
	var text texts
	defer text.free()
	return r.with("set "+key, func(o *C.OrtRunOptions) *C.OrtStatus {
		return C.ort_run_options_config(o, text.add(key), text.add(value))
	})
}

// SetTag names the runs in log lines. Not during a run.
func (r *RunOptions) SetTag(tag string) error {
	var text texts
	defer text.free()
	return r.with("set the run's tag", func(o *C.OrtRunOptions) *C.OrtStatus {
		return C.ort_run_options_tag(o, text.add(tag))
	})
}

// SetLogLevel sets the least level logged, by ONNX Runtime's number: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal. Not
// during a run.
func (r *RunOptions) SetLogLevel(level int) error {
	return r.with("set the run's log level", func(o *C.OrtRunOptions) *C.OrtStatus {
		return C.ort_run_options_level(o, C.int(level))
	})
}

// Terminate makes the runs that use these options end soon with an error of code Fail, as well as later ones until
// Resume. It may be called from any goroutine. A run notices between two operators: one long operator is not interrupted.
func (r *RunOptions) Terminate() error {
	return r.with("terminate", func(o *C.OrtRunOptions) *C.OrtStatus { return C.ort_run_options_terminate(o, true) })
}

// Resume takes Terminate back.
func (r *RunOptions) Resume() error {
	return r.with("resume", func(o *C.OrtRunOptions) *C.OrtStatus { return C.ort_run_options_terminate(o, false) })
}

func (r *RunOptions) with(act string, do func(*C.OrtRunOptions) *C.OrtStatus) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.options == nil {
		return ErrClosed
	}
	return check(act, do(r.options))
}

// Close frees the options. No run may use them any more. A second call does nothing.
func (r *RunOptions) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.options != nil {
		C.ort_run_options_free(r.options)
		r.options = nil
	}
}

// Result holds the outputs of one run. Outputs itself, and their Shape and Data, are the session's memory: they may be
// read until Release, and must not be written. Once released, a Result may serve another run.
type Result struct {
	Outputs []Tensor
	call    *call
}

// call is the buffers of one run, kept by the session for the next.
type call struct {
	session *Session
	frame   *C.ort_frame
	pinner  runtime.Pinner
	outputs []Tensor
	seen    []uint64 // bit set of the inputs given
}

// Run feeds inputs and gives the outputs named, in that order; nil means all. Inputs are not copied (except data that is
// not aligned for its type): they must not change during the call and are not used after it. options may be nil.
func (s *Session) Run(inputs []Tensor, outputs []string, options *RunOptions) (*Result, error) {
	result := &Result{}
	if err := s.Fill(result, inputs, outputs, options); err != nil {
		return nil, err
	}
	return result, nil
}

// Fill is Run with a Result of the caller's, which must be new or released.
func (s *Session) Fill(result *Result, inputs []Tensor, outputs []string, options *RunOptions) error {
	c, err := s.begin(inputs)
	if err != nil {
		return err
	}
	if err := c.fetch(outputs); err != nil {
		return c.fail(err)
	}
	return c.run(result, options)
}

// RunInto is Run with the outputs written into memory of the caller's, whose type, shape and size must be those of the
// result. String outputs cannot be had this way.
func (s *Session) RunInto(inputs, outputs []Tensor, options *RunOptions) error {
	c, err := s.begin(inputs)
	if err != nil {
		return err
	}
	if err := c.bind(outputs); err != nil {
		return c.fail(err)
	}
	var result Result
	err = c.run(&result, options)
	result.Release()
	return err
}

// begin takes buffers for a call and puts the inputs into them.
func (s *Session) begin(inputs []Tensor) (*call, error) {
	if !s.acquire() {
		return nil, ErrClosed
	}
	c := s.idleCall()
	if c == nil {
		var err error
		if c, err = s.newCall(); err != nil {
			s.release()
			return nil, err
		}
	}
	if err := c.feed(inputs); err != nil {
		return nil, c.fail(err)
	}
	return c, nil
}

func (s *Session) idleCall() *call {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.idle) - 1
	if last < 0 {
		return nil
	}
	c := s.idle[last]
	s.idle = s.idle[:last]
	return c
}

func (s *Session) newCall() (*call, error) {
	c := &call{session: s, outputs: make([]Tensor, 0, len(s.fetchNames)), seen: make([]uint64, (len(s.feedNames)+63)/64)}
	c.frame = C.ort_frame_new(C.size_t(len(s.feedNames)), C.size_t(len(s.fetchNames)), C.uint64_t(s.env.canary))
	if c.frame == nil {
		return nil, errors.New("onnxruntime: out of memory")
	}
	return c, nil
}

func (c *call) feed(inputs []Tensor) error {
	s := c.session
	if len(inputs) > len(s.feedNames) {
		return fmt.Errorf("onnxruntime: %d inputs given, the model takes %d", len(inputs), len(s.feedNames))
	}
	// All shapes lie in one block, which must not move once a shape points into it; so its size comes first.
	room := 0
	for i := range inputs {
		room += len(inputs[i].Shape)
	}
	room = max(room, usualDims)
	if C.size_t(room) > c.frame.room && !bool(C.ort_frame_dims(c.frame, C.size_t(room))) {
		return errors.New("onnxruntime: out of memory")
	}
	clear(c.seen)
	in := unsafe.Slice(c.frame.in, len(s.feedNames))
	names := unsafe.Slice(c.frame.input_names, len(s.feedNames))
	dims := unsafe.Slice((*int64)(unsafe.Pointer(c.frame.dims)), room)
	for i := range inputs {
		t := &inputs[i]
		at, ok := s.feeds[t.Name]
		if !ok {
			return fmt.Errorf("onnxruntime: the model has no input %q", t.Name)
		}
		if c.seen[at/64]&(1<<(at%64)) != 0 {
			return fmt.Errorf("onnxruntime: input %q is given twice", t.Name)
		}
		c.seen[at/64] |= 1 << (at % 64)
		point(unsafe.Pointer(&names[i]), unsafe.Pointer(s.feedNames[at]))
		if err := c.place(t, &in[i], &dims); err != nil {
			return fmt.Errorf("onnxruntime: input %q: %w", t.Name, err)
		}
	}
	for i := range s.inputs {
		if c.seen[i/64]&(1<<(i%64)) == 0 {
			return fmt.Errorf("onnxruntime: input %q is missing", s.inputs[i].Name)
		}
	}
	c.frame.inputs = C.size_t(len(inputs))
	return nil
}

// place puts a tensor into the frame, its shape into dims, and pins its data.
func (c *call) place(t *Tensor, to *C.ort_tensor, dims *[]int64) error {
	if err := t.check(); err != nil {
		return err
	}
	data := t.Data
	if size := t.Type.Size(); size > 1 && uintptr(unsafe.Pointer(unsafe.SliceData(data)))%uintptr(size) != 0 {
		// Kernels are compiled for aligned elements. A fresh block is aligned for any element that divides its size.
		data = append(make([]byte, 0, len(data)), data...)
	}
	point(unsafe.Pointer(&to.shape), unsafe.Pointer(unsafe.SliceData(*dims)))
	copy(*dims, t.Shape)
	*dims = (*dims)[len(t.Shape):]
	to.rank = C.size_t(len(t.Shape))
	to._type = C.int32_t(t.Type)
	to.size = C.size_t(len(data))
	to.owned = false
	if len(data) == 0 {
		point(unsafe.Pointer(&to.data), unsafe.Pointer(c.frame)) // never read, but ONNX Runtime wants an address
		return nil
	}
	p := unsafe.Pointer(unsafe.SliceData(data))
	c.pinner.Pin(p)
	point(unsafe.Pointer(&to.data), p)
	return nil
}

// point writes an address into a field of C's memory, as a number. Written as a pointer, the collector's write barrier
// would look at the address that the field held before: that of an earlier call's input, which may be gone, and the
// process would end with "found pointer to free object". What is pointed to is pinned or C's own.
func point(field, to unsafe.Pointer) { *(*uintptr)(field) = uintptr(to) }

// check makes sure that C finds what shape and type promise.
func (t *Tensor) check() error {
	if len(t.Shape) > maxRank {
		return fmt.Errorf("%d dimensions, limit %d", len(t.Shape), maxRank)
	}
	count := uint64(1)
	for _, d := range t.Shape {
		if d < 0 {
			return fmt.Errorf("shape %v has a negative dimension", t.Shape)
		}
		high, low := bits.Mul64(count, uint64(d))
		if high != 0 || low > 1<<40 {
			return fmt.Errorf("shape %v has more than 2^40 elements", t.Shape)
		}
		count = low
	}
	if t.Type == String {
		return checkStrings(t.Data, count)
	}
	size := t.Type.Size()
	if size == 0 {
		return fmt.Errorf("elements of type %s cannot be given", t.Type)
	}
	if uint64(len(t.Data)) != count*uint64(size) {
		return fmt.Errorf("shape %v of %s needs %d bytes, got %d", t.Shape, t.Type, count*uint64(size), len(t.Data))
	}
	return nil
}

func checkStrings(data []byte, count uint64) error {
	var seen uint64
	for ; len(data) > 0; seen++ {
		if len(data) < 4 {
			return fmt.Errorf("string element %d has no whole length", seen)
		}
		size := uint64(data[0]) | uint64(data[1])<<8 | uint64(data[2])<<16 | uint64(data[3])<<24
		if size > uint64(len(data)-4) {
			return fmt.Errorf("string element %d is cut off", seen)
		}
		data = data[4+size:]
	}
	if seen != count {
		return fmt.Errorf("shape needs %d string elements, got %d", count, seen)
	}
	return nil
}

// fetch names the outputs wanted.
func (c *call) fetch(outputs []string) error {
	s := c.session
	names := unsafe.Slice(c.frame.output_names, len(s.fetchNames))
	c.outputs = c.outputs[:0]
	if outputs == nil {
		copy(names, s.fetchNames)
		for i := range s.outputs {
			c.outputs = append(c.outputs, Tensor{Name: s.outputs[i].Name})
		}
	}
	if len(outputs) > len(s.fetchNames) {
		return fmt.Errorf("onnxruntime: %d outputs wanted, the model gives %d", len(outputs), len(s.fetchNames))
	}
	for i, name := range outputs {
		at, ok := s.fetches[name]
		if !ok {
			return fmt.Errorf("onnxruntime: the model has no output %q", name)
		}
		point(unsafe.Pointer(&names[i]), unsafe.Pointer(s.fetchNames[at]))
		c.outputs = append(c.outputs, Tensor{Name: s.outputs[at].Name})
	}
	c.frame.outputs = C.size_t(len(c.outputs))
	return nil
}

// bind names the outputs wanted and where they shall be written.
func (c *call) bind(outputs []Tensor) error {
	names := make([]string, len(outputs))
	room := 0
	for i := range outputs {
		names[i] = outputs[i].Name
		room += len(outputs[i].Shape)
	}
	if err := c.fetch(names); err != nil {
		return err
	}
	shapes := make([]int64, room)
	if room > 0 {
		c.pinner.Pin(unsafe.SliceData(shapes))
	}
	out := unsafe.Slice(c.frame.out, len(c.session.fetchNames))
	for i := range outputs {
		t := &outputs[i]
		if t.Type == String {
			return fmt.Errorf("onnxruntime: output %q: strings cannot be written into given memory", t.Name)
		}
		if size := t.Type.Size(); size > 1 && uintptr(unsafe.Pointer(unsafe.SliceData(t.Data)))%uintptr(size) != 0 {
			return fmt.Errorf("onnxruntime: output %q: the memory is not aligned for %s", t.Name, t.Type)
		}
		if err := c.place(t, &out[i], &shapes); err != nil {
			return fmt.Errorf("onnxruntime: output %q: %w", t.Name, err)
		}
	}
	return nil
}

// run runs and wraps up what came out. The call goes back to the session now or, with a result, when that is released.
func (c *call) run(result *Result, options *RunOptions) error {
	var native *C.OrtRunOptions
	if options != nil {
		native = options.options
	}
	err := check("run", C.ort_run(c.session.session, native, c.frame))
	c.pinner.Unpin()
	if err != nil {
		c.release()
		return err
	}
	out := unsafe.Slice(c.frame.out, len(c.outputs))
	for i := range c.outputs {
		t := &c.outputs[i]
		t.Type = ElementType(out[i]._type)
		t.Shape = unsafe.Slice((*int64)(unsafe.Pointer(out[i].shape)), out[i].rank)
		t.Data = unsafe.Slice((*byte)(out[i].data), out[i].size)
	}
	result.Outputs, result.call = c.outputs, c
	return nil
}

// fail gives the call back and passes the error on.
func (c *call) fail(err error) error {
	c.pinner.Unpin()
	c.frame.inputs, c.frame.outputs = 0, 0
	// A bind that stopped half-way left addresses of the caller's memory behind, which a later run would write to.
	clear(unsafe.Slice(c.frame.out, len(c.session.fetchNames)))
	c.release()
	return err
}

// release gives the buffers back to the session, or frees them when it has enough.
func (c *call) release() {
	s := c.session
	s.mu.Lock()
	keep := len(s.idle) < idleCalls
	if keep {
		s.idle = append(s.idle, c)
	}
	s.mu.Unlock()
	if !keep {
		c.free()
	}
	s.release()
}

func (c *call) free() { C.ort_frame_free(c.frame) }

// Release frees the outputs; they must not be read afterwards. It is safe on nil and a second time, but not from two
// goroutines at once.
func (r *Result) Release() {
	if r == nil || r.call == nil {
		return
	}
	c := r.call
	r.call, r.Outputs = nil, nil
	clear(c.outputs) // views of memory that is given back now
	C.ort_frame_clear(c.frame)
	c.release()
}

// Package oip is the Open Inference Protocol's bytes: infer requests and answers as JSON, as JSON with binary tensors,
// and as protobuf, read in bounds into tensors and written from them, with the generated code of the service beside it.
// It opens no connection and knows no endpoint, model or tenant. Callers: gateway/oip, and bench for the other side.
package oip

import (
	"math"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// The bounds of a message's structure; its size is the gateway's to limit.
const (
	MaxDepth      = 64   // nesting of JSON values
	MaxTensors    = 256  // inputs of a request, and outputs asked for
	MaxParameters = 64   // parameters of a request, an input or an output
	MaxClasses    = 1000 // classes that classification may be asked for
	MaxText       = 1024 // bytes of a parameter's value that is handed on; a longer one is left alone
	MaxName       = 1024 // bytes of a name, an id or a parameter's name
	maxNumber     = 1024 // characters of one JSON number
	keepBlock     = 4 << 20
	firstBlock    = 4 << 10
)

// Request is one infer request, whatever encoding it came in. It is meant to be reused: decoding resets it first.
// Inputs may alias the bytes that were decoded and the request's own memory; both must stay until the call is over.
type Request struct {
	Model   string        // gRPC only: over HTTP the URL names it
	Version string        // gRPC only
	ID      string        // echoed in the answer when it is not empty
	Timeout time.Duration // parameter "timeout", 0 when not given
	Inputs  []tensor.Tensor
	Outputs []Output // empty: all

	Priority int // parameter "priority", 1 the highest, 0 when not given

	Parameters []api.Parameter // those of the request that the server has no meaning for; an endpoint's chain may

	Columns bool // V1 only: the request was in columns, and so is the answer

	BinaryOutput bool // outputs come as binary unless they say otherwise

	block []byte          // memory that decoded tensors are cut from
	made  []tensor.Tensor // outputs after classification
	names []string        // of the outputs, for Wanted
	wire  wired           // what a gRPC message left to be put together
	json  decoder         // its memory is kept
}

// Output is one output that the caller asks for.
type Output struct {
	Name    string
	Binary  bool
	Classes int  // the classification extension: so many of the largest elements, as text; 0 for the output itself
	said    bool // Binary is the output's own wish, not the request's
}

// Wanted lists the names of the outputs asked for; nil means all.
func (r *Request) Wanted() []string {
	if len(r.Outputs) == 0 {
		return nil
	}
	r.names = r.names[:0]
	for i := range r.Outputs {
		r.names = append(r.names, r.Outputs[i].Name)
	}
	return r.names
}

// Reset forgets the request and keeps a modest amount of its memory for the next one.
func (r *Request) Reset() {
	// Names stay behind in the spare capacity on purpose: the next request usually has the same, see keep.
	for i := range r.Inputs {
		r.Inputs[i].Data = nil
	}
	block := r.block[:0]
	if cap(block) > keepBlock {
		block = nil
	}
	r.wire.reset()
	r.json.forget()
	clear(r.made)
	r.ID, r.Timeout, r.Priority, r.BinaryOutput, r.Columns = "", 0, 0, false, false
	r.made = r.made[:0]
	clear(r.Parameters)
	r.Parameters = r.Parameters[:0]
	r.Inputs, r.Outputs, r.block = r.Inputs[:0], r.Outputs[:0], block
}

// take cuts n bytes from the block. A block that is too small is left to the tensors that hold it.
func (r *Request) take(n int) []byte {
	if cap(r.block)-len(r.block) < n {
		r.block = make([]byte, 0, max(n, firstBlock))
	}
	// Offsets of 8 keep the elements of every type aligned for whoever reads them natively.
	start := (len(r.block) + 7) &^ 7
	if start+n > cap(r.block) {
		r.block = make([]byte, 0, max(n, firstBlock))
		start = 0
	}
	r.block = r.block[:start+n]
	return r.block[start : start+n : start+n]
}

// open gives the block's free end to append to; done takes it back, also when appending moved it to new memory.
func (r *Request) open() []byte {
	r.take(0)
	return r.block[len(r.block):]
}

func (r *Request) done(out []byte) {
	start := len(r.block)
	if start+len(out) <= cap(r.block) && (len(out) == 0 || &r.block[:start+1][start] == &out[0]) {
		r.block = r.block[:start+len(out)]
		return
	}
	r.block = out
}

func (r *Request) nextInput() *tensor.Tensor {
	n := len(r.Inputs)
	if n < cap(r.Inputs) {
		r.Inputs = r.Inputs[:n+1]
	} else {
		r.Inputs = append(r.Inputs, tensor.Tensor{})
	}
	t := &r.Inputs[n]
	t.Type, t.Shape, t.Data = tensor.Invalid, t.Shape[:0], nil
	return t
}

func (r *Request) nextOutput() *Output {
	n := len(r.Outputs)
	if n < cap(r.Outputs) {
		r.Outputs = r.Outputs[:n+1]
	} else {
		r.Outputs = append(r.Outputs, Output{})
	}
	return &r.Outputs[n]
}

// binary reports whether the caller wants this output as binary.
func (r *Request) binary(name string) bool {
	for i := range r.Outputs {
		if r.Outputs[i].Name == name {
			return r.Outputs[i].Binary
		}
	}
	return r.BinaryOutput
}

// keep stores b in the string, without an allocation when it says that already.
func keep(s *string, b []byte) {
	if *s != string(b) {
		*s = string(b)
	}
}

// finish checks what all encodings have in common: names given once, and data that fit shape and type. There may be no
// inputs: a model of constants takes none, and one that needs some says which are missing.
func (r *Request) finish() error {
	for i := range r.Inputs {
		t := &r.Inputs[i]
		if err := t.Check(); err != nil {
			return badTensor(t.Name, err)
		}
		if t.Type == tensor.Bool {
			if err := checkBool(t); err != nil {
				return err
			}
		}
		for j := range i {
			if r.Inputs[j].Name == t.Name {
				return api.Fail(api.CodeBadTensor, "", "input %q is given twice", clip(t.Name)).WithCure("Give each input once.")
			}
		}
	}
	for i := range r.Outputs {
		for j := range i {
			if r.Outputs[j].Name == r.Outputs[i].Name {
				return api.Fail(api.CodeBadTensor, "", "output %q is asked for twice", clip(r.Outputs[i].Name)).WithCure("Ask for each output once.")
			}
		}
	}
	return nil
}

// checkBool refuses bytes other than 0 and 1: a native reader may take such a byte for neither true nor false.
func checkBool(t *tensor.Tensor) error {
	for i, b := range t.Data {
		if b > 1 {
			return api.Fail(api.CodeBadTensor, "", "input %q: BOOL element %d is the byte %d; only 0 and 1 are allowed", clip(t.Name), i, b)
		}
	}
	return nil
}

// numberedParameter takes a request's parameters that are whole numbers, in whatever encoding they came: the time-out in
// microseconds, the priority, and a sequence, which only nought is allowed for.
func (r *Request) numberedParameter(key string, n uint64) (err error) {
	switch key {
	case "timeout":
		r.Timeout, err = timeoutOf(n)
		return err
	case "priority":
		r.Priority = int(min(n, math.MaxInt32)) // beyond the levels it means the default, however far
	case "sequence_id", "sequence_start", "sequence_end":
		if n != 0 {
			return unsupported("sequences (parameter " + key + ")")
		}
	}
	return nil
}

// keep hands a parameter on.
func (r *Request) keep(key []byte, value string) {
	if len(value) <= MaxText && len(r.Parameters) < MaxParameters {
		r.Parameters = append(r.Parameters, api.Parameter{Name: string(key), Value: value})
	}
}

// isNumbered reports whether a parameter is one of numberedParameter's.
func isNumbered(key []byte) bool {
	switch string(key) {
	case "timeout", "priority", "sequence_id", "sequence_start", "sequence_end":
		return true
	}
	return false
}

// notNumbered says that one of them is something else.
func notNumbered(key []byte) error {
	unit := ""
	if string(key) == "timeout" {
		unit = " of microseconds"
	}
	return api.Fail(api.CodeBadRequest, "", "parameter %q must be a whole number%s", key, unit)
}

// timeoutOf reads the parameter "timeout", in microseconds; 0 means none.
func timeoutOf(micros uint64) (time.Duration, error) {
	const most = uint64(24 * time.Hour / time.Microsecond)
	if micros > most {
		return 0, api.Fail(api.CodeBadRequest, "", "parameter \"timeout\" is %d µs, limit %d (24 hours)", micros, most)
	}
	return time.Duration(micros) * time.Microsecond, nil
}

// badTensor says that an input's parts do not fit together.
func badTensor(name string, err error) error {
	return api.Fail(api.CodeBadTensor, "", "input %q: %w", clip(name), err)
}

// clip bounds untrusted text that is put into a message.
func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}

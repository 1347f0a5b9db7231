package hop

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// Message is a frame's content. Kind says which fields count; the others are zero. A message that came from a Reader
// owns the memory under its tensors until Release.
type Message struct {
	Kind   Kind
	ID     uint64
	Check  uint64        // answers: the request's Mark
	Budget time.Duration // requests: what remains of the time, in whole microseconds; 0 is no deadline
	Lane   int           // Infer: the socket that its answer shall come by; 0 is the shared one
	InTurn bool          // Infer: what else is on the connection may wait for its answer, and what will be, until Relieve on another
	Expect time.Duration // not sent: what the run usually takes; 0 is not known
	Limit  time.Duration // not sent: how long a run may go on when its caller gave up before; 0 is no longer than that

	Token    string          // Hello
	Shares   int64           // Hello: bytes of the memory whose descriptors come with it; 0 is none
	PID      int64           // Hello's result
	Shared   bool            // Hello's result: that memory is mapped, and tensors may lie in it
	Split    bool            // the same: further answers come by the sockets that came with hello
	Load     Load            // Load
	Loaded   Loaded          // Load's result
	Instance string          // Unload, Infer
	Outputs  []string        // Infer: outputs wanted; nil is all
	Tensors  []tensor.Tensor // Infer: inputs; its result: outputs
	Queue    time.Duration   // Infer's result
	Compute  time.Duration   // Infer's result
	Batch    int64           // Infer's result: rows run together
	Wait     time.Duration   // Infer's result: part of Queue
	Steps    []api.StepTime  // Infer's result: of a chain
	Priority int64           // Infer
	Stats    Stats           // Stats' result
	Failure  Failure         // Failure

	// Offsets says for each tensor of Infer where its data lie in the shared memory; -1 is in the payload. nil: all are.
	Offsets []int64

	// Refused says that the Reader's Admit turned the payload away: it was skipped and Tensors have no data.
	Refused bool

	names  []string // under Outputs
	dims   []int64  // one block under all shapes
	places []int64  // under Offsets
	shared Shared   // held, while tensors are views of it
	buffer []byte   // under all tensor data
	pool   *Pool
	free   func() // Release as a value, made once, so that handing it on allocates nothing
}

// Load asks for a model file to be held under Instance.
type Load struct {
	Instance string
	Format   string
	Path     string
	Warm     bool
	Options  string // api.LoadOptions as JSON; empty when all are defaults
	Members  []Member
	Batched  bool // whether Batch says anything
	Batch    api.BatchPlan
}

// Member is the file of one version that a chain runs.
type Member struct {
	Digest string
	Path   string
}

// Loaded is what loading found.
type Loaded struct {
	Signature api.Signature
	LoadTime  time.Duration
	WarmTime  time.Duration
	Bytes     int64
	Batched   bool // whether Batch says anything
	Batch     api.BatchPlan
	InTurn    bool
}

// Stats is a moment's view of the worker.
type Stats struct {
	PID       int64
	Runtime   string
	Resident  int64
	Private   int64
	Instances []InstanceStats
}

// InstanceStats is one loaded instance.
type InstanceStats struct {
	Instance string
	InFlight int64
	Requests int64
	Failures int64
	Compute  time.Duration
	Bytes    int64
}

// Failure is an api.Error on its way; causes stay in the worker's log.
type Failure struct {
	Code       string
	Subject    string
	Message    string
	Cure       string
	RetryAfter time.Duration
}

// FailureOf makes the failure that tells err.
func FailureOf(err error) Failure {
	e := api.AsError(err)
	return Failure{Code: string(e.Code), Subject: e.Subject, Message: e.Message, Cure: e.Cure, RetryAfter: e.RetryAfter}
}

// Error is the failure as the room's error type. A code that the catalogue does not know becomes internal.
func (f *Failure) Error() *api.Error {
	return &api.Error{Code: api.Code(f.Code), Subject: f.Subject, Message: f.Message, Cure: f.Cure, RetryAfter: f.RetryAfter}
}

// Payload is the bytes of memory under the tensors' data.
func (m *Message) Payload() int { return len(m.buffer) }

// Shared is memory that both ends see. Tensors are views of it: the end that wrote it keeps them still until they are
// answered.
type Shared interface {
	Bytes() []byte
	Retain()
	Release()
}

// isShared reports whether a tensor's data lie in the shared memory.
func (m *Message) isShared(i int) bool { return m.Offsets != nil && m.Offsets[i] >= 0 }

// appendHeader appends the header of m. Payload bytes are not part of it.
func (m *Message) appendHeader(b []byte) []byte {
	switch m.Kind {
	case KindHello:
		b = appendText(b, m.Token)
		b = appendInt(b, m.Shares)
	case KindHello.Result():
		b = appendInt(b, m.PID)
		b = appendFlag(appendFlag(b, m.Shared), m.Split)
	case KindLoad:
		b = appendText(b, m.Load.Instance)
		b = appendText(b, m.Load.Format)
		b = appendText(b, m.Load.Path)
		b = appendFlag(b, m.Load.Warm)
		b = appendText(b, m.Load.Options)
		b = m.Load.appendMembers(b)
		b = appendBatch(b, m.Load.Batched, &m.Load.Batch)
	case KindLoad.Result():
		b = appendSpecs(b, m.Loaded.Signature.Inputs)
		b = appendSpecs(b, m.Loaded.Signature.Outputs)
		b = appendInt(b, int64(m.Loaded.LoadTime))
		b = appendInt(b, int64(m.Loaded.WarmTime))
		b = appendInt(b, m.Loaded.Bytes)
		b = appendBatch(b, m.Loaded.Batched, &m.Loaded.Batch)
		b = appendFlag(b, m.Loaded.InTurn)
	case KindUnload:
		b = appendText(b, m.Instance)
	case KindInfer:
		b = appendText(b, m.Instance)
		b = appendInt(appendInt(b, m.Priority), int64(m.Lane))
		b = appendFlag(b, m.InTurn)
		b = appendFlag(b, m.Outputs != nil)
		if m.Outputs != nil {
			b = appendTexts(b, m.Outputs)
		}
		b = m.appendTensors(b)
	case KindInfer.Result():
		b = appendInt(b, int64(m.Queue))
		b = appendInt(b, int64(m.Compute))
		b = appendInt(b, m.Batch)
		b = appendInt(b, int64(m.Wait))
		b = appendSteps(b, m.Steps)
		b = m.appendTensors(b)
	case KindStats.Result():
		b = m.Stats.append(b)
	case KindFailure:
		b = appendText(b, m.Failure.Code)
		b = appendText(b, m.Failure.Subject)
		b = appendText(b, m.Failure.Message)
		b = appendText(b, m.Failure.Cure)
		b = appendInt(b, int64(m.Failure.RetryAfter))
	}
	return b
}

// readHeader is appendHeader's inverse. It returns the lengths of the tensors' data in sizes' memory.
func (m *Message) readHeader(c *cursor, sizes []int) []int {
	switch m.Kind {
	case KindHello:
		m.Token, m.Shares = c.text(), c.int()
	case KindHello.Result():
		m.PID, m.Shared, m.Split = c.int(), c.flag(), c.flag()
	case KindLoad:
		m.Load = Load{Instance: c.text(), Format: c.text(), Path: c.text(), Warm: c.flag(), Options: c.text()}
		if len(m.Load.Options) > api.LoadOptionsMax {
			c.fail(ErrOversize, "options of %d bytes, limit %d", len(m.Load.Options), api.LoadOptionsMax)
		}
		m.Load.readMembers(c)
		m.Load.Batched, m.Load.Batch = c.batch()
	case KindLoad.Result():
		m.Loaded.Signature = api.Signature{Inputs: c.specs(), Outputs: c.specs()}
		m.Loaded.LoadTime, m.Loaded.WarmTime = time.Duration(c.int()), time.Duration(c.int())
		m.Loaded.Bytes = c.int()
		m.Loaded.Batched, m.Loaded.Batch = c.batch()
		m.Loaded.InTurn = c.flag()
	case KindUnload:
		m.Instance = c.name()
	case KindInfer:
		m.Instance = c.name()
		m.Priority, m.Lane, m.InTurn = c.int(), c.lane(), c.flag()
		if c.flag() {
			m.names = c.names(m.names)
			m.Outputs = m.names
		}
		sizes = m.readTensors(c, sizes)
	case KindInfer.Result():
		m.Queue, m.Compute = time.Duration(c.int()), time.Duration(c.int())
		m.Batch, m.Wait = c.int(), time.Duration(c.int())
		m.Steps = c.steps()
		sizes = m.readTensors(c, sizes)
	case KindStats.Result():
		m.Stats.read(c)
	case KindFailure:
		m.Failure = Failure{Code: c.text(), Subject: c.text(), Message: c.text(), Cure: c.text(),
			RetryAfter: time.Duration(c.int())}
	}
	return sizes
}

func (l *Load) appendMembers(b []byte) []byte {
	b = appendCount(b, len(l.Members))
	for _, m := range l.Members {
		b = appendText(appendText(b, m.Digest), m.Path)
	}
	return b
}

func (l *Load) readMembers(c *cursor) {
	n := c.count(2 * 4)
	if n == 0 {
		return
	}
	l.Members = make([]Member, n)
	for i := range l.Members {
		l.Members[i] = Member{Digest: c.text(), Path: c.text()}
	}
}

func appendSteps(b []byte, steps []api.StepTime) []byte {
	b = appendCount(b, len(steps))
	for i := range steps {
		s := &steps[i]
		b = appendText(b, s.Name)
		b = appendInt(b, int64(s.Start))
		b = appendInt(b, int64(s.Queue))
		b = appendInt(b, int64(s.Compute))
	}
	return b
}

// steps are handed on beyond the message's life, so they are made anew.
func (c *cursor) steps() []api.StepTime {
	n := c.count(4 + 3*8)
	if n == 0 {
		return nil
	}
	steps := make([]api.StepTime, n)
	for i := range steps {
		steps[i] = api.StepTime{Name: c.name(), Start: time.Duration(c.int()), Queue: time.Duration(c.int()), Compute: time.Duration(c.int())}
	}
	return steps
}

func appendBatch(b []byte, batched bool, plan *api.BatchPlan) []byte {
	b = appendFlag(b, batched)
	if batched {
		b = appendInt(b, int64(plan.MaxSize))
		b = appendFlag(b, plan.Exact)
		b = appendText(b, plan.Why)
		b = appendCount(b, len(plan.Sizes))
		for _, n := range plan.Sizes {
			b = appendInt(b, int64(n))
		}
	}
	return b
}

// rowsMax bounds the rows of a batch that a plan may name: who takes it makes a table of that length.
const rowsMax = 1 << 20

func (c *cursor) batch() (batched bool, plan api.BatchPlan) {
	if !c.flag() {
		return false, plan
	}
	plan = api.BatchPlan{MaxSize: int(c.int()), Exact: c.flag(), Why: c.text()}
	if n := c.count(8); n > 0 {
		plan.Sizes = make([]int, n)
		for i := range plan.Sizes {
			rows := c.int()
			if rows < 0 || rows > rowsMax {
				c.fail(ErrOversize, "a batch of %d rows, limit %d", rows, rowsMax)
				rows = 0
			}
			plan.Sizes[i] = int(rows)
		}
	}
	return true, plan
}

func (s *Stats) append(b []byte) []byte {
	b = appendInt(b, s.PID)
	b = appendText(b, s.Runtime)
	b = appendInt(b, s.Resident)
	b = appendInt(b, s.Private)
	b = appendCount(b, len(s.Instances))
	for i := range s.Instances {
		in := &s.Instances[i]
		b = appendText(b, in.Instance)
		b = appendInt(b, in.InFlight)
		b = appendInt(b, in.Requests)
		b = appendInt(b, in.Failures)
		b = appendInt(b, int64(in.Compute))
		b = appendInt(b, in.Bytes)
	}
	return b
}

func (s *Stats) read(c *cursor) {
	s.PID, s.Runtime, s.Resident, s.Private = c.int(), c.text(), c.int(), c.int()
	n := c.count(4 + 5*8)
	if n == 0 {
		return
	}
	s.Instances = make([]InstanceStats, n)
	for i := range s.Instances {
		s.Instances[i] = InstanceStats{Instance: c.text(), InFlight: c.int(), Requests: c.int(), Failures: c.int(),
			Compute: time.Duration(c.int()), Bytes: c.int()}
	}
}

func (m *Message) appendTensors(b []byte) []byte {
	b = appendCount(b, len(m.Tensors))
	for i := range m.Tensors {
		t := &m.Tensors[i]
		b = appendText(b, t.Name)
		b = append(b, byte(t.Type), byte(len(t.Shape)))
		for _, d := range t.Shape {
			b = appendInt(b, d)
		}
		b = appendInt(b, int64(len(t.Data)))
		b = appendFlag(b, m.isShared(i))
		if m.isShared(i) {
			b = appendInt(b, m.Offsets[i])
		}
	}
	return b
}

// readTensors reads names, types, shapes and lengths; the data is cut from the payload later. All shapes share one
// block, which is kept with the message.
func (m *Message) readTensors(c *cursor, sizes []int) []int {
	n := c.count(4 + 1 + 1 + 8 + 1)
	if n > c.limits.Tensors {
		c.fail(ErrOversize, "%d tensors, limit %d", n, c.limits.Tensors)
		return sizes
	}
	type span struct{ from, to int }
	var few [16]span
	spans := few[:0]
	m.dims, m.places = m.dims[:0], m.places[:0]
	shared := false
	for range n {
		t := tensor.Tensor{Name: c.name(), Type: tensor.Type(c.byte())}
		rank := int(c.byte())
		if rank > tensor.MaxRank {
			c.fail(ErrMalformed, "tensor %q has %d dimensions", clip(t.Name), rank)
		}
		from := len(m.dims)
		for range rank {
			m.dims = append(m.dims, c.int())
		}
		size := c.int()
		if c.err != nil {
			return sizes
		}
		if size < 0 || size > int64(c.limits.Payload) {
			c.fail(ErrOversize, "tensor %q announces %d bytes, limit %d", clip(t.Name), size, c.limits.Payload)
			return sizes
		}
		place := int64(-1)
		if c.flag() {
			if place = c.int(); c.err == nil && !m.fitsShared(place, size, t.Type) {
				c.fail(ErrMalformed, "tensor %q cannot lie at %d in shared memory", clip(t.Name), place)
			}
			shared = true
		}
		m.places = append(m.places, place)
		m.Tensors = append(m.Tensors, t)
		sizes = append(sizes, int(size))
		spans = append(spans, span{from, len(m.dims)})
	}
	if shared {
		m.Offsets = m.places
	}
	for i, s := range spans { // only now: dims may have moved while it grew
		m.Tensors[i].Shape = m.dims[s.from:s.to:s.to]
	}
	return sizes
}

// fitsShared reports whether a tensor may be a view of the shared memory. BYTES may not: whoever reads them follows
// lengths that stand among the data.
func (m *Message) fitsShared(at, size int64, t tensor.Type) bool {
	if m.shared == nil || m.Kind != KindInfer || t.Size() == 0 || at < 0 {
		return false
	}
	all := int64(len(m.shared.Bytes()))
	return at <= all && size <= all-at && at%int64(t.Size()) == 0
}

// cut makes the tensors views into the payload and checks that everything fits together.
func (m *Message) cut(sizes []int) error {
	at := 0
	for i, size := range sizes {
		if m.isShared(i) {
			start := int(m.Offsets[i])
			m.Tensors[i].Data = m.shared.Bytes()[start : start+size : start+size]
			if err := m.Tensors[i].Check(); err != nil {
				return fmt.Errorf("%w: tensor %q: %w", ErrMalformed, clip(m.Tensors[i].Name), err)
			}
			continue
		}
		start := align(at)
		if start+size > len(m.buffer) {
			return fmt.Errorf("%w: tensors need more than the payload's %d bytes", ErrMalformed, len(m.buffer))
		}
		for _, pad := range m.buffer[at:start] {
			if pad != 0 {
				return fmt.Errorf("%w: padding is not zero", ErrMalformed)
			}
		}
		at = start + size
		m.Tensors[i].Data = m.buffer[start:at:at]
		if err := m.Tensors[i].Check(); err != nil {
			return fmt.Errorf("%w: tensor %q: %w", ErrMalformed, clip(m.Tensors[i].Name), err)
		}
	}
	if at != len(m.buffer) {
		return fmt.Errorf("%w: payload has %d bytes, tensors %d", ErrMalformed, len(m.buffer), at)
	}
	return nil
}

// payloadSize is the bytes of the tensors in the payload with padding between them.
func (m *Message) payloadSize() int {
	if m.Kind != KindInfer && m.Kind != KindInfer.Result() {
		return 0
	}
	n := 0
	for i := range m.Tensors {
		if !m.isShared(i) {
			n = align(n) + len(m.Tensors[i].Data)
		}
	}
	return n
}

func align(n int) int { return (n + payloadAlign - 1) &^ (payloadAlign - 1) }

func appendInt(b []byte, v int64) []byte { return binary.LittleEndian.AppendUint64(b, uint64(v)) }
func appendCount(b []byte, n int) []byte { return binary.LittleEndian.AppendUint32(b, uint32(n)) }
func appendText(b []byte, s string) []byte {
	return append(appendCount(b, len(s)), s...)
}

func appendFlag(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendTexts(b []byte, list []string) []byte {
	b = appendCount(b, len(list))
	for _, s := range list {
		b = appendText(b, s)
	}
	return b
}

func appendSpecs(b []byte, specs []api.TensorSpec) []byte {
	b = appendCount(b, len(specs))
	for i := range specs {
		s := &specs[i]
		b = appendText(b, s.Name)
		b = appendText(b, s.Datatype)
		b = appendCount(b, len(s.Shape))
		for _, d := range s.Shape {
			b = appendInt(b, d)
		}
		b = appendTexts(b, s.Symbols)
	}
	return b
}

// clip bounds foreign text inside an error.
func clip(s string) string { return s[:min(len(s), 80)] }

package batch

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/tensor"
)

// joined is one batch under way.
type joined struct {
	members    []*member
	rows       int
	ctx        context.Context // ends when every member has left
	cancel     context.CancelFunc
	interested int           // members that have not left; guarded by Batcher.mu
	copied     chan struct{} // closed when the members' inputs are not read any more
}

// measure looks at a request: its rows and bytes, and whether it can be joined at all. What cannot is left to the inner
// engine, which tells what is wrong with it.
func (b *Batcher) measure(req *engine.Request) (rows int, bytes int64, alone bool) {
	if len(req.Inputs) == 0 {
		return 1, 0, true
	}
	for i := range req.Inputs {
		t := &req.Inputs[i]
		bytes += int64(len(t.Data))
		if len(t.Shape) == 0 || t.Shape[0] != req.Inputs[0].Shape[0] || !slices.Contains(b.inputs, t.Name) {
			return 1, bytes, true
		}
	}
	first := req.Inputs[0].Shape[0]
	if first < 1 || first > api.BatchSizeMax || !b.allowed(int(first)) || bytes > b.engine.config.Bytes {
		return 1, bytes, true
	}
	for i := range req.Inputs {
		if req.Inputs[i].Check() != nil {
			return 1, bytes, true
		}
	}
	return int(first), bytes, false
}

// fits reports whether two requests may run together: the same inputs in the same order, of equal types and trailing
// shapes, and the same outputs.
func fits(a, b *member) bool {
	if a.alone || b.alone || len(a.request.Inputs) != len(b.request.Inputs) ||
		(a.request.Outputs == nil) != (b.request.Outputs == nil) || !slices.Equal(a.request.Outputs, b.request.Outputs) {
		return false
	}
	for i := range a.request.Inputs {
		x, y := &a.request.Inputs[i], &b.request.Inputs[i]
		if x.Type != y.Type || x.Name != y.Name || !slices.Equal(x.Shape[1:], y.Shape[1:]) {
			return false
		}
	}
	return true
}

// inputAlign is where each joined input begins, as the hop has it.
const inputAlign = 64

// gather copies the members' inputs together, one tensor after the other, into one buffer of the pool.
func (j *joined) gather(p *pool) (engine.Request, *[]byte) {
	head := &j.members[0].request
	size := 0
	for i := range head.Inputs {
		for _, m := range j.members {
			size += len(m.request.Inputs[i].Data)
		}
		size = align(size)
	}
	held := p.get(size)
	buffer := *held
	request := engine.Request{Instance: head.Instance, Outputs: slices.Clone(head.Outputs), Inputs: make([]tensor.Tensor, len(head.Inputs))}
	at := 0
	for i := range head.Inputs {
		start := at
		for _, m := range j.members {
			at += copy(buffer[at:], m.request.Inputs[i].Data)
		}
		first := &head.Inputs[i]
		shape := slices.Clone(first.Shape)
		shape[0] = int64(j.rows)
		request.Inputs[i] = tensor.Tensor{Name: first.Name, Type: first.Type, Shape: shape, Data: buffer[start:at:at]}
		at = align(at)
	}
	return request, held
}

func align(n int) int { return (n + inputAlign - 1) &^ (inputAlign - 1) }

// errNotRows says that a batch's outputs cannot be cut into rows. Nobody is told: every member is run again.
var errNotRows = errors.New("the outputs do not have the rows of the inputs")

// split cuts a batch's answer into the members' shares: views of its memory, which goes back when the last is released.
func (j *joined) split(answer *engine.Answer) ([]*engine.Answer, error) {
	outputs := len(answer.Outputs)
	tensors := make([]tensor.Tensor, len(j.members)*outputs)
	rank := 0
	for o := range answer.Outputs {
		t := &answer.Outputs[o]
		if len(t.Shape) == 0 || t.Shape[0] != int64(j.rows) {
			return nil, fmt.Errorf("%w: output %q of %d rows has shape %v", errNotRows, t.Name, j.rows, t.Shape)
		}
		rank += len(t.Shape)
	}
	dims := make([]int64, 0, len(j.members)*rank)
	for o := range answer.Outputs {
		t := &answer.Outputs[o]
		rest := t.Data
		for i, m := range j.members {
			share, after, err := cutRows(t, rest, m.rows, j.rows)
			if err != nil {
				return nil, err
			}
			from := len(dims)
			dims = append(append(dims, int64(m.rows)), t.Shape[1:]...)
			tensors[i*outputs+o] = tensor.Tensor{Name: t.Name, Type: t.Type, Shape: dims[from:len(dims):len(dims)], Data: share}
			rest = after
		}
	}
	shared := &share{answer: answer}
	shared.holders.Store(int64(len(j.members)))
	free := shared.release
	answers := make([]*engine.Answer, len(j.members))
	for i := range j.members {
		a := engine.NewAnswer(tensors[i*outputs:(i+1)*outputs:(i+1)*outputs], free)
		a.Queue, a.Compute, a.Batch = answer.Queue, answer.Compute, j.rows
		answers[i] = a
	}
	return answers, nil
}

// cutRows splits the bytes of the first rows off what is left of a tensor of all rows.
func cutRows(t *tensor.Tensor, rest []byte, rows, all int) (share, after []byte, _ error) {
	if t.Type != tensor.Bytes {
		n := len(t.Data) / all * rows
		return rest[:n:n], rest[n:], nil
	}
	perRow, err := tensor.Elements(t.Shape[1:])
	if err != nil {
		return nil, nil, fmt.Errorf("%w: output %q: %w", errNotRows, t.Name, err)
	}
	after = rest
	for range perRow * int64(rows) {
		var ok bool
		if _, after, ok = tensor.NextBytes(after); !ok {
			return nil, nil, fmt.Errorf("%w: output %q ends within its rows", errNotRows, t.Name)
		}
	}
	n := len(rest) - len(after)
	return rest[:n:n], after, nil
}

// share is an answer that several hold.
type share struct {
	answer  *engine.Answer
	holders atomic.Int64
}

func (s *share) release() {
	if s.holders.Add(-1) == 0 {
		s.answer.Release()
	}
}

// Buffers are pooled by powers of two, up to maxClass; larger ones are left to the garbage collector.
const (
	minClass = 12 // 4 KiB
	maxClass = 26 // 64 MiB
)

// pool keeps buffers for joined inputs.
type pool struct {
	classes [maxClass + 1]sync.Pool // of *[]byte with exactly 1<<class bytes
}

func class(n int) int { return max(minClass, bits.Len(uint(max(n, 1)-1))) }

func (p *pool) get(n int) *[]byte {
	c := class(n)
	if c > maxClass {
		b := make([]byte, n)
		return &b
	}
	if b, ok := p.classes[c].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 1<<c)
	return &b
}

func (p *pool) put(b *[]byte) {
	if b == nil {
		return
	}
	if c := class(len(*b)); c <= maxClass && len(*b) == 1<<c {
		p.classes[c].Put(b)
	}
}

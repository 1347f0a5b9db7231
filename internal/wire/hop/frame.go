package hop

import (
	"encoding/binary"
	"fmt"
	"time"
)

// copyBelow is the payload size up to which tensor bytes are copied beside their header: one short copy is cheaper than
// a second segment, and the caller need not wait for the socket.
const copyBelow = 16 << 10

// Frame is one encoded message on its way out. Frames come from a Writer and go back to it when they were sent.
type Frame struct {
	head    []byte   // prefix and header, and a small payload
	parts   [][]byte // a large payload, by reference, padding between
	written chan error
	waiting bool // guarded by Writer.mu: somebody reads written and owns the memory under parts
	queued  bool // guarded by Writer.mu: in the queue, not yet taken by a flush
}

var padding [payloadAlign]byte

// Encode fills the frame with a message. Tensors of a large payload are kept by reference: they must not change until
// Send returns. It refuses what the other end would: ErrMalformed for tensors whose bytes do not fit their shape,
// ErrOversize over a limit.
func (f *Frame) Encode(m *Message, limits Limits) error {
	limits = limits.orDefault()
	f.head, f.parts = f.head[:0], f.parts[:0]
	if len(m.Tensors) > limits.Tensors {
		return fmt.Errorf("%w: %d tensors, limit %d", ErrOversize, len(m.Tensors), limits.Tensors)
	}
	for i := range m.Tensors {
		if err := m.Tensors[i].Check(); err != nil {
			return fmt.Errorf("%w: tensor %q: %w", ErrMalformed, clip(m.Tensors[i].Name), err)
		}
	}
	if m.Offsets != nil && len(m.Offsets) != len(m.Tensors) {
		return fmt.Errorf("%w: %d offsets for %d tensors", ErrMalformed, len(m.Offsets), len(m.Tensors))
	}
	payload := m.payloadSize()
	if payload > limits.Payload {
		return fmt.Errorf("%w: tensors of %d bytes, limit %d", ErrOversize, payload, limits.Payload)
	}
	f.head = append(f.head, make([]byte, prefixSize)...)
	f.head = m.appendHeader(f.head)
	header := len(f.head) - prefixSize
	if header > limits.Header {
		return fmt.Errorf("%w: header of %d bytes, limit %d", ErrOversize, header, limits.Header)
	}
	if m.Budget < 0 || m.Budget > maxBudget {
		return fmt.Errorf("%w: budget %v", ErrMalformed, m.Budget)
	}
	p := f.head[:prefixSize]
	binary.LittleEndian.PutUint16(p, magic)
	p[2], p[3] = Version, byte(m.Kind)
	binary.LittleEndian.PutUint32(p[4:], uint32(header))
	binary.LittleEndian.PutUint64(p[8:], uint64(payload))
	binary.LittleEndian.PutUint64(p[16:], m.ID)
	last := uint64(m.Budget / time.Microsecond)
	if !m.Kind.Request() {
		last = m.Check
	}
	binary.LittleEndian.PutUint64(p[24:], last)
	f.addTensors(m, payload)
	return nil
}

func (f *Frame) addTensors(m *Message, payload int) {
	at := 0
	for i := 0; payload > 0 && i < len(m.Tensors); i++ {
		if m.isShared(i) {
			continue
		}
		data := m.Tensors[i].Data
		pad := padding[:align(at)-at]
		at = align(at) + len(data)
		if payload <= copyBelow {
			f.head = append(append(f.head, pad...), data...)
			continue
		}
		if len(pad) > 0 {
			f.parts = append(f.parts, pad)
		}
		if len(data) > 0 {
			f.parts = append(f.parts, data)
		}
	}
}

// Bytes copies the whole frame, for tests and for the one frame that opens a connection.
func (f *Frame) Bytes() []byte {
	b := append([]byte(nil), f.head...)
	for _, part := range f.parts {
		b = append(b, part...)
	}
	return b
}

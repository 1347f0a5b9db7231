package hop

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// readAhead is the stream's buffer: small frames arrive whole in one system call, and of a large payload only this much
// is copied a second time; the rest is read straight into its own buffer.
const readAhead = 32 << 10

// Reader decodes the frames of one stream. It is for one goroutine.
type Reader struct {
	// Admit, when set, is asked before memory is taken for a payload. A payload that is turned away is skipped and its
	// message marked Refused.
	Admit func(kind Kind, payload int) bool

	// Shared, when set, is memory that tensors may lie in. It is set between two messages.
	Shared Shared

	in     *bufio.Reader
	pool   *Pool
	limits Limits
	prefix [prefixSize]byte
	header []byte
	sizes  []int
	known  map[string]string
}

// NewReader makes a reader; messages come from pool.
func NewReader(r io.Reader, pool *Pool, limits Limits) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, readAhead), pool: pool, limits: limits.orDefault(), known: map[string]string{}}
}

// Next reads one message; the caller releases it. It returns io.EOF between frames when the stream has ended, and one
// of the package's errors, wrapped, when the stream is wrong. After an error the stream is of no use.
func (r *Reader) Next() (*Message, error) {
	if _, err := io.ReadFull(r.in, r.prefix[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, cutOff(err)
	}
	kind, header, payload, err := r.checkPrefix()
	if err != nil {
		return nil, err
	}
	if r.header, err = r.fill(r.header[:0], header); err != nil {
		return nil, err
	}
	m := r.pool.message()
	m.Kind = kind
	m.ID = binary.LittleEndian.Uint64(r.prefix[16:])
	if last := binary.LittleEndian.Uint64(r.prefix[24:]); kind.Request() {
		m.Budget = time.Duration(last) * time.Microsecond
	} else {
		m.Check = last
	}
	if r.Shared != nil && kind == KindInfer {
		m.shared = r.Shared
		m.shared.Retain()
	}
	if err := r.body(m, payload); err != nil {
		m.Release()
		return nil, err
	}
	return m, nil
}

// Await waits until there is something to read. After an error it may be called again.
func (r *Reader) Await() error {
	_, err := r.in.Peek(1)
	return err
}

// Whole reports whether all of the next message has arrived, so that Next does not wait.
func (r *Reader) Whole() bool {
	if r.in.Buffered() < prefixSize {
		return false
	}
	p, err := r.in.Peek(prefixSize)
	if err != nil {
		return true // Next tells
	}
	payload := binary.LittleEndian.Uint64(p[8:])
	return payload < readAhead && r.in.Buffered() >= prefixSize+int(binary.LittleEndian.Uint32(p[4:]))+int(payload)
}

// Buffered reports whether more has arrived already, so that Next may not have to wait.
func (r *Reader) Buffered() bool { return r.in.Buffered() > 0 }

func (r *Reader) checkPrefix() (kind Kind, header, payload int, err error) {
	p := &r.prefix
	kind = Kind(p[3])
	headerSize, payloadSize := binary.LittleEndian.Uint32(p[4:]), binary.LittleEndian.Uint64(p[8:])
	budget := binary.LittleEndian.Uint64(p[24:])
	switch {
	case binary.LittleEndian.Uint16(p[:]) != magic:
		err = ErrMagic
	case p[2] != Version:
		err = fmt.Errorf("%w: %d, this is %d", ErrVersion, p[2], Version)
	case !kind.known():
		err = fmt.Errorf("%w: %d", ErrKind, kind)
	case uint64(headerSize) > uint64(r.limits.Header):
		err = fmt.Errorf("%w: header of %d bytes, limit %d", ErrOversize, headerSize, r.limits.Header)
	case payloadSize > uint64(r.limits.Payload):
		err = fmt.Errorf("%w: payload of %d bytes, limit %d", ErrOversize, payloadSize, r.limits.Payload)
	case payloadSize > 0 && kind != KindInfer && kind != KindInfer.Result():
		err = fmt.Errorf("%w: kind %d has no payload", ErrMalformed, kind)
	case kind.Request() && budget > uint64(maxBudget/time.Microsecond):
		err = fmt.Errorf("%w: budget of %d microseconds", ErrMalformed, budget)
	}
	return kind, int(headerSize), int(payloadSize), err
}

func (r *Reader) body(m *Message, payload int) error {
	c := cursor{rest: r.header, limits: &r.limits, known: r.known}
	r.sizes = m.readHeader(&c, r.sizes[:0])
	if c.err == nil && len(c.rest) > 0 {
		c.fail(ErrMalformed, "%d bytes after the header's end", len(c.rest))
	}
	if c.err != nil {
		return c.err
	}
	if payload > 0 && r.Admit != nil && !r.Admit(m.Kind, payload) {
		m.Refused = true
		_, err := r.in.Discard(payload)
		return cutOff(err)
	}
	var err error
	m.buffer, err = r.fill(r.pool.get(payload, r.limits.Step), payload)
	if err != nil {
		return err
	}
	return m.cut(r.sizes)
}

// fill reads n bytes into dst, which is empty. Where dst is too small it grows at most Step bytes, and then at most
// twofold, ahead of what has arrived: a frame that only announces much costs little.
func (r *Reader) fill(dst []byte, n int) ([]byte, error) {
	for len(dst) < n {
		if len(dst) == cap(dst) {
			grown := make([]byte, len(dst), size(min(n, max(r.limits.Step, 2*len(dst)))))
			copy(grown, dst)
			dst = grown
		}
		from := len(dst)
		dst = dst[:min(n, cap(dst))]
		if _, err := io.ReadFull(r.in, dst[from:]); err != nil {
			return dst[:from], cutOff(err)
		}
	}
	return dst, nil
}

// cutOff names the end of a stream inside a frame; other read errors stay what they are.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", ErrTruncated, io.ErrUnexpectedEOF)
	}
	return err
}

package rpc

import (
	"bytes"
	"encoding/binary"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// Memory is where large messages are put together; what lies there need not be copied on its way to a worker.
type Memory interface {
	// Take gives a block of at least n bytes; nil when there is none, and other memory has to do.
	Take(n int) []byte

	// Grow makes a block at least n bytes large where it lies; nil when there is no room behind it.
	Grow(block []byte, n int) []byte

	// Give takes a block back.
	Give(block []byte)
}

const (
	messageStart = 5        // bytes before a message: whether it is compressed, and its length
	messageFirst = 64 << 10 // memory for a message before more of it has come than that
	memoryFrom   = 16 << 10 // size from which a Memory is asked
	messageAlign = 64       // a large message ends at a multiple, so that a last tensor of such a size begins at one
)

// assembly puts one message after the other together from the bytes of DATA frames. It takes memory as bytes come, not as
// a length promises.
type assembly struct {
	limit  int
	memory Memory

	start      [messageStart]byte
	have       int // of start
	size       int
	compressed bool
	filled     int

	lent  bool   // block is the Memory's
	block []byte // holds the message from offset on
	at    int
	pool  *[]byte // the buffer of a small message, from gRPC's pool
}

// empty reports that nothing of a message has come.
func (a *assembly) empty() bool { return a.have == 0 }

// feed takes what belongs to the message off b. done says that the message is whole. An error is the call's status.
func (a *assembly) feed(b []byte) (rest []byte, done bool, err error) {
	if a.have < messageStart {
		n := copy(a.start[a.have:], b)
		a.have += n
		b = b[n:]
		if a.have < messageStart {
			return b, false, nil
		}
		if err := a.begin(); err != nil {
			return b, false, err
		}
	}
	n := min(len(b), a.size-a.filled)
	if n > 0 {
		a.room(a.filled + n)
		copy(a.block[a.at+a.filled:], b[:n])
		a.filled += n
	}
	return b[n:], a.filled == a.size, nil
}

func (a *assembly) begin() error {
	length := binary.BigEndian.Uint32(a.start[1:])
	if a.start[0] > 1 {
		return status.Errorf(codes.Internal, "a message begins with %d, which says nothing of its compression", a.start[0])
	}
	a.compressed = a.start[0] == 1
	if int64(length) > int64(a.limit) {
		return status.Errorf(codes.ResourceExhausted, "a message of %d bytes is over the limit of %d", length, a.limit)
	}
	a.size = int(length)
	first := min(a.size, messageFirst)
	if a.memory != nil && a.size > memoryFrom && !a.compressed {
		a.at = -a.size & (messageAlign - 1) // blocks begin aligned, so the message ends so
		if a.block = a.memory.Take(a.at + first); a.block != nil {
			a.lent = true
			return nil
		}
		a.at = 0
	}
	a.own(first)
	return nil
}

// own takes memory of at least n bytes that is no Memory's.
func (a *assembly) own(n int) {
	a.lent, a.pool = false, nil
	if mem.IsBelowBufferPoolingThreshold(n) { // the pool does not take such back
		a.block = make([]byte, n)
		return
	}
	a.pool = mem.DefaultBufferPool().Get(n)
	a.block = *a.pool
}

// room sees to it that n bytes of the message fit.
func (a *assembly) room(n int) {
	if n += a.at; n <= len(a.block) {
		return
	}
	want := min(a.size+a.at, max(n, 2*len(a.block)))
	if a.lent {
		if grown := a.memory.Grow(a.block, want); grown != nil {
			a.block = grown
			return
		}
	}
	old := *a
	if a.lent {
		a.block = a.memory.Take(want)
	}
	if a.block == nil || !a.lent {
		a.own(want)
	}
	copy(a.block, old.block[:old.at+old.filled])
	old.letGo()
}

// letGo gives the message's memory back.
func (a *assembly) letGo() {
	switch {
	case a.lent:
		a.memory.Give(a.block)
	case a.pool != nil:
		mem.DefaultBufferPool().Put(a.pool)
	}
	a.block, a.pool, a.lent = nil, nil, false
}

// take gives the whole message, which goes back with Free, and is ready for the next.
func (a *assembly) take() (mem.Buffer, bool) {
	message := a.block[a.at : a.at+a.size]
	var buffer mem.Buffer
	switch {
	case a.lent:
		buffer = mem.NewBuffer(&message, lender{a.memory, a.block})
	case a.pool == nil:
		buffer = mem.SliceBuffer(message)
	default:
		*a.pool = message
		buffer = mem.NewBuffer(a.pool, mem.DefaultBufferPool())
	}
	compressed := a.compressed
	*a = assembly{limit: a.limit, memory: a.memory}
	return buffer, compressed
}

// lender gives one block of a Memory back where gRPC gives a buffer back to its pool.
type lender struct {
	memory Memory
	block  []byte
}

// Get is never asked of a lender.
func (l lender) Get(n int) *[]byte { return mem.DefaultBufferPool().Get(n) }

// Put gives the block back.
func (l lender) Put(*[]byte) { l.memory.Give(l.block) }

// inflate undoes a message's compression, up to the limit on messages.
func inflate(message mem.Buffer, coding string, limit int) (mem.BufferSlice, error) {
	compressor := encoding.GetCompressor(coding)
	if compressor == nil {
		return nil, status.Error(codes.Internal, "a message is compressed, and grpc-encoding does not say how")
	}
	z, err := compressor.Decompress(bytes.NewReader(message.ReadOnlyData()))
	if err != nil {
		return nil, status.Errorf(codes.Internal, "decompress the message (%s): %v", coding, err)
	}
	if closer, ok := z.(io.Closer); ok {
		defer func() { _ = closer.Close() }() // what it read has been judged
	}
	out, err := mem.ReadAll(io.LimitReader(z, int64(limit)+1), mem.DefaultBufferPool())
	switch {
	case err != nil:
		out.Free()
		return nil, status.Errorf(codes.Internal, "decompress the message (%s): %v", coding, err)
	case out.Len() > limit:
		out.Free()
		return nil, status.Errorf(codes.ResourceExhausted, "the message is over the limit of %d bytes when decompressed", limit)
	}
	return out, nil
}

// deflate compresses an answer as the request was.
func deflate(message mem.BufferSlice, coding string) (mem.BufferSlice, error) {
	compressor := encoding.GetCompressor(coding)
	var out mem.BufferSlice
	w := mem.NewWriter(&out, mem.DefaultBufferPool())
	z, err := compressor.Compress(w)
	if err == nil {
		for _, part := range message {
			if _, err = z.Write(part.ReadOnlyData()); err != nil {
				break
			}
		}
		if closed := z.Close(); err == nil {
			err = closed
		}
	}
	if err != nil {
		out.Free()
		return nil, status.Errorf(codes.Internal, "compress the answer (%s): %v", coding, err)
	}
	return out, nil
}

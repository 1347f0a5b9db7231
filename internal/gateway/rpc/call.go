package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	copied = 16 << 10  // answers up to this size are copied to what else leaves
	burst  = 256 << 10 // what is written of a large one at once
)

// run runs a call's method and answers.
func (s *stream) run() {
	c := s.conn
	err := s.guarded()
	c.mu.Lock()
	c.end(s, err)
	if errors.Is(s.over, errFinished) && err == nil {
		c.answered = true
	}
	c.done()
	c.write()
	c.mu.Unlock()
	s.stop()
}

// guarded runs the method; one that panics fails alone.
func (s *stream) guarded() (err error) {
	defer s.in.letGo() // of what nobody took
	defer func() {
		if p := recover(); p != nil {
			err = s.conn.server.panicked(s, p)
		}
	}()
	switch {
	case s.refused != 0:
		return s.turnAway()
	case s.method.stream != nil:
		return s.runStream()
	}
	return s.runUnary()
}

// turnAway answers who does not speak gRPC, when all of their request has come.
func (s *stream) turnAway() error {
	text := []byte("This port speaks gRPC: POST with content-type application/grpc.\n")
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.over != nil {
		return s.over
	}
	c.appendRefusal(s)
	if err := s.sendLarge(net.Buffers{text}, len(text)); err != nil {
		return err
	}
	c.out = appendFrame(c.out, frameData, flagEndStream, s.id, 0)
	c.drop(s, errFinished)
	return errFinished
}

func (s *stream) runStream() error {
	server := s.conn.server
	info := &grpc.StreamServerInfo{FullMethod: s.method.name, IsClientStream: s.method.stream.ClientStreams, IsServerStream: s.method.stream.ServerStreams}
	if server.stream == nil {
		return s.method.stream.Handler(s.method.service, (*messages)(s))
	}
	return server.stream(s.method.service, (*messages)(s), info, s.method.stream.Handler)
}

func (s *stream) runUnary() error {
	reply, err := s.method.unary.Handler(s.method.service, &s.ctx, s.decode, s.conn.server.unary)
	if err != nil {
		return err
	}
	return s.send(reply, true)
}

// decode gives a unary method its message.
func (s *stream) decode(v any) error {
	message, compressed := s.in.take()
	return s.unmarshal(message, compressed, v)
}

func (s *stream) unmarshal(message mem.Buffer, compressed bool, v any) error {
	data := mem.BufferSlice{message}
	defer func() { data.Free() }()
	server := s.conn.server
	if compressed {
		plain, err := inflate(message, s.coding, server.limits.MessageBytes)
		if err != nil {
			return err
		}
		message.Free()
		data = plain
	}
	if err := server.codec.Unmarshal(data, v); err != nil {
		return status.Errorf(codes.Internal, "decode the message: %v", err)
	}
	return nil
}

// send encodes and sends a message; last says that the call ends well with it. It returns when the message's memory is free.
func (s *stream) send(v any, last bool) error {
	data, err := s.conn.server.codec.Marshal(v)
	if err != nil {
		return status.Errorf(codes.Internal, "encode the answer: %v", err)
	}
	start := [messageStart]byte{}
	if s.coding != "" {
		packed, err := deflate(data, s.coding)
		data.Free()
		if err != nil {
			return err
		}
		data, start[0] = packed, 1
	}
	defer data.Free()
	binary.BigEndian.PutUint32(start[1:], uint32(data.Len()))
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.over != nil {
		return status.Error(codes.Canceled, s.over.Error())
	}
	if !s.answering {
		s.answerCoding = s.coding
		c.appendHeader(s)
	}
	size := messageStart + data.Len()
	if size <= copied && int64(size) <= min(s.window, c.window) {
		s.window, c.window, c.spoke = s.window-int64(size), c.window-int64(size), true
		c.out = append(appendFrame(c.out, frameData, 0, s.id, size), start[:]...)
		for _, part := range data {
			c.out = append(c.out, part.ReadOnlyData()...)
		}
		if !last { // else what ends the call leaves with it
			c.write()
		}
		return nil
	}
	rest := net.Buffers{start[:]}
	for _, part := range data {
		rest = append(rest, part.ReadOnlyData())
	}
	return s.sendLarge(rest, size)
}

// sendLarge needs mu, which it gives up while it waits. It sends as the peer's windows allow, within the time that a message of
// the size may take: a write's limit for each MiB.
func (s *stream) sendLarge(rest net.Buffers, size int) error {
	c := s.conn
	limit := time.Duration(1+size>>20) * c.server.limits.Write
	var timer *time.Timer
	for size > 0 {
		if s.over != nil {
			return status.Error(codes.Canceled, s.over.Error())
		}
		n := int(min(s.window, c.window, int64(size), burst))
		if n > 0 {
			s.window, c.window, c.spoke = s.window-int64(n), c.window-int64(n), true
			var parts net.Buffers
			parts, rest = c.frames(s.id, rest, n)
			size -= n
			c.direct(parts)
			continue
		}
		if timer == nil {
			timer = time.NewTimer(limit)
			defer timer.Stop()
			s.room = make(chan struct{}, 1)
		}
		c.write()    // what is queued may be what the peer waits for
		c.takeOver() // somebody has to read that there is room
		c.mu.Unlock()
		late := false
		select {
		case <-s.room:
		case <-s.ctx.Done():
		case <-timer.C:
			late = true
		}
		c.mu.Lock()
		if late || s.ctx.Err() != nil && s.over == nil {
			c.out = appendReset(c.out, s.id, faultCancel)
			c.drop(s, errReset)
		}
	}
	return nil
}

// frames puts the next n bytes into DATA frames, without a copy.
func (c *conn) frames(id uint32, rest net.Buffers, n int) (parts, left net.Buffers) {
	for n > 0 {
		length := min(n, c.longest)
		n -= length
		parts = append(parts, appendFrame(nil, frameData, 0, id, length))
		for length > 0 {
			take := min(length, len(rest[0]))
			if take > 0 {
				parts = append(parts, rest[0][:take])
			}
			if rest[0] = rest[0][take:]; len(rest[0]) == 0 {
				rest = rest[1:]
			}
			length -= take
		}
	}
	return parts, rest
}

// messages is a call to a streaming method. One goroutine may receive beside one that sends.
type messages stream

var _ grpc.ServerStream = (*messages)(nil)

// Context is the call's.
func (m *messages) Context() context.Context { return &m.ctx }

// SetHeader adds to the answer's metadata, until it has begun.
func (m *messages) SetHeader(md metadata.MD) error {
	for name, values := range md {
		for _, v := range values {
			m.extra = append(m.extra, name, v)
		}
	}
	return nil
}

// SendHeader begins the answer.
func (m *messages) SendHeader(md metadata.MD) error {
	_ = m.SetHeader(md)
	s := (*stream)(m)
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.over != nil {
		return status.Error(codes.Canceled, s.over.Error())
	}
	if !s.answering {
		s.answerCoding = s.coding
		s.conn.appendHeader(s)
		s.conn.write()
	}
	return nil
}

// SetTrailer is not there: what a method ends with its error brings, see Failure.
func (m *messages) SetTrailer(metadata.MD) {}

// SendMsg sends a message; when it returns, the message's memory is free.
func (m *messages) SendMsg(v any) error { return (*stream)(m).send(v, false) }

// RecvMsg waits for the next message. io.EOF: the peer has no more.
func (m *messages) RecvMsg(v any) error {
	s := (*stream)(m)
	for {
		message, compressed, err := s.next()
		if err != nil {
			return err
		}
		if message != nil {
			return s.unmarshal(message, compressed, v)
		}
		select {
		case <-s.arrived:
		case <-s.ctx.Done():
			return status.FromContextError(s.ctx.Err()).Err()
		}
	}
}

// next takes a message off what came; nil without an error: there is no whole one yet.
func (s *stream) next() (message mem.Buffer, compressed bool, err error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	before := len(s.pending)
	rest, done, err := s.in.feed(s.pending)
	if err != nil {
		return nil, false, err
	}
	if s.pending = rest; len(rest) == 0 {
		s.pending = nil
	}
	ended, over := s.ended, s.over // as they are now: writing lets the reader go on
	if done {
		s.first = true
		message, compressed = s.in.take()
	}
	if over == nil && !ended {
		s.grant(int64(before - len(rest)))
		c.write()
	}
	switch {
	case done:
		return message, compressed, nil
	case over != nil:
		return nil, false, status.FromContextError(context.Canceled).Err()
	case ended && s.in.empty():
		return nil, false, io.EOF
	case ended:
		return nil, false, errNoMessage
	}
	return nil, false, nil
}

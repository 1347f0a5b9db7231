package oip

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip"  // clients may compress
	_ "google.golang.org/grpc/encoding/proto" // the codec below stands before it
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Message is the bytes of one gRPC message, kept alive by a reference count, or lying in a block of a Memory.
type Message struct {
	buffer mem.Buffer
	memory Memory // of block; nil when the bytes are the buffer's
	block  []byte
	bytes  []byte // inside block
}

// Memory is where large messages are put together, so that their tensors need not be copied on their way to a worker.
type Memory interface {
	// Take gives a block of at least n bytes; nil when there is none, and other memory has to do.
	Take(n int) []byte

	// Give takes a block back.
	Give(block []byte)

	// Contains reports whether bytes lie in a block.
	Contains(b []byte) bool
}

const (
	// largeMessage is the size from which a Memory is asked.
	largeMessage = 16 << 10
	// messageAlign is where a large message ends, so that a last tensor whose size is a multiple of it begins at one.
	messageAlign = 64
)

// Bytes are the message's bytes, until Free.
func (m *Message) Bytes() []byte {
	if m.buffer == nil {
		return m.bytes
	}
	return m.buffer.ReadOnlyData()
}

// Free gives the bytes back.
func (m *Message) Free() {
	if m.buffer != nil {
		m.buffer.Free()
	}
	if m.memory != nil {
		m.memory.Give(m.block)
	}
	*m = Message{}
}

// Message is what the codec received for the request; DecodeProto reads its bytes, Reset frees them.
func (r *Request) Message() *Message { return &r.wire.message }

// Reply is an encoded answer, ready to be sent.
type Reply struct{ data mem.BufferSlice }

// Codec is gRPC's protobuf codec with a way past it for infer requests and answers, whose tensors would be copied
// twice otherwise: a *Request only receives its bytes, a *Reply only gives its own.
type Codec struct {
	Memory Memory // for large messages; nil for none
}

// Name is that of the codec that it stands before.
func (Codec) Name() string { return "proto" }

// Marshal encodes any message of the service.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	if reply, ok := v.(*Reply); ok {
		return reply.data, nil
	}
	return encoding.GetCodecV2("proto").Marshal(v)
}

// Unmarshal decodes any message of the service.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	request, ok := v.(*Request)
	if !ok {
		return encoding.GetCodecV2("proto").Unmarshal(data, v)
	}
	m := &request.wire.message
	if m.buffer != nil || m.memory != nil {
		return fmt.Errorf("infer request: decoded into while still in use")
	}
	if size := data.Len(); c.Memory != nil && size > largeMessage && (len(data) != 1 || !c.Memory.Contains(data[0].ReadOnlyData())) {
		if block := c.Memory.Take(size + messageAlign - 1); block != nil {
			start := -size & (messageAlign - 1) // blocks begin aligned, so the message ends so
			m.memory, m.block, m.bytes = c.Memory, block, block[start:start+size]
			data.CopyTo(m.bytes)
			return nil
		}
	}
	m.buffer = data.MaterializeToBuffer(mem.DefaultBufferPool())
	return nil
}

// Size is the encoded length.
func (r *Reply) Size() int { return r.data.Len() }

// Free gives the memory of a reply back that was not sent.
func (r *Reply) Free() { r.data.Free() }

// Reply encodes the answer as a ModelInferResponse with raw contents: one copy of the outputs, into memory that goes
// back to gRPC's pool when it was sent.
func (a *Response) Reply() *Reply {
	pool := mem.DefaultBufferPool()
	buffer := pool.Get(a.sizeProto())
	*buffer = a.appendProto((*buffer)[:0])
	return &Reply{data: mem.BufferSlice{mem.NewBuffer(buffer, pool)}}
}

// finalParameter is the entry of a parameters map that says that an answer is the last one to its request.
var finalParameter = protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "triton_final_response")

// StreamReply encodes the answer as a ModelStreamInferResponse. Every request of a stream has one answer here, so each says
// that it is the final one; an empty one behind it, which clients may ask for, is for servers that cannot know.
func (a *Response) StreamReply() *Reply {
	const isTrue = "\x12\x02\x08\x01" // field 2, a message: bool_param is true
	entry := len(finalParameter) + len(isTrue)
	size := a.sizeProto() + protowire.SizeTag(4) + protowire.SizeBytes(entry)
	pool := mem.DefaultBufferPool()
	buffer := pool.Get(protowire.SizeTag(2) + protowire.SizeBytes(size))
	dst := protowire.AppendTag((*buffer)[:0], 2, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	dst = protowire.AppendTag(dst, 4, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(entry))
	dst = append(append(dst, finalParameter...), isTrue...)
	*buffer = a.appendProto(dst)
	return &Reply{data: mem.BufferSlice{mem.NewBuffer(buffer, pool)}}
}

// StreamFault encodes the error of one request of a stream. The answer beside it carries the request's id and nothing
// else, for clients that tell their requests apart by it.
func StreamFault(text, id string) *Reply {
	dst := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), text)
	if id != "" {
		inner := appendText(nil, 3, id)
		dst = protowire.AppendBytes(protowire.AppendTag(dst, 2, protowire.BytesType), inner)
	}
	return &Reply{data: mem.BufferSlice{mem.SliceBuffer(dst)}}
}

func (a *Response) sizeProto() int {
	size := sizeString(1, a.Model) + sizeString(2, a.Version) + sizeString(3, a.ID)
	for i := range a.Outputs {
		t := &a.Outputs[i]
		size += protowire.SizeTag(5) + protowire.SizeBytes(sizeOutput(t.Name, t.Type.String(), t.Shape))
		size += protowire.SizeTag(6) + protowire.SizeBytes(len(t.Data))
	}
	return size
}

func (a *Response) appendProto(dst []byte) []byte {
	dst = appendText(dst, 1, a.Model)
	dst = appendText(dst, 2, a.Version)
	dst = appendText(dst, 3, a.ID)
	for i := range a.Outputs {
		t := &a.Outputs[i]
		dst = protowire.AppendTag(dst, 5, protowire.BytesType)
		dst = protowire.AppendVarint(dst, uint64(sizeOutput(t.Name, t.Type.String(), t.Shape)))
		dst = appendText(dst, 1, t.Name)
		dst = appendText(dst, 2, t.Type.String())
		if len(t.Shape) > 0 {
			dst = protowire.AppendTag(dst, 3, protowire.BytesType)
			dst = protowire.AppendVarint(dst, uint64(sizeShape(t.Shape)))
			for _, n := range t.Shape {
				dst = protowire.AppendVarint(dst, uint64(n))
			}
		}
	}
	for i := range a.Outputs {
		dst = protowire.AppendTag(dst, 6, protowire.BytesType)
		dst = protowire.AppendBytes(dst, a.Outputs[i].Data)
	}
	return dst
}

// appendText appends a string field; proto3 leaves empty ones out.
func appendText(dst []byte, number protowire.Number, text string) []byte {
	if text == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, number, protowire.BytesType), text)
}

func sizeString(number protowire.Number, text string) int {
	if text == "" {
		return 0
	}
	return protowire.SizeTag(number) + protowire.SizeBytes(len(text))
}

func sizeShape(shape []int64) int {
	size := 0
	for _, n := range shape {
		size += protowire.SizeVarint(uint64(n))
	}
	return size
}

func sizeOutput(name, datatype string, shape []int64) int {
	size := sizeString(1, name) + sizeString(2, datatype)
	if len(shape) > 0 {
		size += protowire.SizeTag(3) + protowire.SizeBytes(sizeShape(shape))
	}
	return size
}

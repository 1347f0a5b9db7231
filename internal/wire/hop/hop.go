// Package hop is the frame codec between gateway and worker over a unix socket: bounded, multiplexed, pipelined binary
// frames whose tensors are copied at most once on each side. It knows no engine and keeps no connection state beyond
// one stream's reader and writer. Callers: engine/process (the gateway's end) and worker (the other end).
package hop

import (
	"errors"
	"time"
)

// Version is the protocol's version; both ends come from one binary, so a difference ends the connection.
const Version = 4

// A frame is a prefix of 32 bytes, a header and a payload, all numbers little-endian:
//
//	0  magic uint16 | 2 version uint8 | 3 kind uint8 | 4 header bytes uint32
//	8  payload bytes uint64 | 16 request id uint64 | 24 budget in microseconds uint64, of an answer the request's mark
//
// The budget is what remains of the request's time when it is sent (0: no deadline). It is an amount, not a moment, so
// neither end has to trust the other's clock. Payload holds the tensors' bytes one after the other, each beginning at a
// multiple of payloadAlign, so that views into an aligned buffer are aligned too. An encoding is the only one of its
// message: whatever decodes, encodes to the same bytes.
const (
	magic        = 0x4850 // "PH"
	prefixSize   = 32
	payloadAlign = 64
)

// Kind says what a frame is.
type Kind uint8

// The requests. Each, Cancel and Relieve apart, is answered exactly once: by its result kind or by KindFailure. These two name
// another request in their own id and have no answer: Cancel the one to stop, Relieve the last of those that are InTurn no longer.
const (
	KindHello   Kind = 1
	KindLoad    Kind = 2
	KindUnload  Kind = 3
	KindInfer   Kind = 4
	KindStats   Kind = 5
	KindCancel  Kind = 6
	KindPing    Kind = 7
	KindRelieve Kind = 8
)

const resultBit = 0x40

// KindFailure answers any request that failed.
const KindFailure Kind = 0x7f

// Result is the kind that answers a request of this kind.
func (k Kind) Result() Kind { return k | resultBit }

// Request reports whether the kind is a request, Cancel and Relieve included.
func (k Kind) Request() bool { return k >= KindHello && k <= KindRelieve }

func (k Kind) known() bool {
	plain := k &^ resultBit
	return k == KindFailure || (plain.Request() && k != KindCancel.Result() && k != KindRelieve.Result())
}

// The ways in which a stream can be wrong. Each ends the connection: after one of them nothing that follows can be
// trusted to belong to the request that it names.
var (
	ErrMagic     = errors.New("hop: not a frame")
	ErrVersion   = errors.New("hop: another protocol version")
	ErrKind      = errors.New("hop: unknown kind of frame")
	ErrOversize  = errors.New("hop: over a limit")
	ErrTruncated = errors.New("hop: frame cut off")
	ErrMalformed = errors.New("hop: malformed frame")
	ErrUnknownID = errors.New("hop: answer to no request")
	ErrDuplicate = errors.New("hop: request id in use")
	ErrToken     = errors.New("hop: token refused")
	ErrOrder     = errors.New("hop: frame out of order")
	ErrStalled   = errors.New("hop: the other end stopped reading")
	ErrClosed    = errors.New("hop: connection closed")
)

// Limits bound what one end accepts from the other.
type Limits struct {
	Header  int // bytes of one header; default 1 MiB
	Payload int // bytes of one payload; default 257 MiB: the gateway's tensor body limit and padding
	Tensors int // tensors in one frame; default 1024
	Step    int // bytes that may be allocated ahead of what has arrived; default 8 MiB
}

// maxBudget keeps a hostile budget from overflowing a time.Duration.
const maxBudget = 365 * 24 * time.Hour

func (l Limits) orDefault() Limits {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&l.Header, 1<<20)
	set(&l.Payload, 257<<20)
	set(&l.Tensors, 1024)
	set(&l.Step, 8<<20)
	return l
}

// Package safetensors reads the headers of safetensors files within bounds: which tensors a file holds, of which types and
// shapes, and what its author wrote beside them. Nothing is taken that two readers could understand differently, or whose
// tensors do not cover the file exactly. It never reads weights, and its memory is bounded by the header that is there,
// not by what the file declares. It runs no models. Callers: registry.
package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
)

// Limits bound what Read takes. A zero field means its default.
type Limits struct {
	HeaderBytes   int64 // bytes of the header. Default 100,000,000, as the format's own library has it.
	Tensors       int64 // tensors of one file. Default 1,000,000.
	NameBytes     int64 // bytes of one name or metadata key. Default 4,096.
	Metadata      int64 // entries of metadata. Default 1,024.
	MetadataBytes int64 // bytes of one metadata value. Default 1 MiB.
}

func (l Limits) withDefaults() Limits {
	l.HeaderBytes = cmp.Or(l.HeaderBytes, 100_000_000)
	l.Tensors = cmp.Or(l.Tensors, 1_000_000)
	l.NameBytes = cmp.Or(l.NameBytes, 4096)
	l.Metadata = cmp.Or(l.Metadata, 1024)
	l.MetadataBytes = cmp.Or(l.MetadataBytes, 1<<20)
	return l
}

const (
	lengthBytes = 8  // the header's length stands before it
	rankMax     = 32 // dimensions of one tensor
)

// Model is what a file holds.
type Model struct {
	Tensors    []Tensor // by their place in the file
	Metadata   map[string]string
	Parameters int64            // elements of all tensors
	Types      map[string]int64 // elements by type
	HeaderSize int64            // bytes of the header
}

// Tensor is one tensor. Begin and End are bytes from the end of the header.
type Tensor struct {
	Name       string
	Type       string
	Shape      []int64
	Begin, End int64
}

// Refusal says why a file is not taken. It is permanent: the same bytes are refused again.
type Refusal struct {
	Reason string // a sentence for a person
	Offset int64  // where in the file, in bytes; -1 when it is about the file as a whole
}

// Error is the reason with the place.
func (r *Refusal) Error() string {
	if r.Offset < 0 {
		return "safetensors: " + r.Reason
	}
	return fmt.Sprintf("safetensors: %s (at byte %d)", r.Reason, r.Offset)
}

func refuse(format string, args ...any) error {
	return &Refusal{Reason: fmt.Sprintf(format, args...), Offset: -1}
}

// typeBits are the sizes of one element in bits.
var typeBits = map[string]int64{
	"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
	"I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}

// Is reports whether a file begins as safetensors do: with a length that fits, and an object. Whether it is one, Read says.
// head is the file's beginning, 9 bytes at least.
func Is(head []byte, size int64) bool {
	if len(head) < lengthBytes+1 {
		return false
	}
	n := binary.LittleEndian.Uint64(head)
	return n >= 2 && n <= uint64(max(0, size-lengthBytes)) && head[lengthBytes] == '{'
}

// Read reads and checks a file's header. An error that is no *Refusal is the reader's own.
func Read(file io.ReaderAt, size int64, limits Limits) (*Model, error) {
	limits = limits.withDefaults()
	var length [lengthBytes]byte
	if size < lengthBytes+2 {
		return nil, refuse("the file has %d bytes, too few for a header", size)
	}
	if _, err := file.ReadAt(length[:], 0); err != nil {
		return nil, cut(err)
	}
	n := binary.LittleEndian.Uint64(length[:])
	switch {
	case n > uint64(limits.HeaderBytes):
		return nil, refuse("the header is said to have %d bytes, over the limit HeaderBytes = %d", n, limits.HeaderBytes)
	case n > uint64(size-lengthBytes):
		return nil, refuse("the header is said to have %d bytes, the file has %d after it", n, size-lengthBytes)
	}
	header := make([]byte, n) // no more than the file that is there
	if _, err := file.ReadAt(header, lengthBytes); err != nil && (!errors.Is(err, io.EOF) || int64(n) != size-lengthBytes) {
		return nil, cut(err)
	}
	if len(header) == 0 || header[0] != '{' {
		return nil, refuse("the header does not begin with an object")
	}
	m := &Model{Types: map[string]int64{}, HeaderSize: int64(n)}
	// The first walk checks and counts, so that the second makes room for what is there.
	count := scanner{text: header, limits: limits}
	if err := count.header(); err != nil {
		return nil, err
	}
	m.Tensors = make([]Tensor, 0, count.tensors)
	fill := scanner{text: header, limits: limits, into: m}
	if err := fill.header(); err != nil {
		return nil, err
	}
	return m, m.fit(size - lengthBytes - int64(n))
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refuse("the file ends inside its header")
	}
	return err
}

// fit checks that the tensors cover the data exactly: no gap, no overlap, nothing behind them. In a gap anything could be
// hidden, and an overlap is never what somebody meant.
func (m *Model) fit(data int64) error {
	names := make([]int32, len(m.Tensors))
	for i := range names {
		names[i] = int32(i)
	}
	slices.SortFunc(names, func(a, b int32) int { return cmp.Compare(m.Tensors[a].Name, m.Tensors[b].Name) })
	for i := 1; i < len(names); i++ {
		if name := m.Tensors[names[i]].Name; name == m.Tensors[names[i-1]].Name {
			return refuse("the tensor %.80q stands twice", name)
		}
	}
	slices.SortStableFunc(m.Tensors, func(a, b Tensor) int { return cmp.Or(cmp.Compare(a.Begin, b.Begin), cmp.Compare(a.End, b.End)) })
	at := int64(0)
	for i := range m.Tensors {
		t := &m.Tensors[i]
		if t.Begin != at {
			return refuse("the tensor %.80q begins at byte %d of the data, where byte %d is wanted: a gap or an overlap", t.Name, t.Begin, at)
		}
		if t.End > data {
			return refuse("the tensor %.80q ends at byte %d of the data, which has %d", t.Name, t.End, data)
		}
		at = t.End
		elements, err := t.elements()
		if err != nil {
			return err
		}
		if m.Parameters > 1<<62-elements {
			return refuse("the tensors have more elements than can be counted")
		}
		m.Parameters += elements
		m.Types[t.Type] += elements
	}
	if at != data {
		return refuse("%d bytes follow the last tensor", data-at)
	}
	return nil
}

// elements checks that type, shape and place agree.
func (t *Tensor) elements() (int64, error) {
	n := uint64(1)
	for _, d := range t.Shape {
		high, low := bits.Mul64(n, uint64(d))
		if high != 0 || low > 1<<60 {
			return 0, refuse("the tensor %.80q has more elements than can be counted", t.Name)
		}
		n = low
	}
	size, known := typeBits[t.Type]
	if !known {
		return 0, refuse("the tensor %.80q has the unknown type %.20q", t.Name, t.Type)
	}
	if whole := n * uint64(size); whole/uint64(size) != n || whole%8 != 0 || whole/8 != uint64(t.End-t.Begin) {
		return 0, refuse("the tensor %.80q of %s %v has %d bytes in the file, which does not fit", t.Name, t.Type, t.Shape, t.End-t.Begin)
	}
	return int64(n), nil
}

// blank reports what may pad a header: spaces alone.
func blank(rest []byte) bool { return len(bytes.Trim(rest, " ")) == 0 }

// Package gguf reads the headers of GGUF files within bounds: what a file says of itself, which tensors it holds and where
// they lie. It refuses what has broken loaders of this format: counts and lengths that lie, tensors outside of the file,
// sizes that overflow, and settings that a loader would divide by or allocate after. It never reads weights, and its memory
// is bounded by what is in the file, not by what the file declares. It runs no models. Callers: registry.
package gguf

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
)

// Limits bound what Read takes. A zero field means its default.
type Limits struct {
	Pairs         int64 // keys with values. Default 65,536.
	Tensors       int64 // tensors of one file. Default 1,000,000.
	NameBytes     int64 // bytes of a key or a tensor's name; GGML itself ends at 64 for names. Default 4,096.
	TextBytes     int64 // bytes of one value that is a text, a chat template among them. Default 4 MiB.
	ArrayElements int64 // elements of one array. Default 16 Mi.
	Tokens        int64 // tokens of a tokenizer, and its scores and types. Default 4 Mi.
	Merges        int64 // merges of a tokenizer. Default 8 Mi.
	KeptBytes     int64 // bytes of values that the answer keeps; longer texts are told by their length. Default 256 KiB.
}

func (l Limits) withDefaults() Limits {
	l.Pairs = cmp.Or(l.Pairs, 65_536)
	l.Tensors = cmp.Or(l.Tensors, 1_000_000)
	l.NameBytes = cmp.Or(l.NameBytes, 4096)
	l.TextBytes = cmp.Or(l.TextBytes, 4<<20)
	l.ArrayElements = cmp.Or(l.ArrayElements, 16<<20)
	l.Tokens = cmp.Or(l.Tokens, 4<<20)
	l.Merges = cmp.Or(l.Merges, 8<<20)
	l.KeptBytes = cmp.Or(l.KeptBytes, 256<<10)
	return l
}

// Magic begins every file of the format.
const Magic = "GGUF"

const (
	dimsMax          = 4 // of one tensor, as GGML has it
	alignmentDefault = 32
	alignmentMax     = 1 << 16
	valueKept        = 1024 // bytes of one kept text
	pairsKept        = 1024 // keys that the answer keeps
)

// Model is what a file holds.
type Model struct {
	Version      int64
	Architecture string
	Metadata     map[string]string // keys with single values; of arrays their type and length
	Tensors      []Tensor          // by their place in the file
	Parameters   int64             // elements of all tensors
	Types        map[string]int64  // elements by type
	Alignment    int64             // bytes
	Tokenizer    Tokenizer
}

// Tokenizer tells the sizes of what a file brings along to cut text with. 0 is: not there.
type Tokenizer struct {
	Kind         string
	Tokens       int64
	Merges       int64
	ChatTemplate int64 // bytes
}

// Tensor is one tensor. Begin and End are bytes from where the data begins.
type Tensor struct {
	Name       string
	Type       string
	Shape      []int64 // the fastest dimension first, as the file has it
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
		return "gguf: " + r.Reason
	}
	return fmt.Sprintf("gguf: %s (at byte %d)", r.Reason, r.Offset)
}

func refuse(format string, args ...any) error {
	return &Refusal{Reason: fmt.Sprintf(format, args...), Offset: -1}
}

// Read reads and checks a file's header. An error that is no *Refusal is the reader's own.
func Read(file io.ReaderAt, size int64, limits Limits) (*Model, error) {
	r := &reader{limits: limits.withDefaults(), size: size}
	r.from(file)
	m := &Model{Metadata: map[string]string{}, Types: map[string]int64{}, Alignment: alignmentDefault}
	tensors, pairs, err := r.counts(m)
	if err != nil {
		return nil, err
	}
	s := settings{numbers: map[string]number{}, arrays: map[string]int64{}}
	if err := r.pairs(m, &s, pairs); err != nil {
		return nil, err
	}
	if err := s.check(m, r.limits); err != nil {
		return nil, err
	}
	// The first walk checks that so many tensors are there, the second makes room for them.
	start := r.at
	for range tensors {
		if err := r.tensor(nil); err != nil {
			return nil, err
		}
	}
	r.seek(start)
	m.Tensors = make([]Tensor, tensors)
	for i := range m.Tensors {
		if err := r.tensor(&m.Tensors[i]); err != nil {
			return nil, err
		}
	}
	return m, m.fit(r.at, size)
}

// counts reads what stands first.
func (r *reader) counts(m *Model) (tensors, pairs int64, _ error) {
	var magic [4]byte
	if err := r.bytes(magic[:]); err != nil {
		return 0, 0, err
	}
	if string(magic[:]) != Magic {
		return 0, 0, refuse("it does not begin with %s", Magic)
	}
	version, err := r.uint32()
	if err != nil {
		return 0, 0, err
	}
	m.Version = int64(version)
	switch version {
	case 2, 3:
	case 1:
		return 0, 0, refuse("it is of version 1, which is no longer in use")
	default:
		return 0, 0, r.refuse("it is of version %d, or written for machines of another byte order; versions 2 and 3 are taken", version)
	}
	if tensors, err = r.count("tensors", r.limits.Tensors, tensorBytesMin); err != nil {
		return 0, 0, err
	}
	pairs, err = r.count("keys", r.limits.Pairs, pairBytesMin)
	return tensors, pairs, err
}

// block is how a type packs its elements: so many into so many bytes.
type block struct {
	name            string
	elements, bytes int64
}

// blocks are the types of GGML by their numbers. Those that were withdrawn are missing, and refused.
var blocks = map[uint32]block{
	0: {"F32", 1, 4}, 1: {"F16", 1, 2}, 2: {"Q4_0", 32, 18}, 3: {"Q4_1", 32, 20}, 6: {"Q5_0", 32, 22}, 7: {"Q5_1", 32, 24},
	8: {"Q8_0", 32, 34}, 9: {"Q8_1", 32, 36}, 10: {"Q2_K", 256, 84}, 11: {"Q3_K", 256, 110}, 12: {"Q4_K", 256, 144},
	13: {"Q5_K", 256, 176}, 14: {"Q6_K", 256, 210}, 15: {"Q8_K", 256, 292}, 16: {"IQ2_XXS", 256, 66}, 17: {"IQ2_XS", 256, 74},
	18: {"IQ3_XXS", 256, 98}, 19: {"IQ1_S", 256, 50}, 20: {"IQ4_NL", 32, 18}, 21: {"IQ3_S", 256, 110}, 22: {"IQ2_S", 256, 82},
	23: {"IQ4_XS", 256, 136}, 24: {"I8", 1, 1}, 25: {"I16", 1, 2}, 26: {"I32", 1, 4}, 27: {"I64", 1, 8}, 28: {"F64", 1, 8},
	29: {"IQ1_M", 256, 56}, 30: {"BF16", 1, 2}, 34: {"TQ1_0", 256, 54}, 35: {"TQ2_0", 256, 66}, 39: {"MXFP4", 32, 17},
}

// tensor reads one tensor's description; into nil it is only checked.
func (r *reader) tensor(into *Tensor) error {
	name, err := r.text("a tensor's name", r.limits.NameBytes)
	if err != nil {
		return err
	}
	if len(name) == 0 {
		return r.refuse("a tensor has no name")
	}
	if into != nil {
		into.Name = string(name)
	}
	rank, err := r.uint32()
	if err != nil {
		return err
	}
	if rank == 0 || rank > dimsMax {
		return r.refuse("a tensor has %d dimensions; 1 to %d are taken", rank, dimsMax)
	}
	elements, dims := uint64(1), [dimsMax]int64{}
	for i := range rank {
		d, err := r.uint64()
		if err != nil {
			return err
		}
		high, low := bits.Mul64(elements, d)
		if high != 0 || low > 1<<56 || d > 1<<56 || d == 0 {
			return r.refuse("a tensor has the size %d in dimension %d, or more elements than can be counted", d, i+1)
		}
		elements, dims[i] = low, int64(d)
	}
	kind, err := r.uint32()
	if err != nil {
		return err
	}
	b, known := blocks[kind]
	if !known {
		return r.refuse("a tensor has the type %d, which is unknown", int32(kind))
	}
	if dims[0]%b.elements != 0 {
		return r.refuse("a tensor of %s has %d elements in a row, which is no multiple of %d", b.name, dims[0], b.elements)
	}
	offset, err := r.uint64()
	if err != nil {
		return err
	}
	bytes := int64(elements) / b.elements * b.bytes
	if offset > math.MaxInt64/4 || bytes > r.size || int64(offset) > r.size-bytes {
		return r.refuse("a tensor takes %d bytes from byte %d of the data; the file has %d bytes", bytes, offset, r.size)
	}
	if into != nil {
		into.Type, into.Shape = b.name, slices.Clone(dims[:rank])
		into.Begin, into.End = int64(offset), int64(offset)+bytes
	}
	return nil
}

// fit checks that the tensors follow each other, each where the alignment puts it, and end where the file does.
func (m *Model) fit(header, size int64) error {
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
	slices.SortFunc(m.Tensors, func(a, b Tensor) int { return cmp.Compare(a.Begin, b.Begin) })
	start := aligned(header, m.Alignment)
	data := size - start
	if len(m.Tensors) == 0 {
		data = size - header
	}
	at := int64(0)
	for i := range m.Tensors {
		t := &m.Tensors[i]
		switch {
		case t.Begin%m.Alignment != 0:
			return refuse("the tensor %.80q begins at byte %d of the data, which is no multiple of the alignment %d", t.Name, t.Begin, m.Alignment)
		case t.Begin != aligned(at, m.Alignment):
			return refuse("the tensor %.80q begins at byte %d of the data, where byte %d is wanted: a gap or an overlap", t.Name, t.Begin, aligned(at, m.Alignment))
		case t.End > data:
			return refuse("the tensor %.80q ends at byte %d of the data, which has %d", t.Name, t.End, data)
		}
		at = t.End
		elements := int64(1)
		for _, d := range t.Shape {
			elements *= d
		}
		m.Parameters += elements // no more than eight to a byte of the file
		m.Types[t.Type] += elements
	}
	if rest := data - at; rest < 0 || rest >= m.Alignment && rest > 0 {
		return refuse("%d bytes follow the last tensor", rest)
	}
	return nil
}

func aligned(n, alignment int64) int64 { return (n + alignment - 1) / alignment * alignment }

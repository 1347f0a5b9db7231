package onnx

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// windowBytes is how much of the file is in memory at a time. It is the most that one read of the source asks for.
	windowBytes = 64 << 10
	// jumpBytes is how much is read where the reader has jumped to, most often to look at one tag behind a weight.
	jumpBytes = 4 << 10
	// costBytes of a text or of packed numbers, which are looked at byte by byte, count as one more field visited.
	costBytes = 64
	// headBytes is the most that a tag and a length take: two numbers of ten bytes.
	headBytes = 20
)

// scanner walks protobuf messages in a source, forward within a message and wherever the caller puts pos between them.
type scanner struct {
	source   io.ReaderAt
	size     int64
	limits   Limits
	window   []byte // the bytes of the source from windowAt
	windowAt int64
	pos      int64 // where the next byte is read
	fields   int64 // visited so far, against limits.Fields
	name     []byte
	seed     maphash.Seed
}

// item is one field as met in the file: its number, its value when it is a number, and the place of its content.
type item struct {
	number int
	packed bool   // a run of numbers in one field
	value  uint64 // of a varint, not packed
	start  int64  // of the content, behind tag and length
	end    int64
}

func (i item) size() int64 { return i.end - i.start }

func newScanner(source io.ReaderAt, size int64, limits Limits) *scanner {
	room := min(size, windowBytes)
	return &scanner{source: source, size: size, limits: limits, window: make([]byte, 0, room), seed: maphash.MakeSeed()}
}

// peek gives the next n bytes or, near end, those that are left before it. They are valid until the next read.
func (s *scanner) peek(n int64, end int64) ([]byte, error) {
	n = min(n, end-s.pos)
	if have := s.windowAt + int64(len(s.window)); s.pos < s.windowAt || s.pos+n > have {
		fill := min(int64(cap(s.window)), s.size-s.pos)
		if s.pos < s.windowAt || s.pos > have {
			fill = max(n, min(fill, jumpBytes))
		}
		s.window, s.windowAt = s.window[:fill], s.pos
		read, err := s.source.ReadAt(s.window, s.pos)
		if int64(read) < fill {
			s.window = s.window[:0]
			if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, refuse(RuleWire, "the file ends at byte %d, %d bytes were announced", s.windowAt+int64(read), s.size)
			}
			return nil, fmt.Errorf("read model at byte %d: %w", s.pos, err)
		}
	}
	from := s.pos - s.windowAt
	return s.window[from : from+n], nil
}

// each visits the fields of one message up to end. It checks every field against the schema, and a text for being UTF-8,
// before visit sees it; content that visit does not read is stepped over.
func (s *scanner) each(schema *message, end int64, visit func(item) error) error {
	var seen uint32
	for s.pos < end {
		at := s.pos
		found, err := s.next(schema, end)
		if err == nil {
			known := &schema.fields[found.number]
			if bit := uint32(1) << found.number; !known.many && seen&bit != 0 {
				err = refuse(RuleWire, "%s has the field %s twice", schema.name, known.name)
			} else if seen |= bit; known.shape == text {
				err = s.checkText(schema, found)
			}
		}
		if err == nil {
			s.pos = found.start
			err = visit(found)
		}
		if err != nil {
			return placed(err, at)
		}
		s.pos = found.end
	}
	return nil
}

// placed notes the innermost place on a refusal that has none yet.
func placed(err error, at int64) error {
	if r := (*Refusal)(nil); errors.As(err, &r) && r.Offset < 0 {
		r.Offset = at
	}
	return err
}

// next reads the tag, and the length or the number behind it. Everything it returns lies before end.
func (s *scanner) next(schema *message, end int64) (item, error) {
	if err := s.spend(1); err != nil {
		return item{}, err
	}
	head, err := s.peek(headBytes, end)
	if err != nil {
		return item{}, err
	}
	number, wire, n := protowire.ConsumeTag(head)
	if n < 0 {
		return item{}, refuse(RuleWire, "%s is cut off or has a bad tag", schema.name)
	}
	if int(number) >= len(schema.fields) || schema.fields[number].shape == absent {
		return item{}, refuse(RuleWire, "%s has a field %d, which this reader does not know", schema.name, number)
	}
	known := &schema.fields[number]
	found := item{number: int(number), start: s.pos + int64(n)}
	switch wire {
	case protowire.VarintType:
		value, m := protowire.ConsumeVarint(head[n:])
		if m < 0 {
			return item{}, refuse(RuleWire, "%s in %s is cut off or too long", known.name, schema.name)
		}
		found.value, found.end = value, found.start+int64(m)
	case protowire.Fixed32Type:
		found.end = found.start + 4
	case protowire.Fixed64Type:
		found.end = found.start + 8
	case protowire.BytesType:
		length, m := protowire.ConsumeVarint(head[n:])
		if m < 0 {
			return item{}, refuse(RuleWire, "the length of %s in %s is cut off or too long", known.name, schema.name)
		}
		found.start += int64(m)
		if left := end - found.start; length > uint64(left) {
			return item{}, refuse(RuleWire, "%s in %s announces %d bytes, %d are left", known.name, schema.name, length, left)
		}
		found.end = found.start + int64(length)
	}
	if found.end > end {
		return item{}, refuse(RuleWire, "%s in %s is cut off", known.name, schema.name)
	}
	if !s.fits(known, wire) {
		return item{}, refuse(RuleWire, "%s in %s has wire type %d", known.name, schema.name, wire)
	}
	found.packed = wire == protowire.BytesType && known.shape <= fixed64
	return found, nil
}

// spend counts work against the limit that bounds the time of a reading.
func (s *scanner) spend(fields int64) error {
	if s.fields += fields; s.fields > s.limits.Fields {
		return overLimit("Fields", s.limits.Fields, "the file has too many fields, or too much text, to be looked at")
	}
	return nil
}

func (s *scanner) fits(known *field, wire protowire.Type) bool {
	switch known.shape {
	case varint:
		return wire == protowire.VarintType || wire == protowire.BytesType && known.many
	case fixed32:
		return wire == protowire.Fixed32Type || wire == protowire.BytesType && known.many
	case fixed64:
		return wire == protowire.Fixed64Type || wire == protowire.BytesType && known.many
	default:
		return wire == protowire.BytesType
	}
}

// checkText reads a text through the window, however long it is, and refuses what is not UTF-8.
func (s *scanner) checkText(schema *message, found item) error {
	if err := s.spend(found.size() / costBytes); err != nil {
		return err
	}
	for s.pos = found.start; s.pos < found.end; {
		part, err := s.peek(int64(cap(s.window)), found.end)
		if err != nil {
			return err
		}
		if s.pos+int64(len(part)) < found.end {
			part = wholeRunes(part)
		}
		if len(part) == 0 || !utf8.Valid(part) {
			return refuse(RuleText, "%s in %s is not UTF-8", schema.fields[found.number].name, schema.name)
		}
		s.pos += int64(len(part))
	}
	return nil
}

// wholeRunes leaves a rune that the end of the window cuts in two for the next window.
func wholeRunes(part []byte) []byte {
	for back := 1; back < utf8.UTFMax && back <= len(part); back++ {
		if last := part[len(part)-back:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				return part[:len(part)-back]
			}
			break
		}
	}
	return part
}

// text gives a short text; it is valid until the next call.
func (s *scanner) text(found item) ([]byte, error) {
	if found.size() > s.limits.NameBytes {
		return nil, overLimit("NameBytes", s.limits.NameBytes, "a name has %d bytes", found.size())
	}
	s.name = s.name[:0]
	for s.pos = found.start; s.pos < found.end; {
		part, err := s.peek(int64(cap(s.window)), found.end)
		if err != nil {
			return nil, err
		}
		s.name = append(s.name, part...)
		s.pos += int64(len(part))
	}
	for _, b := range s.name {
		if b < ' ' || b == 0x7f {
			return nil, refuse(RuleText, "the name %.80q has a control character", s.name)
		}
	}
	return s.name, nil
}

// count says how many numbers a field holds, packed or not, and checks that a packed run ends with its last number.
func (s *scanner) count(schema *message, found item) (int64, error) {
	if !found.packed {
		return 1, nil
	}
	known := &schema.fields[found.number]
	width := int64(4)
	switch known.shape {
	case varint:
		return s.countVarints(found, known.name)
	case fixed64:
		width = 8
	}
	if found.size()%width != 0 {
		return 0, refuse(RuleWire, "%s has %d bytes, not a multiple of %d", known.name, found.size(), width)
	}
	return found.size() / width, nil
}

// countVarints counts the last bytes of numbers: those without the continuation bit.
func (s *scanner) countVarints(found item, name string) (n int64, err error) {
	if err := s.spend(found.size() / costBytes); err != nil {
		return 0, err
	}
	run := 0
	for s.pos = found.start; s.pos < found.end; {
		part, err := s.peek(int64(cap(s.window)), found.end)
		if err != nil {
			return 0, err
		}
		for _, b := range part {
			if run++; run > 10 {
				return 0, refuse(RuleWire, "%s has a number of more than 10 bytes", name)
			}
			if b < 0x80 {
				n, run = n+1, 0
			}
		}
		s.pos += int64(len(part))
	}
	if run != 0 {
		return 0, refuse(RuleWire, "the last number of %s is cut off", name)
	}
	return n, nil
}

// numbers calls visit for every number of a repeated varint field, packed or not.
func (s *scanner) numbers(found item, visit func(uint64) error) error {
	if !found.packed {
		return visit(found.value)
	}
	for s.pos = found.start; s.pos < found.end; {
		part, err := s.peek(headBytes, found.end)
		if err != nil {
			return err
		}
		value, n := protowire.ConsumeVarint(part)
		if n < 0 {
			return refuse(RuleWire, "a packed number is cut off or too long")
		}
		if err := visit(value); err != nil {
			return err
		}
		s.pos += int64(n)
	}
	return nil
}

// hash stands for a name in a set: names are compared by 64 random-keyed bits, so that a set costs eight bytes a name.
func (s *scanner) hash(parts ...[]byte) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	for i, p := range parts {
		if i > 0 {
			h.WriteByte(0)
		}
		h.Write(p)
	}
	return h.Sum64()
}

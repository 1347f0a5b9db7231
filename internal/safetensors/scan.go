package safetensors

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode"
	"unicode/utf8"
)

// scanner walks a header's JSON. It knows the one shape that a header has, so it needs no tree, and its memory is that of
// the names that it keeps.
type scanner struct {
	text    []byte
	at      int
	limits  Limits
	into    *Model // nil: check and count only
	tensors int64
	entries int64 // of metadata
}

func (s *scanner) refuse(format string, args ...any) error {
	return &Refusal{Offset: int64(lengthBytes + s.at), Reason: fmt.Sprintf(format, args...)}
}

// header reads the outermost object.
func (s *scanner) header() error {
	metadata := false
	err := s.object(func(key []byte) error {
		if string(key) != "__metadata__" {
			return s.tensor(key)
		}
		if metadata {
			return s.refuse("__metadata__ stands twice")
		}
		metadata = true
		return s.metadata()
	})
	if err != nil {
		return err
	}
	if !blank(s.text[s.at:]) {
		return s.refuse("something follows the header's object")
	}
	return nil
}

func (s *scanner) metadata() error {
	if s.into != nil {
		s.into.Metadata = map[string]string{}
	}
	return s.object(func(key []byte) error {
		if s.entries++; s.entries > s.limits.Metadata {
			return s.refuse("there are more entries of metadata than the limit Metadata = %d", s.limits.Metadata)
		}
		value, err := s.string(s.limits.MetadataBytes)
		if err != nil || s.into == nil {
			return err
		}
		if _, twice := s.into.Metadata[string(key)]; twice {
			return s.refuse("the metadata %.80q stands twice", key)
		}
		s.into.Metadata[string(key)] = string(value)
		return nil
	})
}

func (s *scanner) tensor(name []byte) error {
	if s.tensors++; s.tensors > s.limits.Tensors {
		return s.refuse("there are more tensors than the limit Tensors = %d", s.limits.Tensors)
	}
	// The key may lie in the header itself, but it is only read.
	var t Tensor
	var dims, offsets [rankMax]int64
	rank, seen := 0, 0
	err := s.object(func(key []byte) (err error) {
		field := slices.Index([]string{"dtype", "shape", "data_offsets"}, string(key))
		if field < 0 || seen&(1<<field) != 0 {
			return s.refuse("the tensor %.80q has the field %.40q, unknown or twice", name, key)
		}
		seen |= 1 << field
		switch field {
		case 0:
			var dtype []byte
			if dtype, err = s.string(16); err == nil {
				if _, known := typeBits[string(dtype)]; !known {
					return s.refuse("the tensor %.80q has the unknown type %.20q", name, dtype)
				}
				t.Type = typeName(dtype)
			}
		case 1:
			rank, err = s.numbers(dims[:])
		case 2:
			var n int
			if n, err = s.numbers(offsets[:]); err == nil && (n != 2 || offsets[0] > offsets[1]) {
				err = s.refuse("the tensor %.80q has data_offsets that are no place", name)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if seen != 7 {
		return s.refuse("the tensor %.80q lacks one of dtype, shape and data_offsets", name)
	}
	if s.into != nil {
		t.Name, t.Shape, t.Begin, t.End = string(name), slices.Clone(dims[:rank]), offsets[0], offsets[1]
		s.into.Tensors = append(s.into.Tensors, t)
	}
	return nil
}

// typeName gives the table's own text, so that a million tensors of a type share it.
func typeName(dtype []byte) string {
	for name := range typeBits {
		if name == string(dtype) {
			return name
		}
	}
	return string(dtype)
}

// object reads an object and hands each key to field, which reads the value.
func (s *scanner) object(field func(key []byte) error) error {
	if !s.next('{') {
		return s.refuse("an object is wanted")
	}
	for first := true; ; first = false {
		if s.next('}') {
			return nil
		}
		if !first && !s.next(',') {
			return s.refuse("',' or '}' is wanted")
		}
		key, err := s.string(s.limits.NameBytes)
		if err != nil {
			return err
		}
		if !s.next(':') {
			return s.refuse("':' is wanted")
		}
		if err := field(key); err != nil {
			return err
		}
	}
}

// numbers reads a list of whole numbers that are not negative.
func (s *scanner) numbers(into []int64) (n int, _ error) {
	if !s.next('[') {
		return 0, s.refuse("a list of numbers is wanted")
	}
	for {
		if s.next(']') {
			return n, nil
		}
		if n > 0 && !s.next(',') {
			return 0, s.refuse("',' or ']' is wanted")
		}
		if n == len(into) {
			return 0, s.refuse("a list has more than %d numbers", len(into))
		}
		s.space()
		start, value := s.at, int64(0)
		for ; s.at < len(s.text) && s.text[s.at] >= '0' && s.text[s.at] <= '9'; s.at++ {
			if value > (1<<62)/10 {
				return 0, s.refuse("a number is too large")
			}
			value = value*10 + int64(s.text[s.at]-'0')
		}
		if s.at == start || s.text[start] == '0' && s.at > start+1 {
			return 0, s.refuse("a whole number is wanted")
		}
		into[n] = value
		n++
	}
}

// string reads a text: a part of the header where nothing is escaped, else a copy.
func (s *scanner) string(limit int64) ([]byte, error) {
	if !s.next('"') {
		return nil, s.refuse("a text is wanted")
	}
	start, escaped := s.at, false
	for ; ; s.at++ {
		if s.at >= len(s.text) || s.text[s.at] < ' ' {
			return nil, s.refuse("a text does not end, or holds a control character")
		}
		if int64(s.at-start) > 6*limit {
			return nil, s.refuse("a text is longer than %d bytes", limit)
		}
		if s.text[s.at] == '\\' {
			escaped = true
			s.at++
			continue
		}
		if s.text[s.at] == '"' {
			break
		}
	}
	raw := s.text[start:s.at]
	s.at++
	if escaped {
		var plain string
		if err := json.Unmarshal(s.text[start-1:s.at], &plain); err != nil {
			return nil, s.refuse("a text is not written as JSON has it")
		}
		raw = []byte(plain)
	}
	if int64(len(raw)) > limit {
		return nil, s.refuse("a text is longer than %d bytes", limit)
	}
	return raw, s.plain(raw)
}

// plain takes UTF-8 that shows what it is: names and notes are shown to people.
func (s *scanner) plain(text []byte) error {
	for rest := text; len(rest) > 0; {
		r, width := utf8.DecodeRune(rest)
		if r == utf8.RuneError && width == 1 || unicode.IsControl(r) && r != '\n' && r != '\t' && r != '\r' {
			return s.refuse("a text is not UTF-8 or holds a control character")
		}
		rest = rest[width:]
	}
	return nil
}

func (s *scanner) space() {
	for s.at < len(s.text) && (s.text[s.at] == ' ' || s.text[s.at] == '\n' || s.text[s.at] == '\t' || s.text[s.at] == '\r') {
		s.at++
	}
}

func (s *scanner) next(c byte) bool {
	s.space()
	if s.at < len(s.text) && s.text[s.at] == c {
		s.at++
		return true
	}
	return false
}

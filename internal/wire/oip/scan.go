package oip

import (
	"bytes"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/penstock/penstock/api"
)

// scanner reads JSON strictly (RFC 8259): valid UTF-8, no lone surrogates, nothing that a lenient reader would guess.
// It reads bytes that are all there, so that it needs no buffer of its own; a string without escapes is a view of them.
type scanner struct {
	b       []byte
	i       int
	scratch []byte // the last string that had escapes
}

// fail makes the error of a document that is not as it must be, with the place.
func (s *scanner) fail(format string, args ...any) error {
	return api.Fail(api.CodeBadJSON, "", "JSON at byte %d: %s", s.i, fmt.Sprintf(format, args...))
}

// unexpected says what stands where something else was expected.
func (s *scanner) unexpected(want string) error {
	if s.i >= len(s.b) {
		return s.fail("the body ends where %s was expected", want)
	}
	return s.fail("%q where %s was expected", s.b[s.i], want)
}

// notNumber says what stands where a number was expected. Many encoders write NaN and Infinity as they are, which no JSON
// has; those who meet this need to know the way out.
func (s *scanner) notNumber() error {
	rest := bytes.TrimLeft(s.b[s.i:], "+-")
	if bytes.HasPrefix(rest, []byte("NaN")) || bytes.HasPrefix(rest, []byte("Inf")) {
		return s.fail("JSON has no NaN and no infinity; send the tensor as binary data (binary_data_size)")
	}
	return s.unexpected("a number without leading zeros")
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// peek skips space and gives the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.i < len(s.b) && s.b[s.i] > ' ' {
		return s.b[s.i]
	}
	return s.peekSpace()
}

// peekSpace is peek's slow half, apart so that the quick one is small enough to be inlined.
func (s *scanner) peekSpace() byte {
	s.space()
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) expect(c byte, want string) error {
	if s.peek() != c {
		return s.unexpected(want)
	}
	s.i++
	return nil
}

// more steps to the next member of an object or array that ends with end; first says whether none was read yet.
func (s *scanner) more(first bool, end byte) (bool, error) {
	c := s.peek()
	switch {
	case c == end:
		s.i++
		return false, nil
	case first:
		return true, nil
	case c == ',':
		s.i++
		return true, nil
	}
	return false, s.unexpected("',' or '" + string(end) + "'")
}

// key reads a member's name and the colon after it.
func (s *scanner) key() ([]byte, error) {
	name, err := s.str()
	if err != nil {
		return nil, err
	}
	return name, s.expect(':', "':'")
}

// str reads a string. The result is a view that the next call may overwrite.
func (s *scanner) str() ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.unexpected("a string")
	}
	start, ascii := s.i+1, true
	for i := start; i < len(s.b); i++ {
		switch c := s.b[i]; {
		case c == '"':
			text := s.b[start:i]
			if !ascii && !utf8.Valid(text) {
				return nil, s.fail("the string is not valid UTF-8")
			}
			s.i = i + 1
			return text, nil
		case c == '\\':
			return s.escaped(start, i)
		case c < 0x20:
			s.i = i
			return nil, s.fail("a control character stands unescaped in a string")
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, s.fail("the string does not end")
}

// escaped reads on at the first backslash.
func (s *scanner) escaped(start, i int) ([]byte, error) {
	out := append(s.scratch[:0], s.b[start:i]...)
	for i < len(s.b) {
		c := s.b[i]
		switch {
		case c == '"':
			s.scratch = out
			if !utf8.Valid(out) {
				return nil, s.fail("the string is not valid UTF-8")
			}
			s.i = i + 1
			return out, nil
		case c < 0x20:
			s.i = i
			return nil, s.fail("a control character stands unescaped in a string")
		case c != '\\':
			out = append(out, c)
			i++
			continue
		}
		if i+1 >= len(s.b) {
			break
		}
		if s.b[i+1] == 'u' {
			r, size := unicodeEscape(s.b[i:])
			if size == 0 {
				s.i = i
				return nil, s.fail("a \\u escape is malformed or a lone surrogate")
			}
			out = utf8.AppendRune(out, r)
			i += size
			continue
		}
		plain := bytes.IndexByte([]byte(`"\/bfnrt`), s.b[i+1])
		if plain < 0 {
			s.i = i
			return nil, s.fail("unknown escape")
		}
		out = append(out, "\"\\/\b\f\n\r\t"[plain])
		i += 2
	}
	return nil, s.fail("the string does not end")
}

// unicodeEscape reads \uXXXX, or two of them that make one rune; size 0 means malformed.
func unicodeEscape(b []byte) (r rune, size int) {
	first, ok := hex4(b)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(first) {
		return first, 6
	}
	second, ok := hex4(b[6:])
	if !ok {
		return 0, 0
	}
	if r = utf16.DecodeRune(first, second); r == utf8.RuneError {
		return 0, 0
	}
	return r, 12
}

// hex4 reads \uXXXX as a number.
func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// word reads true, false or null.
func (s *scanner) word() (byte, error) {
	s.space()
	for _, w := range [...]string{"true", "false", "null"} {
		if len(s.b)-s.i >= len(w) && string(s.b[s.i:s.i+len(w)]) == w {
			s.i += len(w)
			return w[0], nil
		}
	}
	return 0, s.unexpected("a value")
}

// null reports whether null stands next, and steps over it.
func (s *scanner) null() bool {
	if s.peek() == 'n' && bytes.HasPrefix(s.b[s.i:], []byte("null")) {
		s.i += len("null")
		return true
	}
	return false
}

// skip steps over one value of any kind, which must be well-formed.
func (s *scanner) skip(depth int) error {
	if depth > MaxDepth {
		return s.fail("values are nested deeper than the limit of %d", MaxDepth)
	}
	switch c := s.peek(); {
	case c == '"':
		_, err := s.str()
		return err
	case c == '[' || c == '{':
		return s.skipMembers(c, depth)
	case c == '-' || '0' <= c && c <= '9':
		return s.number(new(decimal))
	}
	_, err := s.word()
	return err
}

// skipMembers steps over an array or object.
func (s *scanner) skipMembers(open byte, depth int) error {
	s.i++
	end := byte(']')
	if open == '{' {
		end = '}'
	}
	for first := true; ; first = false {
		if more, err := s.more(first, end); err != nil || !more {
			return err
		}
		if open == '{' {
			if _, err := s.key(); err != nil {
				return err
			}
		}
		if err := s.skip(depth + 1); err != nil {
			return err
		}
	}
}

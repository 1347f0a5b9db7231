package foreign

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The limits of a configuration in protobuf's text format.
const (
	pbtxtDepth  = 32     // messages inside messages
	pbtxtValues = 20_000 // values of one file
)

// message is a protobuf message as text: each field's values, in order.
type message map[string][]value

// value is a text, a number, a word, or a message.
type value struct {
	text   string
	quoted bool
	inside message
}

// parsePBTXT reads protobuf's text format without a schema: what a field means, its reader says. It takes one reading only,
// and its memory is in proportion to the text.
func parsePBTXT(text []byte) (message, error) {
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("it is not UTF-8")
	}
	p := &pbtxt{text: string(text), line: 1}
	m, err := p.message(0, "")
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", p.line, err)
	}
	return m, nil
}

type pbtxt struct {
	text   string
	at     int
	line   int
	values int
}

// space passes over blanks and comments.
func (p *pbtxt) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case '\n':
			p.line++
			p.at++
		case ' ', '\t', '\r':
			p.at++
		case '#':
			for p.at < len(p.text) && p.text[p.at] != '\n' {
				p.at++
			}
		default:
			return
		}
	}
}

func (p *pbtxt) next(c byte) bool {
	p.space()
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *pbtxt) message(depth int, end string) (message, error) {
	if depth > pbtxtDepth {
		return nil, fmt.Errorf("messages are nested deeper than %d", pbtxtDepth)
	}
	m := message{}
	for {
		p.space()
		if p.at == len(p.text) {
			if end != "" {
				return nil, fmt.Errorf("the text ends where %q is wanted", end)
			}
			return m, nil
		}
		if end != "" && p.next(end[0]) {
			return m, nil
		}
		name := p.word()
		if name == "" {
			return nil, fmt.Errorf("a field's name is wanted, not %q", p.text[p.at])
		}
		colon := p.next(':')
		values, err := p.field(depth, colon)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		m[name] = append(m[name], values...)
		if !p.next(',') {
			p.next(';')
		}
	}
}

// field reads one value, or a list of them.
func (p *pbtxt) field(depth int, colon bool) ([]value, error) {
	if !p.next('[') {
		v, err := p.value(depth, colon)
		return []value{v}, err
	}
	var all []value
	for !p.next(']') {
		if len(all) > 0 && !p.next(',') {
			return nil, fmt.Errorf("',' or ']' is wanted")
		}
		v, err := p.value(depth, colon)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

func (p *pbtxt) value(depth int, colon bool) (value, error) {
	if p.values++; p.values > pbtxtValues {
		return value{}, fmt.Errorf("there are more than %d values", pbtxtValues)
	}
	for open, end := range map[byte]string{'{': "}", '<': ">"} {
		if p.next(open) {
			m, err := p.message(depth+1, end)
			return value{inside: m}, err
		}
	}
	if !colon {
		return value{}, fmt.Errorf("':' is wanted before a value that is no message")
	}
	p.space()
	if p.at < len(p.text) && (p.text[p.at] == '"' || p.text[p.at] == '\'') {
		return p.quoted()
	}
	word := p.word()
	if word == "" {
		return value{}, fmt.Errorf("a value is wanted")
	}
	return value{text: word}, nil
}

// word reads a name, a number or an enumeration's word.
func (p *pbtxt) word() string {
	p.space()
	start := p.at
	for p.at < len(p.text) && (strings.IndexByte("_.+-/", p.text[p.at]) >= 0 || p.text[p.at] >= '0' && p.text[p.at] <= '9' || p.text[p.at]|0x20 >= 'a' && p.text[p.at]|0x20 <= 'z') {
		p.at++
	}
	return p.text[start:p.at]
}

// quoted reads a text; several that follow each other are one.
func (p *pbtxt) quoted() (value, error) {
	var b strings.Builder
	for p.space(); p.at < len(p.text) && (p.text[p.at] == '"' || p.text[p.at] == '\''); p.space() {
		quote, start := p.text[p.at], p.at
		for p.at++; p.at < len(p.text) && p.text[p.at] != quote; p.at++ {
			if p.text[p.at] == '\n' {
				return value{}, fmt.Errorf("a text does not end on its line")
			}
			if p.text[p.at] == '\\' {
				p.at++
			}
		}
		if p.at >= len(p.text) {
			return value{}, fmt.Errorf("a text does not end")
		}
		p.at++
		raw := p.text[start+1 : p.at-1]
		for raw != "" {
			r, multibyte, rest, err := strconv.UnquoteChar(raw, quote)
			if err != nil {
				return value{}, fmt.Errorf("a text holds an escape that is unknown")
			}
			if r < utf8.RuneSelf || !multibyte {
				b.WriteByte(byte(r))
			} else {
				b.WriteRune(r)
			}
			raw = rest
		}
	}
	return value{text: b.String(), quoted: true}, nil
}

// one gives a field's last value, as protobuf reads it.
func (m message) one(name string) (value, bool) {
	all := m[name]
	if len(all) == 0 {
		return value{}, false
	}
	return all[len(all)-1], true
}

func (m message) string(name string) string {
	v, _ := m.one(name)
	return v.text
}

// integer reads a whole number; one that is missing is 0.
func (m message) integer(name string) (int64, error) {
	v, given := m.one(name)
	if !given {
		return 0, nil
	}
	n, err := strconv.ParseInt(v.text, 0, 64)
	if err != nil || v.quoted {
		return 0, fmt.Errorf("%s is %.40q, which is no whole number", name, v.text)
	}
	return n, nil
}

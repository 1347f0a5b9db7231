package hop

import (
	"encoding/binary"
	"fmt"

	"github.com/penstock/penstock/api"
)

// cursor reads a header. After the first fault it reads zeros, so that callers check once, at the end. Counts are
// checked against the bytes that are there before anything is allocated for them.
type cursor struct {
	rest   []byte
	limits *Limits
	known  map[string]string // interned names; a worker sees the same few over and over
	err    error
}

func (c *cursor) fail(kind error, format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", kind, fmt.Sprintf(format, args...))
	}
	c.rest = nil
}

func (c *cursor) take(n int) []byte {
	if n > len(c.rest) {
		c.fail(ErrMalformed, "header needs %d bytes more than it has", n-len(c.rest))
		return nil
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) byte() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) flag() bool {
	v := c.byte()
	if v > 1 {
		c.fail(ErrMalformed, "flag is %d", v)
	}
	return v == 1
}

func (c *cursor) int() int64 {
	if b := c.take(8); b != nil {
		return int64(binary.LittleEndian.Uint64(b))
	}
	return 0
}

// lane reads the number of a lane.
func (c *cursor) lane() int {
	n := c.int()
	if n < 0 || n > Lanes {
		c.fail(ErrMalformed, "lane %d of %d", n, Lanes)
		return 0
	}
	return int(n)
}

// count reads a count of things that take at least size bytes each.
func (c *cursor) count(size int) int {
	b := c.take(4)
	if b == nil {
		return 0
	}
	n := binary.LittleEndian.Uint32(b)
	if uint64(n)*uint64(size) > uint64(len(c.rest)) {
		c.fail(ErrMalformed, "%d things announced, %d bytes left", n, len(c.rest))
		return 0
	}
	return int(n)
}

func (c *cursor) bytes() []byte { return c.take(c.count(1)) }

// text reads a string that is rarely seen twice.
func (c *cursor) text() string { return string(c.bytes()) }

// Interned names are bounded in number and size; beyond that a name is simply allocated.
const (
	maxKnown     = 4096
	maxKnownSize = 256
)

// name reads a string that comes again and again, without allocating it anew.
func (c *cursor) name() string {
	b := c.bytes()
	if s, ok := c.known[string(b)]; ok {
		return s
	}
	s := string(b)
	if c.known != nil && len(c.known) < maxKnown && len(s) <= maxKnownSize {
		c.known[s] = s
	}
	return s
}

// names reads a list into into's memory; the result is never nil.
func (c *cursor) names(into []string) []string {
	n := c.count(4)
	into = into[:0]
	if into == nil {
		into = make([]string, 0, n)
	}
	for range n {
		into = append(into, c.name())
	}
	return into
}

func (c *cursor) specs() []api.TensorSpec {
	n := c.count(4 * 4)
	if n == 0 {
		return nil
	}
	specs := make([]api.TensorSpec, n)
	for i := range specs {
		s := &specs[i]
		s.Name, s.Datatype = c.text(), c.text()
		if rank := c.count(8); rank > 0 {
			s.Shape = make([]int64, rank)
			for j := range s.Shape {
				s.Shape[j] = c.int()
			}
		}
		if n := c.count(4); n > 0 {
			s.Symbols = make([]string, n)
			for j := range s.Symbols {
				s.Symbols[j] = c.text()
			}
		}
	}
	return specs
}

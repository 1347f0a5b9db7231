package registry

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"strconv"
	"strings"
)

// isPickle reports whether a file, read by Python's pickle from its beginning, would do something: run a call, or end in a
// value that was imported or came with a protocol number or fills the file. It walks the opcodes with a model of the stack's depth, because a pickle needs no magic number (protocol 0 is
// plain ASCII) and because one that is broken at its end has already run what stands before. Names and extensions play
// no part. It builds nothing and keeps one line at most.
func isPickle(file io.ReaderAt, size int64) bool {
	p := pickle{file: file, size: size, buf: bufio.NewReaderSize(nil, 4096)}
	p.seek(0)
	return p.walk()
}

// pickleSteps bounds the walk. Nothing but a pickle goes on for so many opcodes with a stack that fits.
const pickleSteps = 1 << 20

// pickleLine is how much of a newline-ended argument is kept. The rest is passed over, so that a long one hides nothing.
const pickleLine = 4 << 10

type pickle struct {
	file  io.ReaderAt
	size  int64
	at    int64
	buf   *bufio.Reader
	stack []byte // the kind of each value
	marks []int  // depth at each mark
	memo  byte   // the most telling kind that was put into the memo; 0 while it is empty
}

// The kinds of values. Only what may be callable can be called, and only with arguments in a container; without this, a list
// of words can look like a pickle.
const (
	plainKind = 'v'
	callKind  = 'c' // imported
	tupleKind = 't' // or another container: Python's own unpickler spreads any of them as arguments
	anyKind   = 'x' // fetched from a memo that holds something imported
)

// effect is what an opcode takes from the stack and the kinds that it leaves there.
type effect struct {
	pops   int
	pushes string
}

// The opcodes that only move values, without argument or with one of fixed size.
var (
	plainOps = map[byte]effect{
		'0': {1, ""}, 'N': {0, "v"}, 'Q': {1, "v"}, 'a': {2, "t"}, '}': {0, "t"}, ']': {0, "t"}, 's': {3, "t"},
		')': {0, "t"}, 0x85: {1, "t"}, 0x86: {2, "t"}, 0x87: {3, "t"}, 0x88: {0, "v"}, 0x89: {0, "v"}, 0x8f: {0, "t"},
		0x93: {2, "c"}, 0x97: {0, "v"}, 0x98: {1, "v"},
	}
	fixedOps = map[byte]struct {
		effect
		bytes int64
	}{
		'K': {effect{0, "v"}, 1}, 0x80: {effect{0, ""}, 1},
		'M': {effect{0, "v"}, 2}, 'J': {effect{0, "v"}, 4},
		'G': {effect{0, "v"}, 8}, 0x95: {effect{0, ""}, 8},
	}
	// countedOps are followed by a length of so many bytes, and by as many bytes as it says.
	countedOps = map[byte]int{'T': 4, 'X': 4, 'B': 4, 'U': 1, 0x8c: 1, 'C': 1, 0x8d: 8, 0x8e: 8, 0x96: 8, 0x8a: 1, 0x8b: 4}
	// lineOps are followed by a line.
	lineOps = map[byte]effect{'I': {0, "v"}, 'L': {0, "v"}, 'S': {0, "v"}, 'V': {0, "v"}, 'F': {0, "v"}, 'P': {0, "v"}}
	// memoOps put the top of the stack into the memo, or (get) push what is there; so many bytes name the place, -1: a line.
	memoOps = map[byte]struct {
		get   bool
		bytes int64
	}{'h': {true, 1}, 'j': {true, 4}, 'g': {true, -1}, 'q': {false, 1}, 'r': {false, 4}, 'p': {false, -1}, 0x94: {false, 0}}
	// markOps take everything above the last mark, and so many values below it.
	markOps = map[byte]effect{'1': {0, ""}, 'd': {0, "t"}, 'l': {0, "t"}, 't': {0, "t"}, 'e': {1, "t"}, 'u': {1, "t"},
		0x90: {1, "t"}, 0x91: {0, "t"}}
	// callOps run code, with so many values above what is called: REDUCE, BUILD, NEWOBJ, NEWOBJ_EX.
	callOps = map[byte]int{'R': 1, 'b': 1, 0x81: 1, 0x92: 2}
)

func (p *pickle) walk() bool {
	named := false // a protocol or a global was named, which words do not do by accident
	for step := 0; step < pickleSteps; step++ {
		op, ok := p.next()
		if !ok {
			return false
		}
		switch op {
		case '.': // STOP: words and numbers may come to this by accident, but hardly at their very end
			return len(p.stack) > 0 && (named || step >= 3 && p.at == p.size)
		case '(':
			p.marks = append(p.marks, len(p.stack))
			continue
		case 0x80, 'c', 0x93:
			named = true
		}
		if above, call := callOps[op]; call {
			return p.calls(op, above)
		}
		run, ok := p.step(op)
		if run || !ok {
			return run
		}
	}
	return true
}

// calls reports whether what is on the stack lets a calling opcode go on.
func (p *pickle) calls(op byte, above int) bool {
	top := len(p.stack) - 1
	if top < above || !mayCall(p.stack[top-above]) {
		return false
	}
	args := p.stack[top-above+1]
	return op == 'b' || args == tupleKind || args == anyKind
}

func mayCall(kind byte) bool { return kind == callKind || kind == anyKind }

// step follows one opcode. run means that a real unpickler would call something here; ok that it would go on.
func (p *pickle) step(op byte) (run, ok bool) {
	if e, is := plainOps[op]; is {
		return false, p.change(e)
	}
	if f, is := fixedOps[op]; is {
		return false, p.skip(f.bytes) && p.change(f.effect)
	}
	if width, is := countedOps[op]; is {
		return false, p.counted(width) && p.change(effect{0, "v"})
	}
	if e, is := lineOps[op]; is {
		line, last, ok := p.line()
		return false, ok && fits(op, line, last) && p.change(e)
	}
	if m, is := memoOps[op]; is {
		return false, p.remember(m.get, m.bytes)
	}
	if e, is := markOps[op]; is {
		_, ok := p.toMark()
		return false, ok && p.change(e)
	}
	switch op {
	case '2': // DUP
		if len(p.stack) == 0 {
			return false, false
		}
		p.stack = append(p.stack, p.stack[len(p.stack)-1])
		return false, true
	case 'c': // GLOBAL
		return false, p.names() && p.change(effect{0, "c"})
	case 'i': // INST calls a class with what stands above the mark
		if !p.names() {
			return false, false
		}
		_, ok := p.toMark()
		return ok, false
	case 'o': // OBJ calls the first value above the mark
		above, ok := p.toMark()
		return ok && len(above) > 0 && mayCall(above[0]), false
	}
	return false, false
}

// remember follows the memo by kind alone: which entry is fetched does not matter when any of them could be called.
func (p *pickle) remember(get bool, width int64) bool {
	if width < 0 {
		if line, last, ok := p.line(); !ok || !fits('I', line, last) {
			return false
		}
	} else if !p.skip(width) {
		return false
	}
	if get {
		if p.memo == 0 {
			return false
		}
		kind := p.memo
		if kind == callKind {
			kind = anyKind
		}
		p.stack = append(p.stack, kind)
		return true
	}
	if len(p.stack) == 0 {
		return false
	}
	switch top := p.stack[len(p.stack)-1]; {
	case mayCall(top):
		p.memo = callKind
	case p.memo == 0 || p.memo == plainKind:
		p.memo = top
	}
	return true
}

// fits checks a line's argument the way the unpickler would before it goes on.
func fits(op byte, line []byte, last byte) bool {
	text := string(bytes.TrimSpace(line))
	switch op {
	case 'I', 'L':
		_, ok := new(big.Int).SetString(strings.TrimSuffix(text[:min(len(text), 64)], "L"), 10)
		return ok
	case 'F':
		_, err := strconv.ParseFloat(text, 64)
		return err == nil
	case 'S':
		return len(text) >= 2 && (text[0] == '\'' || text[0] == '"') && last == text[0]
	}
	return true
}

func (p *pickle) change(e effect) bool {
	floor := 0
	if len(p.marks) > 0 {
		floor = p.marks[len(p.marks)-1]
	}
	if len(p.stack)-floor < e.pops {
		return false
	}
	p.stack = append(p.stack[:len(p.stack)-e.pops], e.pushes...)
	return true
}

// toMark takes everything above the last mark off the stack.
func (p *pickle) toMark() (above []byte, ok bool) {
	if len(p.marks) == 0 {
		return nil, false
	}
	depth := p.marks[len(p.marks)-1]
	p.marks = p.marks[:len(p.marks)-1]
	above, p.stack = p.stack[depth:], p.stack[:depth]
	return above, true
}

func (p *pickle) seek(at int64) {
	p.at = at
	p.buf.Reset(io.NewSectionReader(p.file, at, p.size-at))
}

func (p *pickle) next() (byte, bool) {
	b, err := p.buf.ReadByte()
	p.at++
	return b, err == nil
}

func (p *pickle) skip(n int64) bool {
	if n < 0 || n > p.size-p.at {
		return false
	}
	if n <= int64(p.buf.Buffered()) {
		_, err := p.buf.Discard(int(n))
		p.at += n
		return err == nil
	}
	p.seek(p.at + n) // over the bytes, without reading them
	return true
}

func (p *pickle) counted(width int) bool {
	var length [8]byte
	if _, err := io.ReadFull(p.buf, length[:width]); err != nil {
		return false
	}
	p.at += int64(width)
	n := binary.LittleEndian.Uint64(length[:])
	return n <= uint64(p.size) && p.skip(int64(n))
}

// line reads one argument up to its line end: its beginning, and its last byte that is no white space.
func (p *pickle) line() (line []byte, last byte, ok bool) {
	for {
		piece, err := p.buf.ReadSlice('\n')
		p.at += int64(len(piece))
		line = append(line, piece[:min(len(piece), pickleLine-len(line))]...)
		if trimmed := bytes.TrimSpace(piece); len(trimmed) > 0 {
			last = trimmed[len(trimmed)-1]
		}
		if err == nil {
			return bytes.TrimSuffix(line, []byte("\n")), last, true
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, 0, false
		}
	}
}

// names reads a module's and a class's line.
func (p *pickle) names() bool {
	module := p.name()
	return module && p.name()
}

// name reads a line that could name a Python module or class; prose could not.
func (p *pickle) name() bool {
	line, _, ok := p.line()
	line = bytes.TrimRight(line, "\r")
	if !ok || len(line) == 0 {
		return false
	}
	for _, c := range line {
		word := c == '_' || c == '.' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' || c >= 0x80
		if !word {
			return false
		}
	}
	return true
}

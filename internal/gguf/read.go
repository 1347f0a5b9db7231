package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// The fewest bytes that a tensor's description and a key with its value can have.
const (
	tensorBytesMin = 8 + 1 + 4 + 8 + 4 + 8
	pairBytesMin   = 8 + 1 + 4 + 1
	bufferBytes    = 16 << 10
)

// reader reads forward, and counts where it is.
type reader struct {
	file   io.ReaderAt
	buf    *bufio.Reader
	limits Limits
	size   int64
	at     int64
	line   []byte // the last text; used again
}

func (r *reader) from(file io.ReaderAt) {
	r.file = file
	r.buf = bufio.NewReaderSize(io.NewSectionReader(file, 0, r.size), bufferBytes)
}

func (r *reader) seek(at int64) {
	r.at = at
	r.buf.Reset(io.NewSectionReader(r.file, at, r.size-at))
}

func (r *reader) refuse(format string, args ...any) error {
	return &Refusal{Reason: fmt.Sprintf(format, args...), Offset: r.at}
}

func (r *reader) bytes(into []byte) error {
	_, err := io.ReadFull(r.buf, into)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return r.refuse("the file ends inside its header")
	}
	r.at += int64(len(into))
	return err
}

func (r *reader) uint32() (uint32, error) {
	var b [4]byte
	err := r.bytes(b[:])
	return binary.LittleEndian.Uint32(b[:]), err
}

func (r *reader) uint64() (uint64, error) {
	var b [8]byte
	err := r.bytes(b[:])
	return binary.LittleEndian.Uint64(b[:]), err
}

// count reads how many of something follow, and holds that against the limit and against what the rest of the file could hold.
func (r *reader) count(what string, limit, least int64) (int64, error) {
	n, err := r.uint64()
	if err != nil {
		return 0, err
	}
	if n > uint64(limit) {
		return 0, r.refuse("it is said to have %d %s, over the limit of %d", n, what, limit)
	}
	if int64(n) > (r.size-r.at)/least {
		return 0, r.refuse("it is said to have %d %s, and %d bytes are left for them", n, what, r.size-r.at)
	}
	return int64(n), nil
}

// text reads a text within a limit. It stays valid until the next one is read.
func (r *reader) text(what string, limit int64) ([]byte, error) {
	n, err := r.uint64()
	if err != nil {
		return nil, err
	}
	if n > uint64(limit) {
		return nil, r.refuse("%s is said to have %d bytes, over the limit of %d", what, n, limit)
	}
	if int64(n) > r.size-r.at {
		return nil, r.refuse("%s is said to have %d bytes, and %d are left", what, n, r.size-r.at)
	}
	if int64(cap(r.line)) < int64(n) {
		r.line = make([]byte, n) // no more than the file that is left
	}
	r.line = r.line[:n]
	if err := r.bytes(r.line); err != nil {
		return nil, err
	}
	return r.line, nil
}

// clear takes text that shows what it is: keys and names are shown to people.
func (r *reader) clear(what string, text []byte) error {
	if !utf8.Valid(text) {
		return r.refuse("%s is not UTF-8", what)
	}
	for _, c := range text {
		if c < ' ' || c == 0x7f {
			return r.refuse("%s holds a control character", what)
		}
	}
	return nil
}

// The types of values, by their numbers in the file.
const (
	valueString = 8
	valueArray  = 9
)

// scalars are the sizes of the values that have one.
var scalars = map[uint32]struct {
	name  string
	bytes int64
}{0: {"u8", 1}, 1: {"i8", 1}, 2: {"u16", 2}, 3: {"i16", 2}, 4: {"u32", 4}, 5: {"i32", 4}, 6: {"f32", 4}, 7: {"bool", 1},
	10: {"u64", 8}, 11: {"i64", 8}, 12: {"f64", 8}}

// pairs reads every key with its value.
func (r *reader) pairs(m *Model, s *settings, n int64) error {
	keys := make([]string, 0, n) // so many fit into the file
	kept := int64(0)
	for range n {
		name, err := r.text("a key", r.limits.NameBytes)
		if err != nil {
			return err
		}
		if err := r.clear("a key", name); err != nil {
			return err
		}
		key := string(name)
		if key == "" {
			return r.refuse("a key is empty")
		}
		keys = append(keys, key)
		value, err := r.value(s, key)
		if err != nil {
			return err
		}
		if kept += int64(len(key) + len(value)); kept <= r.limits.KeptBytes && len(m.Metadata) < pairsKept {
			m.Metadata[key] = value
		}
	}
	slices.Sort(keys)
	for i := 1; i < len(keys); i++ {
		if keys[i] == keys[i-1] {
			return r.refuse("the key %.80q stands twice", keys[i])
		}
	}
	return nil
}

// value reads one value, notes what the checks need, and gives what is shown of it.
func (r *reader) value(s *settings, key string) (string, error) {
	kind, err := r.uint32()
	if err != nil {
		return "", err
	}
	switch kind {
	case valueString:
		text, err := r.text("the value of "+key, r.limits.TextBytes)
		if err != nil {
			return "", err
		}
		if !utf8.Valid(text) {
			return "", r.refuse("the value of %.80q is not UTF-8", key)
		}
		if err := s.text(key, text); err != nil {
			return "", err
		}
		if len(text) > valueKept {
			return fmt.Sprintf("(text of %d bytes)", len(text)), nil
		}
		return string(text), nil
	case valueArray:
		return r.array(s, key)
	}
	scalar, known := scalars[kind]
	if !known {
		return "", r.refuse("the value of %.80q has the type %d, which is unknown", key, int32(kind))
	}
	var b [8]byte
	if err := r.bytes(b[:scalar.bytes]); err != nil {
		return "", err
	}
	n, shown := decode(scalar.name, binary.LittleEndian.Uint64(b[:]))
	if scalar.name == "bool" && b[0] > 1 {
		return "", r.refuse("the value of %.80q is neither true nor false", key)
	}
	if counted(key) {
		s.numbers[key] = n
	}
	return shown, nil
}

// array walks an array without keeping it. Arrays in arrays are in no model's file.
func (r *reader) array(s *settings, key string) (string, error) {
	kind, err := r.uint32()
	if err != nil {
		return "", err
	}
	if kind == valueArray {
		return "", r.refuse("the value of %.80q is an array of arrays", key)
	}
	scalar, fixed := scalars[kind]
	least := scalar.bytes
	if kind == valueString {
		scalar.name, least = "text", 8
	} else if !fixed {
		return "", r.refuse("the array %.80q has elements of the type %d, which is unknown", key, int32(kind))
	}
	n, err := r.count("elements in "+key, r.limits.ArrayElements, least)
	if err != nil {
		return "", err
	}
	if counted(key) {
		s.arrays[key] = n
	}
	shown := fmt.Sprintf("(%d of %s)", n, scalar.name)
	if fixed {
		return shown, r.numbers(s, key, scalar.name, n*scalar.bytes)
	}
	for range n {
		if _, err := r.text("a text in "+key, r.limits.TextBytes); err != nil {
			return "", err
		}
	}
	return shown, nil
}

// numbers passes over an array of numbers. Of one that could be a setting by layer, the least and the greatest are noted.
func (r *reader) numbers(s *settings, key, name string, bytes int64) error {
	size := map[string]int64{"u32": 4, "i32": 4}[name]
	if size == 0 || bytes > 4*layersMax || !counted(key) {
		_, err := r.buf.Discard(int(bytes)) // no more than the file that is left: count has seen to it
		r.at += bytes
		return err
	}
	for range bytes / size {
		var b [8]byte
		if err := r.bytes(b[:size]); err != nil {
			return err
		}
		n, _ := decode(name, binary.LittleEndian.Uint64(b[:]))
		s.layer(key, n)
	}
	return nil
}

// number is a value as the checks see it: whole and in range of int64, or not.
type number struct {
	whole bool
	value int64
}

// decode reads a number of a type out of 8 bytes in little-endian order.
func decode(name string, raw uint64) (number, string) {
	signed := func(n int64) (number, string) { return number{true, n}, strconv.FormatInt(n, 10) }
	float := func(f float64) (number, string) { return number{}, strconv.FormatFloat(f, 'g', -1, 64) }
	switch name {
	case "i8":
		return signed(int64(int8(raw)))
	case "i16":
		return signed(int64(int16(raw)))
	case "i32":
		return signed(int64(int32(raw)))
	case "i64":
		return signed(int64(raw))
	case "f32":
		return float(float64(math.Float32frombits(uint32(raw))))
	case "f64":
		return float(math.Float64frombits(raw))
	case "bool":
		return number{}, strconv.FormatBool(raw != 0)
	}
	return number{raw <= math.MaxInt64, int64(raw & math.MaxInt64)}, strconv.FormatUint(raw, 10)
}

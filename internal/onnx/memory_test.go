package onnx_test

import (
	"bytes"
	"fmt"
	"io"
	"runtime/metrics"
	"testing"

	"github.com/penstock/penstock/internal/onnx"
)

// readBudget is what one reading may allocate in all, however much of it is garbage at once: a fixed part and a part in
// proportion to the file.
func readBudget(size int64) uint64 { return 1<<20 + 16*uint64(size) }

// allocated runs one reading and says how many bytes it asked for in all. The figure is the whole process's, and does
// not stop it, so that a fuzzer can ask for it at every input.
func allocated(source io.ReaderAt, size int64) (bytes uint64, model *onnx.Model, err error) {
	total := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(total)
	before := total[0].Value.Uint64()
	model, err = onnx.Read(source, size, onnx.Limits{})
	metrics.Read(total)
	return total[0].Value.Uint64() - before, model, err
}

// many repeats a field n times, with a number in its name where it wants one.
func many(n int, part func(i int) msg) (m msg) {
	for i := range n {
		m = append(m, part(i)...)
	}
	return m
}

// short is a name that is unique and as short as can be.
func short(i int) string {
	var b []byte
	for i++; i > 0; i /= 90 {
		b = append(b, byte('!'+i%90))
	}
	return string(b)
}

// Files made of as many small things as fit cost the most memory for their size.
func TestReadMemoryIsInProportion(t *testing.T) {
	files := map[string][]byte{
		"nodes":               modelOf(plain(many(60_000, func(i int) msg { return node("A", nil, names("_"+short(i))) }))),
		"nodes without names": modelOf(plain(bytes.Repeat(node("A", nil, nil), 60_000))),
		"operators":           modelOf(plain(many(2000, func(i int) msg { return node(short(i), nil, nil) }))),
		"initializers":        modelOf(plain(many(60_000, func(i int) msg { return msg{}.sub(5, tensorOf("_"+short(i), 1, []int64{0})) }))),
		"empty initializers":  modelOf(plain(bytes.Repeat(msg{}.sub(5, msg{}), 60_000))),
		"rank 32":             modelOf(plain(many(20_000, func(i int) msg { return msg{}.sub(5, tensorOf("_"+short(i), 1, make([]int64, 32))) }))),
		"external": modelOf(plain(many(40_000, func(i int) msg {
			return msg{}.sub(5, tensorOf("_"+short(i), 1, []int64{0}, entries("location", "w")))
		}))),
		"locations": modelOf(plain(many(4_000, func(i int) msg {
			return msg{}.sub(5, tensorOf("_"+short(i), 1, []int64{0}, entries("location", fmt.Sprint(i))))
		}))),
		"values":    modelOf(plain(many(4000, func(i int) msg { return input("_"+short(i), floats(nil, nil, nil, nil, nil, nil)) }))),
		"functions": modelOf(plain(), many(9_999, func(i int) msg { return msg{}.sub(25, msg{}.str(1, short(i))) })),
		"calls": modelOf(plain(many(60_000, func(i int) msg { return node(short(i%9), nil, nil, msg{}.str(7, "f")) })), opset("f", 1),
			many(9, func(i int) msg { return msg{}.sub(25, msg{}.str(1, short(i)).str(10, "f")) })),
		"function imports": modelOf(plain(), many(5_000, func(i int) msg {
			return msg{}.sub(25, join(msg{}.str(1, short(i)), many(20, func(i int) msg { return msg{}.sub(9, msg{}.str(1, short(i))) })))
		})),
		"subgraphs": holding(bytes.Repeat(msg{}.sub(11, graphOf(node("A", nil, names("y")), output("y", msg{}))), 50_000)),
		"numbers":   holding(bytes.Repeat(msg{}.num(8, 1), 300_000)),
		"doc":       modelOf(plain(), msg{}.str(6, string(bytes.Repeat([]byte("é"), 500_000)))),
		"packed":    modelOf(plain(msg{}.sub(5, tensorOf("w", 7, []int64{1_000_000}, msg{}.packed(7, make([]int64, 1_000_000)...))))),
	}
	for _, name := range demoNames {
		files[name] = demo(t, name)
	}
	for name, file := range files {
		got, _, err := allocated(bytes.NewReader(file), int64(len(file)))
		t.Logf("%-20s %8d bytes, %5.1f times as much allocated: %.120v", name, len(file), float64(got)/float64(len(file)), err)
		if got > readBudget(int64(len(file))) {
			t.Errorf("%s: %d bytes of file, %d allocated, budget %d", name, len(file), got, readBudget(int64(len(file))))
		}
	}
	for _, c := range hostileFiles() {
		got, _, _ := allocated(bytes.NewReader(c.file), int64(len(c.file)))
		if got > readBudget(int64(len(c.file))) {
			t.Errorf("%s: %d bytes of file, %d allocated", c.name, len(c.file), got)
		}
	}
}

// padded is a file with a long run of zeros in it that exists only by arithmetic, and counts what is read of it.
type padded struct {
	head, tail []byte
	zeros      int64
	read       int64
}

func (p *padded) size() int64 { return int64(len(p.head)) + p.zeros + int64(len(p.tail)) }

func (p *padded) ReadAt(b []byte, at int64) (n int, err error) {
	for ; n < len(b) && at < p.size(); n, at = n+1, at+1 {
		switch behind := at - int64(len(p.head)) - p.zeros; {
		case at < int64(len(p.head)):
			b[n] = p.head[at]
		case behind >= 0:
			b[n] = p.tail[behind]
		default:
			b[n] = 0
		}
	}
	p.read += int64(n)
	if n < len(b) {
		err = io.EOF
	}
	return n, err
}

// Weights are stepped over: a model of almost 2 GiB is read by looking at a small part of it.
func TestReadStepsOverWeights(t *testing.T) {
	const zeros = 1_900_000_000
	// Built from the inside outwards: before is everything up to the zeros, which end each message.
	wrap := func(field int, before []byte) []byte {
		head := msg{}.num(field, int64(len(before))+zeros) // the tag of a number, made that of a length
		head[0] |= 2
		return append(head, before...)
	}
	before := wrap(9, nil)
	before = wrap(5, append(tensorOf("w", 1, []int64{zeros / 4}), before...))
	before = wrap(7, append(plain(), before...))
	file := &padded{head: append(msg{}.num(1, 8), before...), tail: opset("", 17), zeros: zeros}
	got, model, err := allocated(file, file.size())
	if err != nil {
		t.Fatal(err)
	}
	if model.Constants[0].Bytes != zeros || model.Parameters != zeros/4 {
		t.Errorf("got %+v", model.Constants)
	}
	if got > 1<<20 || file.read > 4<<20 {
		t.Errorf("a file of %d bytes: %d allocated, %d read", file.size(), got, file.read)
	}
	file.zeros += 1 << 30
	if _, _, err := allocated(file, file.size()); err == nil {
		t.Error("a file over 2 GiB was taken")
	}
}

package safetensors_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/safetensors"
)

// file makes a file of a header and so many bytes of data.
func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

const two = `{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2,3],"data_offsets":[8,20]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`

func TestReadTells(t *testing.T) {
	text := file(two+"   ", 20)
	m, err := safetensors.Read(bytes.NewReader(text), int64(len(text)), safetensors.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Parameters != 8 || m.Types["F32"] != 2 || m.Types["F16"] != 6 || m.Metadata["format"] != "pt" || len(m.Tensors) != 2 {
		t.Errorf("got %+v", m)
	}
	if a := m.Tensors[0]; a.Name != "a" || a.End != 8 || fmt.Sprint(m.Tensors[1].Shape) != "[2 3]" {
		t.Errorf("got %+v", m.Tensors)
	}
	if !safetensors.Is(text[:16], int64(len(text))) || safetensors.Is(text[:16], 16) {
		t.Error("not known by its beginning")
	}
}

// hostile are files that lie, with a part of the reason. They are case 87 of the project's list and what is near it.
func hostile() map[string]struct {
	file []byte
	want string
} {
	long := binary.LittleEndian.AppendUint64(nil, 1<<63)
	large := binary.LittleEndian.AppendUint64(nil, 100_000_001)
	one := func(dtype, shape, offsets string) string {
		return `{"a":{"dtype":` + dtype + `,"shape":` + shape + `,"data_offsets":` + offsets + `}}`
	}
	return map[string]struct {
		file []byte
		want string
	}{
		"nothing":                    {nil, "too few"},
		"a length of 2^63":           {append(long, "{}"...), "over the limit"},
		"a header over 100 MB":       {append(large, "{}"...), "over the limit"},
		"a header past the end":      {append(binary.LittleEndian.AppendUint64(nil, 3), "{}"...), "after it"},
		"no object":                  {file(`[]`, 0), "begin with an object"},
		"a space before":             {file(` {}`, 0), "begin with an object"},
		"cut off":                    {file(`{"a":{"dtype":"F32"`, 0), "wanted"},
		"text after it":              {file(`{}{}`, 0), "follows"},
		"a line end after it":        {file("{}\n", 0), "follows"},
		"a gap at the beginning":     {file(one(`"F32"`, `[1]`, `[4,8]`), 8), "gap"},
		"a gap between":              {file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 3), "gap"},
		"an overlap":                 {file(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), "overlap"},
		"two in one place":           {file(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2), "overlap"},
		"bytes behind":               {file(one(`"F32"`, `[1]`, `[0,4]`), 5), "follow the last"},
		"data missing":               {file(one(`"F32"`, `[1]`, `[0,4]`), 3), "which has 3"},
		"a type that lies":           {file(one(`"F64"`, `[1]`, `[0,4]`), 4), "does not fit"},
		"a shape that lies":          {file(one(`"F32"`, `[2]`, `[0,4]`), 4), "does not fit"},
		"an unknown type":            {file(one(`"F33"`, `[1]`, `[0,4]`), 4), "unknown type"},
		"half a byte":                {file(one(`"F4"`, `[1]`, `[0,0]`), 0), "does not fit"},
		"a product over 2^64":        {file(one(`"U8"`, `[4294967296,4294967296]`, `[0,0]`), 0), "more elements"},
		"a negative size":            {file(one(`"U8"`, `[-1]`, `[0,1]`), 1), "whole number"},
		"a fraction":                 {file(one(`"U8"`, `[1.0]`, `[0,1]`), 1), "wanted"},
		"an exponent":                {file(one(`"U8"`, `[1e0]`, `[0,1]`), 1), "wanted"},
		"a zero before":              {file(one(`"U8"`, `[01]`, `[0,1]`), 1), "whole number"},
		"offsets backwards":          {file(one(`"U8"`, `[1]`, `[1,0]`), 1), "no place"},
		"one offset":                 {file(one(`"U8"`, `[1]`, `[0]`), 1), "no place"},
		"a number of 30 digits":      {file(one(`"U8"`, `[`+strings.Repeat("9", 30)+`]`, `[0,1]`), 1), "too large"},
		"33 dimensions":              {file(one(`"U8"`, `[`+strings.TrimSuffix(strings.Repeat("1,", 33), ",")+`]`, `[0,1]`), 1), "more than 32"},
		"a name twice":               {file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), "twice"},
		"a name twice, escaped":      {file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), "twice"},
		"a field twice":              {file(`{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), "twice"},
		"an unknown field":           {file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"pickle":1}}`, 1), "unknown or twice"},
		"a field missing":            {file(`{"a":{"dtype":"U8","shape":[1]}}`, 0), "lacks"},
		"metadata twice":             {file(`{"__metadata__":{},"__metadata__":{}}`, 0), "twice"},
		"a key of metadata twice":    {file(`{"__metadata__":{"a":"","a":""}}`, 0), "twice"},
		"metadata that is no text":   {file(`{"__metadata__":{"a":{}}}`, 0), "text is wanted"},
		"a tensor that is no object": {file(`{"a":[]}`, 0), "object is wanted"},
		"deep nesting":               {file(`{"a":`+strings.Repeat(`{"a":`, 1000), 0), "unknown or twice"},
		"bad UTF-8":                  {file("{\"a\xff\":{}}", 0), "UTF-8"},
		"a control character":        {file(`{"a\u0000":{}}`, 0), "control"},
		"a name too long":            {file(`{"`+strings.Repeat("a", 5000)+`":{}}`, 0), "longer"},
		"too much metadata":          {file(`{"__metadata__":{`+strings.TrimSuffix(strings.Repeat(`"a":"",`, 1025), ",")+`}}`, 0), "limit Metadata"},
	}
}

func TestReadRefuses(t *testing.T) {
	for name, c := range hostile() {
		_, err := safetensors.Read(bytes.NewReader(c.file), int64(len(c.file)), safetensors.Limits{})
		refusal := (*safetensors.Refusal)(nil)
		if !errors.As(err, &refusal) || !strings.Contains(refusal.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	text := file(two, 20)
	for _, limits := range []safetensors.Limits{{HeaderBytes: 10}, {Tensors: 1}, {NameBytes: 3}, {MetadataBytes: 1}} {
		if _, err := safetensors.Read(bytes.NewReader(text), int64(len(text)), limits); err == nil {
			t.Errorf("%+v: taken", limits)
		}
	}
	for n := range len(text) {
		if _, err := safetensors.Read(bytes.NewReader(text[:n]), int64(n), safetensors.Limits{}); err == nil {
			t.Errorf("cut off at %d: taken", n)
		}
	}
}

// budget is what one reading may allocate in all: a fixed part, and a part in proportion to the file.
func budget(size int) uint64 { return 1<<20 + 16*uint64(size) }

func allocated(text []byte) (uint64, *safetensors.Model, error) {
	total := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(total)
	before := total[0].Value.Uint64()
	m, err := safetensors.Read(bytes.NewReader(text), int64(len(text)), safetensors.Limits{})
	metrics.Read(total)
	return total[0].Value.Uint64() - before, m, err
}

func TestMemoryIsInProportion(t *testing.T) {
	entries := func(n int, entry func(i int) string) []byte {
		var b strings.Builder
		b.WriteByte('{')
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(entry(i))
		}
		b.WriteByte('}')
		return file(b.String(), 0)
	}
	for name, text := range map[string][]byte{
		"small tensors": entries(200_000, func(i int) string { return fmt.Sprintf(`"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`, i) }),
		"escaped names": entries(100_000, func(i int) string { return fmt.Sprintf(`"\n%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`, i) }),
		"many dimensions": entries(50_000, func(i int) string {
			return fmt.Sprintf(`"%x":{"dtype":"U8","shape":[0%s],"data_offsets":[0,0]}`, i, strings.Repeat(",0", 31))
		}),
		"metadata": []byte(file(`{"__metadata__":{"a":"`+strings.Repeat("é", 400_000)+`"}}`, 0)),
	} {
		got, m, err := allocated(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Logf("%-16s %8d bytes, %d tensors, %4.1f times as much allocated", name, len(text), len(m.Tensors), float64(got)/float64(len(text)))
		if got > budget(len(text)) {
			t.Errorf("%s: %d bytes of file, %d allocated", name, len(text), got)
		}
	}
}

// FuzzRead asks of any bytes: an answer or a refusal, no crash, and memory in proportion.
func FuzzRead(f *testing.F) {
	f.Add(file(two, 20))
	for _, c := range hostile() {
		f.Add(c.file)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, m, err := allocated(text)
		if got > budget(len(text)) {
			t.Errorf("%d bytes of file, %d allocated", len(text), got)
		}
		if refusal := (*safetensors.Refusal)(nil); err != nil && !errors.As(err, &refusal) {
			t.Errorf("not a refusal: %v", err)
		}
		if err != nil {
			return
		}
		at := int64(0)
		for _, tensor := range m.Tensors {
			if tensor.Begin != at {
				t.Errorf("taken with a gap or an overlap at %d", at)
			}
			at = tensor.End
		}
		if at+m.HeaderSize+8 != int64(len(text)) {
			t.Errorf("taken with %d bytes that belong to no tensor", int64(len(text))-at-m.HeaderSize-8)
		}
	})
}

package gguf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/gguf"
)

// The numbers of types in a file.
const (
	u8, u32, i32, f32, boolean, text, array, u64, i64 = 0, 4, 5, 6, 7, 8, 9, 10, 11
)

// builder writes a file piece by piece, also one that lies.
type builder struct{ b []byte }

func (f *builder) u32(n uint32) *builder {
	f.b = binary.LittleEndian.AppendUint32(f.b, n)
	return f
}

func (f *builder) u64(n uint64) *builder {
	f.b = binary.LittleEndian.AppendUint64(f.b, n)
	return f
}

func (f *builder) text(s string) *builder {
	f.u64(uint64(len(s)))
	f.b = append(f.b, s...)
	return f
}

func begin(version uint32, tensors, pairs uint64) *builder {
	f := &builder{[]byte("GGUF")}
	return f.u32(version).u64(tensors).u64(pairs)
}

func (f *builder) string(key, value string) *builder { return f.text(key).u32(text).text(value) }
func (f *builder) number(key string, n uint32) *builder {
	return f.text(key).u32(u32).u32(n)
}

func (f *builder) texts(key string, n int) *builder {
	f.text(key).u32(array).u32(text).u64(uint64(n))
	for range n {
		f.text("a")
	}
	return f
}

func (f *builder) floats(key string, n int) *builder {
	f.text(key).u32(array).u32(f32).u64(uint64(n))
	f.b = append(f.b, make([]byte, 4*n)...)
	return f
}

func (f *builder) tensor(name string, kind uint32, offset uint64, dims ...uint64) *builder {
	f.text(name).u32(uint32(len(dims)))
	for _, d := range dims {
		f.u64(d)
	}
	return f.u32(kind).u64(offset)
}

// data pads to the alignment and adds so many bytes.
func (f *builder) data(n int) []byte {
	for len(f.b)%32 != 0 {
		f.b = append(f.b, 0)
	}
	return append(f.b, make([]byte, n)...)
}

const arch = "general.architecture"

// small is a whole model with a tokenizer and two tensors.
func small() []byte {
	return begin(3, 2, 10).string(arch, "llama").number("llama.block_count", 2).number("llama.embedding_length", 64).
		number("llama.attention.head_count", 4).number("llama.rope.dimension_count", 16).number("llama.context_length", 2048).
		string("tokenizer.ggml.model", "gpt2").texts("tokenizer.ggml.tokens", 5).floats("tokenizer.ggml.scores", 5).
		string("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}").
		tensor("a", 0, 0, 3, 2).tensor("b", 8, 32, 64).data(32 + 68)
}

func TestReadTells(t *testing.T) {
	file := small()
	m, err := gguf.Read(bytes.NewReader(file), int64(len(file)), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Architecture != "llama" || m.Version != 3 || m.Parameters != 70 || m.Types["F32"] != 6 || m.Types["Q8_0"] != 64 || m.Tokenizer.Tokens != 5 ||
		m.Tokenizer.Kind != "gpt2" || m.Tokenizer.ChatTemplate == 0 || m.Metadata["llama.block_count"] != "2" || m.Metadata["tokenizer.ggml.tokens"] != "(5 of text)" {
		t.Errorf("got %+v", m)
	}
	if len(m.Tensors) != 2 || m.Tensors[1].End != 100 || fmt.Sprint(m.Tensors[0].Shape) != "[3 2]" {
		t.Errorf("got %+v", m.Tensors)
	}
}

type lie struct {
	file []byte
	want string
}

// hostile are cases 83 to 86 of the project's list.
func hostile() map[string]lie {
	one := func() *builder { return begin(3, 1, 1).string(arch, "llama") }
	llama := func(pairs uint64) *builder { return begin(3, 0, pairs+1).string(arch, "llama") }
	backwards := append([]byte("GGUF"), 0, 0, 0, 3)
	cases := map[string]lie{
		// 83
		"2^63 tensors":          {begin(3, 1<<63, 0).b, "over the limit"},
		"2^63 keys":             {begin(3, 0, 1<<63).b, "over the limit"},
		"a million tensors":     {begin(3, 1_000_000, 0).b, "are left for them"},
		"60,000 keys":           {begin(3, 0, 60_000).b, "are left for them"},
		"a key of 2^64-1":       {begin(3, 0, 1).u64(1<<64 - 1).data(64), "over the limit"},
		"a text of 2^64-1":      {begin(3, 0, 1).text("a").u32(text).u64(1<<64 - 1).data(64), "over the limit"},
		"a text past the end":   {begin(3, 0, 1).text("a").u32(text).u64(1000).b, "are left"},
		"an array of 2^40":      {begin(3, 0, 1).text("a").u32(array).u32(u8).u64(1 << 40).data(64), "over the limit"},
		"an array past the end": {begin(3, 0, 1).text("a").u32(array).u32(u8).u64(1 << 20).data(64), "are left for them"},
		"arrays in arrays":      {begin(3, 0, 1).text("a").u32(array).u32(array).u64(1).data(64), "array of arrays"},
		"arrays 1000 deep":      {nested(1000), "array of arrays"},
		"a token of 2^64-1":     {begin(3, 0, 1).text("tokenizer.ggml.tokens").u32(array).u32(text).u64(1).u64(1<<64 - 1).data(64), "over the limit"},
		"an unknown value":      {begin(3, 0, 1).text("a").u32(13).u64(1).data(64), "unknown"},
		"an unknown element":    {begin(3, 0, 1).text("a").u32(array).u32(77).u64(1).data(64), "unknown"},
		"a bool of 2":           {append(begin(3, 0, 1).text("a").u32(boolean).b, 2), "neither true nor false"},
		"alignment 0":           {llama(1).number("general.alignment", 0).b, "power of two"},
		"alignment 3":           {llama(1).number("general.alignment", 3).b, "power of two"},
		"alignment 2^31":        {llama(1).number("general.alignment", 1<<31).b, "power of two"},
		"alignment as a text":   {llama(1).string("general.alignment", "32").b, "no number"},
		"a key twice":           {llama(2).number("a", 1).number("a", 1).b, "stands twice"},
		"an empty key":          {llama(1).number("", 1).b, "empty"},
		"a key not UTF-8":       {llama(1).number("a\xff", 1).b, "not UTF-8"},
		"a control character":   {llama(1).number("a\x1b[2J", 1).b, "control character"},
		"another magic":         {append([]byte("FUGG"), make([]byte, 60)...), "does not begin"},
		"version 1":             {begin(1, 0, 0).b, "version 1"},
		"version 4":             {begin(4, 0, 0).b, "version 4"},
		"other byte order":      {append(backwards, make([]byte, 60)...), "byte order"},
		"nothing":               {nil, "ends inside"},
		// 84
		"a tensor past the end":   {one().tensor("a", 0, 0, 800).data(31), "takes 3200 bytes"},
		"a tensor after the data": {one().tensor("a", 0, 0, 30).data(100), "ends at byte"},
		"an offset of 2^64-1":     {one().tensor("a", 0, 1<<64-1, 8).data(32), "takes"},
		"misaligned":              {one().tensor("a", 0, 4, 1).data(64), "multiple of the alignment"},
		"a gap":                   {one().tensor("a", 0, 32, 1).data(64), "gap"},
		"an overlap":              {begin(3, 2, 1).string(arch, "llama").tensor("a", 0, 0, 16).tensor("b", 0, 32, 8).data(64), "overlap"},
		"two in one place":        {begin(3, 2, 1).string(arch, "llama").tensor("a", 0, 0, 8).tensor("b", 0, 0, 8).data(64), "overlap"},
		"bytes behind":            {one().tensor("a", 0, 0, 8).data(64), "follow the last"},
		"a product over 2^64":     {one().tensor("a", 0, 0, 1<<33, 1<<33).data(32), "more elements"},
		"a negative size":         {one().tensor("a", 0, 0, 1<<64-1).data(32), "more elements"},
		"a size of 0":             {one().tensor("a", 0, 0, 0).data(32), "the size 0"},
		"a negative type":         {one().tensor("a", 1<<32-1, 0, 8).data(32), "the type -1"},
		"a withdrawn type":        {one().tensor("a", 4, 0, 32).data(32), "unknown"},
		"five dimensions":         {one().tensor("a", 0, 0, 1, 1, 1, 1, 1).data(32), "5 dimensions"},
		"no dimension":            {one().tensor("a", 0, 0).data(32), "0 dimensions"},
		"half a block":            {one().tensor("a", 8, 0, 33).data(64), "no multiple"},
		"a name twice":            {begin(3, 2, 1).string(arch, "llama").tensor("a", 0, 0, 8).tensor("a", 0, 32, 8).data(64), "stands twice"},
		"a name of a megabyte":    {one().tensor(strings.Repeat("a", 1<<20), 0, 0, 8).data(32), "over the limit"},
		"a name of 2^64-1":        {one().u64(1<<64 - 1).data(64), "over the limit"},
		"no name":                 {one().tensor("", 0, 0, 8).data(32), "no name"},
		// 85
		"scores without tokens":     {llama(1).floats("tokenizer.ggml.scores", 3).b, "0 tokens and 3"},
		"fewer scores":              {llama(2).texts("tokenizer.ggml.tokens", 4).floats("tokenizer.ggml.scores", 3).b, "4 tokens and 3"},
		"fewer types":               {llama(2).texts("tokenizer.ggml.tokens", 4).text("tokenizer.ggml.token_type").u32(array).u32(i32).u64(3).data(12), "4 tokens and 3 of token_type"},
		"a token outside":           {llama(2).texts("tokenizer.ggml.tokens", 4).number("tokenizer.ggml.bos_token_id", 4).b, "there are 4 tokens"},
		"10 million merges":         {llama(1).text("tokenizer.ggml.merges").u32(array).u32(text).u64(10_000_000).data(64), "are left for them"},
		"a template that escapes":   {llama(1).string("tokenizer.chat_template", "{{ ''.__class__.__mro__ }}").b, "code of their own"},
		"a second one that escapes": {llama(1).string("tokenizer.chat_template.tool", "{{ x|attr('y') }}").b, "code of their own"},
		"a path as architecture":    {begin(3, 0, 1).string(arch, "../llama").b, "no name"},
		"no architecture":           {begin(3, 0, 1).string("general.name", "x").b, "names no"},
		// 86
		"10^9 blocks":            {llama(1).number("llama.block_count", 1e9).b, "block_count is"},
		"no head":                {llama(1).number("llama.attention.head_count", 0).b, "head_count is 0"},
		"no head in any layer":   {llama(1).text("llama.attention.head_count").u32(array).u32(u32).u64(2).u64(0).b, "by layer"},
		"a context of 2^31":      {llama(1).number("llama.context_length", 1<<31).b, "context_length is"},
		"a negative context":     {llama(1).text("llama.context_length").u32(i32).u32(1<<32 - 1).b, "context_length is -1"},
		"a context of 2^64-1":    {llama(1).text("llama.context_length").u32(u64).u64(1<<64 - 1).b, "context_length is"},
		"a fraction of blocks":   {llama(1).text("llama.block_count").u32(f32).u32(0x40000000).b, "block_count is"},
		"a rotation too large":   {llama(3).number("llama.embedding_length", 64).number("llama.attention.head_count", 4).number("llama.rope.dimension_count", 17).b, "a head 16"},
		"a rotation over a head": {llama(2).number("llama.attention.key_length", 16).number("llama.rope.dimension_count", 17).b, "a head 16"},
		"heads over embedding":   {llama(2).number("llama.embedding_length", 2).number("llama.attention.head_count", 4).b, "share an embedding"},
		"uneven keys":            {llama(2).number("llama.attention.head_count", 4).number("llama.attention.head_count_kv", 3).b, "evenly"},
		"more experts than are":  {llama(2).number("llama.expert_count", 2).number("llama.expert_used_count", 3).b, "3 experts"},
	}
	return cases
}

// nested is an array in an array, and so on, each of one element.
func nested(depth int) []byte {
	f := begin(3, 0, 1).text("a").u32(array)
	for range depth {
		f.u32(array).u64(1)
	}
	return f.u32(u8).u64(1).data(64)
}

// hollow is a file with so many zeros behind its beginning, which exist only by arithmetic.
type hollow struct {
	head  []byte
	zeros int64
}

func (h hollow) size() int64 { return int64(len(h.head)) + h.zeros }

func (h hollow) ReadAt(b []byte, at int64) (int, error) {
	n := int(max(0, min(int64(len(b)), h.size()-at)))
	clear(b[:n])
	copy(b[:n], h.head[min(at, int64(len(h.head))):])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// Merges that are all there, each an empty text, are still too many.
func TestReadRefusesManyMerges(t *testing.T) {
	for n, want := range map[uint64]string{8 << 20: "", 10_000_000: "10000000 merges, over the limit of 8388608", 20_000_000: "over the limit of 16777216"} {
		file := hollow{begin(3, 0, 2).string(arch, "llama").text("tokenizer.ggml.merges").u32(array).u32(text).u64(n).b, int64(8 * n)}
		m, err := gguf.Read(file, file.size(), gguf.Limits{})
		if want == "" && (err != nil || m.Tokenizer.Merges != int64(n)) {
			t.Errorf("%d merges: %v", n, err)
		}
		if refusal := (*gguf.Refusal)(nil); want != "" && (!errors.As(err, &refusal) || !strings.Contains(refusal.Error(), want)) {
			t.Errorf("%d merges: %v; want %q", n, err, want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for name, c := range hostile() {
		_, err := gguf.Read(bytes.NewReader(c.file), int64(len(c.file)), gguf.Limits{})
		refusal := (*gguf.Refusal)(nil)
		if !errors.As(err, &refusal) || !strings.Contains(refusal.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	file := small()
	for n := range len(file) {
		if _, err := gguf.Read(bytes.NewReader(file[:n]), int64(n), gguf.Limits{}); err == nil {
			t.Errorf("cut off at %d: taken", n)
		}
	}
	for _, limits := range []gguf.Limits{{Pairs: 3}, {Tensors: 1}, {NameBytes: 4}, {TextBytes: 8}, {ArrayElements: 4}, {Tokens: 4}} {
		if _, err := gguf.Read(bytes.NewReader(file), int64(len(file)), limits); err == nil {
			t.Errorf("%+v: taken", limits)
		}
	}
}

// budget is what one reading may allocate in all: a fixed part, and a part in proportion to the file.
func budget(size int) uint64 { return 1<<20 + 16*uint64(size) }

func allocated(file []byte) (uint64, *gguf.Model, error) {
	total := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(total)
	before := total[0].Value.Uint64()
	m, err := gguf.Read(bytes.NewReader(file), int64(len(file)), gguf.Limits{})
	metrics.Read(total)
	return total[0].Value.Uint64() - before, m, err
}

func TestMemoryIsInProportion(t *testing.T) {
	tensors := begin(3, 200_000, 1).string(arch, "llama")
	for i := range 200_000 {
		tensors.tensor(fmt.Sprintf("%x", i), 24, uint64(i*32), 1)
	}
	keys := begin(3, 0, 60_001).string(arch, "llama")
	settings := begin(3, 0, 60_001).string(arch, "llama")
	layers := begin(3, 0, 60_001).string(arch, "llama")
	for i := range 60_000 {
		keys.text(fmt.Sprintf("%x", i)).u32(u8).b = append(keys.b, 1)
		settings.number(fmt.Sprintf("%x.vocab_size", i), 1)
		layers.text(fmt.Sprintf("%x.vocab_size", i)).u32(array).u32(u32).u64(1).u32(1)
	}
	growing := begin(3, 0, 2001).string(arch, "llama")
	for i := range 2000 {
		growing.string(fmt.Sprintf("%x", i), strings.Repeat("a", i))
	}
	for name, file := range map[string][]byte{"tensors": tensors.data(200_000 * 32), "tensors without data": tensors.b, "keys": keys.b, "settings": settings.b,
		"layers": layers.b, "growing texts": growing.b, "tokens": begin(3, 0, 2).string(arch, "llama").texts("tokenizer.ggml.tokens", 500_000).b} {
		got, _, err := allocated(file)
		t.Logf("%-22s %8d bytes, %4.1f times as much allocated: %.90v", name, len(file), float64(got)/float64(len(file)), err)
		if got > budget(len(file)) {
			t.Errorf("%s: %d bytes of file, %d allocated", name, len(file), got)
		}
	}
}

// FuzzRead asks of any bytes: an answer or a refusal, no crash, and memory in proportion.
func FuzzRead(f *testing.F) {
	f.Add(small())
	for _, c := range hostile() {
		if len(c.file) < 1<<14 {
			f.Add(c.file)
		}
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		got, m, err := allocated(file)
		if got > budget(len(file)) {
			t.Errorf("%d bytes of file, %d allocated", len(file), got)
		}
		if refusal := (*gguf.Refusal)(nil); err != nil && !errors.As(err, &refusal) {
			t.Errorf("not a refusal: %v", err)
		}
		if err != nil {
			return
		}
		end := int64(0)
		for _, tensor := range m.Tensors {
			if tensor.Begin < end || tensor.End < tensor.Begin || tensor.End > int64(len(file)) {
				t.Errorf("the tensor %q was taken at %d to %d, after %d", tensor.Name, tensor.Begin, tensor.End, end)
			}
			end = tensor.End
		}
	})
}

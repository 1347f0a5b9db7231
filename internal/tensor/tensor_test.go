package tensor_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/tensor"
)

func TestTypesGoByTheirProtocolNames(t *testing.T) {
	sizes := map[string]int{"BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
		"FP16": 2, "FP32": 4, "FP64": 8, "BF16": 2, "BYTES": 0}
	for name, size := range sizes {
		typ, ok := tensor.ParseType(name)
		if !ok || typ.String() != name || typ.Size() != size {
			t.Errorf("%s: %v %q %d", name, ok, typ, typ.Size())
		}
	}
	for _, name := range []string{"", "fp32", "FLOAT", "BYTES ", "TYPE_FP32"} {
		if typ, ok := tensor.ParseType(name); ok {
			t.Errorf("%q is taken for %s", name, typ)
		}
	}
	if beyond := tensor.Type(200); beyond.Size() != 0 || beyond.String() != "" {
		t.Error("an unknown type has a name or a size")
	}
}

func TestElementsRefusesWhatCannotBe(t *testing.T) {
	for name, tc := range map[string]struct {
		shape []int64
		want  int64
		fault string
	}{
		"scalar":            {nil, 1, ""},
		"plain":             {[]int64{2, 3, 4}, 24, ""},
		"empty":             {[]int64{5, 0, 7}, 0, ""},
		"negative":          {[]int64{2, -1}, 0, "negative"},
		"negative beside 0": {[]int64{0, -1}, 0, "negative"},
		"overflow":          {[]int64{1 << 33, 1 << 33}, 0, "2^40"},
		"overflow beside 0": {[]int64{0, math.MaxInt64, math.MaxInt64}, 0, "2^40"},
		"most":              {[]int64{1 << 20, 1 << 20}, 1 << 40, ""},
		"one more":          {[]int64{1<<20 + 1, 1 << 20}, 0, "2^40"},
		"rank 33":           {make([]int64, 33), 0, "dimensions"},
	} {
		n, err := tensor.Elements(tc.shape)
		if n != tc.want || (err == nil) != (tc.fault == "") || err != nil && !strings.Contains(err.Error(), tc.fault) {
			t.Errorf("%s: %d, %v; want %d and a fault about %q", name, n, err, tc.want, tc.fault)
		}
	}
}

func TestCheckComparesShapeTypeAndData(t *testing.T) {
	two := tensor.AppendBytes(tensor.AppendBytes(nil, []byte("a")), nil)
	for name, tc := range map[string]struct {
		tensor tensor.Tensor
		ok     bool
	}{
		"floats":             {tensor.FromFloat32("x", []int64{2}, []float32{1, 2}), true},
		"one byte short":     {tensor.Tensor{Type: tensor.FP32, Shape: []int64{2}, Data: make([]byte, 7)}, false},
		"one byte more":      {tensor.Tensor{Type: tensor.FP32, Shape: []int64{2}, Data: make([]byte, 9)}, false},
		"no type":            {tensor.Tensor{Shape: []int64{1}, Data: make([]byte, 4)}, false},
		"bad shape":          {tensor.Tensor{Type: tensor.Bool, Shape: []int64{-1}}, false},
		"strings":            {tensor.Tensor{Type: tensor.Bytes, Shape: []int64{2}, Data: two}, true},
		"a string too few":   {tensor.Tensor{Type: tensor.Bytes, Shape: []int64{3}, Data: two}, false},
		"a string too many":  {tensor.Tensor{Type: tensor.Bytes, Shape: []int64{1}, Data: two}, false},
		"prefix cut off":     {tensor.Tensor{Type: tensor.Bytes, Shape: []int64{3}, Data: append(slices.Clone(two), 1, 0)}, false},
		"prefix past end":    {tensor.Tensor{Type: tensor.Bytes, Shape: []int64{1}, Data: []byte{2, 0, 0, 0, 'a'}}, false},
		"prefix of 4 GiB":    {tensor.Tensor{Type: tensor.Bytes, Shape: []int64{1}, Data: []byte{255, 255, 255, 255, 'a'}}, false},
		"empty with no data": {tensor.Tensor{Type: tensor.Bytes, Shape: []int64{0}}, true},
	} {
		if err := tc.tensor.Check(); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	x := tensor.FromFloat32("x", []int64{2}, []float32{1, 2})
	if n := testing.AllocsPerRun(100, func() { _ = x.Check() }); n > 0 {
		t.Errorf("a good tensor costs %v allocations to check", n)
	}
}

// TestBytesComeBackAsTheyWere appends random elements and splits them off again.
func TestBytesComeBackAsTheyWere(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 7))
	for range 200 {
		var want [][]byte
		var data []byte
		for range random.IntN(20) {
			element := []byte(strings.Repeat("x", random.IntN(300)))
			want, data = append(want, element), tensor.AppendBytes(data, element)
		}
		x := tensor.Tensor{Type: tensor.Bytes, Shape: []int64{int64(len(want))}, Data: data}
		if err := x.Check(); err != nil {
			t.Fatal(err)
		}
		for i, w := range want {
			element, rest, ok := tensor.NextBytes(data)
			if !ok || !bytes.Equal(element, w) {
				t.Fatalf("element %d: %q, want %q", i, element, w)
			}
			data = rest
		}
		if _, _, ok := tensor.NextBytes(data); ok {
			t.Fatal("more came back than was put in")
		}
	}
}

func TestValuesComeBackAsTheyWere(t *testing.T) {
	floats := []float32{0, -1.5, float32(math.Inf(1)), math.MaxFloat32, math.SmallestNonzeroFloat32}
	f := tensor.FromFloat32("f", []int64{5}, floats)
	ints := []int64{0, -1, math.MinInt64, math.MaxInt64}
	i := tensor.FromInt64("i", []int64{4}, ints)
	if fmt.Sprint(f.Float32s()) != fmt.Sprint(floats) || fmt.Sprint(i.Int64s()) != fmt.Sprint(ints) {
		t.Errorf("%v %v", f.Float32s(), i.Int64s())
	}
}

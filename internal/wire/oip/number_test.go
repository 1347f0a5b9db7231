package oip_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/oip"
)

// TestRounding holds the decoder's numbers against the library's, above all about halfway between two float32, where a
// shortcut through float64 would round twice.
func TestRounding(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	texts := []string{"3.4028234663852886e38", "3.4028235677973366e38", "1.1754943508222875e-38", "1.17549429e-38", "7.0064923216240854e-46",
		"16777217", "16777219", "0.1", "9007199254740993", "1e22", "1e23", "123456789012345678901234567890", "0.000000000000000000000000000001"}
	for range 20000 {
		v := math.Float32frombits(rng.Uint32())
		next := math.Nextafter32(v, math.MaxFloat32)
		half := (float64(v) + float64(next)) / 2
		if half-half != 0 {
			continue
		}
		for _, f := range []float64{half, math.Nextafter(half, math.Inf(1)), math.Nextafter(half, math.Inf(-1)), rng.NormFloat64()} {
			texts = append(texts, strconv.FormatFloat(f, "eg"[rng.IntN(2)], rng.IntN(21)-1, 64))
		}
	}
	var kept []string
	var want32 []uint32
	var want64 []uint64
	for _, text := range texts {
		f, err := strconv.ParseFloat(text, 32)
		if err != nil {
			continue
		}
		g, _ := strconv.ParseFloat(text, 64)
		kept = append(kept, text)
		want32 = append(want32, math.Float32bits(float32(f)))
		want64 = append(want64, math.Float64bits(g))
	}
	var r oip.Request
	if err := r.DecodeHTTP([]byte(one(fmt.Sprintf("[%d]", len(kept)), "FP32", "["+strings.Join(kept, ",")+"]")), -1); err != nil {
		t.Fatal(err)
	}
	for i, want := range want32 {
		if got := binary.LittleEndian.Uint32(r.Inputs[0].Data[4*i:]); got != want {
			t.Fatalf("%s as FP32: %x, want %x", kept[i], got, want)
		}
	}
	if err := r.DecodeHTTP([]byte(one(fmt.Sprintf("[%d]", len(kept)), "FP64", "["+strings.Join(kept, ",")+"]")), -1); err != nil {
		t.Fatal(err)
	}
	for i, want := range want64 {
		if got := binary.LittleEndian.Uint64(r.Inputs[0].Data[8*i:]); got != want {
			t.Fatalf("%s as FP64: %x, want %x", kept[i], got, want)
		}
	}
}

// TestFixedNotation holds numbers without exponent, which have a reader of their own, against the library's: of every
// length, with spaces or not, and about halfway between two float32.
func TestFixedNotation(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	texts := []string{"0", "-0", "-0.0", "1234567", "12345678", "123456789", "16777217.0", "0.123456789012345678", "0.1234567890123456789",
		"9999999999999999999", "999.9999999999999999", "0.0000000000000000001", "9007199254740993.5", "255", "0.00000001"}
	for range 30000 {
		v := math.Float32frombits(rng.Uint32()&0x8fffffff | 0x30000000)
		next := math.Nextafter32(v, math.MaxFloat32)
		half := (float64(v) + float64(next)) / 2
		for _, f := range []float64{half, math.Nextafter(half, 2), math.Nextafter(half, -2), rng.NormFloat64() * 1000, float64(rng.IntN(1000))} {
			texts = append(texts, strconv.FormatFloat(f, 'f', rng.IntN(20)-1, 64))
		}
		texts = append(texts, fmt.Sprintf("%d.%d", rng.IntN(1e5), rng.Uint64()>>rng.IntN(63)))
	}
	for _, separator := range []string{",", ", ", " ,\n\t"} {
		for _, datatype := range []string{"FP32", "FP64"} {
			var r oip.Request
			if err := r.DecodeHTTP([]byte(one(fmt.Sprintf("[%d]", len(texts)), datatype, "["+strings.Join(texts, separator)+"]")), -1); err != nil {
				t.Fatal(err)
			}
			for i, text := range texts {
				f, _ := strconv.ParseFloat(text, 32)
				want, got := uint64(math.Float32bits(float32(f))), uint64(0)
				if datatype == "FP32" {
					got = uint64(binary.LittleEndian.Uint32(r.Inputs[0].Data[4*i:]))
				} else {
					f, _ := strconv.ParseFloat(text, 64)
					want, got = math.Float64bits(f), binary.LittleEndian.Uint64(r.Inputs[0].Data[8*i:])
				}
				if got != want {
					t.Fatalf("%s as %s: %x, want %x", text, datatype, got, want)
				}
			}
		}
	}
}

// TestSinglesAreShortest holds the writer of FP32 against the library's, over floats of all sizes.
func TestSinglesAreShortest(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	values := []float32{0, float32(math.Copysign(0, -1)), 1e-6, 9.999999e-7, 0.1, 0.5, 0.25, 16777215, 16777216, 8388607.5, math.MaxFloat32, math.SmallestNonzeroFloat32}
	for exponent := range uint32(255) { // the floats at powers of two have neighbours at two distances
		values = append(values, math.Float32frombits(exponent<<23), math.Float32frombits(exponent<<23+1), math.Float32frombits((exponent<<23-1)&0x7f7fffff))
	}
	for range 200000 {
		if v := math.Float32frombits(rng.Uint32()); v-v == 0 {
			values = append(values, v)
		}
		values = append(values, math.Float32frombits(rng.Uint32()&0x8fffffff|0x30000000), float32(rng.IntN(1e6))/1000)
	}
	answer := oip.Response{Outputs: []tensor.Tensor{tensor.FromFloat32("x", []int64{int64(len(values))}, values)}}
	out, _, err := answer.AppendHTTP(nil, &oip.Request{})
	if err != nil {
		t.Fatal(err)
	}
	text := string(out)
	text = text[strings.Index(text, `"data":[`)+len(`"data":[`) : len(text)-len("]}]}")]
	for i, got := range strings.Split(text, ",") {
		v := float64(values[i])
		want := strconv.FormatFloat(v, 'f', -1, 32)
		switch size := math.Abs(v); {
		case size < 1e7 && v == math.Trunc(v):
			want += ".0"
		case size < 1e-6 || size >= 1e21:
			want = strconv.FormatFloat(v, 'e', -1, 32)
		}
		if want == "-0.0" || want == "-0" {
			want = got // either is minus nought
		}
		if got != want {
			t.Fatalf("%x is %s, want %s", math.Float32bits(values[i]), got, want)
		}
	}
}

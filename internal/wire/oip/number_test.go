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

package bench_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/bench"
)

// exact is the plain model: all values, sorted.
type exact []time.Duration

func (e exact) quantile(q float64) time.Duration {
	if len(e) == 0 {
		return 0
	}
	rank := min(max(int(math.Ceil(q*float64(len(e)))), 1), len(e))
	return e[rank-1]
}

func check(t *testing.T, h *bench.Histogram, values exact) {
	t.Helper()
	slices.Sort(values)
	if h.Count() != uint64(len(values)) {
		t.Fatalf("%d counted of %d", h.Count(), len(values))
	}
	if len(values) > 0 && (h.Min() != values[0] || h.Max() != values[len(values)-1]) {
		t.Fatalf("from %v to %v, want %v to %v", h.Min(), h.Max(), values[0], values[len(values)-1])
	}
	var sum float64
	for _, v := range values {
		sum += float64(v)
	}
	if mean := sum / max(float64(len(values)), 1); math.Abs(float64(h.Mean())-mean) > 1+mean*1e-9 {
		t.Fatalf("mean %v, want %v", h.Mean(), time.Duration(mean))
	}
	for _, q := range []float64{0, .001, .01, .1, .25, .5, .75, .9, .95, .99, .999, .9999, 1} {
		got, want := h.Quantile(q), values.quantile(q)
		if math.Abs(float64(got-want)) > bench.ErrorMax*float64(want) {
			t.Fatalf("quantile %v of %d values is %v, want %v within %v", q, len(values), got, want, bench.ErrorMax)
		}
	}
}

// TestQuantilesAreWithinTheirBound records, merges, empties, saves and reads histograms at random beside plain lists.
func TestQuantilesAreWithinTheirBound(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 3))
	draw := map[string]func() time.Duration{
		"small":       func() time.Duration { return time.Duration(random.IntN(600)) },
		"even":        func() time.Duration { return time.Duration(random.Int64N(int64(time.Second))) },
		"exponential": func() time.Duration { return time.Duration(random.ExpFloat64() * float64(time.Millisecond)) },
		"heavy tail":  func() time.Duration { return time.Duration(1e4/math.Pow(1-random.Float64(), 1.5)) % (30 * time.Minute) },
		"two humps": func() time.Duration {
			return time.Duration(100+random.IntN(2)*50_000)*time.Microsecond + time.Duration(random.IntN(1000))
		},
		"powers of two": func() time.Duration { return time.Duration(1)<<random.IntN(40) - time.Duration(random.IntN(2)) },
	}
	for name, next := range draw {
		t.Run(name, func(t *testing.T) {
			var h, other bench.Histogram
			var values, others exact
			for range 150 {
				switch random.IntN(8) {
				case 0:
					h.Merge(&other)
					values = append(values, others...)
				case 1:
					other.Reset()
					others = nil
				case 2:
					text, err := json.Marshal(&h)
					if err != nil {
						t.Fatal(err)
					}
					h = bench.Histogram{}
					if err := json.Unmarshal(text, &h); err != nil {
						t.Fatalf("%v: %s", err, text)
					}
				case 3:
					for range random.IntN(300) {
						v := next()
						other.Record(v)
						others = append(others, v)
					}
				default:
					for range random.IntN(100) {
						v := next()
						h.Record(v)
						values = append(values, v)
					}
				}
				if len(values) > 10_000 {
					h.Reset()
					values = nil
				}
				check(t, &h, values)
				check(t, &other, others)
			}
		})
	}
}

func TestHistogramTakesWhatItCannotTell(t *testing.T) {
	var h bench.Histogram
	h.Record(-time.Second)
	h.Record(100 * time.Hour)
	h.Record(2 * time.Hour)
	if h.Min() != 0 || h.Max() != 100*time.Hour || h.Count() != 3 || h.Quantile(1) != 100*time.Hour {
		t.Errorf("%v %v %v", h.Min(), h.Max(), h.Quantile(1))
	}
	if low := h.Quantile(.5); low < 30*time.Minute || low > 100*time.Hour {
		t.Errorf("the middle is %v", low)
	}
}

func TestDamagedHistogramsAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no object":           `[]`,
		"other width":         `{"step_bits":6,"counts":""}`,
		"no step":             `{"step_bits":7,"min_ns":1,"max_ns":2,"counts":"x:1"}`,
		"no count":            `{"step_bits":7,"min_ns":1,"max_ns":2,"counts":"1"}`,
		"past the end":        `{"step_bits":7,"min_ns":1,"max_ns":2,"counts":"1:1 2:1 99999:1"}`,
		"negative":            `{"step_bits":7,"min_ns":-1,"max_ns":2,"counts":"1:1 2:1"}`,
		"minimum not counted": `{"step_bits":7,"min_ns":1,"max_ns":2,"counts":"2:1"}`,
		"too many":            `{"step_bits":7,"min_ns":1,"max_ns":2,"counts":"1:9007199254740993 2:9007199254740993"}`,
		"endless sum":         `{"step_bits":7,"min_ns":1,"max_ns":2,"sum_ns":-5,"counts":"1:1 2:1"}`,
	} {
		var h bench.Histogram
		if err := json.Unmarshal([]byte(text), &h); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	var h bench.Histogram
	for i := range b.N {
		h.Record(time.Duration(i&0xffff) * 100)
	}
}

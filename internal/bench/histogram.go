package bench

import (
	"encoding/json"
	"errors"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// A histogram divides every power of two into 2^stepBits steps of equal width. A value is told as the middle of its step,
// which is off by at most half a step: 1/256 of the value, 0.4 %. Below 2^(stepBits+1) ns steps are 1 ns wide and exact.
const (
	stepBits = 7
	topBits  = 41 // values end at 2^41 ns, 36 minutes; longer ones are counted in the last step
	steps    = (topBits - stepBits + 1) << stepBits
)

// ErrorMax is how far a quantile may be off, as a part of its value.
const ErrorMax = 1.0 / (2 << stepBits)

// Histogram counts durations. It takes 35 KiB whatever it counts, and is used by one goroutine at a time. The zero value
// is empty.
type Histogram struct {
	counts   [steps]uint64
	total    uint64
	sum      float64 // ns
	min, max int64   // ns, exact
}

// Record counts one duration; negative ones count as 0.
func (h *Histogram) Record(d time.Duration) {
	ns := max(int64(d), 0)
	if h.total == 0 || ns < h.min {
		h.min = ns
	}
	h.max = max(h.max, ns)
	h.total++
	h.sum += float64(ns)
	h.counts[stepOf(ns)]++
}

// stepOf finds a value's step: those of one power of two lie side by side.
func stepOf(ns int64) int {
	if ns >= 1<<topBits {
		return steps - 1
	}
	shift := max(bits.Len64(uint64(ns))-(stepBits+1), 0)
	return shift<<stepBits + int(ns>>shift)
}

// bounds gives the first value of a step and the first behind it.
func bounds(step int) (low, end int64) {
	shift := max(step>>stepBits-1, 0)
	low = int64(step-shift<<stepBits) << shift
	return low, low + 1<<shift
}

// Count is how many were recorded.
func (h *Histogram) Count() uint64 { return h.total }

// Max is the longest, exactly.
func (h *Histogram) Max() time.Duration { return time.Duration(h.max) }

// Min is the shortest, exactly.
func (h *Histogram) Min() time.Duration { return time.Duration(h.min) }

// Mean is the sum divided by the count, exactly but for rounding.
func (h *Histogram) Mean() time.Duration {
	if h.total == 0 {
		return 0
	}
	return time.Duration(h.sum / float64(h.total))
}

// Quantile is the value that a part q of all values do not exceed: of n values the ceil(q*n)-th, off by ErrorMax at most.
// It is 0 when nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := uint64(math.Ceil(min(max(q, 0), 1) * float64(h.total)))
	rank = min(max(rank, 1), h.total)
	if rank == h.total {
		return time.Duration(h.max)
	}
	var seen uint64
	for step := stepOf(h.min); step < steps; step++ {
		if seen += h.counts[step]; seen >= rank {
			low, end := bounds(step)
			return time.Duration(min(max((low+end-1)/2, h.min), h.max))
		}
	}
	return time.Duration(h.max)
}

// Merge adds what another one counted.
func (h *Histogram) Merge(o *Histogram) {
	if o.total == 0 {
		return
	}
	for step, last := stepOf(o.min), stepOf(o.max); step <= last; step++ {
		h.counts[step] += o.counts[step]
	}
	if h.total == 0 || o.min < h.min {
		h.min = o.min
	}
	h.max = max(h.max, o.max)
	h.total += o.total
	h.sum += o.sum
}

// Reset empties it.
func (h *Histogram) Reset() {
	if h.total > 0 {
		clear(h.counts[stepOf(h.min) : stepOf(h.max)+1])
	}
	h.total, h.sum, h.min, h.max = 0, 0, 0, 0
}

// between counts the values from low up to, but not including, end. Steps that lie across an edge belong to the side of
// their middle.
func (h *Histogram) between(low, end time.Duration) (n uint64) {
	for step := stepOf(int64(low)); step < steps; step++ {
		first, behind := bounds(step)
		if middle := (first + behind - 1) / 2; middle >= int64(end) {
			break
		} else if middle >= int64(low) {
			n += h.counts[step]
		}
	}
	return n
}

// stored is a histogram in JSON: only steps that counted something. They are one text, "STEP:COUNT STEP:COUNT …", since
// lists of numbers would fill a page each.
type stored struct {
	StepBits int     `json:"step_bits"`
	MinNS    int64   `json:"min_ns"`
	MaxNS    int64   `json:"max_ns"`
	SumNS    float64 `json:"sum_ns"`
	Counts   string  `json:"counts"`
}

// MarshalJSON writes the steps that counted something.
func (h *Histogram) MarshalJSON() ([]byte, error) {
	var b []byte
	for step, n := range h.counts {
		if n == 0 {
			continue
		}
		if len(b) > 0 {
			b = append(b, ' ')
		}
		b = append(strconv.AppendInt(b, int64(step), 10), ':')
		b = strconv.AppendUint(b, n, 10)
	}
	return json.Marshal(stored{StepBits: stepBits, MinNS: h.min, MaxNS: h.max, SumNS: h.sum, Counts: string(b)})
}

// UnmarshalJSON reads what MarshalJSON wrote, of this version or another with as many steps.
func (h *Histogram) UnmarshalJSON(text []byte) error {
	var s stored
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	bad := errors.New("the histogram is damaged")
	if s.StepBits != stepBits {
		return errors.New("the histogram has steps of another width: it was written by another version")
	}
	if s.MinNS < 0 || s.MaxNS < s.MinNS || !(s.SumNS >= 0) || math.IsInf(s.SumNS, 0) {
		return bad
	}
	*h = Histogram{}
	for pair := range strings.FieldsSeq(s.Counts) {
		before, after, _ := strings.Cut(pair, ":")
		step, err := strconv.ParseUint(before, 10, 32)
		n, err2 := strconv.ParseUint(after, 10, 53)
		if err != nil || err2 != nil || step < uint64(stepOf(s.MinNS)) || step > uint64(stepOf(s.MaxNS)) || h.total+n > 1<<53 {
			return bad
		}
		h.counts[step] += n
		h.total += n
	}
	if h.total > 0 && (h.counts[stepOf(s.MinNS)] == 0 || h.counts[stepOf(s.MaxNS)] == 0) {
		return bad
	}
	h.min, h.max, h.sum = s.MinNS, s.MaxNS, s.SumNS
	return nil
}

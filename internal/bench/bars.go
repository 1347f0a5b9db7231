package bench

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"
)

const (
	barsMax  = 16 // rows of the drawn histogram
	barWidth = 50 // characters of the longest bar
)

// bin is one row of a drawn histogram.
type bin struct {
	low, end time.Duration
	count    uint64
}

// bins divides what was measured into equal parts of a logarithmic scale: latencies spread over powers of ten.
func bins(h *Histogram, most int) []bin {
	if h.Count() == 0 {
		return nil
	}
	low := max(float64(h.Min()), 100)         // ns; below it the steps would be narrower than the clock's
	high := max(float64(h.Max())+1, low*1.01) // equal values have a bar, too
	step := niceRatio(math.Pow(high/low, 1/float64(most)))
	var all []bin
	edge := math.Pow(step, math.Floor(math.Log(low)/math.Log(step)))
	for edge < high && len(all) < 2*most {
		next := edge * step
		b := bin{low: time.Duration(math.Round(edge)), end: time.Duration(math.Round(next))}
		if len(all) == 0 {
			b.low = 0
		}
		if next >= high {
			b.end = math.MaxInt64
		}
		b.count = h.between(b.low, b.end)
		all = append(all, b)
		edge = next
	}
	all[0].low = time.Duration(math.Round(edge / math.Pow(step, float64(len(all)))))
	all[len(all)-1].end = time.Duration(math.Round(edge))
	for len(all) > 1 && all[len(all)-1].count == 0 { // a maximum whose step's middle lies below it
		all = all[:len(all)-1]
	}
	for len(all) > 1 && all[0].count == 0 {
		all = all[1:]
	}
	return all
}

// niceRatio chooses a step of which whole numbers make a power of ten.
func niceRatio(least float64) float64 {
	for _, parts := range []float64{50, 40, 30, 20, 15, 12, 10, 8, 6, 5, 4, 3, 2, 1} {
		if r := math.Pow(10, 1/parts); r >= least {
			return r
		}
	}
	return 10 * math.Ceil(least/10)
}

// writeBars draws the histogram in text.
func writeBars(w io.Writer, h *Histogram) {
	all := bins(h, barsMax)
	most := uint64(1)
	for _, b := range all {
		most = max(most, b.count)
	}
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', tabwriter.AlignRight)
	for _, b := range all {
		part := float64(b.count) / float64(most)
		fmt.Fprintf(t, "%s to\t%s\t%d\t %s\n", took(micros(b.low)), took(micros(b.end)), b.count, bar(part))
	}
	_ = t.Flush() // the terminal's errors have nowhere to go
}

// bar draws a part of barWidth in eighths of a character; what is there at all is seen.
func bar(part float64) string {
	eighths := int(math.Round(part * barWidth * 8))
	if part > 0 && eighths == 0 {
		eighths = 1
	}
	text := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		text += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return text
}

package bench

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"text/tabwriter"
	"time"
)

const (
	resamples   = 1000 // of a bootstrap
	slicesLeast = 8    // with fewer, an interval would say nothing
	confidence  = 0.95
)

// Ratio compares one figure of two runs. Low and High hold the ratio with a confidence of 95 %, as far as the runs
// themselves can tell; they are 0 when the runs were too short to tell.
type Ratio struct {
	What   string  `json:"what"`
	Before float64 `json:"before"`
	Now    float64 `json:"now"`
	Ratio  float64 `json:"ratio"` // now over before
	Low    float64 `json:"low,omitempty"`
	High   float64 `json:"high,omitempty"`
}

// Comparison is a run against an earlier one.
type Comparison struct {
	Began  time.Time `json:"began"` // of the earlier one
	Ratios []Ratio   `json:"ratios"`
	Notes  []string  `json:"notes,omitempty"` // what else differs
}

// figure is one that is compared. Rates are better when they are higher, latencies when they are lower.
type figure struct {
	what string
	of   func(h *Histogram, elapsed float64) float64
}

var figures = []figure{
	{"rate", func(h *Histogram, elapsed float64) float64 { return float64(h.Count()) / elapsed }},
	{"mean", func(h *Histogram, _ float64) float64 { return micros(h.Mean()) }},
	{"p50", func(h *Histogram, _ float64) float64 { return micros(h.Quantile(.5)) }},
	{"p90", func(h *Histogram, _ float64) float64 { return micros(h.Quantile(.9)) }},
	{"p99", func(h *Histogram, _ float64) float64 { return micros(h.Quantile(.99)) }},
}

// Compare sets a run against an earlier one. Intervals come from a bootstrap: slices of each run's time are drawn again
// and again, with what was counted in them.
func Compare(before, now *Report, seed uint64) *Comparison {
	c := &Comparison{Began: before.Began, Notes: differences(before, now)}
	old, fresh := whole(before.Result), whole(now.Result)
	for _, f := range figures {
		r := Ratio{What: f.what, Before: f.of(before.Result.Histogram, before.Result.Elapsed), Now: f.of(now.Result.Histogram, now.Result.Elapsed)}
		if f.what == "rate" {
			r.Before, r.Now = before.Result.PerSecond, now.Result.PerSecond
		}
		r.Ratio = over(r.Now, r.Before)
		c.Ratios = append(c.Ratios, r)
	}
	if len(old) < slicesLeast || len(fresh) < slicesLeast {
		c.Notes = append(c.Notes, "a run was too short for intervals; measure for some seconds")
		return c
	}
	random := rand.New(rand.NewPCG(seed, 2))
	drawn := make([][]float64, len(figures))
	var a, b Histogram
	for range resamples {
		draw(&a, old, random)
		draw(&b, fresh, random)
		for i, f := range figures {
			drawn[i] = append(drawn[i], over(f.of(&b, float64(len(fresh))*now.Result.SliceS), f.of(&a, float64(len(old))*before.Result.SliceS)))
		}
	}
	const tail = (1 - confidence) / 2
	for i := range drawn {
		slices.Sort(drawn[i])
		c.Ratios[i].Low, c.Ratios[i].High = drawn[i][int(tail*resamples)], drawn[i][int((1-tail)*resamples)-1]
	}
	return c
}

func over(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// whole gives the slices that the run filled.
func whole(r *Result) []Slice {
	n := len(r.Slices)
	if r.SliceS > 0 {
		n = min(n, int(math.Floor(r.Elapsed/r.SliceS+1e-9)))
	}
	for i := range n {
		if r.Slices[i].Latency == nil {
			return nil
		}
	}
	return r.Slices[:max(n, 0)]
}

func draw(into *Histogram, from []Slice, random *rand.Rand) {
	into.Reset()
	for range from {
		into.Merge(from[random.IntN(len(from))].Latency)
	}
}

// differences tells what makes two runs hard to compare.
func differences(before, now *Report) (notes []string) {
	note := func(what, a, b string) {
		if a != b {
			notes = append(notes, fmt.Sprintf("%s differs: %s before, %s now", what, a, b))
		}
	}
	note("the endpoint", before.Endpoint, now.Endpoint)
	note("the protocol", string(before.Protocol), string(now.Protocol))
	note("the data", before.Data, now.Data)
	note("the number of clients", fmt.Sprint(before.Result.Clients), fmt.Sprint(now.Result.Clients))
	note("the rate", fmt.Sprint(before.Result.Rate), fmt.Sprint(now.Result.Rate))
	if before.Result.Failed+now.Result.Failed > 0 {
		notes = append(notes, fmt.Sprintf("%d requests failed before and %d now; they are in no figure", before.Result.Failed, now.Result.Failed))
	}
	return notes
}

func (c *Comparison) writeText(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "AGAINST %s\tBEFORE\tNOW\tRATIO\t95%% INTERVAL\t\n", c.Began.Format("2006-01-02 15:04:05"))
	for _, r := range c.Ratios {
		show := took
		if r.What == "rate" {
			show = rate
		}
		between, told := "-", "-"
		if r.High > 0 {
			between, told = fmt.Sprintf("%.3f to %.3f", r.Low, r.High), r.verdict()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%.3f\t%s\t%s\n", r.What, show(r.Before), show(r.Now), r.Ratio, between, told)
	}
	_ = t.Flush() // the terminal's errors have nowhere to go
	for _, n := range c.Notes {
		fmt.Fprintf(w, "note: %s\n", clean(n))
	}
	fmt.Fprintln(w, "intervals tell how these two runs vary within themselves; what else changed between them they cannot know")
}

// verdict says in a word what the interval shows.
func (r Ratio) verdict() string {
	higher := r.Low > 1
	switch {
	case r.Low <= 1 && r.High >= 1:
		return "no difference shown"
	case higher == (r.What == "rate"):
		return "better"
	}
	return "worse"
}

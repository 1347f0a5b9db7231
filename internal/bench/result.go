package bench

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// Fault is one kind of error.
type Fault struct {
	Code    string `json:"code"`
	Count   int64  `json:"count"`
	Example string `json:"example"`
}

// Latency holds the figures of a latency in microseconds.
type Latency struct {
	Mean float64 `json:"mean_us"`
	Min  float64 `json:"min_us"`
	P50  float64 `json:"p50_us"`
	P90  float64 `json:"p90_us"`
	P95  float64 `json:"p95_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
	Max  float64 `json:"max_us"`
}

// LatencyOf reads the figures off a histogram.
func LatencyOf(h *Histogram) Latency {
	return Latency{Mean: micros(h.Mean()), Min: micros(h.Min()), P50: micros(h.Quantile(.5)), P90: micros(h.Quantile(.9)), P95: micros(h.Quantile(.95)),
		P99: micros(h.Quantile(.99)), P999: micros(h.Quantile(.999)), Max: micros(h.Max())}
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// Lateness tells how requests of an open loop kept their times.
type Lateness struct {
	Schedule
	// Late had to wait for a free connection. Their wait is part of their latency.
	Late    int64   `json:"late"`
	LateP99 float64 `json:"late_p99_us"` // of those that waited
	LateMax float64 `json:"late_max_us"`
	// WakeP50 and WakeP99 are how long after its time a waiting client woke. It is the generator's own doing, and part of
	// the latency, too: nobody can tell it from the time that the request took.
	WakeP50 float64 `json:"wake_p50_us"`
	WakeP99 float64 `json:"wake_p99_us"`
}

// Cost is what the generator itself spent.
type Cost struct {
	Asked      int64   `json:"asked"`              // requests, with those of the warm-up
	PerRequest float64 `json:"cpu_per_request_us"` // processor time
	Cores      float64 `json:"cores"`              // processors kept busy
}

// Result is what a run measured.
type Result struct {
	Clients     int       `json:"clients"`
	Rate        float64   `json:"rate,omitempty"` // asked for; 0: a closed loop
	Poisson     bool      `json:"poisson,omitempty"`
	Elapsed     float64   `json:"elapsed_s"` // measured
	Interrupted bool      `json:"interrupted,omitempty"`
	OK          uint64    `json:"ok"`
	Failed      int64     `json:"failed"`
	PerSecond   float64   `json:"per_second"` // answered
	Latency     Latency   `json:"latency"`    // of what was answered
	Lateness    *Lateness `json:"lateness,omitempty"`
	Faults      []Fault   `json:"faults,omitempty"`
	Generator   Cost      `json:"generator"`

	Inside *ServerSide `json:"server_side,omitempty"` // put in by whoever asked the server

	Histogram *Histogram `json:"histogram"`
	SliceS    float64    `json:"slice_s"`
	Slices    []Slice    `json:"slices"`
}

// FailedShare is the part of all requests that failed.
func (r *Result) FailedShare() float64 {
	all := float64(r.OK) + float64(r.Failed)
	if all == 0 {
		return 0
	}
	return float64(r.Failed) / all
}

// result closes the books.
func (r *run) result(ctx context.Context, recorders []*recorder, spent time.Duration) *Result {
	now := r.since()
	out := &Result{Clients: r.plan.Clients, Rate: r.plan.Rate, Poisson: r.plan.Poisson, Interrupted: ctx.Err() != nil && now < r.end,
		OK: r.tally.latency.Count(), Failed: r.tally.failed, Latency: LatencyOf(&r.tally.latency),
		Histogram: &r.tally.latency, SliceS: r.tally.length.Seconds(), Slices: r.tally.slices}
	elapsed := max(min(now, r.end)-r.begin, 0)
	var ended time.Duration
	waits, wakes := new(Histogram), new(Histogram)
	late := int64(0)
	for _, c := range recorders {
		out.Generator.Asked += c.asked
		ended = max(ended, c.ended)
		late += c.late
		if c.waits != nil {
			waits.Merge(c.waits)
			wakes.Merge(c.wakes)
		}
	}
	if r.plan.Count > 0 && ended > r.begin {
		elapsed = min(elapsed, ended-r.begin)
	}
	out.Elapsed = elapsed.Seconds()
	out.PerSecond = r.throughput(recorders, max(elapsed, ended-r.begin))
	if r.schedule != nil {
		out.Lateness = &Lateness{Schedule: r.schedule.close(now), Late: late, LateP99: micros(waits.Quantile(.99)), LateMax: micros(waits.Max()),
			WakeP50: micros(wakes.Quantile(.5)), WakeP99: micros(wakes.Quantile(.99))}
	}
	for _, f := range r.tally.faults {
		out.Faults = append(out.Faults, *f)
	}
	slices.SortFunc(out.Faults, func(a, b Fault) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Code, b.Code)) })
	if out.Generator.Asked > 0 {
		out.Generator.PerRequest = micros(spent) / float64(out.Generator.Asked)
	}
	if now > 0 {
		out.Generator.Cores = spent.Seconds() / now.Seconds()
	}
	return out
}

// throughput is answers a second. Every client of a closed loop has its own time, from the beginning of its first request
// to the end of its last: a common end would count requests that it cuts through as nothing, or as whole.
func (r *run) throughput(recorders []*recorder, elapsed time.Duration) (rate float64) {
	if r.schedule != nil {
		if elapsed > 0 {
			rate = float64(r.tally.latency.Count()) / elapsed.Seconds()
		}
		return rate
	}
	for _, c := range recorders {
		if c.good > 0 && c.ended > c.measuring {
			rate += float64(c.good) / (c.ended - c.measuring).Seconds()
		}
	}
	return rate
}

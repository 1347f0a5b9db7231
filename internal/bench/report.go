package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// Below so many requests a percentile is no more than the longest or the second longest.
const (
	p99Least  = 200
	p999Least = 2000
)

// Report is all that is told about a run.
type Report struct {
	Endpoint string      `json:"endpoint"`
	Server   string      `json:"server"`
	Protocol Protocol    `json:"protocol"`
	Data     string      `json:"data"` // where the requests came from
	Began    time.Time   `json:"began"`
	Warmup   float64     `json:"warmup_s"`
	Tool     string      `json:"tool"` // version of the program
	Result   *Result     `json:"result"`
	Ramp     *Ramp       `json:"ramp,omitempty"`
	Against  *Comparison `json:"against,omitempty"`
}

// WriteText writes the report for people. One without a result, of a ramp that was interrupted early, says so.
func (r *Report) WriteText(w io.Writer) {
	out := r.Result
	if out == nil {
		fmt.Fprintln(w, "interrupted before anything was measured")
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "endpoint:\t%s at %s (%s)\n", clean(r.Endpoint), clean(r.Server), r.Protocol)
	fmt.Fprintf(t, "load:\t%s\n", out.load(r.Warmup))
	fmt.Fprintf(t, "data:\t%s\n", clean(r.Data))
	_ = t.Flush() // the terminal's errors have nowhere to go
	if r.Ramp != nil {
		fmt.Fprintln(w)
		r.Ramp.writeText(w)
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	l := out.Latency
	fmt.Fprintln(t, "OK\tFAILED\tRATE\tMEAN\tP50\tP90\tP95\tP99\tP99.9\tMAX")
	fmt.Fprintf(t, "%d\t%d\t%s", out.OK, out.Failed, rate(out.PerSecond))
	for _, us := range []float64{l.Mean, l.P50, l.P90, l.P95, l.P99, l.P999, l.Max} {
		fmt.Fprintf(t, "\t%s", took(us))
	}
	fmt.Fprintln(t)
	_ = t.Flush()
	switch {
	case out.OK > 0 && out.OK < p99Least:
		fmt.Fprintf(w, "note: %d requests are too few for p99\n", out.OK)
	case out.OK > 0 && out.OK < p999Least:
		fmt.Fprintf(w, "note: %d requests are too few for p99.9\n", out.OK)
	}
	if out.OK > 0 {
		fmt.Fprintln(w)
		writeBars(w, out.Histogram)
	}
	r.writeDetails(w)
	if r.Against != nil {
		fmt.Fprintln(w)
		r.Against.writeText(w)
	}
}

func (r *Report) writeDetails(w io.Writer) {
	out := r.Result
	if out.Inside != nil {
		fmt.Fprintln(w)
		r.writeInside(w)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if l := out.Lateness; l != nil {
		fmt.Fprintf(t, "schedule:\t%d due, %d sent late since all connections were busy", l.Due, l.Late)
		if l.Late > 0 {
			fmt.Fprintf(t, " (p99 %s, max %s)", took(l.LateP99), took(l.LateMax))
		}
		fmt.Fprintf(t, ", %d never sent\n", l.NeverSent)
		if l.NeverSent > 0 {
			fmt.Fprintf(t, "\tthose that were never sent are in no percentile: the endpoint is slower than it looks\n")
		}
		fmt.Fprintf(t, "timer:\tthe generator woke %s late (p50), %s (p99); it is part of the latencies\n", took(l.WakeP50), took(l.WakeP99))
	}
	fmt.Fprintf(t, "generator:\t%s of processor time a request, %.2f cores\n", took(out.Generator.PerRequest), out.Generator.Cores)
	_ = t.Flush()
	if len(out.Faults) > 0 {
		fmt.Fprintln(w)
		t = tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
		fmt.Fprintln(t, "ERROR\tCOUNT\tEXAMPLE")
		for _, f := range out.Faults {
			fmt.Fprintf(t, "%s\t%d\t%s\n", clean(f.Code), f.Count, clean(f.Example))
		}
		_ = t.Flush()
	}
}

// writeInside puts the server's means beside the client's, so that one sees where time goes.
func (r *Report) writeInside(w io.Writer) {
	s, out := r.Result.Inside, r.Result
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "WHERE TIME GOES\tMEAN\tPART")
	row := func(what string, us float64) {
		part := 0.0
		if out.Latency.Mean > 0 {
			part = 100 * us / out.Latency.Mean
		}
		fmt.Fprintf(t, "%s\t%s\t%.0f%%\n", what, took(us), part)
	}
	row("client sees", out.Latency.Mean)
	row("  network, client", max(out.Latency.Mean-s.Total, 0))
	row("  server", s.Total)
	row("    queue", s.Queue)
	row("    compute", s.Compute)
	row("    rest", max(s.Total-s.Queue-s.Compute, 0))
	_ = t.Flush()
	fmt.Fprintf(w, "server: %d answered by version %s, %.2f rows a run", s.Requests, clean(strings.Join(s.Versions, ", ")), s.Rows)
	if s.CacheHits > 0 {
		fmt.Fprintf(w, ", %d from its cache", s.CacheHits)
	}
	fmt.Fprintln(w)
	if own := out.OK; float64(s.Requests) > 1.1*float64(own)+float64(2*out.Clients) {
		fmt.Fprintf(w, "others called this endpoint, too: it answered %d, of which %d are ours\n", s.Requests, own)
	}
}

func (r *Result) load(warmup float64) string {
	how := fmt.Sprintf("closed loop, %d %s", r.Clients, plural(r.Clients, "client", "clients"))
	if r.Rate > 0 {
		gaps := "equal gaps"
		if r.Poisson {
			gaps = "random gaps"
		}
		how = fmt.Sprintf("open loop, %s with %s, %d %s", rate(r.Rate), gaps, r.Clients, plural(r.Clients, "connection", "connections"))
	}
	text := fmt.Sprintf("%s, %s after %s of warm-up", how, took(r.Elapsed*1e6), took(warmup*1e6))
	if r.Interrupted {
		text += ", interrupted"
	}
	return text
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// took writes microseconds with three digits and a unit.
func took(us float64) string {
	switch {
	case us < 999.5:
		return digits(us) + "µs"
	case us < 999.5e3:
		return digits(us/1e3) + "ms"
	}
	return digits(us/1e6) + "s"
}

func digits(v float64) string {
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f", v)
	case v < 99.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func rate(perSecond float64) string { return digits(perSecond) + "/s" }

// clean takes out what a terminal would obey: texts come from servers.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return '\ufffd'
	}, text)
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/bench"
)

// measurer carries out the runs of `penstock bench` and asks the server what it counted meanwhile.
type measurer struct {
	app      *app
	client   *client.Client
	endpoint api.EndpointName
	dial     bench.Dial
	plan     bench.Plan
}

// measure runs the plan once.
func (m *measurer) measure(ctx context.Context) (*bench.Result, error) {
	plan := m.plan
	var before []bench.Counts
	plan.Begin = func() { before = m.counts(ctx) }
	if m.app.terminal {
		plan.Progress = m.progress
	}
	result, err := bench.Run(ctx, m.dial, plan)
	m.wipe()
	if err != nil {
		return nil, err
	}
	if before != nil {
		result.Inside = bench.Between(before, m.counts(context.WithoutCancel(ctx)))
	}
	return result, nil
}

// search runs a ramp; the report's result is that of its best step.
func (m *measurer) search(ctx context.Context, p bench.RampPlan, report *bench.Report) (err error) {
	report.Ramp, err = bench.Search(ctx, p, func(ctx context.Context, level int) (*bench.Result, error) {
		if p.Open {
			m.plan.Rate = float64(level)
		} else {
			m.plan.Clients = level
		}
		return m.measure(ctx)
	}, func(s bench.Step) {
		if m.app.terminal {
			fmt.Fprintf(m.app.err, "%s\n", strings.Join(strings.Split(s.Row(), "\t"), "  "))
		}
	})
	if err != nil {
		return err
	}
	switch steps := report.Ramp.Steps; {
	case report.Ramp.Best != nil:
		report.Result = report.Ramp.Best.Result
	case len(steps) > 0:
		report.Result = steps[len(steps)-1].Result
	}
	return nil
}

// counts asks the server for its counters. Without them the report has a part less: another server may have none.
func (m *measurer) counts(ctx context.Context) []bench.Counts {
	ctx, cancel := context.WithTimeout(ctx, statisticsWithin)
	defer cancel()
	list, err := m.client.ModelStatistics(ctx, m.endpoint)
	if err != nil {
		return nil
	}
	all := make([]bench.Counts, 0, len(list))
	for i := range list {
		s, infer := &list[i], &list[i].Infer
		all = append(all, bench.Counts{Version: s.Version, Requests: infer.Success.Count, RequestNS: infer.Success.NS, Queued: infer.Queue.Count, QueueNS: infer.Queue.NS,
			Computed: infer.ComputeInfer.Count, ComputeNS: infer.ComputeInfer.NS, Rows: s.Items, Runs: s.Executions, CacheHits: infer.CacheHit.Count})
	}
	return all
}

const reportMax = 64 << 20 // bytes of a saved run

const wipeLine = "\r\x1b[K"

// progress draws the line that tells how it goes.
func (m *measurer) progress(s bench.Snapshot) {
	text := "warming up"
	if s.Measured > 0 {
		text = fmt.Sprintf("%s of %s  %.0f/s  p50 %s  p99 %s  errors %d", s.Measured.Round(100*time.Millisecond), m.plan.Duration,
			float64(s.Count)/s.Measured.Seconds(), micro(s.P50), micro(s.P99), s.Failed)
	}
	fmt.Fprintf(m.app.err, "%s%s", wipeLine, text)
}

func (m *measurer) wipe() {
	if m.app.terminal {
		fmt.Fprint(m.app.err, wipeLine)
	}
}

// micro rounds to what one reads at a glance.
func micro(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(10 * time.Microsecond)
}

// readReport reads a run that was saved with -o json.
func readReport(path string) (*bench.Report, error) {
	text, err := readUpTo(path, reportMax)
	if err != nil {
		return nil, err
	}
	var report bench.Report
	if err := json.Unmarshal(text, &report); err != nil || report.Result == nil || report.Result.Histogram == nil || report.Result.Histogram.Count() == 0 {
		return nil, api.Fail(api.CodeBadRequest, path, "the file is no run of `penstock bench -o json` that measured anything").WithCure("Save one with `penstock bench ENDPOINT -o json > FILE`.").Because(err)
	}
	return &report, nil
}

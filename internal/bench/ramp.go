package bench

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"

	"github.com/penstock/penstock/api"
)

// RampPlan says how to search for the highest throughput.
type RampPlan struct {
	Open      bool    // levels are rates, not clients
	First     int     // level to begin with
	Most      int     // highest level
	P99       float64 // limit in microseconds
	Allowed   float64 // share of requests that may fail
	Precision float64 // the search ends when levels are so near, as a part of the lower one
	Steps     int     // most measurements
}

// StepsMax bounds a ramp.
const StepsMax = 40

const (
	steadyWithin = 0.15 // the halves of a steady step differ by less, in throughput
	gainLeast    = 0.03 // a level that brings less more throughput brings none
	keptLeast    = 0.95 // an open loop keeps up when it answers that part of its rate
	flatMost     = 3    // doublings in a row that bring no more before the search ends
)

// Step is one measurement of a ramp.
type Step struct {
	Level     int     `json:"level"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	Count     uint64  `json:"ok"`
	Failed    int64   `json:"failed"`
	Steady    bool    `json:"steady"`
	Good      bool    `json:"good"`
	Why       string  `json:"why,omitempty"` // it is not good

	Result *Result `json:"-"`
}

// Ramp is a search and its outcome.
type Ramp struct {
	Unit      string  `json:"unit"` // of the levels: "clients" or "per second"
	LimitP99  float64 `json:"limit_p99_us"`
	Steps     []Step  `json:"steps"`
	Best      *Step   `json:"best,omitempty"` // highest throughput among the good steps
	LimitedBy string  `json:"limited_by"`
}

// Validate tells what is wrong with the plan.
func (p *RampPlan) Validate() error {
	switch {
	case p.P99 <= 0 || math.IsNaN(p.P99) || math.IsInf(p.P99, 0):
		return api.Fail(api.CodeBadRequest, "", "a ramp needs the longest 99th percentile that is good").WithCure("Give it, as --p99 20ms.")
	case p.First < 1 || p.Most < p.First:
		return api.Fail(api.CodeBadRequest, "", "a ramp cannot go from %d to %d", p.First, p.Most).WithCure("Begin with 1 or more, below the highest.")
	case p.Steps < 1 || p.Steps > StepsMax:
		return api.Fail(api.CodeBadRequest, "", "%d steps are not between 1 and %d", p.Steps, StepsMax).WithCure("Leave the number out.")
	}
	return nil
}

// Search measures level after level: twice as high each time until one is not good, and then in the middle between the
// highest good and the lowest bad one. A step that is not steady is measured once more. An end of ctx ends the search with
// what is known. each, when it is there, is told every step.
func Search(ctx context.Context, p RampPlan, measure func(ctx context.Context, level int) (*Result, error), each func(Step)) (*Ramp, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	s := &search{plan: p, measure: measure, each: each, ramp: &Ramp{Unit: "clients", LimitP99: p.P99}}
	if p.Open {
		s.ramp.Unit = "per second"
	}
	err := s.run(ctx)
	if s.ramp.LimitedBy == "" && ctx.Err() != nil {
		s.ramp.LimitedBy = "interrupted"
	}
	return s.ramp, err
}

type search struct {
	plan    RampPlan
	measure func(context.Context, int) (*Result, error)
	each    func(Step)
	ramp    *Ramp
}

func (s *search) run(ctx context.Context) error {
	good, bad := 0, 0
	flat := 0 // doublings in a row that brought no more
	for level := s.plan.First; bad == 0; {
		before := s.best()
		step, err := s.step(ctx, level)
		if err != nil || step == nil {
			return err
		}
		if !step.Good {
			bad = level
			s.ramp.LimitedBy = step.Why
			break
		}
		good = level
		if s.best() < before*(1+gainLeast) {
			flat++
		} else {
			flat = 0
		}
		switch {
		case flat == flatMost && !s.plan.Open:
			s.ramp.LimitedBy = "throughput: more clients bring no more"
			return nil
		case level == s.plan.Most:
			s.ramp.LimitedBy = fmt.Sprintf("the highest level of %d %s", level, s.ramp.Unit)
			return nil
		}
		level = min(level*2, s.plan.Most)
	}
	for bad-good > 1 && float64(bad-good) > s.plan.Precision*float64(max(good, 1)) {
		step, err := s.step(ctx, good+(bad-good)/2)
		if err != nil || step == nil {
			return err
		}
		if step.Good {
			good = step.Level
		} else {
			bad = step.Level
			s.ramp.LimitedBy = step.Why
		}
	}
	return nil
}

func (s *search) best() float64 {
	if s.ramp.Best == nil {
		return 0
	}
	return s.ramp.Best.PerSecond
}

// step measures a level; nil when no more may be measured.
func (s *search) step(ctx context.Context, level int) (*Step, error) {
	var step *Step
	for range 2 {
		if len(s.ramp.Steps) == s.plan.Steps {
			if step == nil && s.ramp.LimitedBy == "" {
				s.ramp.LimitedBy = fmt.Sprintf("the number of steps (%d)", s.plan.Steps)
			}
			return step, nil
		}
		result, err := s.measure(ctx, level)
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, nil // a step that was cut short tells nothing
		}
		step = s.judge(level, result)
		s.ramp.Steps = append(s.ramp.Steps, *step)
		if step.Good && (s.ramp.Best == nil || step.PerSecond > s.ramp.Best.PerSecond) {
			s.ramp.Best = step
		}
		if s.each != nil {
			s.each(*step)
		}
		if step.Steady {
			break
		}
	}
	return step, nil
}

func (s *search) judge(level int, r *Result) *Step {
	step := &Step{Level: level, PerSecond: r.PerSecond, P50: r.Latency.P50, P99: r.Latency.P99, Count: r.OK, Failed: r.Failed, Steady: steady(r), Result: r}
	lateness := r.Lateness
	switch {
	case r.OK == 0 && r.Failed == 0:
		step.Why = "nothing was over: the step is shorter than a request"
	case r.FailedShare() > s.plan.Allowed:
		step.Why = fmt.Sprintf("errors: %.2f%% failed, most by %s", 100*r.FailedShare(), r.Faults[0].Code)
	case r.Latency.P99 > s.plan.P99:
		step.Why = fmt.Sprintf("p99: %s is over %s", took(r.Latency.P99), took(s.plan.P99))
	case lateness != nil && lateness.NeverSent > 0:
		step.Why = fmt.Sprintf("rate: %d of %d requests were never sent, the connections were busy", lateness.NeverSent, lateness.Due)
	case s.plan.Open && r.PerSecond < keptLeast*float64(level):
		step.Why = fmt.Sprintf("rate: %s were answered of %d a second", rate(r.PerSecond), level)
	default:
		step.Good = true
	}
	return step
}

// byLevel sorts steps for a curve; those of one level stay in the order that they were measured in.
func byLevel(steps []Step) {
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.Level, b.Level) })
}

// steady compares the halves of the measured time. Too few slices tell nothing, and count as steady.
func steady(r *Result) bool {
	whole := int(r.Elapsed / max(r.SliceS, 1e-9)) // the last slice may be a short one
	half := min(whole, len(r.Slices)) / 2
	if half < 2 {
		return true
	}
	var first, second float64
	for i := range half {
		first += float64(r.Slices[i].Latency.Count())
		second += float64(r.Slices[half+i].Latency.Count())
	}
	return math.Abs(first-second) <= steadyWithin*max(first, second)+2*math.Sqrt(first+second)
}

func (r *Ramp) writeText(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, StepHeader(r.Unit))
	for _, s := range r.Steps {
		fmt.Fprintln(t, s.Row())
	}
	_ = t.Flush() // the terminal's errors have nowhere to go
	if r.Best != nil {
		fmt.Fprintf(w, "highest within p99 %s: %s with %d %s (p99 %s); limited by %s\n", took(r.LimitP99), rate(r.Best.PerSecond), r.Best.Level, r.Unit, took(r.Best.P99), clean(r.LimitedBy))
		return
	}
	fmt.Fprintf(w, "no step was within p99 %s; limited by %s\n", took(r.LimitP99), clean(r.LimitedBy))
}

// StepHeader names the columns of Row.
func StepHeader(unit string) string {
	if unit == "clients" {
		return "CLIENTS\tRATE\tP50\tP99\tFAILED\tSTEP"
	}
	return "ASKED\tRATE\tP50\tP99\tFAILED\tSTEP"
}

// Row is a step in columns that are divided by tabs.
func (s Step) Row() string {
	told := "good"
	if !s.Good {
		told = clean(s.Why)
	}
	if !s.Steady {
		told += " (not steady)"
	}
	if s.Count > 0 && s.Count < p99Least {
		told += fmt.Sprintf(" (p99 of only %d requests)", s.Count)
	}
	return fmt.Sprintf("%d\t%s\t%s\t%s\t%d\t%s", s.Level, rate(s.PerSecond), took(s.P50), took(s.P99), s.Failed, told)
}

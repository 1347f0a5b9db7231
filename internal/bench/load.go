package bench

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock/penstock/api"
)

// The bounds of a run.
const (
	ClientsMax  = 1000           // connections
	RateMax     = 1e6            // requests a second
	DurationMax = 24 * time.Hour // warm-up and measuring, each
	BacklogMax  = 1 << 20        // requests that are due and wait for a free connection
	faultsMax   = 32             // kinds of error told apart
	exampleMax  = 300            // bytes of an error's example
)

// Caller asks one request after the other and is used by one goroutine.
type Caller interface {
	// Ask sends request number n, of which there may be more than there is data: it takes them in turn. It returns when
	// the answer was read whole. An error that is an AnswerError came from the server.
	Ask(ctx context.Context, n int) error
	Close()
}

// Dial makes one caller, connected.
type Dial func(ctx context.Context) (Caller, error)

// Plan says how to load.
type Plan struct {
	// Clients is how many connections there are. In a closed loop each asks again as soon as it was answered.
	Clients int
	// Rate, in requests a second, makes the loop open: requests are due at times that do not depend on answers, and their
	// latency counts from when they were due. 0 is a closed loop.
	Rate float64
	// Poisson draws the gaps between requests at random, as independent callers make them; else they are equal.
	Poisson bool
	// Backlog is how many requests of an open loop may be due and wait for a connection. Those beyond it are never sent,
	// and counted.
	Backlog int
	// Precise keeps the times of an open loop with the kernel's clock: timers of Go's runtime wake up to a millisecond late.
	Precise bool
	// Warmup is the time before measuring begins, in which requests are sent but not counted.
	Warmup time.Duration
	// Duration is how long is measured.
	Duration time.Duration
	// Count, when it is not 0, ends the measuring after so many requests, if Duration does not end it before.
	Count int64
	// Seed is that of the random gaps.
	Seed uint64
	// Start, when it is there, is called when all clients are connected, before the first request.
	Start func()
	// Begin, when it is there, is called in a goroutine of its own when the warm-up is over. Run waits for its end.
	Begin func()
	// Progress, when it is there, is called every Every with what was measured so far.
	Progress func(Snapshot)
	Every    time.Duration
}

// Validate tells what is wrong with a plan.
func (p *Plan) Validate() error {
	bad := func(format string, args ...any) *api.Error { return api.Fail(api.CodeBadRequest, "", format, args...) }
	switch {
	case p.Clients < 1 || p.Clients > ClientsMax:
		return bad("%d clients are not between 1 and %d", p.Clients, ClientsMax).WithCure("One process has that many connections at most; for more load run several.")
	case math.IsNaN(p.Rate) || p.Rate < 0 || p.Rate > RateMax:
		return bad("a rate of %v a second is not between 0 and %.0f", p.Rate, RateMax).WithCure("Give requests per second; leave it out for clients that wait for each answer.")
	case p.Rate == 0 && p.Poisson:
		return bad("random arrivals need a rate").WithCure("Give --rate, too.")
	case p.Rate > 0 && (p.Backlog < 0 || p.Backlog > BacklogMax):
		return bad("a backlog of %d is not between 0 and %d", p.Backlog, BacklogMax).WithCure("Leave it out for the default.")
	case p.Duration <= 0 || p.Duration > DurationMax || p.Warmup < 0 || p.Warmup > DurationMax:
		return bad("measuring for %v after %v of warm-up is not within %v", p.Duration, p.Warmup, DurationMax).WithCure("Give a duration such as 10s.")
	case p.Count < 0:
		return bad("%d requests cannot be counted", p.Count).WithCure("Give a number over 0, or a duration.")
	}
	return nil
}

// run is one load under way. Times are counted from start.
type run struct {
	plan       Plan
	start      time.Time
	begin, end time.Duration // of measuring
	claimed    atomic.Int64  // requests of Plan.Count
	schedule   *schedule     // of an open loop
	tally      tally
}

// Run loads until the plan is over or ctx ends, and gives what was measured until then: an end of ctx is no error. Every
// request in flight is waited for, unless ctx ends.
func Run(ctx context.Context, dial Dial, plan Plan) (*Result, error) {
	if err := plan.Validate(); err != nil {
		return nil, err
	}
	callers := make([]Caller, 0, plan.Clients)
	defer func() {
		for _, c := range callers {
			c.Close()
		}
	}()
	for range plan.Clients {
		c, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		callers = append(callers, c)
	}
	if plan.Start != nil {
		plan.Start()
	}
	spent := processorTime()
	r := &run{plan: plan, start: time.Now(), begin: plan.Warmup, end: plan.Warmup + plan.Duration}
	r.tally.open(r.begin)
	if plan.Rate > 0 {
		r.schedule = newSchedule(&r.plan, r.begin, r.end)
	}
	recorders := make([]*recorder, len(callers))
	var clients, watchers sync.WaitGroup
	for i, c := range callers {
		recorders[i] = &recorder{tally: &r.tally, open: plan.Rate > 0}
		clients.Go(func() {
			if plan.Rate > 0 {
				r.openLoop(ctx, c, recorders[i])
			} else {
				r.closedLoop(ctx, c, i, recorders[i])
			}
			recorders[i].flush(r.since())
		})
	}
	over := make(chan struct{})
	watchers.Go(func() { r.watch(ctx, over) })
	clients.Wait()
	close(over)
	watchers.Wait()
	return r.result(ctx, recorders, processorTime()-spent), nil
}

func (r *run) since() time.Duration { return time.Since(r.start) }

// closedLoop asks without pause. One look at the clock ends a request and begins the next, so that what the client does
// in between counts for the server: a client that is slow itself shows.
func (r *run) closedLoop(ctx context.Context, c Caller, id int, to *recorder) {
	for n := id; ; n += r.plan.Clients {
		last := to.last
		if last >= r.end || ctx.Err() != nil {
			return
		}
		measured := last >= r.begin
		if measured && r.plan.Count > 0 && r.claimed.Add(1) > r.plan.Count {
			return
		}
		err := c.Ask(ctx, n)
		now := r.since()
		if err != nil && ctx.Err() != nil {
			return // interrupted, not failed
		}
		if measured && to.measuring == 0 {
			to.measuring = last
		}
		to.add(sample{at: now, took: now - last, measured: measured, err: err})
		if err != nil {
			pause(ctx, to.backOff(err))
			to.last = r.since()
		}
	}
}

// openLoop asks when a request is due, or as soon as it can after that.
func (r *run) openLoop(ctx context.Context, c Caller, to *recorder) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		now := r.since()
		a, ok := r.schedule.take(now)
		if !ok {
			return
		}
		s := sample{measured: a.at >= r.begin, late: now - a.at}
		if s.late < 0 {
			if !r.await(ctx, timer, a.at) {
				r.schedule.unsent(a)
				return
			}
			s.woken, s.late = r.since()-a.at, 0
		}
		s.err = c.Ask(ctx, a.number)
		if s.err != nil && ctx.Err() != nil {
			r.schedule.unsent(a)
			return
		}
		s.at = r.since()
		s.took = s.at - a.at
		to.add(s)
	}
}

// watch calls Begin and Progress at their times.
func (r *run) watch(ctx context.Context, over <-chan struct{}) {
	var begun sync.WaitGroup
	defer begun.Wait()
	begin := time.NewTimer(r.plan.Warmup)
	defer begin.Stop()
	every := time.NewTicker(max(r.plan.Every, 10*time.Millisecond))
	defer every.Stop()
	for {
		select {
		case <-begin.C:
			if r.plan.Begin != nil {
				begun.Go(r.plan.Begin)
			}
		case <-every.C:
			if r.plan.Progress != nil {
				r.plan.Progress(r.snapshot())
			}
		case <-over:
			return
		case <-ctx.Done():
			<-over
			return
		}
	}
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// processorTime is what this process has spent so far, in user and kernel mode.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	load "github.com/penstock/penstock/internal/bench"
	"github.com/penstock/penstock/internal/tensor"
)

// The sizes of the fairness stage.
const (
	fairRunMS     = 10.0 // of one run of the model, alone on one thread
	quietPart     = 0.5  // of its share that the quiet neighbour offers
	noisyTimes    = 10.0 // the noisy one offers so many times its share
	noisyClients  = 64   // connections of the noisy one
	weightClients = 16   // connections of each tenant that is backlogged
	overTimes     = 3.0  // capacities that are offered in the overload
	overRounds    = 3    // overloads, each between two looks at the capacity
	overDeadline  = time.Second
)

// offer is what one tenant offers; a process of its own offers it, so that those who measure are not held up by it.
type offer struct {
	Address, Key, Endpoint string
	Clients                int
	Rate                   float64 // a second; 0 is a closed loop
	Precise                bool    // every request at its own moment, at the cost of processor time
	WarmupMS, RunMS        int
	TimeoutMS              int // deadline that each request carries; 0 for none
}

// runOffer is the process's whole life: it prints its result.
func runOffer(ctx context.Context, text string, out io.Writer) error {
	var o offer
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	r, err := o.run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

func (o offer) run(ctx context.Context) (*load.Result, error) {
	in := layeredInput()
	request := &load.Request{Timeout: time.Duration(o.TimeoutMS) * time.Millisecond,
		Inputs: []tensor.Tensor{{Name: in.Name, Type: tensor.FP32, Shape: in.Shape, Data: in.Data}}}
	dial, err := load.Target{Protocol: load.Binary, Address: o.Address, Endpoint: o.Endpoint, Key: o.Key, Timeout: 30 * time.Second}.
		Dialer([]*load.Request{request})
	if err != nil {
		return nil, err
	}
	return load.Run(ctx, dial, load.Plan{Clients: o.Clients, Rate: o.Rate, Poisson: o.Rate > 0, Backlog: 4096, Precise: o.Precise, Seed: 7,
		Warmup: time.Duration(o.WarmupMS) * time.Millisecond, Duration: time.Duration(o.RunMS) * time.Millisecond})
}

// begin starts the offer in a process of its own; the function gives its result when it is over.
func (o offer) begin(ctx context.Context) (wait func() (*load.Result, error), err error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "offer", string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() (*load.Result, error) {
		r := new(load.Result)
		err := json.NewDecoder(out).Decode(r)
		return r, errors.Join(err, cmd.Wait())
	}, nil
}

// neighbour is a tenant with a model of its own.
type neighbour struct {
	name string
	key  string
}

// fairStage measures what one tenant's load does to another's, what weights do, and what an overload leaves of the capacity.
func fairStage(ctx context.Context, b *bed) error {
	layers, ms, err := calibrate(ctx, b.runtime)
	if err != nil {
		return err
	}
	layers = max(1, int(math.Round(float64(layers)*fairRunMS/ms)))
	if ms, err = timeOf(ctx, b.runtime, layered(layers), layeredInput()); err != nil {
		return err
	}
	b.report.note("the model is %d layers, one run of it takes %.2f ms alone on one thread; every tenant has its own", layers, ms)
	if err := b.serve(ctx); err != nil {
		return err
	}
	var all []neighbour
	for i, name := range []string{"one", "two", "four"} {
		n, err := b.neighbour(ctx, name, 1<<i, noted(layered(layers), name))
		if err != nil {
			return err
		}
		all = append(all, n)
	}
	capacity, err := b.capacity(ctx, all[0])
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func(ctx context.Context, all []neighbour, capacity float64) error
	}{{"weights", b.weights}, {"noisy", b.noisy}, {"overload", b.overload}} {
		if !strings.Contains(part.name, b.options.only) {
			continue
		}
		if err := part.run(ctx, all, capacity); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// neighbour makes a tenant with a weight, a key and an endpoint.
func (b *bed) neighbour(ctx context.Context, name string, weight int, file []byte) (n neighbour, err error) {
	id := api.TenantID(name)
	if _, err := b.client.CreateTenant(ctx, id); err != nil {
		return n, err
	}
	if _, err := b.client.SetTenant(ctx, id, api.TenantChange{Weight: weight}, 0); err != nil {
		return n, err
	}
	operator, err := client.New(client.Config{Server: b.server.HTTP, Tenant: id})
	if err != nil {
		return n, err
	}
	made, err := operator.CreateKey(ctx, api.KeyRequest{Name: "bench", Scopes: []api.Scope{api.ScopeAdmin}})
	if err != nil {
		return n, err
	}
	own, err := client.New(client.Config{Server: b.server.HTTP, Tenant: id, Key: made.Secret})
	if err != nil {
		return n, err
	}
	return neighbour{name, made.Secret}, deploy(ctx, own, name, file)
}

func (b *bed) offer(n neighbour, clients int, rate float64, length time.Duration) offer {
	return offer{Address: b.server.HTTP, Key: n.key, Endpoint: n.name, Clients: clients, Rate: rate, Precise: rate > 0, WarmupMS: 1000, RunMS: int(length.Milliseconds())}
}

// capacity is what a tenant gets that has the workers to itself and always has something waiting.
func (b *bed) capacity(ctx context.Context, n neighbour) (float64, error) {
	r, err := b.offer(n, 16, 0, 8*time.Second).run(ctx)
	if err != nil {
		return 0, err
	}
	if r.Failed > 0 {
		return 0, fmt.Errorf("alone, with 16 clients: %+v", r.Faults)
	}
	b.report.note("capacity, one tenant with 16 clients: %.0f requests/s", r.PerSecond)
	return r.PerSecond, nil
}

// spent asks the server for the execution time that each tenant was given since it started.
func (b *bed) spent(ctx context.Context) (map[string]time.Duration, error) {
	s, err := b.client.Statistics(ctx, 0)
	if err != nil {
		return nil, err
	}
	all := map[string]time.Duration{}
	for _, t := range s.Shares {
		all[string(t.Tenant)] = t.Total
	}
	return all, nil
}

// weights has three tenants backlogged at once. What they share is execution time: one whose runs take longer, as the
// others have thrown its model out of the processor's cache, gets fewer answers for the same.
func (b *bed) weights(ctx context.Context, all []neighbour, _ float64) error {
	before, err := b.spent(ctx)
	if err != nil {
		return err
	}
	var waits []func() (*load.Result, error)
	for _, n := range all {
		wait, err := b.offer(n, weightClients, 0, 10*time.Second).begin(ctx)
		if err != nil {
			return err
		}
		waits = append(waits, wait)
	}
	var got []float64
	sum, failed := 0.0, int64(0)
	for _, wait := range waits {
		r, err := wait()
		if err != nil {
			return err
		}
		got, sum, failed = append(got, r.PerSecond), sum+r.PerSecond, failed+r.Failed
	}
	after, err := b.spent(ctx)
	if err != nil {
		return err
	}
	total := 0.0
	for _, n := range all {
		total += (after[n.name] - before[n.name]).Seconds()
	}
	worst := 0.0
	for i, n := range all {
		due, share := float64(int(1)<<i)/7, (after[n.name]-before[n.name]).Seconds()/total
		worst = max(worst, math.Abs(share/due-1))
		b.report.note("weight %d of 7, all backlogged for 10 s: %.4f of the execution time, due %.4f; %.1f requests/s, %.4f of all", 1<<i, share, due, got[i], got[i]/sum)
	}
	b.report.Floors = append(b.report.Floors, atMost("weights 1:2:4 all backlogged for 10 s, largest relative error of a share of execution time", .05, worst, ""),
		atMost("the same, requests that failed", 0, float64(failed), ""))
	return nil
}

// noisy has one tenant offer ten times its share beside another that stays within its own.
func (b *bed) noisy(ctx context.Context, all []neighbour, capacity float64) error {
	loud, still := all[0], all[1]
	if _, err := b.client.SetTenant(ctx, api.TenantID(still.name), api.TenantChange{Weight: 1}, 0); err != nil {
		return err
	}
	share := capacity / 2
	length := time.Duration(b.options.seconds * 4 * float64(time.Second))
	alone, beside := new(load.Histogram), new(load.Histogram)
	var ratios []float64
	var ok, excess, other, stillFailed int64
	for n := range b.options.passes {
		quiet := b.offer(still, 16, quietPart*share, length)
		a, err := quiet.run(ctx)
		if err != nil {
			return err
		}
		noise := b.offer(loud, noisyClients, noisyTimes*share, length+2*time.Second)
		noise.WarmupMS = 500
		wait, err := noise.begin(ctx)
		if err != nil {
			return err
		}
		with, err := quiet.run(ctx)
		if err != nil {
			return err
		}
		if n == 0 {
			if err := b.refusal(ctx, loud); err != nil {
				return err
			}
		}
		noisy, err := wait()
		if err != nil {
			return err
		}
		alone.Merge(a.Histogram)
		beside.Merge(with.Histogram)
		ratios = append(ratios, with.Latency.P99/a.Latency.P99)
		stillFailed += with.Failed
		ok += int64(noisy.OK)
		for _, f := range noisy.Faults {
			if f.Code == "http 429" {
				excess += f.Count
			} else {
				other += f.Count
				b.report.note("a failure of the noisy one: %s: %d, as %s", f.Code, f.Count, f.Example)
			}
		}
		b.report.note("pass %d: the still one p50 %.1f ms, p99 %.1f ms alone; p50 %.1f ms, p99 %.1f ms beside the noisy one, which got %.0f/s of %.0f/s offered (%d never sent)",
			n+1, a.Latency.P50/1e3, a.Latency.P99/1e3, with.Latency.P50/1e3, with.Latency.P99/1e3, noisy.PerSecond, noisyTimes*share, noisy.Lateness.NeverSent)
	}
	together := beside.Quantile(.99).Seconds() / alone.Quantile(.99).Seconds()
	b.report.note("p99 of all passes together: %.1f ms alone, %.1f ms beside the noisy one, %.2f x; the noisy one: %d answered, %d refused with 429",
		alone.Quantile(.99).Seconds()*1e3, beside.Quantile(.99).Seconds()*1e3, together, ok, excess)
	b.report.Floors = append(b.report.Floors,
		atMost(fmt.Sprintf("noisy neighbour at %g x its share: p99 of the still one against alone, median of the passes", noisyTimes), 1.3, median(ratios), "x"),
		atMost("the same, failures of the still one", 0, float64(stillFailed), ""),
		atMost("the same, failures of the noisy one that are not 429", 0, float64(other), ""))
	return nil
}

// refusal looks at one refusal while the noisy one is at it: it must be a 429 that says when to come again.
func (b *bed) refusal(ctx context.Context, n neighbour) error {
	in := layeredInput()
	m := model{name: n.name, input: in}
	head, body, _ := strings.Cut(string(m.postBinary()), "\r\n\r\n")
	for range 2000 {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+b.server.HTTP+"/v2/models/"+n.name+"/infer", strings.NewReader(body))
		if err != nil {
			return err
		}
		for _, line := range strings.Split(head, "\r\n")[1:] {
			if name, value, _ := strings.Cut(line, ": "); strings.HasPrefix(name, "Inference") || name == "Content-Type" {
				request.Header.Set(name, value)
			}
		}
		request.Header.Set("Authorization", "Bearer "+n.key)
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			return err
		}
		if answer.StatusCode == http.StatusTooManyRequests {
			if answer.Header.Get("Retry-After") == "" {
				return errors.New("a 429 without Retry-After")
			}
			b.report.note("a refusal: 429, Retry-After: %s, %s", answer.Header.Get("Retry-After"), text)
			return nil
		}
	}
	return errors.New("none of 2000 requests beside the noisy ones was refused")
}

// overload offers several times the capacity for a while, and then looks how soon it is over.
func (b *bed) overload(ctx context.Context, all []neighbour, capacity float64) error {
	var goodputs, rests []float64
	for range overRounds {
		answered, rest, err := b.flood(ctx, all[0], capacity)
		if err != nil {
			return err
		}
		after, err := b.capacity(ctx, all[0])
		if err != nil {
			return err
		}
		// The machine's own speed drifts: what was done is held against the mean of before and after.
		goodputs, rests = append(goodputs, answered/((capacity+after)/2)), append(rests, rest)
		capacity = after
	}
	b.report.Floors = append(b.report.Floors,
		atLeast(fmt.Sprintf("goodput at %g x capacity, part of the mean capacity before and after, median of %d", overTimes, overRounds), .9, median(goodputs), ""),
		atMost("recovery after the overload, the longest", 5, slices.Max(rests), "s"))
	return nil
}

// flood is one overload: the answers a second that came in time, and the seconds until nothing was felt of it any more.
func (b *bed) flood(ctx context.Context, n neighbour, capacity float64) (answered, rest float64, err error) {
	length := time.Duration(b.options.seconds * 40 * float64(time.Second))
	heavy := b.offer(n, 200, overTimes*capacity, length)
	heavy.TimeoutMS = int(overDeadline.Milliseconds())
	heavy.Precise = false // its answers are counted, and what it computes is taken from the workers
	wait, err := heavy.begin(ctx)
	if err != nil {
		return 0, 0, err
	}
	r, err := wait()
	if err != nil {
		return 0, 0, err
	}
	ended := time.Now()
	rest = math.Inf(1)
	for time.Since(ended) < 10*time.Second { // the first half second in which nothing fails and nothing waits is the recovery
		light := b.offer(n, 8, capacity/4, 500*time.Millisecond)
		light.WarmupMS = 0
		began := time.Since(ended).Seconds()
		l, err := light.run(ctx)
		if err != nil {
			return 0, 0, err
		}
		if l.Failed == 0 && l.Latency.P99 < 10*fairRunMS*1e3 {
			rest = began
			break
		}
	}
	for _, f := range r.Faults {
		b.report.note("overload, refused: %s: %d, as %s", f.Code, f.Count, f.Example)
	}
	b.report.note("overload at %g x capacity for %v with a deadline of %v: %.0f answers/s in time, p50 %.0f ms, p99 %.0f ms; %d never sent", overTimes, length, overDeadline,
		r.PerSecond, r.Latency.P50/1e3, r.Latency.P99/1e3, r.Lateness.NeverSent)
	return r.PerSecond, rest, nil
}

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/bench"
)

const (
	benchClients     = 8                      // of a closed loop
	benchConnections = 64                     // of an open loop
	benchBacklog     = 10_000                 // requests that wait for a connection
	benchEvery       = 500 * time.Millisecond // between two progress lines
	rampSteps        = 24
	rampStep         = 3 * time.Second // of measuring, where --duration does not say
	rampClientsMost  = 256             // the server takes as many connections from one address
	rampPrecision    = 0.05
	statisticsWithin = 5 * time.Second // for an answer of the statistics extension
)

// benchFlags are the command line.
type benchFlags struct {
	clients, backlog, distinct, batch int
	rate                              float64
	arrivals, protocol, grpc          string
	duration, warmup, timeout, p99    time.Duration
	count                             int64
	seed                              uint64
	file, svg, against, allow         string
	shapes                            []string
	unit, variant                     string
	ramp                              bool
	rampMax                           int
}

func (a *app) benchCommands() []*cobra.Command {
	var flags benchFlags
	cmd := a.withOutput(&cobra.Command{Use: "bench ENDPOINT", Short: "Load an endpoint and measure how it answers", Args: cobra.ExactArgs(1),
		Long: `Load an endpoint and measure how it answers.

Without --rate the loop is closed: each of --clients asks again as soon as it was answered, which tells what the endpoint
can do. With --rate it is open: requests are due at a rate whatever becomes of them, as callers make them, and latency
counts from when a request was due. With --ramp the load grows until the 99th percentile is over --p99.

Requests are made up by the endpoint's signature, or come from -f: a JSON request, JSON lines, a .npy file, or an .npz file
or folder with one array for each input, of which each request takes --batch rows.`,
		Example: `  penstock bench digits
  penstock bench digits --rate 500 --arrivals poisson --duration 1m
  penstock bench digits --ramp --p99 20ms --svg digits.svg
  penstock bench digits -f requests.jsonl --protocol grpc -o json > before.json
  penstock bench digits --against before.json`})
	cmd.RunE = a.asks(func(ctx context.Context, c *client.Client, args []string) error {
		if flags.ramp && !cmd.Flags().Changed("duration") {
			flags.duration = rampStep
		}
		if flags.rate > 0 && !cmd.Flags().Changed("clients") {
			flags.clients = benchConnections
		}
		return a.bench(ctx, c, api.EndpointName(args[0]), flags)
	})
	flags.add(cmd)
	return []*cobra.Command{cmd}
}

func (b *benchFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVarP(&b.clients, "clients", "c", benchClients, fmt.Sprintf("clients, each with a connection; with --rate %d", benchConnections))
	f.Float64Var(&b.rate, "rate", 0, "requests a second, whatever the answers; with --ramp the first rate")
	f.StringVar(&b.arrivals, "arrivals", "constant", "gaps between requests of --rate: constant or poisson")
	f.IntVar(&b.backlog, "backlog", benchBacklog, "requests of --rate that may wait for a connection; more are not sent, and told")
	f.DurationVar(&b.duration, "duration", 10*time.Second, "how long to measure; with --ramp each step, 3s")
	f.Int64Var(&b.count, "count", 0, "measure so many requests, if --duration is not over before")
	f.DurationVar(&b.warmup, "warmup", time.Second, "load before measuring")
	f.DurationVar(&b.timeout, "timeout", 30*time.Second, "longest time of one request")
	f.StringVar(&b.protocol, "protocol", string(bench.Binary), "http (binary tensors), http-json or grpc")
	f.StringVar(&b.grpc, "grpc", "", "address of the server's gRPC port (default: of the local server, else port 8001)")
	f.StringVarP(&b.file, "file", "f", "", "requests: .json, .jsonl, .npy, .npz or a folder of .npy; - is JSON from standard input")
	f.StringArrayVar(&b.shapes, "shape", nil, "shape of an input, NAME:1,64; may be repeated")
	f.IntVar(&b.batch, "batch", 1, "rows of a request")
	f.IntVar(&b.distinct, "distinct", 16, "different requests that are made up")
	f.Uint64Var(&b.seed, "seed", 1, "of made-up requests and random gaps")
	f.BoolVar(&b.ramp, "ramp", false, "search the highest throughput within --p99: over clients, or with --rate over rates")
	f.DurationVar(&b.p99, "p99", 0, "99th percentile that --ramp stays within")
	f.IntVar(&b.rampMax, "ramp-max", 0, fmt.Sprintf("highest number of clients (%d) or rate (%.0f) that --ramp tries", rampClientsMost, bench.RateMax))
	f.StringVar(&b.allow, "allow-failures", "0", "share of requests that may fail, 0.01 or 1%")
	f.StringVar(&b.svg, "svg", "", "write a picture to this file")
	f.StringVar(&b.against, "against", "", "compare with an earlier run, saved with -o json")
	f.StringVar(&b.unit, "unit", "", "unit that stays on one variant (Penstock-Unit)")
	f.StringVar(&b.variant, "variant", "", "variant to force; the key needs the scope variant")
	_ = cmd.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions([]string{"http", "http-json", "grpc"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("arrivals", cobra.FixedCompletions([]string{"constant", "poisson"}, cobra.ShellCompDirectiveNoFileComp))
}

// check finds wrong usage before anything is sent.
func (b *benchFlags) check() (allowed float64, err error) {
	number, percent := strings.CutSuffix(b.allow, "%")
	if allowed, err = strconv.ParseFloat(number, 64); percent {
		allowed /= 100
	}
	plan := b.plan()
	switch {
	case err != nil || !(allowed >= 0 && allowed <= 1):
		err = fmt.Errorf("--allow-failures %q is not a share such as 0.01 or 1%%", b.allow)
	case b.protocol != string(bench.Binary) && b.protocol != string(bench.JSON) && b.protocol != string(bench.Remote):
		err = fmt.Errorf("--protocol %q is not http, http-json or grpc", b.protocol)
	case b.arrivals != "constant" && b.arrivals != "poisson":
		err = fmt.Errorf("--arrivals %q is not constant or poisson", b.arrivals)
	case b.timeout <= 0:
		err = errors.New("--timeout must be over 0: a server that never answers would hold the run up for ever")
	case b.batch < 1:
		err = errors.New("--batch must be 1 or more")
	case b.p99 != 0 && !b.ramp:
		err = errors.New("--p99 is the limit of --ramp: give that, too")
	case b.ramp && b.count > 0:
		err = errors.New("--count does not go with --ramp, whose steps have a length: give --duration")
	case b.ramp && b.against != "":
		err = errors.New("--against does not go with --ramp: compare runs of one load")
	case b.ramp:
		ramp := b.rampPlan(allowed)
		err = errors.Join(plan.Validate(), ramp.Validate())
	default:
		err = plan.Validate()
	}
	return allowed, err
}

func (b *benchFlags) plan() bench.Plan {
	return bench.Plan{Clients: b.clients, Rate: b.rate, Poisson: b.arrivals == "poisson", Backlog: b.backlog, Warmup: b.warmup, Duration: b.duration,
		Count: b.count, Seed: b.seed, Every: benchEvery, Precise: true}
}

func (b *benchFlags) rampPlan(allowed float64) bench.RampPlan {
	p := bench.RampPlan{Open: b.rate > 0, First: 1, Most: rampClientsMost, P99: float64(b.p99) / 1e3, Allowed: allowed, Precision: rampPrecision, Steps: rampSteps}
	if p.Open {
		p.First, p.Most = max(int(b.rate), 1), bench.RateMax
	}
	if b.rampMax > 0 {
		p.Most = b.rampMax
	}
	return p
}

// bench is the whole command.
func (a *app) bench(ctx context.Context, c *client.Client, endpoint api.EndpointName, flags benchFlags) error {
	if err := api.CheckName("endpoint", string(endpoint)); err != nil {
		return usage(err)
	}
	allowed, err := flags.check()
	if err != nil {
		return usage(err)
	}
	var earlier *bench.Report
	if flags.against != "" {
		if earlier, err = readReport(flags.against); err != nil {
			return usage(err)
		}
	}
	report := &bench.Report{Endpoint: string(endpoint), Server: c.Server(), Protocol: bench.Protocol(flags.protocol), Warmup: flags.warmup.Seconds(), Tool: version()}
	requests, err := a.benchRequests(ctx, c, endpoint, flags, report)
	if err != nil {
		return err
	}
	dial, err := a.benchDial(endpoint, flags, requests)
	if err != nil {
		return err
	}
	if err := bench.Probe(ctx, dial); err != nil {
		return err
	}
	report.Began = time.Now().UTC()
	m := &measurer{app: a, client: c, endpoint: endpoint, dial: dial, plan: flags.plan()}
	if flags.ramp {
		err = m.search(ctx, flags.rampPlan(allowed), report)
	} else {
		report.Result, err = m.measure(ctx)
	}
	if err != nil {
		return err
	}
	if earlier != nil {
		report.Against = bench.Compare(earlier, report, flags.seed)
	}
	return a.benchReport(report, flags, allowed)
}

// benchReport writes the outcome and decides how the command ends.
func (a *app) benchReport(report *bench.Report, flags benchFlags, allowed float64) error {
	if flags.svg != "" && report.Result != nil {
		if err := os.WriteFile(flags.svg, report.SVG(), 0o644); err != nil {
			return err
		}
	}
	if err := a.print(report, func() { report.WriteText(a.out) }); err != nil {
		return err
	}
	r := report.Result
	switch {
	case r == nil: // a ramp that was interrupted in its first step, which has been told
		return nil
	case r.OK == 0 && r.Failed == 0 && !r.Interrupted:
		return errors.New("no request was over while measuring; give a longer --duration")
	case report.Ramp != nil && report.Ramp.Best == nil:
		return fmt.Errorf("no load stayed within the limit: %s", report.Ramp.LimitedBy)
	case r.FailedShare() > allowed:
		return fmt.Errorf("%d of %d requests failed", r.Failed, r.Failed+int64(r.OK))
	}
	return nil
}

// benchDial finds the way to the endpoint.
func (a *app) benchDial(endpoint api.EndpointName, flags benchFlags, requests []*bench.Request) (bench.Dial, error) {
	cfg, err := a.connection()
	if err != nil {
		return nil, err
	}
	server := cfg.Server
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	base, err := url.Parse(server)
	if err != nil {
		return nil, usage(err)
	}
	target := bench.Target{Protocol: bench.Protocol(flags.protocol), Endpoint: string(endpoint), Key: cfg.Key, Unit: flags.unit, Variant: flags.variant,
		Timeout: flags.timeout, Path: strings.TrimSuffix(base.EscapedPath(), "/"), Address: base.Host}
	port := "80"
	if base.Scheme == "https" {
		target.TLS, port = &tls.Config{MinVersion: tls.VersionTLS12}, "443"
	}
	if base.Port() == "" {
		target.Address = net.JoinHostPort(base.Hostname(), port)
	}
	if target.Protocol == bench.Remote {
		target.Address = first(flags.grpc, a.localGRPC(base), net.JoinHostPort(base.Hostname(), "8001"))
		if _, _, err := net.SplitHostPort(target.Address); err != nil {
			return nil, usage(fmt.Errorf("--grpc %q is not HOST:PORT", flags.grpc))
		}
	}
	return target.Dialer(requests)
}

// localGRPC is the gRPC address of the server of this data directory, if that is the one that is asked.
func (a *app) localGRPC(base *url.URL) string {
	if told := a.localAddresses(); told.HTTP != "" && told.HTTP == base.Host {
		return told.GRPC
	}
	return ""
}

// benchRequests makes the requests, and notes in the report where they came from.
func (a *app) benchRequests(ctx context.Context, c *client.Client, endpoint api.EndpointName, flags benchFlags, report *bench.Report) ([]*bench.Request, error) {
	metadata, err := c.Metadata(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	sizes := bench.Sizes{Batch: int64(flags.batch), Shapes: map[string][]int64{}}
	for _, text := range flags.shapes {
		name, shape, err := bench.ParseShape(text)
		if err != nil {
			return nil, usage(err)
		}
		sizes.Shapes[name] = shape
	}
	if flags.file == "" {
		requests, err := bench.Random(metadata.Inputs, sizes, flags.distinct, flags.seed)
		if err != nil {
			return nil, usage(err)
		}
		report.Data = fmt.Sprintf("%d different requests, made up with seed %d: %s", len(requests), flags.seed, bench.Describe(requests[0]))
		return requests, nil
	}
	var requests []*bench.Request
	if flags.file == "-" {
		text, err := a.readInput("-")
		if err != nil {
			return nil, usage(err)
		}
		requests, err = bench.ParseRequests(text)
		if err != nil {
			return nil, usage(err)
		}
	} else if requests, err = bench.ReadFile(flags.file, metadata.Inputs, sizes); err != nil {
		return nil, usage(err)
	}
	report.Data = fmt.Sprintf("%d %s of %s: %s", len(requests), map[bool]string{true: "request", false: "requests"}[len(requests) == 1], flags.file, bench.Describe(requests[0]))
	return requests, nil
}

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	load "github.com/penstock/penstock/internal/bench"
)

// cell is one row of the table.
type cell struct {
	name    string
	clients int
	peers   []string // names of the rows that this one is compared with
	pid     int      // of the server, whose processor time is counted with that of its workers
	dial    func(ctx context.Context) (caller, error)
	passes  []pass
}

// pass is what one cell measured in one pass.
type pass struct {
	Rate float64 `json:"per_second"`
	P50  float64 `json:"p50_us"`
	P95  float64 `json:"p95_us"`
	P99  float64 `json:"p99_us"`
	CPU  float64 `json:"cpu_us"` // processor time that the server spent per request, workers and kernel included
}

// clients are the numbers of callers that every row is measured with.
var clients = []int{1, 16}

// cells lists the rows. The name is model/what/clients.
func (s *stage) cells() []*cell {
	var all []*cell
	add := func(m *model, what string, pid int, dial func(context.Context) (caller, error), peers ...string) {
		for _, n := range clients {
			c := &cell{name: fmt.Sprintf("%s/%s/%d", m.name, what, n), clients: n, pid: pid, dial: dial}
			for _, p := range peers {
				c.peers = append(c.peers, fmt.Sprintf("%s/%s/%d", m.name, p, n))
			}
			if s.options.only == nil || s.options.only.MatchString(c.name) {
				all = append(all, c)
			}
		}
	}
	for _, m := range []*model{s.tiny, s.mid} {
		overHTTP := func(address string, request []byte) func(context.Context) (caller, error) {
			return func(ctx context.Context) (caller, error) { return dialPlain(ctx, address, request) }
		}
		overGRPC := func(address string) func(context.Context) (caller, error) {
			return func(context.Context) (caller, error) { return dialRemote(address, m) }
		}
		peer, own := s.peer.pid, s.server.pid
		add(m, "runtime", os.Getpid(), func(context.Context) (caller, error) { return newInProcess(m), nil })
		add(m, "nethttp", peer, overHTTP(s.peer.HTTP, m.postRaw()), "runtime")
		if b := s.before; b != nil {
			add(m, "before-binary", b.pid, overHTTP(b.HTTP, m.postBinary()), "nethttp")
			add(m, "before-grpc", b.pid, overGRPC(b.GRPC), "grpc-echo")
		}
		add(m, "penstock-binary", own, overHTTP(s.server.HTTP, m.postBinary()), "nethttp", "runtime", "before-binary")
		add(m, "penstock-json", own, overHTTP(s.server.HTTP, m.postJSON()), "penstock-binary")
		if m == s.tiny {
			add(m, "grpc-echo", peer, overGRPC(s.peer.GRPC))
			add(m, "penstock-grpc", own, overGRPC(s.server.GRPC), "grpc-echo", "penstock-binary", "before-grpc")
		} else {
			add(m, "penstock-grpc", own, overGRPC(s.server.GRPC), "runtime")
		}
	}
	return all
}

// measure runs all cells once for warmth, and then pass by pass, in another order each time: whatever else the machine
// does meets all of them alike.
func (s *stage) measure(ctx context.Context, out io.Writer) ([]row, error) {
	cells := s.cells()
	length := time.Duration(s.options.seconds * float64(time.Second))
	random := rand.New(rand.NewPCG(1, 2))
	for n := range s.options.passes + 1 {
		random.Shuffle(len(cells), func(i, j int) { cells[i], cells[j] = cells[j], cells[i] })
		for _, c := range cells {
			window := length
			if n == 0 {
				window = min(length, 300*time.Millisecond)
			}
			p, err := c.run(ctx, window)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if n > 0 {
				c.passes = append(c.passes, p)
			}
		}
		if n > 0 {
			fmt.Fprintf(out, "pass %d of %d done, load average %.2f\n", n, s.options.passes, loadAverage())
		}
	}
	return s.rows(cells), nil
}

// run lets the clients ask without pause for that long. The first tenth only warms connections and caches.
func (c *cell) run(ctx context.Context, length time.Duration) (pass, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*length+30*time.Second)
	defer cancel()
	dial := func(ctx context.Context) (load.Caller, error) {
		k, err := c.dial(ctx)
		if err != nil {
			return nil, err
		}
		if err := k.ask(ctx); err != nil {
			k.close()
			return nil, err
		}
		if g, ok := k.(generated); ok {
			return g.Caller, nil
		}
		return asked{k}, nil
	}
	var spent time.Duration
	processes := tree(c.pid)
	if c.pid == os.Getpid() {
		processes = processes[:1] // the servers are its children
	}
	plan := load.Plan{Clients: c.clients, Warmup: length / 10, Duration: length, Start: func() { spent = processorTime(processes) }}
	r, err := load.Run(ctx, dial, plan)
	if err != nil {
		return pass{}, err
	}
	spent = processorTime(processes) - spent
	switch {
	case r.Failed > 0:
		return pass{}, fmt.Errorf("%d of %d requests failed: %s: %s", r.Failed, r.Failed+int64(r.OK), r.Faults[0].Code, r.Faults[0].Example)
	case r.Interrupted:
		return pass{}, fmt.Errorf("interrupted: %w", ctx.Err())
	case r.OK == 0:
		return pass{}, fmt.Errorf("no request was over within %v", length)
	}
	return pass{Rate: r.PerSecond, P50: r.Latency.P50, P95: r.Latency.P95, P99: r.Latency.P99,
		CPU: float64(spent.Nanoseconds()) / 1e3 / float64(r.Generator.Asked)}, nil
}

// row is a cell's figures: medians over the passes, and ratios to its peers, paired pass by pass.
type row struct {
	Name   string  `json:"name"`
	pass           // medians
	Ratios []ratio `json:"ratios,omitempty"`
	Passes []pass  `json:"passes"`
}

// ratio compares a row with another one.
type ratio struct {
	Peer       string  `json:"peer"`
	Throughput float64 `json:"throughput"`   // median of the passes' ratios
	AddedP50   float64 `json:"added_p50_us"` // median of the passes' differences
}

func (s *stage) rows(cells []*cell) []row {
	named := map[string]*cell{}
	for _, c := range cells {
		named[c.name] = c
	}
	var rows []row
	for _, template := range s.cells() { // in the table's order
		c := named[template.name]
		r := row{Name: c.name, Passes: c.passes, pass: pass{
			Rate: over(c.passes, func(p pass) float64 { return p.Rate }), P50: over(c.passes, func(p pass) float64 { return p.P50 }),
			P95: over(c.passes, func(p pass) float64 { return p.P95 }), P99: over(c.passes, func(p pass) float64 { return p.P99 }),
			CPU: over(c.passes, func(p pass) float64 { return p.CPU })}}
		for _, name := range c.peers {
			peer := named[name]
			if peer == nil {
				continue // left out by -only
			}
			rates, added := make([]float64, len(c.passes)), make([]float64, len(c.passes))
			for i := range c.passes {
				rates[i], added[i] = c.passes[i].Rate/peer.passes[i].Rate, c.passes[i].P50-peer.passes[i].P50
			}
			r.Ratios = append(r.Ratios, ratio{Peer: strings.Split(name, "/")[1], Throughput: median(rates), AddedP50: median(added)})
		}
		rows = append(rows, r)
	}
	return rows
}

func over(passes []pass, of func(pass) float64) float64 {
	values := make([]float64, len(passes))
	for i := range passes {
		values[i] = of(passes[i])
	}
	return median(values)
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	if n == 0 {
		return 0
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

// floats writes a tensor's bytes as a JSON list.
func floats(data []byte) []byte {
	list := []byte{'['}
	for i := 0; i < len(data); i += 4 {
		if i > 0 {
			list = append(list, ',')
		}
		list = strconv.AppendFloat(list, float64(math.Float32frombits(binary.LittleEndian.Uint32(data[i:]))), 'g', -1, 32)
	}
	return append(list, ']')
}

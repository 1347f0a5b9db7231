package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/ort"
)

// stageLimit bounds a stage, whatever its flags say.
const stageLimit = 10 * time.Minute

// stageOptions are the flags of `bench stage NAME`.
type stageOptions struct {
	seconds float64
	passes  int
	only    string // substring of the rows to measure
	json    string
	demo    string
	python  string // folder of the Python servers' sources
	envs    map[string]string
}

// stages are the tables beside the first one. Each starts what it needs and ends it.
var stages = map[string]func(ctx context.Context, b *bed) error{
	"python": pythonStage,
	"batch":  batchStage,
	"image":  imageStage,
	"routes": routesStage,
	"fair":   fairStage,
}

func parseStage(args []string, out io.Writer) (stageOptions, error) {
	o := stageOptions{envs: map[string]string{}}
	set := flag.NewFlagSet("bench stage", flag.ContinueOnError)
	set.SetOutput(out)
	set.Float64Var(&o.seconds, "seconds", 1.5, "length of one row in one pass")
	set.IntVar(&o.passes, "passes", 5, "interleaved passes over all rows, after one that is thrown away")
	set.StringVar(&o.only, "only", "", "measure only rows whose name contains this")
	set.StringVar(&o.json, "json", "", "write all figures to this file")
	set.StringVar(&o.demo, "demo", "demo", "folder of the demo models")
	set.StringVar(&o.python, "python", "test/load/python", "folder of the Python servers' sources")
	set.Func("env", "NAME=FOLDER: a Python environment, for stage python; may be repeated", func(text string) error {
		name, folder, ok := strings.Cut(text, "=")
		if !ok {
			return errors.New("write NAME=FOLDER")
		}
		absolute, err := filepath.Abs(folder)
		o.envs[name] = absolute
		return err
	})
	if err := set.Parse(args); err != nil {
		return o, err
	}
	if o.seconds <= 0 || o.seconds > 30 || o.passes < 1 || o.passes > 100 {
		return o, errors.New("a number is out of its range")
	}
	return o, nil
}

// runStage is `bench stage NAME [FLAGS]`: one more table, with its floors below it.
func runStage(ctx context.Context, args []string, out io.Writer) (err error) {
	if len(args) == 0 || stages[args[0]] == nil {
		return errors.New("name a stage: python, batch, image, routes or fair")
	}
	o, err := parseStage(args[1:], out)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, stageLimit, fmt.Errorf("it took longer than %v (give fewer -passes, shorter -seconds, or a part by -only)", stageLimit))
	defer cancel()
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bed{stage: &stage{options: options{demo: o.demo}, dir: dir}, options: o, out: out,
		report: stageReport{Stage: args[0], Began: time.Now().UTC(), Machine: describeMachine(),
			Options: fmt.Sprintf("%d passes of %v s per row", o.passes, o.seconds)}}
	defer b.close()
	if b.runtime, err = ort.Open(b.cache(), ort.Options{IntraThreads: 1}); err != nil {
		return err
	}
	b.report.Runtime = b.runtime.Version()
	if err := stages[args[0]](ctx, b); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		return b.explain(fmt.Errorf("stage %s: %w", args[0], err))
	}
	b.report.Machine.LoadAfter = loadAverage()
	b.report.write(out)
	if o.json == "" {
		return nil
	}
	data, err := json.MarshalIndent(&b.report, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(data, '\n'), 0o644)
}

// bed is what a stage stands on: the first table's servers without its rows.
type bed struct {
	*stage
	options stageOptions
	out     io.Writer
	report  stageReport
	ends    []func() // of what else the stage started, last first

	afterPass func(n int) error // 0 is the pass that is thrown away
}

func (b *bed) close() {
	for _, end := range slices.Backward(b.ends) {
		end()
	}
	for _, c := range []*child{b.server, b.peer} {
		if c != nil {
			c.kill()
		}
	}
	if b.runtime != nil {
		b.runtime.Close()
	}
}

// explain adds what the children said.
func (b *bed) explain(err error) error {
	for name, c := range map[string]*child{"bare servers": b.peer, "penstock": b.server} {
		if c == nil {
			continue
		}
		c.kill()
		if log := c.log.String(); log != "" {
			err = fmt.Errorf("%w\n%s: %s", err, name, log[max(0, len(log)-4000):])
		}
	}
	return err
}

// serve starts Penstock with its default settings and without models.
func (b *bed) serve(ctx context.Context) (err error) {
	if b.server, err = start("serve", b.config(filepath.Join(b.dir, "data"))); err != nil {
		return err
	}
	if b.client, err = client.New(client.Config{Server: b.server.HTTP, Tenant: api.DefaultTenant}); err != nil {
		return err
	}
	return b.workersReady(ctx)
}

// deploy releases a model with serving settings.
func (b *bed) deploy(ctx context.Context, endpoint string, v api.Version, serving api.Serving) error {
	spec := api.EndpointSpec{Variants: []api.VariantSpec{{Model: fmt.Sprintf("%s@%d", v.Model, v.Number), Serving: serving}}}
	rel, err := b.client.Deploy(ctx, api.EndpointName(endpoint), api.DeployRequest{EndpointSpec: spec}, 0, time.Minute)
	if err == nil && rel.State != api.ReleaseSucceeded {
		err = fmt.Errorf("release %d of %s is %s: %s", rel.Number, endpoint, rel.State, rel.Reason)
	}
	return err
}

// line is a row to measure: a cell and the names of the rows that it is compared with.
func line(name string, clients, pid int, dial func(context.Context) (caller, error), peers ...string) *cell {
	return &cell{name: fmt.Sprintf("%s/%d", name, clients), clients: clients, pid: pid, dial: dial, peers: peers}
}

// measure runs all rows once for warmth and then pass by pass, in another order each time.
func (b *bed) measure(ctx context.Context, cells []*cell) error {
	cells = slices.DeleteFunc(cells, func(c *cell) bool { return !strings.Contains(c.name, b.options.only) })
	length := time.Duration(b.options.seconds * float64(time.Second))
	random := rand.New(rand.NewPCG(1, 2))
	shuffled := slices.Clone(cells)
	for n := range b.options.passes + 1 {
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for _, c := range shuffled {
			window := length
			if n == 0 {
				window = min(length, 300*time.Millisecond)
			}
			p, err := c.run(ctx, window)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if n > 0 {
				c.passes = append(c.passes, p)
			}
		}
		if b.afterPass != nil {
			if err := b.afterPass(n); err != nil {
				return err
			}
		}
		if n > 0 {
			fmt.Fprintf(b.out, "pass %d of %d done, load average %.2f\n", n, b.options.passes, loadAverage())
		}
	}
	b.report.Rows = append(b.report.Rows, entriesOf(cells)...)
	return nil
}

// entry is a measured row: medians over the passes, and ratios to its peers, paired pass by pass.
type entry struct {
	Name    string    `json:"name"`
	pass              // medians
	Against []against `json:"against,omitempty"`
	Passes  []pass    `json:"passes"`
	Note    string    `json:"note,omitempty"`
}

// against compares a row with another one; each figure is the median of the passes' own.
type against struct {
	Peer       string  `json:"peer"`
	Throughput float64 `json:"throughput"`
	P50        float64 `json:"p50"`
	P95        float64 `json:"p95"`
	CPU        float64 `json:"cpu"`
}

func entriesOf(cells []*cell) []entry {
	named := map[string]*cell{}
	for _, c := range cells {
		named[c.name] = c
	}
	var all []entry
	for _, c := range cells {
		e := entry{Name: c.name, Passes: c.passes, pass: pass{
			Rate: over(c.passes, func(p pass) float64 { return p.Rate }), P50: over(c.passes, func(p pass) float64 { return p.P50 }),
			P95: over(c.passes, func(p pass) float64 { return p.P95 }), P99: over(c.passes, func(p pass) float64 { return p.P99 }),
			CPU: over(c.passes, func(p pass) float64 { return p.CPU })}}
		for _, name := range c.peers {
			if peer := named[name]; peer != nil { // else it was left out by -only
				ratio := func(of func(pass) float64) float64 { return paired(c.passes, peer.passes, of) }
				e.Against = append(e.Against, against{Peer: name,
					Throughput: ratio(func(p pass) float64 { return p.Rate }),
					P50:        ratio(func(p pass) float64 { return p.P50 }), P95: ratio(func(p pass) float64 { return p.P95 }),
					CPU: ratio(func(p pass) float64 { return p.CPU })})
			}
		}
		all = append(all, e)
	}
	return all
}

// paired is the median of the passes' own ratios.
func paired(passes, peers []pass, of func(pass) float64) float64 {
	ratios := make([]float64, len(passes))
	for i := range passes {
		ratios[i] = of(passes[i]) / of(peers[i])
	}
	return median(ratios)
}

// versus finds how one row compares with another; false when -only left one of them out.
func (r *stageReport) versus(row, peer string) (against, bool) {
	for _, e := range r.Rows {
		for _, a := range e.Against {
			if e.Name == row && a.Peer == peer {
				return a, true
			}
		}
	}
	return against{}, false
}

func (r *stageReport) row(name string) *entry {
	for i := range r.Rows {
		if r.Rows[i].Name == name {
			return &r.Rows[i]
		}
	}
	return nil
}

// stageReport is the outcome of a stage.
type stageReport struct {
	Stage   string     `json:"stage"`
	Began   time.Time  `json:"began"`
	Options string     `json:"options"`
	Machine machine    `json:"machine"`
	Runtime string     `json:"onnxruntime"`
	Notes   []string   `json:"notes,omitempty"`
	Rows    []entry    `json:"rows"`
	Memory  []resident `json:"memory,omitempty"`
	Floors  []floor    `json:"floors"`
}

func (r *stageReport) note(format string, values ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, values...))
}

// write prints the tables as Markdown.
func (r *stageReport) write(out io.Writer) {
	m := r.Machine
	fmt.Fprintf(out, "\n%s, %d cores, Linux %s, %s, ONNX Runtime %s\n", m.Processor, m.Cores, m.Kernel, m.Go, r.Runtime)
	fmt.Fprintf(out, "%s after one thrown away; load average before: %.2f, after: %.2f\n", r.Options, m.LoadBefore, m.LoadAfter)
	for _, n := range r.Notes {
		fmt.Fprintln(out, "- "+n)
	}
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	if len(r.Rows) > 0 {
		fmt.Fprintln(t, "\n| row / clients\t| per second\t| p50 us\t| p95 us\t| p99 us\t| CPU us\t| throughput, p50, p95 against\t|")
		fmt.Fprintln(t, "|---\t|---:\t|---:\t|---:\t|---:\t|---:\t|---\t|")
	}
	for _, e := range r.Rows {
		var words []string
		for _, a := range e.Against {
			words = append(words, fmt.Sprintf("%s %.3g x, %.3g x, %.3g x", a.Peer, a.Throughput, a.P50, a.P95))
		}
		if e.Note != "" {
			words = append(words, e.Note)
		}
		fmt.Fprintf(t, "| %s\t| %.0f\t| %.0f\t| %.0f\t| %.0f\t| %.0f\t| %s\t|\n", e.Name, e.Rate, e.P50, e.P95, e.P99, e.CPU, strings.Join(words, "; "))
	}
	if len(r.Memory) > 0 {
		fmt.Fprintln(t, "\n| memory\t| processes\t| RSS MiB\t| PSS MiB\t| RSS of the first process MiB\t|")
		fmt.Fprintln(t, "|---\t|---:\t|---:\t|---:\t|---:\t|")
	}
	for _, m := range r.Memory {
		fmt.Fprintf(t, "| %s\t| %d\t| %.0f\t| %.0f\t| %.0f\t|\n", m.What, m.Processes, m.RSS, m.PSS, m.Server)
	}
	_ = t.Flush()               // into memory
	_, _ = out.Write(b.Bytes()) // nobody could be told
	printFloors(out, r.Floors)
}

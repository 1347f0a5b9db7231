package bench_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/bench"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// made is a report as a run makes it, but the same each time: latencies are factor times those of a fixed seed.
func made(factor float64, seed uint64) *bench.Report {
	random := rand.New(rand.NewPCG(seed, 9))
	r := &bench.Result{Clients: 8, Elapsed: 10, PerSecond: 1000 / factor, Failed: 3, Histogram: new(bench.Histogram), SliceS: .5,
		Faults:    []bench.Fault{{Code: "http 503", Count: 2, Example: "{\"error\":\"the \x1b[31mqueue\" is full\"}"}, {Code: "timeout", Count: 1, Example: "read: i/o timeout"}},
		Generator: bench.Cost{Asked: 11_000, PerRequest: 12.5, Cores: .014},
		Inside:    &bench.ServerSide{Requests: 10_007, Versions: []string{"1", "2"}, Total: 500 * factor, Queue: 100 * factor, Compute: 300 * factor, Rows: 2.5, CacheHits: 12}}
	for range 20 {
		s := bench.Slice{Latency: new(bench.Histogram)}
		for range int(500 / factor) {
			us := 400 + 300*random.ExpFloat64()
			if random.IntN(50) == 0 {
				us *= 8
			}
			s.Latency.Record(time.Duration(factor * us * 1e3))
		}
		r.Histogram.Merge(s.Latency)
		r.Slices = append(r.Slices, s)
	}
	r.OK, r.Latency = r.Histogram.Count(), bench.LatencyOf(r.Histogram)
	return &bench.Report{Endpoint: `digits<&"> ]]>` + "\x07", Server: "http://127.0.0.1:8000", Protocol: bench.Binary, Data: "16 different requests, made up with seed 1: x FP32 [1 64]",
		Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Warmup: 1, Tool: "test", Result: r}
}

func ramped() *bench.Report {
	report := made(1, 1)
	ramp := &bench.Ramp{Unit: "clients", LimitP99: 20_000, LimitedBy: "p99: 32.0ms is over 20.0ms"}
	for _, s := range []struct {
		level int
		rate  float64
	}{{1, 250}, {2, 499}, {4, 995}, {8, 1000}, {16, 1004}, {32, 990}, {24, 1000}, {20, 1001}} {
		step := bench.Step{Level: s.level, PerSecond: s.rate, P50: 500 * float64(s.level), P99: 1000 * float64(s.level), Steady: s.level != 16, Good: s.level <= 20}
		if !step.Good {
			step.Why = "p99: over <20ms>"
		}
		ramp.Steps = append(ramp.Steps, step)
	}
	ramp.Best = &ramp.Steps[4]
	report.Ramp = ramp
	return report
}

func opened() *bench.Report {
	report := made(1, 2)
	report.Result.Rate, report.Result.Poisson, report.Result.Interrupted, report.Result.Faults, report.Result.Inside = 1000, true, true, nil, nil
	report.Result.Lateness = &bench.Lateness{Schedule: bench.Schedule{Due: 10_100, NeverSent: 97, Overflowed: 90}, Late: 40, LateP99: 91_000, LateMax: 99_000, WakeP50: 60, WakeP99: 700}
	return report
}

func text(r *bench.Report) []byte {
	var b bytes.Buffer
	r.WriteText(&b)
	return b.Bytes()
}

func TestReportsReadAsTheyShould(t *testing.T) {
	compared := made(.8, 3)
	compared.Against = bench.Compare(made(1, 1), compared, 1)
	for name, got := range map[string][]byte{
		"closed.txt": text(made(1, 1)), "open.txt": text(opened()), "ramp.txt": text(ramped()), "against.txt": text(compared),
		"closed.svg": made(1, 1).SVG(), "ramp.svg": ramped().SVG(), "nothing.svg": (&bench.Report{Endpoint: "x", Result: &bench.Result{Histogram: new(bench.Histogram)}}).SVG(),
	} {
		golden := filepath.Join("testdata", name)
		if *rewrite {
			if err := os.MkdirAll("testdata", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(golden); err != nil || !bytes.Equal(want, got) {
			t.Errorf("%s differs (go test -rewrite, then read the diff): %v\n%s", name, err, got)
		}
		if bytes.ContainsAny(got, "\x1b\x07") {
			t.Errorf("%s: a control character came through", name)
		}
		if strings.HasSuffix(name, ".svg") {
			wellFormed(t, name, got)
		}
	}
}

// wellFormed reads a picture as XML strictly, and refuses scripts, links and places that are no numbers.
func wellFormed(t *testing.T, name string, picture []byte) {
	t.Helper()
	decoder := xml.NewDecoder(bytes.NewReader(picture))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		element, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if n := element.Name.Local; n == "script" || n == "a" || n == "image" || n == "foreignObject" {
			t.Errorf("%s holds a <%s>", name, n)
		}
		for _, a := range element.Attr {
			if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") || strings.HasPrefix(a.Name.Local, "on") {
				t.Errorf("%s: %s %s=%q", name, element.Name.Local, a.Name.Local, a.Value)
			}
		}
	}
}

// TestPicturesStandWhateverIsMeasured draws at random.
func TestPicturesStandWhateverIsMeasured(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		r := &bench.Report{Endpoint: "x", Protocol: bench.JSON, Result: &bench.Result{Clients: 1, Histogram: new(bench.Histogram)}}
		for range random.IntN(50) {
			r.Result.Histogram.Record(time.Duration(math.Pow(10, 14*random.Float64()) - 1))
		}
		r.Result.OK = r.Result.Histogram.Count()
		r.Ramp = &bench.Ramp{LimitP99: math.Pow(10, 9*random.Float64()), Unit: "clients"}
		for range random.IntN(6) {
			r.Ramp.Steps = append(r.Ramp.Steps, bench.Step{Level: random.IntN(100), PerSecond: 1e5 * random.Float64() * float64(random.IntN(2)), P99: 1e7 * random.Float64() * float64(random.IntN(2))})
		}
		wellFormed(t, "random", r.SVG())
		if len(text(r)) == 0 {
			t.Error("no text")
		}
	}
}

// TestBarsHoldEveryRequest: what is drawn adds up.
func TestBarsHoldEveryRequest(t *testing.T) {
	r := made(1, 1)
	sum := 0
	for line := range strings.Lines(string(text(r))) {
		words := strings.Fields(line)
		if len(words) >= 4 && words[1] == "to" {
			n := 0
			for _, c := range words[3] {
				n = 10*n + int(c-'0')
			}
			sum += n
		}
	}
	if sum != int(r.Result.OK) {
		t.Errorf("the bars hold %d of %d", sum, r.Result.OK)
	}
}

func TestComparisonsFindWhatChanged(t *testing.T) {
	for name, tc := range map[string]struct {
		factor float64
		inside bool // the interval of p50 holds 1
	}{"equal": {1, true}, "faster": {.8, false}, "slower": {1.25, false}} {
		c := bench.Compare(made(1, 1), made(tc.factor, 2), 7)
		if again := bench.Compare(made(1, 1), made(tc.factor, 2), 7); again.Ratios[2] != c.Ratios[2] {
			t.Errorf("%s: equal seeds give %+v and %+v", name, c.Ratios[2], again.Ratios[2])
		}
		for _, r := range c.Ratios {
			want := tc.factor
			if r.What == "rate" {
				want = 1 / tc.factor
			}
			if r.Low > r.High || math.Abs(r.Ratio-want) > .15*want || r.Low > want*1.1 || r.High < want*.9 {
				t.Errorf("%s: %+v, want %v", name, r, want)
			}
			if r.What == "p50" && (r.Low <= 1 && r.High >= 1) != tc.inside {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
	short := made(1, 1)
	short.Result.Elapsed, short.Protocol, short.Result.Clients = 1, bench.Remote, 9
	c := bench.Compare(short, made(1, 2), 1)
	if c.Ratios[0].High != 0 || len(c.Notes) < 3 || !strings.Contains(strings.Join(c.Notes, "\n"), "the protocol differs") || !strings.Contains(strings.Join(c.Notes, "\n"), "too short") {
		t.Errorf("%+v", c)
	}
}

// TestIntervalsHoldTheTruth: of intervals at 95 % between runs of one kind nearly all hold 1.
func TestIntervalsHoldTheTruth(t *testing.T) {
	held, all := 0, 0
	for seed := range uint64(10) {
		for _, r := range bench.Compare(made(1, 100+seed), made(1, 200+seed), seed).Ratios {
			if r.What == "p50" || r.What == "mean" {
				all++
				if r.Low <= 1 && 1 <= r.High {
					held++
				}
			}
		}
	}
	if held < all*85/100 {
		t.Errorf("%d of %d intervals hold 1", held, all)
	}
}

func TestReportsComeBackFromJSON(t *testing.T) {
	want := ramped()
	saved, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got bench.Report
	if err := json.Unmarshal(saved, &got); err != nil {
		t.Fatal(err)
	}
	got.Endpoint = want.Endpoint // JSON has no control characters to give back
	if !bytes.Equal(text(&got), text(want)) {
		t.Error("a saved report reads differently")
	}
}

func TestServerSideIsWhatWasAdded(t *testing.T) {
	before := []bench.Counts{{Version: "1", Requests: 100, RequestNS: 100e3, Queued: 100, QueueNS: 10e3, Computed: 50, ComputeNS: 50e3, Rows: 100, Runs: 50}}
	after := []bench.Counts{{Version: "1", Requests: 300, RequestNS: 500e3, Queued: 300, QueueNS: 30e3, Computed: 100, ComputeNS: 150e3, Rows: 300, Runs: 100, CacheHits: 4}, {Version: "2"}}
	s := bench.Between(before, after)
	if s == nil || s.Requests != 200 || s.Total != 2 || s.Queue != .1 || s.Compute != 2 || s.Rows != 4 || s.CacheHits != 4 || len(s.Versions) != 1 {
		t.Errorf("%+v", s)
	}
	if s := bench.Between(after, before); s != nil {
		t.Errorf("a server that began anew gives %+v", s)
	}
	if s := bench.Between(before, before); s != nil {
		t.Errorf("nothing gives %+v", s)
	}
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/penstock/penstock/internal/store"
)

// few and many are the numbers of endpoints between which a request's price must not grow.
const (
	few  = 10
	many = 10_000
)

// routesStage measures what finding the endpoint costs, alone and as a part of whole requests.
func routesStage(ctx context.Context, b *bed) error {
	if err := b.benchmarkRouting(ctx); err != nil {
		return err
	}
	file, err := os.ReadFile(filepath.Join(b.options.demo, "digits-v1.onnx"))
	if err != nil {
		return err
	}
	m := &model{name: templateEndpoint, file: file, input: digitsInput()}
	if err := b.template(ctx, m); err != nil {
		return err
	}
	var cells []*cell
	for _, count := range []int{few, many} {
		s, err := b.multiplied(ctx, m, count)
		if err != nil {
			return err
		}
		b.ends = append(b.ends, s.kill)
		memory, err := memoryOf(s.pid)
		if err != nil {
			return err
		}
		memory.What = fmt.Sprintf("penstock with %d endpoints of one version, idle", count)
		b.report.Memory = append(b.report.Memory, memory)
		b.report.note("a server with %d endpoints was ready after %d ms", count, s.ready.Milliseconds())
		for _, n := range clients {
			one := *m
			one.name = endpointOf(count / 2)
			cells = append(cells, line(fmt.Sprintf("one-of-%d", count), n, s.pid, overHTTP(s.HTTP, one.postBinary()), fmt.Sprintf("one-of-%d/%d", few, n)),
				line(fmt.Sprintf("all-of-%d", count), n, s.pid, inTurn(s.HTTP, m, count), fmt.Sprintf("all-of-%d/%d", few, n)))
		}
	}
	for _, c := range cells {
		if c.peers[0] == c.name {
			c.peers = nil
		}
	}
	if err := b.measure(ctx, cells); err != nil {
		return err
	}
	for _, n := range clients {
		for _, used := range []string{"one", "all"} {
			if a, ok := b.report.versus(fmt.Sprintf("%s-of-%d/%d", used, many, n), fmt.Sprintf("%s-of-%d/%d", used, few, n)); ok {
				what := fmt.Sprintf("requests to %s of %d endpoints against %d, clients: %d", used, many, few, n)
				b.report.Floors = append(b.report.Floors, atMost(what+", p50", 1.05, a.P50, "x"), atMost(what+", processor time", 1.05, a.CPU, "x"))
			}
		}
	}
	return nil
}

// routing is a line of the benchmark's output.
var routing = regexp.MustCompile(`^BenchmarkRouting/used=(\w+)/endpoints=(\d+)\S*\s+\d+\s+([\d.]+) ns/op\s+\d+ B/op\s+(\d+) allocs/op`)

// benchmarkRouting runs the Go benchmark of routing and admission and takes medians of its rounds.
func (b *bed) benchmarkRouting(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "Routing", "-benchtime", "200ms", "-count", "5", "./internal/serve")
	text, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("benchmark of routing: %w\n%s", err, text)
	}
	times, allocations := map[string][]float64{}, 0.0
	for line := range strings.Lines(string(text)) {
		if found := routing.FindStringSubmatch(line); found != nil {
			ns, err := strconv.ParseFloat(found[3], 64)
			if err != nil {
				return err
			}
			each, err := strconv.ParseFloat(found[4], 64)
			if err != nil {
				return err
			}
			key := found[1] + "/" + found[2]
			times[key] = append(times[key], ns)
			allocations = max(allocations, each)
		}
	}
	if len(times) != 8 {
		return fmt.Errorf("benchmark of routing: %d kinds of lines, want 8\n%s", len(times), text)
	}
	for _, used := range []string{"one", "all"} {
		var words []string
		for _, count := range []string{"10", "100", "1000", "10000"} {
			words = append(words, fmt.Sprintf("%s: %.0f ns", count, median(times[used+"/"+count])))
		}
		b.report.note("routing and admission alone, requests to %s of so many endpoints: %s", used, strings.Join(words, ", "))
	}
	slowest := 0.0
	for _, rounds := range times {
		slowest = max(slowest, median(rounds)/1e3)
	}
	b.report.Floors = append(b.report.Floors, atMost("routing and admission, slowest of all sizes", 2, slowest, "us"),
		atMost("allocations of routing and admission", 0, allocations, "per request"),
		atMost("routing to one of 10000 endpoints against 10", 1.2, median(times["one/10000"])/median(times["one/10"]), "x"))
	cold := atMost("routing to all of 10000 endpoints in turn against 10", 1.2, median(times["all/10000"])/median(times["all/10"]), "x")
	cold.Remark = "every one is cold in the processor's caches"
	b.report.Floors = append(b.report.Floors, cold)
	return nil
}

// templateEndpoint is the one that the others are copies of; its name stands nowhere else.
const templateEndpoint = "bench-template"

func endpointOf(i int) string { return fmt.Sprintf("endpoint-%05d", i) }

// inTurn asks all endpoints one after the other.
func inTurn(address string, m *model, count int) func(context.Context) (caller, error) {
	requests := make([][]byte, count)
	for i := range requests {
		one := *m
		one.name = endpointOf(i * 7919 % count) // a prime: far from the order of their names
		requests[i] = one.postBinary()
	}
	dial := overHTTP(address, nil)
	return func(ctx context.Context) (caller, error) {
		k, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return &turning{tolerant: k.(*tolerant), requests: requests}, nil
	}
}

// turning is a caller with many requests.
type turning struct {
	*tolerant
	requests [][]byte
	next     int
}

func (t *turning) ask(ctx context.Context) error {
	t.request = t.requests[t.next]
	if t.next++; t.next == len(t.requests) {
		t.next = 0
	}
	return t.tolerant.ask(ctx)
}

// template leaves a data directory in which one endpoint is deployed.
func (b *bed) template(ctx context.Context, m *model) error {
	if err := b.serve(ctx); err != nil {
		return err
	}
	if err := deploy(ctx, b.client, m.name, m.file); err != nil {
		return err
	}
	b.server.stop()
	return nil
}

// multiplied starts a server whose store has that many copies of the template's endpoint. Deploying each would sync the
// disk some ten thousand times; the store's own dump takes copies of the rows in one transaction.
func (b *bed) multiplied(ctx context.Context, m *model, count int) (*child, error) {
	data := filepath.Join(b.dir, fmt.Sprint("endpoints-", count))
	if err := os.CopyFS(data, os.DirFS(filepath.Join(b.dir, "data"))); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(data, "penstock.db*"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			return nil, err
		}
	}
	var dump bytes.Buffer
	if err := b.export(ctx, &dump); err != nil {
		return nil, err
	}
	copies, err := multiply(&dump, count)
	if err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, "sqlite:"+filepath.Join(data, "penstock.db"))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(db.Import(ctx, copies), db.Close()); err != nil {
		return nil, err
	}
	s, err := start("serve", b.config(data))
	if err != nil {
		return nil, err
	}
	last := *m
	last.name = endpointOf(count - 1)
	if err := poll(ctx, readyWithin, func() bool {
		k, err := overHTTP(s.HTTP, last.postBinary())(ctx)
		if err != nil {
			return false
		}
		defer k.close()
		return k.ask(ctx) == nil
	}); err != nil {
		s.kill()
		return nil, fmt.Errorf("%d endpoints: %w\n%s", count, err, s.log.String())
	}
	return s, nil
}

func (b *bed) export(ctx context.Context, to *bytes.Buffer) error {
	db, err := store.Open(ctx, "sqlite:"+filepath.Join(b.dir, "data", "penstock.db"))
	if err != nil {
		return err
	}
	return errors.Join(db.Export(ctx, to), db.Close())
}

// multiply writes a dump again with copies of every row that names the template, in its place.
func multiply(dump *bytes.Buffer, count int) (*bytes.Buffer, error) {
	var out bytes.Buffer
	counts := map[string]int64{}
	lines := bufio.NewScanner(dump)
	lines.Buffer(nil, 64<<20)
	first := true
	for lines.Scan() {
		line := lines.Bytes()
		if bytes.HasPrefix(line, []byte("{")) && !first {
			break // the trailer
		}
		if first {
			first = false
			fmt.Fprintf(&out, "%s\n", line)
			continue
		}
		var row []json.RawMessage
		var table string
		if err := json.Unmarshal(line, &row); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(row[0], &table); err != nil {
			return nil, err
		}
		switch table {
		case "endpoints", "revisions", "releases":
			for i := range count {
				out.Write(bytes.ReplaceAll(line, []byte(templateEndpoint), []byte(endpointOf(i))))
				out.WriteByte('\n')
			}
			counts[table] += int64(count)
		default:
			fmt.Fprintf(&out, "%s\n", line)
			counts[table]++
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(out.Bytes())
	trailer, err := json.Marshal(map[string]any{"counts": counts, "sha256": hex.EncodeToString(sum[:])})
	out.Write(append(trailer, '\n'))
	return &out, err
}

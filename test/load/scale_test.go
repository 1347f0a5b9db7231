package load_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob/files"
	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/ort/orttest"
	"github.com/penstock/penstock/internal/registry"
	"github.com/penstock/penstock/internal/server"
	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/test/live"
)

// full reports whether the sizes of docs/benchmarks.md are asked for; test/load/scale.sh does.
func full() bool { return os.Getenv("PENSTOCK_SCALE") != "" }

// shop is a data directory with that many models, each deployed on an endpoint of its own, as if every one had been pushed
// and released: the same rows and files, without a throw-away worker for each.
type shop struct {
	dir    string
	models int
	file   func(i int) []byte
}

func name(i int) string { return fmt.Sprintf("model-%05d", i) }

// fill makes the shop. A directory that PENSTOCK_SCALE_DIR names keeps it for the next run.
func (s *shop) fill(t *testing.T) {
	t.Helper()
	begin := time.Now()
	s.dir = filepath.Join(t.TempDir(), "data")
	if keep := os.Getenv("PENSTOCK_SCALE_DIR"); keep != "" {
		s.dir = filepath.Join(keep, fmt.Sprintf("%s-%d", t.Name(), s.models))
		if _, err := os.Stat(filepath.Join(s.dir, "filled")); err == nil {
			return
		}
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(s.dir, "penstock.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.PutTenant(t.Context(), api.Tenant{ID: api.DefaultTenant, Created: api.TimeOf(begin)}); err != nil {
		t.Fatal(err)
	}
	blobs, err := files.Open(files.Config{Dir: filepath.Join(s.dir, "blobs")})
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	catalog, err := registry.New(registry.Config{Store: db, Blobs: blobs, CacheDir: filepath.Join(s.dir, "cache", "models"), GrantDir: filepath.Join(s.dir, "grants")})
	if err != nil {
		t.Fatal(err)
	}
	defer catalog.Close()
	var next atomic.Int64
	var hands sync.WaitGroup
	for range 16 {
		hands.Go(func() {
			for i := int(next.Add(1)) - 1; i < s.models && !t.Failed(); i = int(next.Add(1)) - 1 {
				if err := s.put(t.Context(), db, catalog, i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	hands.Wait()
	if t.Failed() {
		t.FailNow()
	}
	if err := os.WriteFile(filepath.Join(s.dir, "filled"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d models registered and deployed in %v", s.models, time.Since(begin).Round(time.Millisecond))
}

func (s *shop) put(ctx context.Context, db *store.DB, catalog *registry.Catalog, i int) error {
	p := &api.Principal{Tenant: api.DefaultTenant, Name: "test", Scopes: []api.Scope{api.ScopeAdmin, api.ScopeWrite}}
	file := s.file(i)
	sum := sha256.Sum256(file)
	digest, size, err := catalog.PutBlob(ctx, p, bytes.NewReader(file), api.Digest("sha256:"+hex.EncodeToString(sum[:])), int64(len(file)))
	if err != nil {
		return err
	}
	v, _, err := catalog.Commit(ctx, p, api.ModelName(name(i)), api.Upload{Files: []api.UploadFile{{Path: "model.onnx", Digest: digest, Size: size}}})
	if err != nil {
		return err
	}
	now := api.TimeOf(time.Now())
	ep := api.EndpointName(name(i))
	rev := api.Revision{Tenant: p.Tenant, Endpoint: ep, Number: 1, Strategy: api.StrategyBlueGreen, By: p.Name, Created: now,
		Variants: []api.Variant{{Name: "main", Model: v.Model, Version: v.Number, Digest: v.Digest, Format: v.Format, Weight: 1, Signature: v.Signature, Size: v.Size}}}
	rel := api.Release{Tenant: p.Tenant, Endpoint: ep, Number: 1, Kind: api.ReleaseDeploy, To: 1, Strategy: rev.Strategy,
		State: api.ReleaseLoading, By: p.Name, Started: now, Durable: true}
	spec := api.EndpointSpec{Variants: []api.VariantSpec{{Model: v.Ref().String()}}}
	if _, err := db.StartRelease(ctx, spec, 0, rev, rel); err != nil {
		return err
	}
	rel.State, rel.Ended = api.ReleaseSucceeded, now
	return db.SaveRelease(ctx, rel, &api.Traffic{Current: 1, History: []api.RevisionNumber{1}, Changed: now})
}

// perceptron is a network of 2 MB; no two are alike.
func perceptron() func(i int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	weights := func(name string, from, to int) orttest.Tensor {
		values := make([]float32, from*to)
		for i := range values {
			values[i] = random.Float32() - 0.5
		}
		return orttest.Tensor{Name: name, Type: orttest.Float, Dims: []int64{int64(from), int64(to)}, Raw: orttest.Floats(values...)}
	}
	g := orttest.Graph{Name: "perceptron", Initializers: []orttest.Tensor{weights("w0", 64, 512), weights("w1", 512, 900), weights("w2", 900, 8)},
		Inputs:  []orttest.Value{{Name: "x", Type: orttest.Float, Shape: []any{"batch", 64}}},
		Outputs: []orttest.Value{{Name: "y", Type: orttest.Float, Shape: []any{"batch", 8}}}}
	from := "x"
	for i, w := range g.Initializers {
		product, out := fmt.Sprint("p", i), fmt.Sprint("t", i)
		if i == len(g.Initializers)-1 {
			out = "y"
		}
		g.Nodes = append(g.Nodes, orttest.Node{Op: "MatMul", Inputs: []string{from, w.Name}, Outputs: []string{product}},
			orttest.Node{Op: "Tanh", Inputs: []string{product}, Outputs: []string{out}})
		from = out
	}
	file := orttest.Model{Graph: g}.Encode()
	at := bytes.Index(file, g.Initializers[1].Raw[:64])
	return func(i int) []byte {
		own := slices.Clone(file)
		binary.LittleEndian.PutUint32(own[at:], uint32(i)) // a weight next to nothing
		return own
	}
}

// asker sends one small request after the other.
type asker struct {
	client *http.Client
	server *live.Server
	body   []byte
}

func newAsker(s *live.Server, values, conns int) *asker {
	data := make([]float32, values)
	body, _ := json.Marshal(map[string]any{"inputs": []any{map[string]any{"name": "x", "datatype": "FP32", "shape": []int{1, values}, "data": data}}})
	return &asker{client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: conns}, Timeout: time.Minute}, server: s, body: body}
}

func (a *asker) ask(i int) error {
	resp, err := a.client.Post("http://"+a.server.HTTP+"/v2/models/"+name(i)+"/infer", "application/json", bytes.NewReader(a.body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return err
}

// draw gives the number of the model that is asked for next: the n-th most popular one as often as 1/n.
func zipf(models int) func(random *rand.Rand) int {
	sums := make([]float64, models)
	sum := 0.0
	for i := range sums {
		sum += 1 / float64(i+1)
		sums[i] = sum
	}
	return func(random *rand.Rand) int {
		at, _ := slices.BinarySearch(sums, random.Float64()*sum)
		return min(at, models-1)
	}
}

// field reads a number of a process's status: Threads, or kB of VmRSS and its like.
func field(t *testing.T, pid int, name string) int64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in the status of process %d", name, pid)
	return 0
}

// workers sums a field up over the server's workers.
func workers(t *testing.T, s *live.Server, name string) (sum int64) {
	t.Helper()
	list, err := s.Workers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range list {
		sum += field(t, w.PID, name)
	}
	return sum
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// TestManySmallModels asks for far more models than fit into memory, by Zipf's law. No request may fail, and the workers
// stay within the budget. Then sleeping ones are asked for, one by one, and compared with the bare runtime.
func TestManySmallModels(t *testing.T) {
	const clients = 8
	models, room, requests, cold := 80, 20, 1500, 15
	if full() {
		models, room, requests, cold = 5000, 500, 20_000, 200
	}
	s := &shop{models: models, file: perceptron()}
	s.fill(t)
	const each, besides = 2220 << 10, 140 << 20 // bytes of one in memory, and of two workers without models
	budget := (int64(room)*each + besides) >> 20
	srv := live.Start(t, s.dir, func(c *server.Config) { c.ModelMemoryMB = budget })
	a := newAsker(srv, 64, clients)
	pick := zipf(models)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d; %d models, memory for about %d of them: %d MiB", seed, models, room, budget)
	churn := func(n int) (took []time.Duration) {
		all := make([][]time.Duration, clients)
		var callers sync.WaitGroup
		for i := range clients {
			random := rand.New(rand.NewPCG(seed, uint64(i+n)))
			callers.Go(func() {
				for range n / clients {
					begin := time.Now()
					if err := a.ask(pick(random)); err != nil {
						t.Errorf("a request failed: %v", err)
						return
					}
					all[i] = append(all[i], time.Since(begin))
				}
			})
		}
		callers.Wait()
		return slices.Concat(all...)
	}
	churn(requests / 4)
	threads := field(t, srv.PID, "Threads") + workers(t, srv, "Threads")
	begin := time.Now()
	took := churn(requests)
	span := time.Since(begin)
	after := field(t, srv.PID, "Threads") + workers(t, srv, "Threads")
	slices.Sort(took)
	t.Logf("%d requests of %d clients in %v: p50 %v, p90 %v, p99 %v; threads %d before, %d after", len(took), clients, span.Round(time.Millisecond),
		took[len(took)/2], took[len(took)*9/10], took[len(took)*99/100], threads, after)
	if after > threads+int64(clients)+8 {
		t.Errorf("threads grew from %d to %d", threads, after)
	}
	resident := workers(t, srv, "RssAnon") >> 10
	t.Logf("the workers hold %d MiB of %d after the churn (%.1f %%)", resident, budget, 100*float64(resident)/float64(budget))
	// Beside few models, what a worker keeps anyway (a buffer of 4 MiB; the race detector takes several times as much for it)
	// weighs more than a tenth.
	if over := resident - budget; full() && (over > budget/10 || over < -budget/10) || over > max(budget/10, 48) {
		t.Errorf("that is not within 10 %% of the budget")
	}
	s.compare(t, srv, a, cold)
}

// compare asks for models that sleep, and opens the same files in the bare runtime in between, so that both meet the same
// machine.
func (s *shop) compare(t *testing.T, srv *live.Server, a *asker, cold int) {
	rt, err := ort.Open(filepath.Join(os.TempDir(), fmt.Sprintf("penstock-test-%d", os.Getuid())), ort.Options{IntraThreads: max(1, runtime.NumCPU()/2), InterThreads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	for range 2 { // those of the tail come in and go again: what is measured then was in memory before
		for i := s.models - 2*cold; i < s.models; i++ {
			if err := a.ask(i); err != nil {
				t.Fatal(err)
			}
		}
	}
	var woken, bare []time.Duration
	file := filepath.Join(t.TempDir(), "model.onnx")
	for i := s.models - 2*cold; i < s.models && len(woken) < cold; i++ {
		ep, err := srv.Endpoint(t.Context(), api.EndpointName(name(i)))
		if err != nil {
			t.Fatal(err)
		}
		if !ep.Status.Variants[0].Asleep {
			continue
		}
		begin := time.Now()
		if err := a.ask(i); err != nil {
			t.Fatal(err)
		}
		woken = append(woken, time.Since(begin))
		if err := os.WriteFile(file, s.file(i), 0o600); err != nil {
			t.Fatal(err)
		}
		begin = time.Now()
		session, err := rt.LoadFile(t.Context(), file, ort.SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		bare = append(bare, time.Since(begin))
		session.Close()
	}
	if len(woken) == 0 {
		t.Fatal("no model sleeps")
	}
	w, b := median(woken), median(bare)
	t.Logf("a request that wakes a model, p50 of %d: %v; the bare session, p50: %v; ratio %.2f", len(woken), w, b, float64(w)/float64(b))
	if full() && (w > 15*time.Millisecond || w > 2*b) {
		t.Errorf("waking takes longer than 15 ms, or than twice the bare session")
	}
}

// TestStartWithManyEndpoints starts a server on a directory with very many deployed models.
func TestStartWithManyEndpoints(t *testing.T) {
	models := 300
	if full() {
		models = 10_000
	}
	s := &shop{models: models, file: func(i int) []byte {
		m := orttest.Linear(4, 2, false)
		m.Graph.Name = name(i)
		return m.Encode()
	}}
	s.fill(t)
	one := &shop{models: 1, file: s.file}
	one.fill(t)
	var base, much int64
	t.Run("base", func(t *testing.T) { base = s.measure(t, one.dir, nil) })
	t.Run("all", func(t *testing.T) { much = s.measure(t, s.dir, s) })
	each := (much - base) / int64(models)
	t.Logf("a sleeping model takes %d bytes of the server", each)
	if full() && each > 4<<10 {
		t.Errorf("a sleeping model takes more than 4 KiB")
	}
}

// measure starts a server, and gives the bytes of its heap.
func (s *shop) measure(t *testing.T, dir string, all *shop) (heap int64) {
	begin := time.Now()
	srv := live.Start(t, dir, func(c *server.Config) { c.ModelMemoryMB = 64 })
	ready := time.Since(begin)
	if all != nil {
		a := newAsker(srv, 4, 1)
		if err := a.ask(all.models / 2); err != nil {
			t.Error(err)
		}
		var best []time.Duration
		for range 20 {
			begin := time.Now()
			resp, err := a.client.Post("http://"+srv.HTTP+"/v2/repository/index", "application/json", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err != nil || n < int64(all.models)*20 {
				t.Fatalf("index of %d bytes: %v", n, err)
			}
			best = append(best, time.Since(begin))
		}
		t.Logf("%d endpoints: ready after %v, repository index p50 %v", all.models, ready.Round(time.Millisecond), median(best))
		if full() && (ready > 3*time.Second || median(best) > 10*time.Millisecond) {
			t.Errorf("the start takes more than 3 s, or the index more than 10 ms")
		}
	}
	heap = heapOf(t, srv)
	srv.Kill()
	return heap
}

// heapOf reads what the server's heap holds after a collection, once what a start still does beside requests is done
// (comparing files and rollbacks with their records) and two readings are as good as the same.
func heapOf(t *testing.T, srv *live.Server) int64 {
	t.Helper()
	last := heapNow(t, srv)
	for range 30 {
		<-time.After(time.Second)
		now := heapNow(t, srv)
		if now > last-last/100 {
			return now
		}
		last = now
	}
	t.Fatal("the heap goes on shrinking")
	return 0
}

func heapNow(t *testing.T, srv *live.Server) int64 {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(srv.Dir, "secrets", "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	for range 2 { // what the first collection finds to finalize the second one frees
		r, err := http.NewRequest(http.MethodGet, "http://"+srv.Metrics+"/debug/pprof/heap?gc=1&debug=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(key)))
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("heap profile: %s %v", resp.Status, err)
		}
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "# HeapAlloc = "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the profile does not tell of the heap")
	return 0
}

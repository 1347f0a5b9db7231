package server_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/ort/orttest"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// adding writes a model that adds a number, or a random one with a seed.
func adding(t *testing.T, n float32, random bool) string {
	t.Helper()
	x := orttest.Value{Name: "x", Type: orttest.Float, Shape: []any{"batch", 2}}
	y := orttest.Value{Name: "y", Type: orttest.Float, Shape: []any{"batch", 2}}
	g := orttest.Graph{Inputs: []orttest.Value{x}, Outputs: []orttest.Value{y},
		Initializers: []orttest.Tensor{{Name: "n", Type: orttest.Float, Dims: []int64{1}, Raw: orttest.Floats(n)}}}
	if random {
		g.Nodes = append(g.Nodes, orttest.Node{Op: "RandomNormalLike", Inputs: []string{"x"}, Outputs: []string{"m"},
			Attributes: []orttest.Attribute{{Name: "seed", Value: float32(7)}}},
			orttest.Node{Op: "Add", Inputs: []string{"m", "n"}, Outputs: []string{"y"}})
	} else {
		g.Nodes = append(g.Nodes, orttest.Node{Op: "Add", Inputs: []string{"x", "n"}, Outputs: []string{"y"}})
	}
	file := filepath.Join(t.TempDir(), "model.onnx")
	model := orttest.Model{Graph: g}
	if err := os.WriteFile(file, model.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// answer is what one inference over HTTP gave.
type answer struct {
	cache, version string
	y              []float64
}

func (l *live) infer(t *testing.T, x float64, header ...string) answer {
	t.Helper()
	body := fmt.Sprintf(`{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[%g,%g]}]}`, x, x)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+l.HTTP+"/v2/models/sum/infer", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %s %v", resp.StatusCode, text, err)
	}
	var got struct{ Outputs []struct{ Data []float64 } }
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	return answer{cache: resp.Header.Get("Cache-Status"), version: resp.Header.Get("Penstock-Version"), y: got.Outputs[0].Data}
}

func (l *live) release(t *testing.T, body string) int {
	t.Helper()
	return l.do(t, "PUT", "/api/v1/tenants/default/endpoints/sum?wait=60s", "application/json", []byte(body), nil)
}

// TestResponseCache follows a cache from its deployment over hits, opt-outs, another version and a rollback to its end, at the
// doors that users have.
func TestResponseCache(t *testing.T) {
	l := start(t, t.TempDir())
	l.push(t, adding(t, 1, false), "sum")
	l.push(t, adding(t, 2, false), "sum")
	const cached = `{"variants":[{"model":"sum@%d","serving":{"cache":{"bytes":1048576,"ttl_ms":600000}}}]}`
	if code := l.release(t, fmt.Sprintf(cached, 1)); code != 200 {
		t.Fatalf("deploy: %d", code)
	}
	want := func(x float64, cache, version string, header ...string) {
		t.Helper()
		got := l.infer(t, x, header...)
		sum := x + float64(version[0]-'0')
		if got.cache != cache || got.version != version || got.y[0] != sum || got.y[1] != sum {
			t.Errorf("%g: got %+v, want %q from version %s", x, got, cache, version)
		}
	}
	want(1, "penstock; fwd=miss; stored", "1")
	want(1, "penstock; hit", "1")
	want(2, "penstock; fwd=miss; stored", "1")
	want(1, "penstock; fwd=request; stored", "1", "Cache-Control", "no-cache")
	want(3, "penstock; fwd=request", "1", "Cache-Control", "no-store, no-transform")
	want(3, "penstock; fwd=miss; stored", "1", "Cache-Control", "max-age=60")
	overGRPC(t, l)
	numbers(t, l)

	if code := l.release(t, fmt.Sprintf(cached, 2)); code != 200 {
		t.Fatalf("deploy: %d", code)
	}
	want(1, "penstock; fwd=miss; stored", "2")
	want(1, "penstock; hit", "2")
	if code := l.do(t, "POST", "/api/v1/tenants/default/endpoints/sum/rollback", "application/json", []byte(`{}`), nil); code != 200 {
		t.Fatalf("rollback: %d", code)
	}
	want(1, "penstock; fwd=miss; stored", "1")
	want(1, "penstock; hit", "1")
	if code := l.release(t, `{"variants":[{"model":"sum@1"}]}`); code != 200 {
		t.Fatalf("deploy: %d", code)
	}
	want(1, "", "1")
	if metrics := l.metrics(t); !strings.Contains(metrics, "\npenstock_cache_bytes 0\n") {
		t.Error("an endpoint without a cache holds memory of one")
	}
}

// overGRPC asks what HTTP has asked already.
func overGRPC(t *testing.T, l *live) {
	t.Helper()
	conn, err := grpc.NewClient(l.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := wire.NewGRPCInferenceServiceClient(conn)
	ask := func(control string) string {
		var header metadata.MD
		_, err := client.ModelInfer(metadata.AppendToOutgoingContext(t.Context(), "cache-control", control), &wire.ModelInferRequest{ModelName: "sum",
			Inputs: []*wire.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{1, 2},
				Contents: &wire.InferTensorContents{Fp32Contents: []float32{1, 1}}}}}, grpc.Header(&header))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(header.Get("cache-status"), "|")
	}
	if first, second := ask(""), ask("no-store"); first != "penstock; hit" || second != "penstock; fwd=request" {
		t.Errorf("over gRPC: %q, then %q", first, second)
	}
	config, err := client.ModelConfig(t.Context(), &wire.ModelConfigRequest{Name: "sum"})
	if err != nil || !config.GetConfig().GetResponseCache().GetEnable() {
		t.Errorf("the configuration names no response cache: %v, %v", config, err)
	}
}

// numbers looks at what was counted: two hits, four misses, two that passed by, and eight altogether.
func numbers(t *testing.T, l *live) {
	t.Helper()
	var stats struct {
		Models []struct {
			Runs  uint64 `json:"execution_count"`
			Infer struct {
				Success api.Spent `json:"success"`
				Hit     api.Spent `json:"cache_hit"`
				Miss    api.Spent `json:"cache_miss"`
			} `json:"inference_stats"`
		} `json:"model_stats"`
	}
	if code := l.do(t, "GET", "/v2/models/sum/stats", "", nil, &stats); code != 200 {
		t.Fatalf("statistics: %d", code)
	}
	s := stats.Models[0]
	if s.Infer.Hit.Count != 2 || s.Infer.Hit.NS == 0 || s.Infer.Miss.Count != 4 || s.Runs != 6 || s.Infer.Success.Count != 8 {
		t.Errorf("counted %+v", s)
	}
	var now api.Statistics
	if code := l.do(t, "GET", "/api/v1/tenants/default/statistics?window=1m", "", nil, &now); code != 200 {
		t.Fatalf("statistics: %d", code)
	}
	e := now.Endpoints[0]
	if e.Endpoint != "sum" || e.Rate <= 0 || e.P99 <= 0 || e.CacheHits < .32 || e.CacheHits > .34 || e.CacheEntries != 3 || e.CacheBytes == 0 ||
		e.CacheLimit != 1<<20 || len(now.Workers) != 2 || now.Workers[0].Resident == 0 {
		t.Errorf("now %+v", now)
	}
	metrics := l.metrics(t)
	for _, line := range []string{`penstock_cache_hits_total{endpoint="sum",model="sum",tenant="default",variant="main",version="1"} 2`,
		`penstock_cache_misses_total{endpoint="sum",model="sum",tenant="default",variant="main",version="1"} 4`,
		`penstock_copied_bytes_total{endpoint="sum",model="sum",tenant="default",variant="main",version="1"} 32`,
		`nv_cache_num_hits_per_model{model="sum",tenant="default",version="1"} 2`} {
		if !strings.Contains(metrics, line) {
			t.Errorf("the metrics have no line %s", line)
		}
	}
}

func (l *live) metrics(t *testing.T) string {
	t.Helper()
	resp, err := http.Get("http://" + l.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestIdenticalAtOnce sends many identical requests together: the runtime runs once, or a few times where the first was over
// before the next came.
func TestIdenticalAtOnce(t *testing.T) {
	l := start(t, t.TempDir())
	l.push(t, adding(t, 1, false), "sum")
	if code := l.release(t, `{"variants":[{"model":"sum@1","serving":{"cache":{"bytes":65536,"ttl_ms":1}}}]}`); code != 200 {
		t.Fatalf("deploy: %d", code)
	}
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 50 {
				if x := float64(g % 2); l.infer(t, x).y[0] != x+1 {
					t.Errorf("round %d: another question's answer", i)
				}
			}
		})
	}
	all.Wait()
	exchanges := l.logs(t)
	cached := 0
	for _, x := range exchanges {
		if x.Cached {
			cached++
		}
	}
	if len(exchanges) != 400 || cached == 0 {
		t.Errorf("%d of %d exchanges needed no run", cached, len(exchanges))
	}
}

func (l *live) logs(t *testing.T) []api.Exchange {
	t.Helper()
	var page api.List[api.Exchange]
	if code := l.do(t, "GET", "/api/v1/tenants/default/logs?limit=1000", "", nil, &page); code != 200 {
		t.Fatalf("logs: %d", code)
	}
	return page.Items
}

// TestRandomModelsAreNotCached: a seed does not make a model answer the same twice, so that its operators alone decide.
func TestRandomModelsAreNotCached(t *testing.T) {
	l := start(t, t.TempDir())
	l.push(t, adding(t, 1, true), "sum")
	if code := l.release(t, `{"variants":[{"model":"sum@1","serving":{"cache":{"bytes":65536}}}]}`); code != 422 && code != 409 && code != 400 {
		t.Errorf("deploy with a cache: %d", code)
	}
	if code := l.release(t, `{"variants":[{"model":"sum@1","serving":{"replicas":1}}]}`); code != 200 {
		t.Fatalf("deploy: %d", code)
	}
	if a, b := l.infer(t, 1), l.infer(t, 1); a.y[0] == b.y[0] {
		t.Errorf("%v twice: the reason for refusing it is gone", a.y)
	}
	for _, spec := range []string{`{"bytes":1}`, `{"bytes":65536,"ttl_ms":-1}`, `{}`, `{"bytes":65536,"entries":1}`} {
		if code := l.release(t, `{"variants":[{"model":"sum@1","serving":{"cache":`+spec+`}}]}`); code != 400 && code != 422 {
			t.Errorf("cache %s: %d", spec, code)
		}
	}
}

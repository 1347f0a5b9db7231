package fault_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	wire "github.com/penstock/penstock/internal/wire/oip"
	"github.com/penstock/penstock/test/live"
)

// controlPanel calls the extensions of one server.
type controlPanel struct {
	*live.Server
	three []byte // an inference
}

func newPanel(t *testing.T, s *live.Server) controlPanel {
	t.Helper()
	three, err := os.ReadFile("../../demo/three.json")
	if err != nil {
		t.Fatal(err)
	}
	return controlPanel{s, three}
}

func (c controlPanel) call(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	code, text, err := c.send(t.Context(), method, "http://"+c.HTTP+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return code, text
}

func (c controlPanel) send(ctx context.Context, method, url, body string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

// want wants a status and a part of the answer.
func (c controlPanel) want(t *testing.T, method, path, body string, code int, part string) {
	t.Helper()
	if got, text := c.call(t, method, path, body); got != code || !strings.Contains(text, part) {
		t.Fatalf("%s %s: %d %s\nwant %d %s", method, path, got, text, code, part)
	}
}

func (c controlPanel) answers(t *testing.T, want string) {
	t.Helper()
	if version, _, err := live.Ask(t.Context(), http.DefaultClient, c.HTTP, "digits", c.three); err != nil || version != want {
		t.Fatalf("version %s answers, want %s: %v", version, want, err)
	}
}

// idle waits until no worker holds a model.
func (c controlPanel) idle(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := c.Workers(ctx)
		if err != nil {
			t.Fatal(err)
		}
		held := 0
		for _, w := range list {
			held += len(w.Instances)
		}
		if held == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d replicas stay loaded", held)
		}
	}
}

const (
	loadDigits   = "/v2/repository/models/digits/load"
	unloadDigits = "/v2/repository/models/digits/unload"
	indexPath    = "/v2/repository/index"
)

// TestRepository unloads and loads an endpoint while it is called, over a kill of the server, and by a deploy.
func TestRepository(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	s := newPanel(t, live.Start(t, dir))
	for _, file := range []string{"digits-v1.onnx", "digits-v2.onnx"} {
		if _, err := s.Push(ctx, "digits", live.Model(t, file, "")); err != nil {
			t.Fatal(err)
		}
	}
	s.want(t, "POST", indexPath, "", 200, "[]")
	s.want(t, "POST", loadDigits, "", 404, "failed to load 'digits'")
	if _, err := s.Release(ctx, "digits", "digits@1"); err != nil {
		t.Fatal(err)
	}
	s.want(t, "POST", indexPath, "", 200, `[{"name":"digits","version":"1","state":"READY","reason":""}]`)
	s.want(t, "POST", loadDigits, "", 200, "")
	s.answers(t, "1")

	s.want(t, "POST", unloadDigits, "", 200, "")
	s.want(t, "POST", indexPath, "", 200, `"state":"UNAVAILABLE","reason":"unloaded"`)
	s.want(t, "POST", indexPath, `{"ready":true}`, 200, "[]")
	for _, path := range []string{"", "/ready", "/stats"} {
		s.want(t, "GET", "/v2/models/digits"+path, "", 503, "Request for unknown model: 'digits' has no available versions")
	}
	s.want(t, "POST", "/v2/models/digits/infer", string(s.three), 503, "Request for unknown model: 'digits' has no available versions")
	rpc := wire.NewGRPCInferenceServiceClient(dial(t, s.GRPC))
	if ready, err := rpc.ModelReady(ctx, &wire.ModelReadyRequest{Name: "digits"}); err != nil || ready.Ready {
		t.Errorf("over gRPC: %v, %v", ready, err)
	}
	s.idle(t)

	s.Kill()
	s = newPanel(t, live.Start(t, dir))
	s.want(t, "POST", indexPath, "", 200, `"state":"UNAVAILABLE","reason":"unloaded"`)
	s.idle(t)
	s.want(t, "POST", loadDigits, "", 200, "")
	s.answers(t, "1")
	rpc = wire.NewGRPCInferenceServiceClient(dial(t, s.GRPC))
	if _, err := rpc.RepositoryModelUnload(ctx, &wire.RepositoryModelUnloadRequest{ModelName: "digits"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Release(ctx, "digits", "digits@2"); err != nil {
		t.Fatal(err)
	}
	s.answers(t, "2")

	page, err := s.Events(ctx, client.EventQuery{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, e := range page.Items {
		if strings.HasPrefix(e.Kind, "endpoint.") {
			kinds = append(kinds, e.Kind)
		}
	}
	if want := []string{"endpoint.unloaded", "endpoint.loaded", "endpoint.unloaded"}; !slices.Equal(kinds, want) {
		t.Errorf("events %v", kinds)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

// TestLoadUnderTraffic unloads and loads while callers keep asking: each is answered, by the model or by word that it is
// not there, and right after a load by the model.
func TestLoadUnderTraffic(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newPanel(t, live.Start(t, t.TempDir()))
	if _, err := s.Push(ctx, "digits", live.Model(t, "digits-v1.onnx", "")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Release(ctx, "digits", "digits@1"); err != nil {
		t.Fatal(err)
	}
	var good, refused atomic.Int64
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				code, text, err := s.send(ctx, "POST", "http://"+s.HTTP+"/v2/models/digits/infer", string(s.three))
				switch {
				case err == nil && code == 200:
					good.Add(1)
				case err == nil && code == 503 && strings.Contains(text, "has no available versions"):
					refused.Add(1)
				default:
					t.Errorf("%d %s %v", code, text, err)
				}
			}
		})
	}
	for range 5 {
		s.want(t, "POST", unloadDigits, "", 200, "")
		s.want(t, "POST", "/v2/models/digits/infer", string(s.three), 503, "has no available versions")
		s.want(t, "POST", loadDigits, "", 200, "")
		s.answers(t, "1")
	}
	close(stop)
	callers.Wait()
	if good.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d answered, %d refused", good.Load(), refused.Load())
	}
	t.Logf("%d answered, %d refused", good.Load(), refused.Load())
}

// TestStatisticsLive compares what the statistics and the metrics count with what was asked, right after the asking.
func TestStatisticsLive(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newPanel(t, live.Start(t, t.TempDir()))
	if _, err := s.Push(ctx, "digits", live.Model(t, "digits-v1.onnx", "")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Release(ctx, "digits", "digits@1"); err != nil {
		t.Fatal(err)
	}
	s.want(t, "GET", "/v2/models/stats", "", 200, `"name":"digits","version":"1","last_inference":0,"inference_count":0`)
	s.want(t, "GET", "/v2", "", 200, `"statistics"`)
	rows := strings.TrimSuffix(strings.Repeat("1,", 64*3), ",")
	for range 2 {
		s.answers(t, "1")
		s.want(t, "POST", "/v2/models/digits/infer", fmt.Sprintf(`{"inputs":[{"name":"image","datatype":"FP32","shape":[3,64],"data":[%s]}]}`, rows), 200, "")
	}
	_, text := s.call(t, "GET", "/v2/models/digits/versions/1/stats", "")
	var got struct {
		Stats []struct {
			Last  int64 `json:"last_inference"`
			Items int   `json:"inference_count"`
			Runs  int   `json:"execution_count"`
			Infer map[string]struct{ Count, NS int64 }
			Batch []struct {
				Size int `json:"batch_size"`
			} `json:"batch_stats"`
		} `json:"model_stats"`
	}
	decoder := json.NewDecoder(bytes.NewReader([]byte(strings.ReplaceAll(text, "inference_stats", "Infer"))))
	if err := decoder.Decode(&got); err != nil || len(got.Stats) != 1 {
		t.Fatal(text, err)
	}
	one := got.Stats[0]
	if one.Items != 8 || one.Runs != 4 || len(one.Batch) != 2 || one.Infer["success"].Count != 4 || one.Infer["compute_infer"].NS == 0 ||
		one.Infer["success"].NS < one.Infer["compute_infer"].NS || len(one.Infer) != 8 || time.Since(time.UnixMilli(one.Last)).Abs() > time.Hour {
		t.Errorf("statistics %s", text)
	}
	rpc := wire.NewGRPCInferenceServiceClient(dial(t, s.GRPC))
	stats, err := rpc.ModelStatistics(ctx, &wire.ModelStatisticsRequest{})
	if err != nil || len(stats.ModelStats) != 1 || stats.ModelStats[0].InferenceCount != 8 || stats.ModelStats[0].ExecutionCount != 4 {
		t.Errorf("over gRPC: %v, %v", stats, err)
	}
	code, metrics, err := s.send(ctx, "GET", "http://"+s.Metrics+"/metrics", "")
	for _, line := range []string{"request_success", "exec_count"} {
		if want := "nv_inference_" + line + `{model="digits",tenant="default",version="1"} 4`; err != nil || code != 200 || !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s (%v)", want, err)
		}
	}
	s.want(t, "POST", "/v2/logging", `{"log_verbose_level":1}`, 200, `"log_verbose_level":1`)
	s.want(t, "POST", "/v2/trace/setting", `{"trace_level":["TIMESTAMPS"]}`, 400, "no collector")
}

// TestTenantsOfRepository asks for acme's endpoint with the keys of globex, and with those of acme that may not.
func TestTenantsOfRepository(t *testing.T) {
	t.Parallel()
	e := newEstate(t)
	for _, scope := range api.Scopes {
		key := e.keys["globex "+string(scope)]
		if code, text, _ := e.ask(t, key, "POST", indexPath, "", false); code != 200 || string(text) != "[]" {
			t.Errorf("index with globex %s: %d %s", scope, code, text)
		}
		if code, text, _ := e.ask(t, key, "GET", "/v2/models/stats", "", false); code != 200 || string(text) != `{"model_stats":[]}` {
			t.Errorf("statistics with globex %s: %d %s", scope, code, text)
		}
		for method, paths := range map[string][]string{"POST": {"/v2/repository/models/%s-endpoint/load", "/v2/repository/models/%s-endpoint/unload"},
			"GET": {"/v2/models/%s-endpoint/stats", "/v2/models/%s-endpoint/versions/1/stats", "/v2/models/%s-endpoint/trace/setting"}} {
			for _, path := range paths {
				code, text, _ := e.ask(t, key, method, fmt.Sprintf(path, "secret"), "", false)
				missingCode, missing, _ := e.ask(t, key, method, fmt.Sprintf(path, "absent"), "", false)
				if code < 400 || code != missingCode || strings.ReplaceAll(string(text), "secret-", "absent-") != string(missing) {
					t.Errorf("%s with globex %s: %d %s\nand a missing one: %d %s", path, scope, code, text, missingCode, missing)
				}
			}
		}
		may := scope == api.ScopeWrite || scope == api.ScopeAdmin
		code, text, _ := e.ask(t, e.keys["acme "+string(scope)], "POST", "/v2/repository/models/secret-endpoint/load", "", false)
		if may && code != 200 || !may && (code != 403 || !strings.Contains(string(text), "explicit model load / unload is not allowed")) {
			t.Errorf("load with acme %s: %d %s", scope, code, text)
		}
		if code, text, _ := e.ask(t, e.keys["acme "+string(scope)], "POST", "/v2/logging", `{"log_info":true}`, false); code != 403 {
			t.Errorf("logging with acme %s: %d %s", scope, code, text)
		}
	}
	if code, text, _ := e.ask(t, e.keys["acme infer"], "POST", indexPath, "", false); code != 200 || !strings.Contains(string(text), `"name":"secret-endpoint"`) {
		t.Errorf("acme's own index: %d %s", code, text)
	}
	if code, text, _ := e.ask(t, e.root, "POST", "/v2/logging", `{"log_info":true}`, false); code != 200 {
		t.Errorf("logging by the administrator: %d %s", code, text)
	}
}

package oip_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
	"github.com/penstock/penstock/internal/gateway/oip"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// backstage stands for rollout, the recorder and the log.
type backstage struct {
	mu     sync.Mutex
	moves  []string
	level  slog.Level
	every  int
	blind  bool // no collector
	failed error
}

func (b *backstage) Index(t api.TenantID) []api.ModelIndex {
	if t != "acme" {
		return nil
	}
	return []api.ModelIndex{{Endpoint: "echo", Version: 3, State: api.ModelReady},
		{Endpoint: "idle", Version: 7, State: api.ModelUnavailable, Reason: `un"loaded`}, {Endpoint: "new", State: api.ModelLoading}}
}

func (b *backstage) move(act string, p *api.Principal, e api.EndpointName) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e == "absent" {
		return api.Fail(api.CodeEndpointNotFound, "absent", "no such endpoint in this tenant")
	}
	b.moves = append(b.moves, act+" "+string(p.Tenant)+"/"+string(e))
	return b.failed
}

func (b *backstage) Load(_ context.Context, p *api.Principal, e api.EndpointName) error {
	return b.move("load", p, e)
}

func (b *backstage) Unload(_ context.Context, p *api.Principal, e api.EndpointName) error {
	return b.move("unload", p, e)
}

func (b *backstage) Statistics(t api.TenantID, _ api.EndpointName) []api.ModelStatistics {
	return []api.ModelStatistics{{Tenant: t, Endpoint: "echo", Version: 3, Last: 1_700_000_000_123_456, Items: 1 << 60, Runs: 2,
		Succeeded: api.Spent{Count: 2, NS: 9}, Failed: api.Spent{Count: 1, NS: 4}, Queue: api.Spent{Count: 2, NS: 1},
		Compute: api.Spent{Count: 2, NS: 6}, Batches: []api.BatchStatistics{{Size: 4, Compute: api.Spent{Count: 2, NS: 6}}}}}
}

func (b *backstage) LogLevel() slog.Level         { return b.level }
func (b *backstage) SetLogLevel(level slog.Level) { b.level = level }
func (b *backstage) TraceEvery() (int, bool)      { return b.every, !b.blind }
func (b *backstage) SetTraceEvery(every int) bool { b.every = every; return !b.blind }

// keyring knows a key per scope, of acme, and an administrator of tenant default.
type keyring struct{}

func (keyring) Authenticate(authorization []string) (*api.Principal, error) {
	if len(authorization) != 1 {
		return nil, api.Fail(api.CodeUnauthenticated, "", "no valid key was sent")
	}
	tenant, scope, _ := strings.Cut(strings.TrimPrefix(authorization[0], "Bearer "), "-")
	return &api.Principal{Tenant: api.TenantID(tenant), Key: "k", Name: scope, Scopes: []api.Scope{api.Scope(scope)}}, nil
}

// startControls runs a gateway with the extensions. Keys are "TENANT-SCOPE".
func startControls(t *testing.T, b *backstage) *bench {
	t.Helper()
	f := &walk{ready: true}
	g, err := gateway.New(gateway.Options{Config: gateway.DefaultConfig(), Guard: keyring{}, Ready: func() bool { return true }, Codec: wire.Codec{}})
	if err != nil {
		t.Fatal(err)
	}
	oip.Attach(g, oip.Options{Server: f, Name: "penstock", Version: "1.0", Repository: b, Statistics: b, Settings: b})
	web, rpc := listen(t), listen(t)
	server := g.Config().HTTP(g.Handler(), nil)
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(web) })
	running.Go(func() { _ = g.GRPC().Serve(rpc) })
	t.Cleanup(func() {
		server.Close()
		g.GRPC().Stop()
		running.Wait()
	})
	return &bench{walk: f, gateway: g, url: "http://" + web.Addr().String(), grpc: rpc.Addr().String()}
}

func (b *bench) ask(t *testing.T, key, method, path, body string) (int, string) {
	t.Helper()
	answer, err := http.DefaultClient.Do(b.request(t, method, path, body, "Authorization", "Bearer "+key))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

const zeros = `{"count":0,"ns":0}`

const echoStatistics = `{"model_stats":[{"name":"echo","version":"3","last_inference":1700000000123,"inference_count":1152921504606846976,` +
	`"execution_count":2,"inference_stats":{"success":{"count":2,"ns":9},"fail":{"count":1,"ns":4},"queue":{"count":2,"ns":1},` +
	`"compute_input":{"count":2,"ns":0},"compute_infer":{"count":2,"ns":6},"compute_output":{"count":2,"ns":0},` +
	`"cache_hit":` + zeros + `,"cache_miss":` + zeros + `},"response_stats":{},"batch_stats":[{"batch_size":4,` +
	`"compute_input":{"count":2,"ns":0},"compute_infer":{"count":2,"ns":6},"compute_output":{"count":2,"ns":0}}],"memory_usage":[]}]}`

func TestControlsHTTP(t *testing.T) {
	const index = `[{"name":"echo","version":"3","state":"READY","reason":""}`
	const settings = `{"log_file":"","log_info":true,"log_warning":true,"log_error":true,"log_verbose_level":0,"log_format":"ISO8601"}`
	const traces = `{"log_frequency":"0","trace_count":"-1","trace_file":"","trace_level":["TIMESTAMPS"],"trace_mode":"opentelemetry","trace_rate":"50"}`
	for _, tc := range []struct {
		name, key, method, path, body string
		status                        int
		want                          string // the whole of a 200, a part of an error
	}{
		{"index", "acme-infer", "POST", "/v2/repository/index", "", 200, index + `,{"name":"idle","version":"7","state":"UNAVAILABLE","reason":"un\"loaded"},{"name":"new","state":"LOADING","reason":""}]`},
		{"index of what is ready", "acme-infer", "POST", "/v2/repository/index", `{"ready":true}`, 200, index + `]`},
		{"index of a tenant without any", "beta-infer", "POST", "/v2/repository/index?ready=x", `{}`, 200, `[]`},
		{"index, unknown field", "acme-infer", "POST", "/v2/repository/index", `{"Ready":true}`, 400, "Ready"},
		{"index, wrong method", "acme-infer", "GET", "/v2/repository/index", "", 405, "Method Not Allowed"},
		{"index of a repository", "acme-infer", "POST", "/v2/repository/other/index", "", 501, "repository_name"},
		{"no such path", "acme-infer", "POST", "/v2/repository/models/echo/reload", "", 404, "Not Found"},
		{"load", "acme-write", "POST", "/v2/repository/models/echo/load", "", 200, ""},
		{"unload", "acme-admin", "POST", "/v2/repository/models/echo/unload", `{"parameters":{"unload_dependents":true}}`, 200, ""},
		{"load in a repository", "acme-write", "POST", "/v2/repository/r/models/echo/load", "", 501, "repository_name"},
		{"load without the scope", "acme-infer", "POST", "/v2/repository/models/absent/load", "", 403, "explicit model load / unload is not allowed"},
		{"load of what is not there", "acme-write", "POST", "/v2/repository/models/absent/load", "", 404, "failed to load 'absent', no such endpoint"},
		{"unload of what is not there", "acme-write", "POST", "/v2/repository/models/absent/unload", "", 404, "failed to unload 'absent', no such endpoint"},
		{"load with settings", "acme-write", "POST", "/v2/repository/models/echo/load", `{"parameters":{"config":"{}"}}`, 400, "'config' is refused"},
		{"load with a file", "acme-write", "POST", "/v2/repository/models/echo/load", `{"parameters":{"file:1/model.onnx":"aGk="}}`, 400, "is refused"},
		{"load with something", "acme-write", "POST", "/v2/repository/models/echo/load", `{"parameters":{"x":1}}`, 400, "takes no parameter 'x'"},
		{"unload by a number", "acme-write", "POST", "/v2/repository/models/echo/unload", `{"parameters":{"unload_dependents":1}}`, 400, "true or false"},
		{"load by a path", "acme-write", "POST", "/v2/repository/models/..%2fx/load", "", 400, ""},
		{"load of two dots", "acme-write", "POST", "/v2/repository/models/a..b/load", "", 400, "'..'"},
		{"a large body", "acme-write", "POST", "/v2/repository/models/echo/load", strings.Repeat(" ", 65<<10), 413, "65536"},

		{"statistics", "acme-infer", "GET", "/v2/models/stats", "", 200, echoStatistics},
		{"statistics of one", "acme-infer", "GET", "/v2/models/echo/stats", "", 200, echoStatistics},
		{"statistics of a version", "acme-infer", "GET", "/v2/models/echo/versions/3/stats", "", 200, echoStatistics},
		{"statistics of another version", "acme-infer", "GET", "/v2/models/echo/versions/4/stats", "", 404, "Request for unknown model"},
		{"statistics of a foreign endpoint", "acme-infer", "GET", "/v2/models/secret/stats", "", 404, "Request for unknown model: 'secret' is not found"},
		{"statistics of a version -1", "acme-infer", "GET", "/v2/models/echo/versions/-1/stats", "", 400, "number"},
		{"statistics by POST", "acme-infer", "POST", "/v2/models/echo/stats", "", 405, "Method Not Allowed"},

		{"log settings", "acme-infer", "GET", "/v2/logging", "", 200, settings},
		{"log level", "default-admin", "POST", "/v2/logging", `{"log_verbose_level":2}`, 200, strings.Replace(settings, `l":0`, `l":1`, 1)},
		{"log level back", "default-admin", "POST", "/v2/logging", `{"log_verbose_level":0,"log_file":"","log_format":"ISO8601"}`, 200, settings},
		{"log of nothing", "default-admin", "POST", "/v2/logging", `{"log_info":false,"log_warning":false,"log_error":false}`, 200, strings.ReplaceAll(settings, "true", "false")},
		{"log of everything", "default-admin", "POST", "/v2/logging", `{"log_info":true,"log_warning":true,"log_error":true}`, 200, settings},
		{"info without warnings", "default-admin", "POST", "/v2/logging", `{"log_warning":false}`, 400, "log_info needs log_warning"},
		{"verbose without info", "default-admin", "POST", "/v2/logging", `{"log_info":false,"log_verbose_level":1}`, 400, "log_verbose_level"},
		{"log to a file", "default-admin", "POST", "/v2/logging", `{"log_file":"/etc/cron.d/x"}`, 400, "log_file is refused"},
		{"another format", "default-admin", "POST", "/v2/logging", `{"log_format":"default"}`, 400, "log_format is ISO8601"},
		{"no log setting", "default-admin", "POST", "/v2/logging", `{"log_all":true}`, 400, "log_all"},
		{"another tenant's administrator", "acme-admin", "POST", "/v2/logging", `{"log_info":true}`, 403, "tenant default"},
		{"not an administrator", "default-write", "POST", "/v2/logging", `{"log_info":true}`, 403, "tenant default"},

		{"trace settings", "acme-infer", "GET", "/v2/trace/setting", "", 200, traces},
		{"trace settings of a model", "acme-infer", "GET", "/v2/models/echo/trace/setting", "", 200, traces},
		{"trace settings of a foreign model", "acme-infer", "GET", "/v2/models/secret/trace/setting", "", 404, "Request for unknown model"},
		{"set for a model", "default-admin", "POST", "/v2/models/echo/trace/setting", `{"trace_rate":"1"}`, 404, "Request for unknown model"},
		{"trace off", "default-admin", "POST", "/v2/trace/setting", `{"trace_level":["OFF"]}`, 200, strings.Replace(traces, "TIMESTAMPS", "OFF", 1)},
		{"trace rate while off", "default-admin", "POST", "/v2/trace/setting", `{"trace_rate":"7","trace_count":"-1"}`, 200, strings.NewReplacer("TIMESTAMPS", "OFF", `"50"`, `"7"`).Replace(traces)},
		{"trace on", "default-admin", "POST", "/v2/trace/setting", `{"trace_level":"TIMESTAMPS"}`, 200, strings.Replace(traces, `"50"`, `"7"`, 1)},
		{"trace as at the start", "default-admin", "POST", "/v2/trace/setting", `{"trace_level":null,"trace_rate":null,"trace_file":null}`, 200, traces},
		{"trace tensors", "default-admin", "POST", "/v2/trace/setting", `{"trace_level":["TENSORS"]}`, 400, "no tensors"},
		{"trace to a file", "default-admin", "POST", "/v2/trace/setting", `{"trace_file":"/x"}`, 400, "collector"},
		{"trace rate 0", "default-admin", "POST", "/v2/trace/setting", `{"trace_rate":"0"}`, 400, "from 1"},
		{"trace by a number", "default-admin", "POST", "/v2/trace/setting", `{"trace_rate":5}`, 400, "string"},
		{"no trace setting", "default-admin", "POST", "/v2/trace/setting", `{"trace":"x"}`, 400, "no trace setting"},
		{"trace without the right", "acme-admin", "POST", "/v2/trace/setting", `{"trace_rate":"5"}`, 403, "tenant default"},

		{"memory", "acme-infer", "GET", "/v2/systemsharedmemory/status", "", 501, "shared memory is not supported"},
		{"memory of a region", "acme-infer", "GET", "/v2/cudasharedmemory/region/r/status", "", 501, "shared memory is not supported"},
		{"register memory", "acme-infer", "POST", "/v2/systemsharedmemory/region/r/register", `{"key":"/x","offset":0,"byte_size":8}`, 501, "shared memory is not supported"},
		{"unregister all", "acme-infer", "POST", "/v2/cudasharedmemory/unregister", "", 501, "shared memory is not supported"},
		{"memory, wrong method", "acme-infer", "DELETE", "/v2/cudasharedmemory/unregister", "", 405, "Method Not Allowed"},
		{"memory, no such path", "acme-infer", "POST", "/v2/cudasharedmemory/region//register", "", 400, ""},
	} {
		t.Run(tc.name, func(t *testing.T) { controlCase(t, tc.key, tc.method, tc.path, tc.body, tc.status, tc.want) })
	}
	b := startControls(t, &backstage{every: 50})
	for _, path := range []string{"/v2/repository/index", "/v2/logging", "/v2/trace/setting", "/v2/models/stats", "/v2/systemsharedmemory/status"} {
		method := "GET"
		if strings.HasSuffix(path, "index") {
			method = "POST"
		}
		if answer, err := http.DefaultClient.Do(b.request(t, method, path, "", "Authorization", "")); err != nil || answer.StatusCode != 401 {
			t.Errorf("%s without a key: %v, %v", path, answer, err)
		} else {
			answer.Body.Close()
		}
	}
}

// controlCase runs against a server of its own for what reads, and in the order of a life for what changes: the log and the
// trace settings are put as the case before left them.
func controlCase(t *testing.T, key, method, path, body string, want int, text string) {
	t.Helper()
	stage := &backstage{every: 50}
	b := startControls(t, stage)
	for _, before := range map[string][][2]string{
		`{"trace_rate":"7","trace_count":"-1"}`:                 {{"/v2/trace/setting", `{"trace_level":["OFF"]}`}},
		`{"trace_level":"TIMESTAMPS"}`:                          {{"/v2/trace/setting", `{"trace_level":"OFF","trace_rate":"7"}`}},
		`{"log_info":true,"log_warning":true,"log_error":true}`: {{"/v2/logging", `{"log_info":false,"log_warning":false}`}},
	}[body] {
		if code, answer := b.ask(t, "default-admin", "POST", before[0], before[1]); code != 200 {
			t.Fatal(before, code, answer)
		}
	}
	code, answer := b.ask(t, key, method, path, body)
	if code != want || want == 200 && answer != text || !strings.Contains(answer, text) {
		t.Errorf("%d %s\nwant %d %s", code, answer, want, text)
	}
	if moved := len(stage.moves) > 0; moved != (want == 200 && strings.HasSuffix(path, "load")) {
		t.Errorf("moves %v", stage.moves)
	}
}

func TestControlsGRPC(t *testing.T) {
	stage := &backstage{every: 50}
	b := startControls(t, stage)
	ctx := t.Context()
	infer := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-infer"))
	write := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-write"))
	admin := wire.NewGRPCInferenceServiceClient(b.dial(t, "default-admin"))

	server, err := infer.ServerMetadata(ctx, &wire.ServerMetadataRequest{})
	if want := []string{"model_repository", "model_repository(unload_dependents)", "statistics", "trace", "logging"}; err != nil ||
		!slices.Equal(server.GetExtensions()[len(server.GetExtensions())-len(want):], want) {
		t.Errorf("extensions %v, %v", server.GetExtensions(), err)
	}
	blind := wire.NewGRPCInferenceServiceClient(startControls(t, &backstage{every: -1, blind: true}).dial(t, "acme-infer"))
	if server, err := blind.ServerMetadata(ctx, &wire.ServerMetadataRequest{}); err != nil || slices.Contains(server.GetExtensions(), "trace") ||
		!slices.Contains(server.GetExtensions(), "logging") {
		t.Errorf("without a collector: extensions %v, %v", server.GetExtensions(), err)
	}
	index, err := infer.RepositoryIndex(ctx, &wire.RepositoryIndexRequest{})
	if err != nil || len(index.GetModels()) != 3 || index.Models[1].State != "UNAVAILABLE" || index.Models[1].Version != "7" {
		t.Errorf("index %v, %v", index, err)
	}
	if index, err = infer.RepositoryIndex(ctx, &wire.RepositoryIndexRequest{Ready: true}); err != nil || len(index.GetModels()) != 1 {
		t.Errorf("index of what is ready %v, %v", index, err)
	}
	loaded, err := write.RepositoryModelLoad(ctx, &wire.RepositoryModelLoadRequest{ModelName: "echo"})
	if err != nil || len(loaded.ProtoReflect().GetUnknown()) != 0 {
		t.Errorf("load: %v, %v", loaded, err)
	}
	gone, err := write.RepositoryModelUnload(ctx, &wire.RepositoryModelUnloadRequest{RepositoryName: "echo"}) // KServe's form
	if err != nil || string(gone.ProtoReflect().GetUnknown()) != "\x0a\x04echo\x10\x01" {
		t.Errorf("unload as KServe does: %q, %v", gone.ProtoReflect().GetUnknown(), err)
	}
	if want := []string{"load acme/echo", "unload acme/echo"}; !slices.Equal(stage.moves, want) {
		t.Errorf("moves %v", stage.moves)
	}
	stats, err := infer.ModelStatistics(ctx, &wire.ModelStatisticsRequest{Name: "echo", Version: "3"})
	if err != nil || len(stats.GetModelStats()) != 1 {
		t.Fatalf("statistics: %v, %v", stats, err)
	}
	if s := stats.ModelStats[0]; s.InferenceCount != 1<<60 || s.ExecutionCount != 2 || s.LastInference != 1_700_000_000_123 ||
		s.InferenceStats.Fail.Ns != 4 || s.InferenceStats.CacheMiss == nil || s.BatchStats[0].ComputeInfer.Ns != 6 {
		t.Errorf("statistics %v", s)
	}
	flag := func(on bool) *wire.LogSettingsRequest_SettingValue {
		return &wire.LogSettingsRequest_SettingValue{ParameterChoice: &wire.LogSettingsRequest_SettingValue_BoolParam{BoolParam: on}}
	}
	logs, err := admin.LogSettings(ctx, &wire.LogSettingsRequest{Settings: map[string]*wire.LogSettingsRequest_SettingValue{"log_info": flag(false)}})
	if err != nil || logs.Settings["log_info"].GetBoolParam() || !logs.Settings["log_error"].GetBoolParam() || stage.level != slog.LevelWarn {
		t.Errorf("log settings %v, level %v, %v", logs, stage.level, err)
	}
	traced, err := admin.TraceSetting(ctx, &wire.TraceSettingRequest{Settings: map[string]*wire.TraceSettingRequest_SettingValue{"trace_rate": {Value: []string{"9"}}}})
	if err != nil || traced.Settings["trace_rate"].Value[0] != "9" || stage.every != 9 {
		t.Errorf("trace settings %v, %d, %v", traced, stage.every, err)
	}
	if traced, err = admin.TraceSetting(ctx, &wire.TraceSettingRequest{}); err != nil || traced.Settings["trace_level"].Value[0] != "TIMESTAMPS" {
		t.Errorf("trace settings %v, %v", traced, err)
	}
	for name, tc := range map[string]struct {
		err  error
		want codes.Code
	}{
		"load without the scope": {second(infer.RepositoryModelLoad(ctx, &wire.RepositoryModelLoadRequest{ModelName: "echo"})), codes.PermissionDenied},
		"load elsewhere":         {second(write.RepositoryModelLoad(ctx, &wire.RepositoryModelLoadRequest{RepositoryName: "r", ModelName: "echo"})), codes.Unimplemented},
		"load of nothing":        {second(write.RepositoryModelLoad(ctx, &wire.RepositoryModelLoadRequest{})), codes.InvalidArgument},
		"load of what is absent": {second(write.RepositoryModelLoad(ctx, &wire.RepositoryModelLoadRequest{ModelName: "absent"})), codes.NotFound},
		"load with a file": {second(write.RepositoryModelLoad(ctx, &wire.RepositoryModelLoadRequest{ModelName: "echo", Parameters: map[string]*wire.ModelRepositoryParameter{
			"file:1/m": {ParameterChoice: &wire.ModelRepositoryParameter_BytesParam{BytesParam: []byte("x")}}}})), codes.InvalidArgument},
		"index elsewhere":       {second(infer.RepositoryIndex(ctx, &wire.RepositoryIndexRequest{RepositoryName: "r"})), codes.Unimplemented},
		"statistics of absent":  {second(infer.ModelStatistics(ctx, &wire.ModelStatisticsRequest{Name: "secret"})), codes.NotFound},
		"a version alone":       {second(infer.ModelStatistics(ctx, &wire.ModelStatisticsRequest{Version: "3"})), codes.InvalidArgument},
		"log without the right": {second(infer.LogSettings(ctx, &wire.LogSettingsRequest{Settings: map[string]*wire.LogSettingsRequest_SettingValue{"log_info": flag(true)}})), codes.PermissionDenied},
		"log of another type":   {second(admin.LogSettings(ctx, &wire.LogSettingsRequest{Settings: map[string]*wire.LogSettingsRequest_SettingValue{"log_file": flag(true)}})), codes.InvalidArgument},
		"system status":         {second(infer.SystemSharedMemoryStatus(ctx, &wire.SystemSharedMemoryStatusRequest{})), codes.Unimplemented},
		"system register":       {second(infer.SystemSharedMemoryRegister(ctx, &wire.SystemSharedMemoryRegisterRequest{Name: "r", Key: "/x"})), codes.Unimplemented},
		"system unregister":     {second(infer.SystemSharedMemoryUnregister(ctx, &wire.SystemSharedMemoryUnregisterRequest{})), codes.Unimplemented},
		"cuda status":           {second(infer.CudaSharedMemoryStatus(ctx, &wire.CudaSharedMemoryStatusRequest{})), codes.Unimplemented},
		"cuda register":         {second(infer.CudaSharedMemoryRegister(ctx, &wire.CudaSharedMemoryRegisterRequest{Name: "r"})), codes.Unimplemented},
		"cuda unregister":       {second(infer.CudaSharedMemoryUnregister(ctx, &wire.CudaSharedMemoryUnregisterRequest{})), codes.Unimplemented},
	} {
		if status.Code(tc.err) != tc.want {
			t.Errorf("%s: %v, want %v", name, tc.err, tc.want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestControlsThatAreNotThere attaches none of them: nothing is advertised, and every verb says that it is not there.
func TestControlsThatAreNotThere(t *testing.T) {
	b := start(t, nil)
	if code, text := b.ask(t, "acme-key", "GET", "/v2", ""); code != 200 || strings.Contains(text, "repository") || strings.Contains(text, "statistics") {
		t.Errorf("%d %s", code, text)
	}
	for path, method := range map[string]string{"/v2/repository/index": "POST", "/v2/models/stats": "GET", "/v2/logging": "GET", "/v2/trace/setting": "GET"} {
		if code, text := b.ask(t, "acme-key", method, path, ""); code != 501 {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
}

// TestTraceWithoutCollector refuses what could not work.
func TestTraceWithoutCollector(t *testing.T) {
	b := startControls(t, &backstage{every: -1, blind: true})
	if code, text := b.ask(t, "acme-infer", "GET", "/v2/trace/setting", ""); code != 200 || !strings.Contains(text, `"trace_level":["OFF"]`) {
		t.Errorf("%d %s", code, text)
	}
	if code, text := b.ask(t, "default-admin", "POST", "/v2/trace/setting", `{"trace_level":["OFF"]}`); code != 200 {
		t.Errorf("off stays off: %d %s", code, text)
	}
	for _, body := range []string{`{"trace_level":["TIMESTAMPS"]}`, `{"trace_rate":"3"}`} {
		if code, text := b.ask(t, "default-admin", "POST", "/v2/trace/setting", body); code != 400 || !strings.Contains(text, "no collector") {
			t.Errorf("%s: %d %s", body, code, text)
		}
	}
}

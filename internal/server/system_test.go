package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/server"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The test binary is its own worker program: the fleet starts it as `worker --socket PATH`.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "worker" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := server.RunWorker(ctx, server.WorkerConfig{Socket: os.Args[3]}, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// live is a server under test.
type live struct {
	*client.Client
	HTTP, GRPC, Metrics string
	dir                 string
	stop                func() error
}

// start runs a server with real worker processes on a data directory and waits until it is ready.
func start(t testing.TB, dir string, mods ...func(*server.Config)) *live {
	t.Helper()
	cfg := server.Config{Data: dir, Cache: filepath.Join(os.TempDir(), fmt.Sprintf("penstock-test-%d", os.Getuid())), HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0", Metrics: "127.0.0.1:0",
		Dev: true, PrintAddresses: true, LogLevel: "warn", Grace: 5 * time.Second}
	for _, m := range mods {
		m(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := server.Run(ctx, cfg, w, testWriter{t})
		w.CloseWithError(fmt.Errorf("the server ended: %w", err))
		done <- err
	}()
	l := &live{dir: dir}
	var a struct{ HTTP, GRPC, Metrics string }
	if err := json.NewDecoder(r).Decode(&a); err != nil {
		cancel()
		t.Fatal(err)
	}
	l.HTTP, l.GRPC, l.Metrics = a.HTTP, a.GRPC, a.Metrics
	stopped := false
	l.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := l.stop(); err != nil {
			t.Error(err)
		}
	})
	return l
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (l *live) do(t testing.TB, method, path, contentType string, body []byte, into any) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.HTTP+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if into != nil && resp.StatusCode < 300 {
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatalf("%s %s: %s", method, path, data)
		}
	}
	if resp.StatusCode >= 300 {
		t.Logf("%s %s: %d %s", method, path, resp.StatusCode, data)
	}
	return resp.StatusCode
}

func (l *live) push(t testing.TB, file, model string) api.Version {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var v api.Version
	if code := l.do(t, "POST", "/api/v1/tenants/default/models/"+model+"/versions?filename=model.onnx", "application/octet-stream", data, &v); code != 201 && code != 200 {
		t.Fatalf("push: %d", code)
	}
	return v
}

func (l *live) deploy(t testing.TB, endpoint, ref string) api.Release {
	t.Helper()
	var rel api.Release
	body := fmt.Sprintf(`{"variants":[{"model":%q}]}`, ref)
	if code := l.do(t, "PUT", "/api/v1/tenants/default/endpoints/"+endpoint+"?wait=60s", "application/json", []byte(body), &rel); code != 200 {
		t.Fatalf("deploy: %d", code)
	}
	if rel.State != api.ReleaseSucceeded {
		t.Fatalf("release: %+v", rel)
	}
	return rel
}

func TestFirstLight(t *testing.T) {
	l := start(t, t.TempDir())
	v1, v2 := l.push(t, "../../demo/digits-v1.onnx", "digits"), l.push(t, "../../demo/digits-v2.onnx", "digits")
	if v1.Number != 1 || v2.Number != 2 || v1.Signature.Inputs[0].Name != "image" {
		t.Fatalf("%+v %+v", v1, v2)
	}
	l.deploy(t, "digits", "digits@1")
	body, err := os.ReadFile("../../demo/three.json")
	if err != nil {
		t.Fatal(err)
	}
	serving := func() string {
		var answer struct {
			ModelVersion string `json:"model_version"`
			Outputs      []struct {
				Name string
				Data []float64
			}
		}
		if code := l.do(t, "POST", "/v2/models/digits/infer", "application/json", body, &answer); code != 200 {
			t.Fatalf("infer: %d", code)
		}
		if answer.Outputs[0].Name != "label" || answer.Outputs[0].Data[0] != 3 {
			t.Errorf("not a three: %+v", answer)
		}
		return answer.ModelVersion
	}
	if v := serving(); v != "1" {
		t.Errorf("version %s answers", v)
	}
	l.deploy(t, "digits", "digits@2")
	if v := serving(); v != "2" {
		t.Errorf("version %s answers", v)
	}
	var rel api.Release
	if code := l.do(t, "POST", "/api/v1/tenants/default/endpoints/digits/rollback", "application/json", []byte(`{"why":"test"}`), &rel); code != 200 {
		t.Fatal(code)
	}
	if v := serving(); v != "1" || !rel.Durable {
		t.Errorf("version %s answers after %+v", v, rel)
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	l = start(t, l.dir)
	if v := serving(); v != "1" {
		t.Errorf("version %s answers after a restart", v)
	}
}

// TestEveryRoleStopsWhole starts each role, uses it, and stops it: no goroutine and no worker process is left.
func TestEveryRoleStopsWhole(t *testing.T) {
	for _, inProcess := range []bool{false, true} {
		t.Run(fmt.Sprintf("all, in process %v", inProcess), func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			l := start(t, t.TempDir(), func(c *server.Config) { c.InProcess = inProcess })
			l.push(t, "../../demo/digits-v1.onnx", "digits")
			l.deploy(t, "digits", "digits@1")
			workers, err := os.ReadDir("/proc/self/task")
			if err != nil {
				t.Fatal(err)
			}
			if err := l.stop(); err != nil {
				t.Fatal(err)
			}
			http.DefaultClient.CloseIdleConnections()
			goleak.VerifyNone(t, before)
			for _, task := range workers {
				if left, err := os.ReadFile("/proc/self/task/" + task.Name() + "/children"); err == nil && len(bytes.TrimSpace(left)) > 0 {
					t.Errorf("child processes are left: %s", left)
				}
			}
		})
	}
}

func TestBadConfigurationsAreNamedAtOnce(t *testing.T) {
	busy := start(t, t.TempDir())
	for name, tc := range map[string]struct {
		change func(*server.Config)
		says   []string
	}{
		"two faults":        {func(c *server.Config) { c.Role, c.Workers = "boss", -3 }, []string{"--role", "--workers"}},
		"beyond loopback":   {func(c *server.Config) { c.Dev, c.HTTP = false, "0.0.0.0:0" }, []string{"--http", "--tls-cert", "--insecure"}},
		"dev in the open":   {func(c *server.Config) { c.Insecure, c.GRPC = true, "0.0.0.0:0" }, []string{"--grpc", "--dev"}},
		"pinned, too many":  {func(c *server.Config) { c.Pin, c.Workers = true, 256 }, []string{"--pin", "256 workers"}},
		"pinned, none":      {func(c *server.Config) { c.Pin, c.InProcess = true, true }, []string{"--pin", "--in-process"}},
		"half a pair":       {func(c *server.Config) { c.TLSCert = "cert.pem" }, []string{"--tls-key"}},
		"unknown store":     {func(c *server.Config) { c.Store = "mysql://x" }, []string{"sqlite:"}},
		"unknown blobs":     {func(c *server.Config) { c.Blobs = "s3://bucket" }, []string{"--blobs"}},
		"unknown log level": {func(c *server.Config) { c.LogLevel = "loud" }, []string{"--log-level"}},
		"port taken":        {func(c *server.Config) { c.HTTP = busy.HTTP }, []string{"--http", "port"}},
		"data in use":       {func(c *server.Config) { c.Data = busy.dir }, []string{"in use"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := server.Config{Data: t.TempDir(), HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0", Metrics: "127.0.0.1:0", Dev: true}
			tc.change(&cfg)
			err := server.Run(t.Context(), cfg, io.Discard, io.Discard)
			if err == nil {
				t.Fatal("it started")
			}
			for _, want := range tc.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name %s", err, want)
				}
			}
		})
	}
}

// TestPinnedWorkersShareNoProcessor starts as many workers as two processors allow and asks the system where they may run.
func TestPinnedWorkersShareNoProcessor(t *testing.T) {
	workers := min(2, runtime.NumCPU())
	l := start(t, t.TempDir(), func(c *server.Config) { c.Pin, c.Workers = true, workers })
	var list struct{ Items []api.Worker }
	for look := time.NewTicker(10 * time.Millisecond); ; <-look.C {
		if code := l.do(t, "GET", "/api/v1/workers", "", nil, &list); code != 200 || len(list.Items) != workers {
			t.Fatalf("workers: %d, %+v", code, list)
		}
		if !slices.ContainsFunc(list.Items, func(w api.Worker) bool { return w.State != "ready" }) {
			look.Stop()
			break
		}
	}
	taken := map[int]bool{}
	for _, w := range list.Items {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", w.PID))
		if err != nil || len(w.Processors) == 0 {
			t.Fatal(w, err)
		}
		for _, task := range tasks { // every thread, those of the runtime too
			id, err := strconv.Atoi(task.Name())
			if err != nil {
				t.Fatal(err)
			}
			var set unix.CPUSet
			if err := unix.SchedGetaffinity(id, &set); errors.Is(err, unix.ESRCH) {
				continue // it ended meanwhile
			} else if err != nil {
				t.Fatal(err)
			}
			if set.Count() != len(w.Processors) {
				t.Errorf("worker %s, thread %d: %d processors, told %v", w.Name, id, set.Count(), w.Processors)
			}
			for _, n := range w.Processors {
				if !set.IsSet(n) {
					t.Errorf("worker %s, thread %d: not on processor %d", w.Name, id, n)
				}
			}
		}
		for _, n := range w.Processors {
			if taken[n] {
				t.Errorf("two workers run on processor %d", n)
			}
			taken[n] = true
		}
	}
	if len(taken) != runtime.NumCPU() {
		t.Errorf("%d processors are used, %d are there", len(taken), runtime.NumCPU())
	}
}

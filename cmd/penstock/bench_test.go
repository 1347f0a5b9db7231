package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/internal/bench"
)

// flaky is an endpoint of which every tenth answer is an error.
func flaky(t *testing.T) (address string, asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/models/digits", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"name":"digits","inputs":[{"name":"x","datatype":"FP32","shape":[-1,3]}],"outputs":[]}`)
	})
	mux.HandleFunc("POST /v2/models/digits/infer", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		if asked.Add(1)%10 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"error":"the queue is \u001b[31mfull"}`)
			return
		}
		_, _ = io.WriteString(w, `{"outputs":[]}`)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL, asked
}

func TestBenchEndsByWhatFailed(t *testing.T) {
	address, _ := flaky(t)
	for name, tc := range map[string]struct {
		args []string
		code int
	}{
		"errors":          {nil, exitFailed},
		"allowed":         {[]string{"--allow-failures", "20%"}, exitDone},
		"allowed, part":   {[]string{"--allow-failures", "0.2"}, exitDone},
		"too few allowed": {[]string{"--allow-failures", "1%"}, exitFailed},
		"silly":           {[]string{"--allow-failures", "200%"}, exitUsage},
		"no file":         {[]string{"-f", "absent.json"}, exitUsage},
		"no timeout":      {[]string{"--timeout", "0s"}, exitUsage},
		"ramp and count":  {[]string{"--ramp", "--p99", "1s"}, exitUsage},
	} {
		var out, errs bytes.Buffer
		args := append([]string{"--server", address, "bench", "digits", "--count", "200", "--warmup", "0s"}, tc.args...)
		if code := run(t.Context(), args, surroundings{in: strings.NewReader(""), out: &out, err: &errs, env: func(string) string { return "" }}); code != tc.code {
			t.Errorf("%s: exit %d, want %d\n%s%s", name, code, tc.code, &out, &errs)
		}
		if tc.code != exitUsage && (!strings.Contains(out.String(), "http 503   20 ") || strings.Contains(out.String(), "\x1b")) {
			t.Errorf("%s:\n%s", name, &out)
		}
	}
}

func TestBenchPrintsJSONAndProgress(t *testing.T) {
	address, _ := flaky(t)
	var out, errs bytes.Buffer
	args := []string{"--server", address, "bench", "digits", "--duration", "700ms", "--warmup", "0s", "--allow-failures", "1", "-o", "json"}
	if code := run(t.Context(), args, surroundings{in: strings.NewReader(""), out: &out, err: &errs, env: func(string) string { return "" }, terminal: true}); code != exitDone {
		t.Fatalf("exit %d: %s", code, &errs)
	}
	var report bench.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil || report.Result.OK == 0 || report.Result.Failed == 0 || report.Result.Faults[0].Code != "http 503" {
		t.Errorf("%v\n%s", err, &out)
	}
	if !strings.Contains(errs.String(), "of 700ms") || !strings.HasSuffix(errs.String(), wipeLine) {
		t.Errorf("progress %q", &errs)
	}
}

// TestBenchInterrupted: Ctrl-C ends the context, and what was measured is printed.
func TestBenchInterrupted(t *testing.T) {
	address, asked := flaky(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		args := []string{"--server", address, "bench", "digits", "--duration", "1h", "--warmup", "0s", "--allow-failures", "1"}
		ended <- run(ctx, args, surroundings{in: strings.NewReader(""), out: &out, err: &errs, env: func(string) string { return "" }})
	}()
	for asked.Load() < 500 {
		select {
		case code := <-ended:
			t.Fatalf("it ended by itself with %d: %s", code, &errs)
		default:
		}
	}
	cancel()
	if code := <-ended; code != exitDone || !strings.Contains(out.String(), "interrupted") || !strings.Contains(out.String(), "P99.9") {
		t.Errorf("exit %d\n%s%s", code, &out, &errs)
	}
}

package client_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/admin/admintest"
)

func dial(t *testing.T, server, key string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Server: server, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The client and the API agree on every noun.
func TestAgainstTheAPI(t *testing.T) {
	rooms := admintest.New()
	cfg := rooms.Config()
	cfg.Logger = slog.New(slog.DiscardHandler)
	server, _ := rooms.Start(t, cfg)
	ctx, c := t.Context(), dial(t, server.URL, admintest.AdminKey)
	const digest = api.Digest("sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae")
	if held, err := c.HasBlob(ctx, digest); held || err != nil {
		t.Fatal(held, err)
	}
	var sent int64
	blob := client.Blob{Digest: digest, Size: 3, Progress: func(n int64) { sent = n }, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("foo")), nil }}
	if info, err := c.PutBlob(ctx, blob); err != nil || info.Digest != digest || sent != 3 {
		t.Fatal(info, err, sent)
	}
	blob.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("bar")), nil }
	if _, err := c.PutBlob(ctx, blob); !api.Is(err, api.CodeDigestMismatch) {
		t.Errorf("damaged upload: %v", err)
	}
	v, err := c.Commit(ctx, "digits", api.Upload{Files: []api.UploadFile{{Path: "a b/m.onnx", Digest: digest, Size: 3}}})
	if err != nil || v.Number != 1 {
		t.Fatal(v, err)
	}
	body, size, err := c.OpenArtifact(ctx, v.Ref(), "a b/m.onnx")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if text, err := io.ReadAll(body); err != nil || string(text) != "foo" || size != 3 {
		t.Error(text, size, err)
	}
	if _, err := c.Resolve(ctx, api.Ref{Tenant: "acme", Model: "digits"}); !api.Is(err, api.CodeNotFound) {
		t.Errorf("foreign reference: %v", err)
	}
	release, err := c.Deploy(ctx, "digits", api.DeployRequest{EndpointSpec: api.EndpointSpec{Variants: []api.VariantSpec{{Model: "digits@1"}}}}, 0, time.Second)
	if err != nil || release.State != api.ReleaseSucceeded {
		t.Fatal(release, err)
	}
	if _, err := c.Deploy(ctx, "digits", api.DeployRequest{EndpointSpec: api.EndpointSpec{Variants: []api.VariantSpec{{Model: "digits@1"}}}}, 9, 0); !api.Is(err, api.CodeStale) {
		t.Errorf("stale deploy: %v", err)
	}
	if _, err := c.Rollback(ctx, "digits", api.RollbackRequest{}); !api.Is(err, api.CodeNothingEarlier) || api.AsError(err).Cure == "" {
		t.Errorf("rollback: %v", err)
	}
	rooms.BackupBytes = bytes.Repeat([]byte("x"), 1<<20)
	if info, err := c.Backup(ctx, io.Discard); err != nil || info.Size != 1<<20 {
		t.Error(info, err)
	}
	rooms.BackupErr = io.ErrUnexpectedEOF
	if _, err := c.Backup(ctx, io.Discard); err == nil {
		t.Error("a backup that was cut short passed for whole")
	}
	if _, err := dial(t, server.URL, admintest.InferKey).HasBlob(ctx, digest); !api.Is(err, api.CodeForbidden) {
		t.Errorf("HEAD without the scope: %v", err)
	}
}

func TestFollowLogs(t *testing.T) {
	rooms := admintest.New()
	server, _ := rooms.Start(t, rooms.Config())
	ctx, cancel := context.WithCancel(t.Context())
	go func() { rooms.Live <- api.Exchange{RequestID: "r1", Endpoint: "digits"} }()
	for x, err := range dial(t, server.URL, admintest.AdminKey).FollowLogs(ctx, client.LogQuery{}) {
		if err != nil || x.RequestID != "r1" {
			t.Fatal(x, err)
		}
		break
	}
	cancel()
}

// Only what may be repeated is repeated, and not for ever.
func TestTries(t *testing.T) {
	cases := []struct {
		name   string
		status int
		call   func(context.Context, *client.Client) error
		tries  int64
		code   api.Code
	}{
		{"read while the server is away", 503, func(ctx context.Context, c *client.Client) error { _, err := c.Whoami(ctx); return err }, 3, api.CodeUnavailable},
		{"post with an Idempotency-Key", 502, func(ctx context.Context, c *client.Client) error {
			_, err := c.CreateTenant(ctx, "x")
			return err
		}, 3, api.CodeUnavailable},
		{"inference", 503, func(ctx context.Context, c *client.Client) error {
			_, err := c.Infer(ctx, "x", client.InferRequest{}, client.InferOptions{})
			return err
		}, 1, api.CodeUnavailable},
		{"an error that names its cause", 404, func(ctx context.Context, c *client.Client) error { _, err := c.Whoami(ctx); return err }, 1, api.CodeNotFound},
		{"redirect", 302, func(ctx context.Context, c *client.Client) error { _, err := c.Whoami(ctx); return err }, 1, api.CodeInternal},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var tries atomic.Int64
			var key atomic.Value
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if k := r.Header.Get("Idempotency-Key"); tries.Add(1) > 1 && key.Load() != k {
					t.Errorf("the second try has another key")
				} else {
					key.Store(k)
				}
				w.Header().Set("Location", "http://127.0.0.1:1/")
				w.WriteHeader(c.status)
			}))
			defer server.Close()
			if err := c.call(t.Context(), dial(t, server.URL, "secret")); !api.Is(err, c.code) || tries.Load() != c.tries {
				t.Errorf("%d tries, want %d: %v", tries.Load(), c.tries, err)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	for address, good := range map[string]bool{"127.0.0.1:8000": true, "https://x.example/base/": true, "localhost": true,
		"": false, "ftp://x": false, "http://": false, "http://user:pw@x": false, "http://x?y": false, "http://\x00": false} {
		if _, err := client.New(client.Config{Server: address}); (err == nil) != good {
			t.Errorf("%q: %v", address, err)
		}
	}
}

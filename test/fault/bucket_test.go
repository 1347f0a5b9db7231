package fault_test

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/server"
	"github.com/penstock/penstock/test/live"
	"github.com/penstock/penstock/test/s3"
)

// inBucket gives a server's account to its environment, as an operator would, and puts its blobs into a bucket.
func inBucket(t *testing.T, url string) func(*server.Config) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", s3.Access)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3.Secret)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	return func(c *server.Config) { c.Blobs = url }
}

// TestStoryInABucket pushes, deploys, predicts and rolls back with the blobs in S3, kills the server, starts it on an empty
// cache, takes S3 away and brings it back, and moves everything to another bucket by a backup.
func TestStoryInABucket(t *testing.T) {
	store := s3.Start(t)
	store.Bucket(t, "models")
	proxy := s3.NewProxy(t, store)
	dir := t.TempDir()
	blobs := inBucket(t, s3.URL(proxy.URL, "models/here"))
	s := newSite(t, live.Start(t, dir, blobs))
	first := s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", "first"))
	second := s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", "second"))
	s.good(t, "digits", second.Number)
	if _, err := s.Rollback(t.Context(), "digits", api.RollbackRequest{}); err != nil {
		t.Fatal(err)
	}
	s.good(t, "digits", first.Number)
	if left, err := os.ReadDir(filepath.Join(dir, "blobs")); err == nil {
		t.Errorf("%d blobs lie in the data directory", len(left))
	}

	// Killed and started on an empty cache, everything comes from the bucket.
	s.Kill()
	if err := os.RemoveAll(filepath.Join(dir, "cache")); err != nil {
		t.Fatal(err)
	}
	s = newSite(t, live.Start(t, dir, blobs))
	s.good(t, "digits", first.Number)
	s.loaded(t, 2)

	// With the bucket away what runs keeps running, rolls back, and starts again from the cache; pushes say why not.
	proxy.Fail(s3.Always(s3.Reset))
	s.good(t, "digits", first.Number)
	if _, err := s.Rollback(t.Context(), "digits", api.RollbackRequest{To: 2}); err != nil {
		t.Error(err)
	}
	s.good(t, "digits", second.Number)
	_, err := s.Push(t.Context(), "digits", live.Model(t, "digits-v1.onnx", "third"))
	if !api.Is(err, api.CodeUnavailable) || !strings.Contains(api.AsError(err).Message, "blob store is away") {
		t.Errorf("push without a bucket: %v", err)
	}
	s.Kill()
	s = newSite(t, live.Start(t, dir, blobs))
	s.good(t, "digits", second.Number)
	proxy.Fail(nil)
	if _, err := s.Push(t.Context(), "digits", live.Model(t, "digits-v1.onnx", "third")); err != nil {
		t.Errorf("push after the bucket came back: %v", err)
	}
	if log := s.Log(); strings.Contains(log, s3.Secret) {
		t.Errorf("the log holds the secret:\n%s", log)
	}
	s.moves(t, store)
}

// loaded waits until so many models are in memory: the one that serves, and the one that a rollback goes to.
func (s *site) loaded(t *testing.T, count int) {
	t.Helper()
	late := time.After(40 * time.Second)
	for {
		models, err := s.LoadedModels(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ready := 0
		for _, m := range models.Items {
			if slices.ContainsFunc(m.Copies, func(c api.LoadedCopy) bool { return c.State == "ready" }) {
				ready++
			}
		}
		if ready >= count {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-late:
			t.Fatalf("%d models are loaded, want %d: %+v", ready, count, models.Items)
		}
	}
}

// moves takes both kinds of backup and starts servers from them.
func (s *site) moves(t *testing.T, store *s3.Server) {
	t.Helper()
	for name, test := range map[string]struct {
		without bool
		url     string
	}{
		"with its blobs into another bucket": {false, s3.URL(store.Endpoint, "elsewhere/there")},
		"without blobs beside the old ones":  {true, s3.URL(store.Endpoint, "models/here")},
	} {
		var backup bytes.Buffer
		take := s.Backup
		if test.without {
			take = s.BackupWithoutBlobs
		}
		if _, err := take(t.Context(), &backup); err != nil {
			t.Fatal(err)
		}
		if holds := bytes.Contains(backup.Bytes(), []byte("blobs/sha256/")); holds == test.without {
			t.Errorf("%s: the backup holds blobs: %t", name, holds)
		}
		if !test.without {
			store.Bucket(t, "elsewhere")
		}
		dir := filepath.Join(t.TempDir(), "restored")
		if err := server.Restore(t.Context(), &backup, server.Config{Data: dir, Blobs: test.url}, slog.Default()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		restored := newSite(t, live.Start(t, dir, inBucket(t, test.url)))
		restored.good(t, "digits", 2)
		restored.Kill()
	}
}

// TestFlakyBucket pushes and deploys while one of six requests to S3 fails; what was acknowledged is read back afterwards.
func TestFlakyBucket(t *testing.T) {
	store := s3.Start(t)
	store.Bucket(t, "flaky")
	proxy := s3.NewProxy(t, store)
	s := newSite(t, live.Start(t, t.TempDir(), inBucket(t, s3.URL(proxy.URL, "flaky"))))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	proxy.Fail(s3.Chance(rand.New(rand.NewPCG(seed, 0)), 16, s3.InternalError, s3.SlowDown, s3.Slow, s3.Reset, s3.Lost, s3.Cut))
	for i := range 4 {
		v := s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", strconv.Itoa(i)))
		s.good(t, "digits", v.Number)
	}
	for n := range api.VersionNumber(4) {
		if _, err := artifact(t.Context(), s.Server, n+1); err != nil {
			t.Errorf("version %d: %v", n+1, err)
		}
	}
}

package fault_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/server"
	"github.com/penstock/penstock/test/live"
	"github.com/penstock/penstock/test/s3"
)

// soon makes a server that collects only when asked for, and then at once.
func soon(c *server.Config) {
	c.CollectEvery, c.CollectGrace, c.RestoreWindow, c.Workers = -1, -1, -1, 1
}

// tip pushes a blob that nothing will name.
func (d *shipper) tip(t *testing.T, s *live.Server, what string) string {
	t.Helper()
	body := bytes.Repeat([]byte(what+" "), 1000)
	if err := d.push(t.Context(), s, body); err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(digestOf(body), "sha256:")
}

func (s *site) gc(t *testing.T) api.Collection {
	t.Helper()
	run, err := s.Collect(t.Context(), api.CollectRequest{}, time.Second)
	for err == nil && run.State == api.CollectionRunning {
		run, err = s.Collection(t.Context(), run.ID, time.Second)
	}
	if err != nil {
		return api.Collection{State: api.CollectionFailed, Code: api.AsError(err).Code, Error: err.Error()}
	}
	return run
}

// TestCollectInFailingBucket collects while the bucket fails what a collection asks of it: lists, looks and deletions. Each run
// says what it failed of, the model is served and its file stays, and a run without faults leaves nothing that is dead.
func TestCollectInFailingBucket(t *testing.T) {
	store := s3.Start(t)
	store.Bucket(t, "collected")
	proxy := s3.NewProxy(t, store)
	s := newSite(t, live.Start(t, t.TempDir(), inBucket(t, s3.URL(proxy.URL, "collected")), soon))
	v := s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	s.gc(t)
	before := keysOf(t, store, "collected")
	d := &shipper{t: t, blobs: map[string][]byte{}}
	lists := func(r *http.Request) bool { return r.Method == http.MethodGet && r.URL.Query().Has("list-type") }
	deletes := func(r *http.Request) bool { return r.Method == http.MethodDelete }
	faults := []struct {
		name  string
		hit   func(*http.Request) bool
		fault s3.Fault
		fails bool // for good; otherwise the run has the patience
	}{
		{"list, 500", lists, s3.InternalError, true},
		{"list, cut", lists, s3.Cut, true},
		{"delete, 503", deletes, s3.SlowDown, true},
		{"delete, reset", deletes, s3.Reset, true},
		{"delete, answers lost", deletes, s3.Lost, true},
		{"all slow", func(*http.Request) bool { return true }, s3.Fault{Delay: 200 * time.Millisecond}, false},
	}
	if testing.Short() {
		faults = faults[2:3]
	}
	for _, f := range faults {
		dead := d.tip(t, s.Server, f.name)
		proxy.Fail(func(r *http.Request) s3.Fault {
			if f.hit(r) {
				return f.fault
			}
			return s3.Fault{}
		})
		run := s.gc(t)
		want := api.CollectionDone
		if f.fails {
			want = api.CollectionFailed
		}
		if run.State != want || f.fails && (run.Code != api.CodeUnavailable || !strings.Contains(run.Error, "blob store")) {
			t.Errorf("%s: %+v", f.name, run)
		}
		s.good(t, "digits", v.Number)
		beside := d.tip(t, s.Server, f.name+" beside") // a push whole beside the fault
		if left := strings.HasPrefix(f.name, "delete"); left != (run.Left > 0) {
			t.Errorf("%s: %d left", f.name, run.Left)
		}
		proxy.Fail(nil)
		if !keysOf(t, store, "collected")["sha256/"+beside] {
			t.Errorf("%s: what was pushed beside it is lost", f.name)
		}
		if f.name == "delete, 503" && !keysOf(t, store, "collected")["sha256/"+dead] {
			t.Errorf("%s: it was deleted", f.name)
		}
	}
	if run := s.gc(t); run.State != api.CollectionDone || run.Left != 0 {
		t.Errorf("without faults: %+v", run)
	}
	after := keysOf(t, store, "collected")
	for key := range before {
		if !after[key] {
			t.Errorf("%s lived and is lost", key)
		}
	}
	for key := range after {
		if !before[key] {
			t.Errorf("%s is dead and left", key)
		}
	}
	if _, err := artifact(t.Context(), s.Server, v.Number); err != nil {
		t.Error(err)
	}
}

// keysOf lists a bucket beside the server.
func keysOf(t *testing.T, store *s3.Server, bucket string) map[string]bool {
	t.Helper()
	out, err := store.Client.ListObjectsV2(context.WithoutCancel(t.Context()), &awss3.ListObjectsV2Input{Bucket: &bucket})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for _, o := range out.Contents {
		keys[aws.ToString(o.Key)] = true
	}
	return keys
}

// TestCollectOnFullDisk fills the disk of the data directory, which is a small one, and collects: the run ends or says why not,
// serving goes on, pushes are whole or refused, and when there is room again one run leaves nothing that is dead.
func TestCollectOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=192m")
	if err != nil {
		t.Skipf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := newSite(t, live.Start(t, dir, soon))
	v := s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	s.gc(t)
	k := &keeper{shipper: &shipper{t: t, blobs: map[string][]byte{}}}
	before := k.files(dir)
	filler := filepath.Join(dir, "filler")
	refused := 0
	for round := range 3 {
		for i := range 3 {
			k.tip(t, s.Server, fmt.Sprint("dead ", round, i))
		}
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		for piece := make([]byte, 1<<20); len(piece) > 0; {
			if _, err := f.Write(piece); err != nil {
				piece = piece[:len(piece)/2]
			}
		}
		f.Close()
		if run := s.gc(t); run.State == api.CollectionFailed && run.Code != api.CodeStorage {
			t.Errorf("on a full disk: %+v", run)
		}
		s.good(t, "digits", v.Number)
		body := bytes.Repeat([]byte(fmt.Sprint("large ", round)), 100_000)
		_, text, err := k.ask(t.Context(), s.Server, "POST", shipRepo+"/blobs/uploads/?digest="+digestOf(body), body)
		if err != nil && !strings.Contains(string(text), string(api.CodeStorage)) && !strings.Contains(string(text), string(api.CodeAuditUnavailable)) {
			t.Errorf("push on a full disk: %v", err)
		}
		if err != nil {
			refused++
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			continue
		}
		if _, _, err := k.ask(t.Context(), s.Server, "POST", shipRepo+"/blobs/uploads/?digest="+digestOf(body), body); err != nil {
			t.Errorf("push after the disk has room: %v", err)
		}
	}
	if refused == 0 {
		t.Error("the disk was never full")
	}
	if run := s.gc(t); run.State != api.CollectionDone {
		t.Errorf("with room: %+v", run)
	}
	if after := k.files(dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("before: %v\nafter: %v", before, after)
	}
}

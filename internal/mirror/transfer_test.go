package mirror_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/mirror"
)

// TestImport copies a model with what refers to it, and pushes it on to a third registry.
func TestImport(t *testing.T) {
	from, here, third := newSite(t, nil), newSite(t, nil), newSite(t, nil)
	root := from.artifact("acme/fraud", "v3", "application/vnd.example.model", nil, "model.onnx", model(t), "README.md", "# Fraud\n")
	subject := describe(mediaManifest, root)
	note := from.artifact("acme/fraud", "", "application/vnd.example.note", &subject, "note.txt", "measured on a Tuesday\n")
	of := describe(mediaManifest, note)
	from.artifact("acme/fraud", "", "application/vnd.example.signature", &of, "sig.txt", "signed\n")

	got := here.ends(here.imports("fraud", api.ImportRequest{From: from.name("acme/fraud:v3"), Referrers: true, RemoteLogin: from.login()}), api.TransferDone)
	if got.Version != 1 || string(got.Digest) != sha(root) || got.Bytes != got.Total || got.Total == 0 {
		t.Errorf("%+v", got)
	}
	v, err := here.catalog.Resolve(t.Context(), "acme", api.Ref{Model: "fraud", Alias: "v3"})
	if err != nil || v.Number != 1 || v.Card != "# Fraud\n" || v.CreatedBy != "ci" {
		t.Errorf("%+v, %v", v, err)
	}
	pushed, err := here.mirror.Push(t.Context(), acme, v, api.CopyRequest{To: third.name("acme/copy:kept"), Referrers: true, RemoteLogin: third.login()})
	if err != nil {
		t.Fatal(err)
	}
	here.ends(pushed, api.TransferDone)
	for _, s := range []*site{here, third} {
		repo := map[*site]string{here: "fraud", third: "copy"}[s]
		tag := map[*site]string{here: "v3", third: "kept"}[s]
		if d := s.digest(repo, tag); d != sha(root) {
			t.Errorf("%s:%s is %s", repo, tag, d)
		}
		place := api.Repository{Tenant: "acme", Name: repo}
		for subject, kind := range map[string]string{sha(root): "application/vnd.example.note", sha(note): "application/vnd.example.signature"} {
			found, err := s.catalog.Referrers(t.Context(), place, api.ContentDigest(subject), kind, "", 10)
			if err != nil || len(found) != 1 || found[0].ArtifactType != kind {
				t.Errorf("%s: referrers of %s: %+v, %v", repo, subject, found, err)
			}
		}
		s.holds(repo, []byte(model(t)))
		if left := s.left(); len(left) > 0 {
			t.Errorf("%s: the copy left %v", repo, left)
		}
	}
	// Once more is no work, and no new version.
	again := here.ends(here.imports("fraud", api.ImportRequest{From: from.name("acme/fraud:v3"), RemoteLogin: from.login()}), api.TransferDone)
	if again.Total != 0 || again.Version != 1 {
		t.Errorf("once more: %+v", again)
	}
	events, err := here.db.Events(t.Context(), "acme", 0, 100)
	if err != nil || len(events) < 3 || events[len(events)-1].Kind != "transfer.done" {
		t.Errorf("events %+v, %v", events, err)
	}
}

// TestPasswordSealed looks for the password in everything that is kept.
func TestPasswordSealed(t *testing.T) {
	from, here := newSite(t, nil), newSite(t, func(c *mirror.Config) { c.Tries = 1 })
	in := api.ImportRequest{From: from.name("acme/none:v1"), RemoteLogin: api.RemoteLogin{Username: "u", Password: "a-very-secret-word", PlainHTTP: true}}
	got := here.ends(here.imports("m", in), api.TransferFailed)
	if got.Code != api.CodeRemoteRefused || !strings.Contains(got.Error, "401") {
		t.Errorf("%+v", got)
	}
	here.stop()
	here.stop = func() {}
	_, sealed, err := here.db.Transfer(t.Context(), "acme", got.ID)
	if err != nil || sealed != "" {
		t.Errorf("after its end %q is kept, %v", sealed, err)
	}
	err = filepath.WalkDir(here.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), "a-very-secret-word") {
			t.Errorf("%s holds the password", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestResumed cuts the body of a large blob again and again, with a restart in the middle: every byte is sent once.
func TestResumed(t *testing.T) {
	from, here := newSite(t, nil), newSite(t, nil)
	big := content(9<<20, "0123456789abcdef-")
	from.artifact("acme/m", "v1", "application/vnd.example.data", nil, "data.bin", big)
	var cuts, sent atomic.Int64
	from.through(func(w http.ResponseWriter, r *http.Request, through http.Handler) {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+sha([]byte(big))) {
			through.ServeHTTP(w, r)
			return
		}
		if cuts.Add(1) == 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		through.ServeHTTP(&cutter{ResponseWriter: w, left: 2<<20 + 17, sent: &sent}, r)
	})
	got := here.ends(here.imports("m", api.ImportRequest{From: from.name("acme/m:v1"), RemoteLogin: from.login()}), api.TransferDone)
	here.holds("m", []byte(big))
	if sent.Load() != int64(len(big)) || cuts.Load() < 5 {
		t.Errorf("%d bytes were sent in %d answers; want each of %d once", sent.Load(), cuts.Load(), len(big))
	}
	t.Logf("%d cuts, %d tries", cuts.Load(), got.Tries)
}

// cutter ends the connection after some bytes of an answer.
type cutter struct {
	http.ResponseWriter
	left int
	sent *atomic.Int64
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) > c.left {
		n, _ := c.ResponseWriter.Write(b[:c.left])
		c.sent.Add(int64(n))
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	n, err := c.ResponseWriter.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

// TestResumedPush cuts the requests that bring a large blob to the other side: every byte goes once.
func TestResumedPush(t *testing.T) {
	here, to := newSite(t, nil), newSite(t, nil)
	big := content(9<<20, "0123456789abcdef-")
	root := here.artifact("acme/m", "v1", "application/vnd.example.data", nil, "data.bin", big)
	var cuts, came atomic.Int64
	to.through(func(w http.ResponseWriter, r *http.Request, through http.Handler) {
		if r.Method == http.MethodPatch {
			cuts.Add(1)
			body := &cutBody{ReadCloser: r.Body, left: 2<<20 + 17, came: &came}
			r.Body = body
			defer func() {
				if body.left == 0 {
					panic(http.ErrAbortHandler)
				}
			}()
		}
		through.ServeHTTP(w, r)
	})
	pushed, err := here.mirror.Push(t.Context(), acme, api.Version{Model: "m", Digest: api.Digest(sha(root))},
		api.CopyRequest{To: to.name("acme/m:v1"), RemoteLogin: to.login()})
	if err != nil {
		t.Fatal(err)
	}
	here.ends(pushed, api.TransferDone)
	to.holds("m", []byte(big))
	if came.Load() != int64(len(big)) || cuts.Load() < 4 {
		t.Errorf("%d bytes came in %d requests; want each of %d once", came.Load(), cuts.Load(), len(big))
	}
	if left := here.left(); len(left) > 0 {
		t.Errorf("the push left %v", left)
	}
}

type cutBody struct {
	io.ReadCloser
	left int
	came *atomic.Int64
}

func (c *cutBody) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, fmt.Errorf("cut: %w", io.ErrUnexpectedEOF)
	}
	n, err := c.ReadCloser.Read(b[:min(len(b), c.left)])
	c.left -= n
	c.came.Add(int64(n))
	return n, err
}

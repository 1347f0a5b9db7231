package mirror_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
)

// mirrors makes a mirror and waits for the end of a round that began after that.
func (s *site) mirrors(in api.MirrorRequest) {
	s.t.Helper()
	if _, err := s.mirror.CreateMirror(s.t.Context(), acme, in); err != nil {
		s.t.Fatal(err)
	}
	s.round(in.Name, 0)
}

// round waits for the end of a round that began after that time.
func (s *site) round(name api.MirrorName, after api.Time) api.MirrorStatus {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		m, err := s.mirror.Mirror(ctx, "acme", name)
		s.must(err)
		if !m.Status.Running && m.Status.Began > after {
			if m.Status.Error != "" {
				s.t.Fatalf("the round of %s failed: %s %s", name, m.Status.Code, m.Status.Error)
			}
			return m.Status
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("no round of %s ended: %+v", name, m.Status)
		}
	}
}

// again runs a mirror once more.
func (s *site) again(name api.MirrorName) api.MirrorStatus {
	s.t.Helper()
	m, err := s.mirror.RunMirror(s.t.Context(), acme, name)
	s.must(err)
	return s.round(name, m.Status.Began)
}

// state is everything that OCI clients see of a tenant's repositories.
func (s *site) state() (all []string) {
	s.t.Helper()
	ctx := s.t.Context()
	names, err := s.catalog.Repositories(ctx, "acme", "", 100)
	s.must(err)
	for _, name := range names {
		repo := api.Repository{Tenant: "acme", Name: name}
		tags, err := s.catalog.RepositoryTags(ctx, repo, "", 100)
		s.must(err)
		for _, tag := range append(tags, "1", "2", "3", "4", "latest") {
			m, err := s.catalog.ManifestByTag(ctx, repo, tag)
			if api.Is(err, api.CodeManifestNotFound) {
				continue
			}
			s.must(err)
			all = append(all, fmt.Sprintf("%s:%s %s", name, tag, m.Digest))
			found, err := s.catalog.Referrers(ctx, repo, m.Digest, "", "", 100)
			s.must(err)
			for _, r := range found {
				all = append(all, fmt.Sprintf("%s:%s < %s %s", name, tag, r.Digest, r.ArtifactType))
			}
		}
	}
	return all
}

// fill puts models, other artifacts, referrers and an index into a site.
func (s *site) fill() {
	s.t.Helper()
	demo := model(s.t)
	for i, tag := range []string{"v1", "", "v3"} {
		root := s.artifact("acme/fraud", tag, "application/vnd.example.model", nil, "model.onnx", demo, "README.md", fmt.Sprintf("# Fraud %d\n", i))
		subject := describe(mediaManifest, root)
		s.artifact("acme/fraud", "", "application/vnd.example.note", &subject, "note.txt", fmt.Sprintf("note %d", i))
	}
	a := s.artifact("acme/team/charts", "One", "application/vnd.example.chart", nil, "chart.txt", content(70_000, "chart-"))
	b := s.artifact("acme/team/charts", "", "application/vnd.example.chart", nil, "chart.txt", content(70_000, "other-"))
	s.manifest("acme/team/charts", "both", listed{SchemaVersion: 2, MediaType: mediaIndex, Manifests: []described{describe(mediaManifest, a), describe(mediaManifest, b)}})
}

// TestMirrorImport keeps a registry like another: at first, after changes, and after deletions.
func TestMirrorImport(t *testing.T) {
	from, here := newSite(t, nil), newSite(t, nil)
	from.fill()
	here.mirrors(api.MirrorRequest{Name: "hub", Remote: from.name("acme"), Match: []string{"*", "team/charts"}, Prune: true, RemoteLogin: from.login()})
	same(t, here.state(), from.state())
	if again := here.again("hub"); again.Copied != 0 || again.Seen == 0 {
		t.Errorf("a round without changes: %+v", again)
	}
	moved := from.artifact("acme/fraud", "v1", "application/vnd.example.model", nil, "model.onnx", model(t), "README.md", "# Moved\n")
	subject := describe(mediaManifest, moved)
	from.artifact("acme/fraud", "", "application/vnd.example.late", &subject, "late.txt", "late")
	from.must(from.catalog.DeleteTag(t.Context(), acme, api.Repository{Tenant: "acme", Name: "fraud"}, "v3"))
	here.again("hub")
	same(t, here.state(), from.state())
	from.artifact("acme/fraud", "", "application/vnd.example.later", &subject, "later.txt", "later")
	if again := here.again("hub"); again.Copied == 0 {
		t.Errorf("a new referrer: %+v", again)
	}
	same(t, here.state(), from.state())
	here.must(here.mirror.DeleteMirror(t.Context(), acme, "hub"))
	if _, err := here.mirror.Mirror(t.Context(), "acme", "hub"); !api.Is(err, api.CodeNotFound) {
		t.Error(err)
	}
}

// TestMirrorPush brings what comes to another registry.
func TestMirrorPush(t *testing.T) {
	here, to := newSite(t, nil), newSite(t, nil)
	here.fill()
	here.mirrors(api.MirrorRequest{Name: "copy", Direction: api.DirectionPush, Remote: to.name("acme"), Match: []string{"*", "team/charts"}, RemoteLogin: to.login()})
	same(t, to.state(), here.state())
	here.artifact("acme/fraud", "v4", "application/vnd.example.model", nil, "model.onnx", model(t), "README.md", "# New\n")
	here.again("copy")
	same(t, to.state(), here.state())
	if again := here.again("copy"); again.Copied != 0 {
		t.Errorf("a round without changes: %+v", again)
	}
}

func same(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestMirrorNames refuses what cannot be a mirror, and shows no mirror of another tenant.
func TestMirrorNames(t *testing.T) {
	here := newSite(t, nil)
	for name, in := range map[string]api.MirrorRequest{
		"no host":        {Name: "m", Remote: "oci:///x", Match: []string{"*"}},
		"another scheme": {Name: "m", Remote: "http://127.0.0.1/x", Match: []string{"*"}},
		"a user":         {Name: "m", Remote: "oci://a@127.0.0.1/x", Match: []string{"*"}},
		"no pattern":     {Name: "m", Remote: "oci://127.0.0.1/x"},
		"a bad pattern":  {Name: "m", Remote: "oci://127.0.0.1/x", Match: []string{"[a"}},
		"a bad name":     {Name: "M!", Remote: "oci://127.0.0.1/x", Match: []string{"*"}},
		"a bad pause":    {Name: "m", Remote: "oci://127.0.0.1/x", Match: []string{"*"}, Every: "1ms"},
		"push and prune": {Name: "m", Remote: "oci://127.0.0.1/x", Match: []string{"*"}, Direction: api.DirectionPush, Prune: true},
	} {
		if _, err := here.mirror.CreateMirror(t.Context(), acme, in); api.KindOf(err) != api.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	reader := &api.Principal{Tenant: "acme", Scopes: []api.Scope{api.ScopeRead}}
	if _, err := here.mirror.CreateMirror(t.Context(), reader, api.MirrorRequest{Name: "m", Remote: "oci://127.0.0.1/x", Match: []string{"*"}}); !api.Is(err, api.CodeForbidden) {
		t.Error(err)
	}
	if _, err := here.mirror.CreateMirror(t.Context(), acme, api.MirrorRequest{Name: "m", Remote: "oci://127.0.0.1/x", Match: []string{"none"}, PullThrough: true}); err != nil {
		t.Error(err)
	}
	if _, err := here.mirror.Mirror(t.Context(), "default", "m"); !api.Is(err, api.CodeNotFound) {
		t.Error(err)
	}
}

// get asks the site's own door.
func (s *site) get(path string) (*http.Response, []byte, error) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.server.URL+path, nil)
	s.must(err)
	r.Header.Set("Authorization", "Bearer "+s.key)
	answer, err := http.DefaultClient.Do(r)
	s.must(err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer, body, err
}

// TestPullThrough asks a mirror for what it does not hold: the answers stream while the other side sends, each byte is
// fetched once however many ask, and all of it is kept.
func TestPullThrough(t *testing.T) {
	from, here := newSite(t, nil), newSite(t, nil)
	big := content(5<<20, "0123456789abcdef-")
	root := from.artifact("acme/m", "v1", "application/vnd.example.data", nil, "data.bin", big)
	blob := "/blobs/" + sha([]byte(big))
	half := make(chan struct{})
	var asked, reading atomic.Int64
	from.through(func(w http.ResponseWriter, r *http.Request, through http.Handler) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, blob) {
			asked.Add(1)
			w = &halting{ResponseWriter: w, after: 3 << 20, until: half, stop: r.Context().Done()}
		}
		through.ServeHTTP(w, r)
	})
	if _, err := here.mirror.CreateMirror(t.Context(), acme, api.MirrorRequest{Name: "near", Remote: from.name("acme"), Match: []string{"*"}, PullThrough: true, RemoteLogin: from.login()}); err != nil {
		t.Fatal(err)
	}
	answer, body, err := here.get("/v2/acme/m/manifests/v1")
	if err != nil || answer.StatusCode != http.StatusOK || !bytes.Equal(body, root) || answer.Header.Get("Docker-Content-Digest") != sha(root) {
		t.Fatalf("%v %s, %v", answer, body, err)
	}
	var readers sync.WaitGroup
	for i := range 3 {
		readers.Go(func() {
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, here.server.URL+"/v2/acme/m"+blob, nil)
			r.Header.Set("Authorization", "Bearer "+here.key)
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer answer.Body.Close()
			first := make([]byte, 1<<20)
			if _, err := io.ReadFull(answer.Body, first); err != nil { // while the other side waits
				t.Errorf("reader %d: %v", i, err)
			}
			if reading.Add(1) == 3 { // one that comes when all is over may have missed it here just before, and asks anew
				close(half)
			}
			rest, err := io.ReadAll(answer.Body)
			if got := string(first) + string(rest); err != nil || got != big {
				t.Errorf("reader %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	readers.Wait()
	all, err := here.mirror.Transfers(t.Context(), "acme", "", 10)
	if err != nil || len(all) != 1 || all[0].Mirror != "near" {
		t.Fatalf("%+v, %v", all, err)
	}
	here.ends(all[0], api.TransferDone)
	if n := asked.Load(); n != 1 {
		t.Errorf("the other side was asked %d times for the blob", n)
	}
	// From now on nothing is asked for.
	from.through(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(http.StatusInternalServerError)
	})
	if answer, body, err := here.get("/v2/acme/m/manifests/v1"); err != nil || answer.StatusCode != 200 || !bytes.Equal(body, root) {
		t.Errorf("afterwards: %v, %v", answer, err)
	}
	here.holds("m", []byte(big))
	// What is not there either, with the other side away, and what no mirror is for.
	if answer, _, _ := here.get("/v2/acme/m/manifests/v9"); answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("with the other side away: %d", answer.StatusCode)
	}
	from.through(nil)
	if answer, _, _ := here.get("/v2/acme/m/manifests/v9"); answer.StatusCode != http.StatusNotFound {
		t.Errorf("what is nowhere: %d", answer.StatusCode)
	}
	if answer, _, _ := here.get("/v2/acme/m/blobs/" + sha([]byte("nowhere"))); answer.StatusCode != http.StatusNotFound {
		t.Errorf("a blob that is nowhere: %d", answer.StatusCode)
	}
}

// halting waits in the middle of an answer.
type halting struct {
	http.ResponseWriter
	after int
	until <-chan struct{}
	stop  <-chan struct{}
}

func (h *halting) Write(b []byte) (int, error) {
	if h.after -= len(b); h.after < 0 {
		h.ResponseWriter.(http.Flusher).Flush()
		select {
		case <-h.until:
		case <-h.stop:
		}
	}
	return h.ResponseWriter.Write(b)
}

// TestPullThroughLies serves other bytes than the digest says: no client gets them whole, and none are kept.
func TestPullThroughLies(t *testing.T) {
	from, here := newSite(t, nil), newSite(t, nil)
	big := content(2<<20, "0123456789abcdef-")
	from.artifact("acme/m", "v1", "application/vnd.example.data", nil, "data.bin", big)
	from.through(func(w http.ResponseWriter, r *http.Request, through http.Handler) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+sha([]byte(big))) {
			_, _ = w.Write([]byte(content(2<<20, "lies-")))
			return
		}
		through.ServeHTTP(w, r)
	})
	if _, err := here.mirror.CreateMirror(t.Context(), acme, api.MirrorRequest{Name: "near", Remote: from.name("acme"), Match: []string{"*"}, PullThrough: true, RemoteLogin: from.login()}); err != nil {
		t.Fatal(err)
	}
	if _, body, err := here.get("/v2/acme/m/blobs/" + sha([]byte(big))); err == nil || len(body) >= len(big) {
		t.Errorf("%d bytes came, %v", len(body), err)
	}
	if left := here.left(); len(left) > 0 {
		t.Errorf("lies are kept as %v", left)
	}
}

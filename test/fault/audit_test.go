package fault_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/server"
	"github.com/penstock/penstock/test/live"
)

// changes are what callers were told of: subjects by how often they were changed.
type changes struct {
	mu    sync.Mutex // guards told
	told  map[string]int64
	tries atomic.Int64
}

func (c *changes) run(t *testing.T, s *live.Server, worker int, round int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for n := 0; ; n++ {
		c.tries.Add(1)
		name := fmt.Sprintf("r%d-w%d-%d", round, worker, n)
		var err error
		subject := ""
		if n%2 == 0 {
			var key api.NewKey
			key, err = s.CreateKey(ctx, api.KeyRequest{Name: name, Scopes: []api.Scope{api.ScopeRead}})
			subject = string(key.ID)
		} else {
			var w api.NewWebhook
			if w, err = s.CreateWebhook(ctx, api.WebhookRequest{URL: "https://example.com/" + name, Kinds: []string{"nothing"}}); err == nil {
				subject = string(w.ID)
				c.tell(subject)
				err = s.DeleteWebhook(ctx, w.ID)
			}
		}
		if api.Is(err, api.CodeTooLarge) {
			continue // webhooks that a kill kept from being deleted fill the tenant's limit
		}
		if err != nil {
			return // killed, most likely; what was told before counts
		}
		c.tell(subject)
		if t.Failed() {
			return
		}
	}
}

func (c *changes) tell(subject string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told[subject]++
}

// TestAuditKilled kills the server while callers change things, again and again: every change that was acknowledged has
// its record, at most one unfinished record is taken off per kill, and the chain is whole.
func TestAuditKilled(t *testing.T) {
	rounds := 12
	switch {
	case os.Getenv("PENSTOCK_SOAK") != "":
		rounds = 100
	case testing.Short():
		rounds = 3
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dice, dir, torn := rand.New(rand.NewPCG(seed, 1)), t.TempDir(), 0
	c := &changes{told: map[string]int64{}}
	for round := range rounds {
		s := live.Start(t, dir)
		var workers sync.WaitGroup
		for worker := range 3 {
			workers.Go(func() { c.run(t, s, worker, round) })
		}
		<-time.After(time.Duration(50+dice.IntN(500)) * time.Millisecond)
		s.Kill()
		workers.Wait()
		if dice.IntN(3) == 0 {
			torn += tear(t, dir, dice)
		}
	}
	s := live.Start(t, dir)
	found, repaired, unknown := map[string]int64{}, 0, 0
	pages := func(ctx context.Context, p client.Page) (api.List[api.AuditRecord], error) {
		p.Limit = 1000
		return s.Audit(ctx, client.AuditQuery{All: true}, p)
	}
	for r, err := range client.All(t.Context(), pages) {
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case r.Action == api.AuditRepaired:
			repaired++
		case r.Phase == api.AuditBegun:
			unknown++
		case r.Phase == api.AuditEnded && r.Outcome == "ok":
			found[r.Subject]++
		}
	}
	told := int64(0)
	for subject, n := range c.told {
		if told += n; found[subject] < n {
			t.Errorf("%d changes of %s were acknowledged, %d are recorded", n, subject, found[subject])
		}
	}
	report, err := s.VerifyAudit(t.Context())
	if err != nil || !report.OK {
		t.Errorf("%+v %+v %v", report, report.Fault, err)
	}
	s.Kill()
	offline, err := server.VerifyAudit(t.Context(), server.Config{Data: dir})
	if err != nil || !offline.OK {
		t.Errorf("offline: %+v %+v %v", offline, offline.Fault, err)
	}
	if repaired > rounds || repaired < torn {
		t.Errorf("%d repairs after %d kills and %d torn ends", repaired, rounds, torn)
	}
	t.Logf("%d changes acknowledged over %d kills, all recorded; %d records in %d files, %d torn ends repaired (%d made by the test), %d changes of which nobody knows the end",
		told, rounds, report.Records, report.Segments, repaired, torn, unknown)
}

// tear leaves the beginning of a record at the end, as a kill in the middle of a write does.
func tear(t *testing.T, dir string, dice *rand.Rand) int {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "audit", "*.audit"))
	if err != nil || len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	f, err := os.OpenFile(all[len(all)-1], os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	junk := []byte{200, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	if _, err := f.Write(junk[:1+dice.IntN(len(junk))]); err != nil {
		t.Fatal(err)
	}
	return 1
}

// TestAuditOfEveryDoor: what changes something through the OCI door and the inference door is recorded, too, and so are
// callers without a key there.
func TestAuditOfEveryDoor(t *testing.T) {
	s := live.Start(t, t.TempDir())
	ctx := t.Context()
	if _, err := s.Push(ctx, "digits", live.Model(t, "digits-v1.onnx", "1")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Release(ctx, "digits", "digits@1"); err != nil {
		t.Fatal(err)
	}
	send := func(method, url, body, authorization string, want int) string {
		t.Helper()
		request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if authorization != "" {
			request.Header.Set("Authorization", authorization)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body) // for the message alone
		if response.StatusCode != want {
			t.Errorf("%s %s: %d %s", method, url, response.StatusCode, text)
		}
		return response.Header.Get("Location")
	}
	sum := sha256.Sum256([]byte("hello"))
	digest := "sha256:" + hex.EncodeToString(sum[:])
	oci, data := "http://"+s.OCI, "http://"+s.HTTP
	send("POST", oci+"/v2/notes/blobs/uploads/?digest="+digest, "hello", "", 201)
	send("DELETE", oci+"/v2/notes/blobs/"+digest, "", "", 202)
	location := send("POST", oci+"/v2/notes/blobs/uploads/", "", "", 202)
	if !strings.HasPrefix(location, "http") {
		location = oci + location
	}
	send("PUT", location+"?digest="+digest, "hello", "", 201)
	send("DELETE", oci+"/v2/notes/manifests/none", "", "", 404)
	send("GET", oci+"/v2/notes/tags/list", "", "Bearer nonsense", 401)
	send("POST", data+"/v2/repository/models/digits/unload", "{}", "", 200)
	send("POST", data+"/v2/repository/models/digits/load", "{}", "", 200)
	send("GET", data+"/v2/models/digits", "", "Bearer nonsense", 401)
	// Refusals are noted without waiting; what is recorded after one is behind it.
	send("POST", data+"/v2/logging", `{"log_verbose_level":1}`, "", 200)
	page, err := s.Audit(ctx, client.AuditQuery{All: true}, client.Page{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, r := range page.Items {
		if r.Phase == api.AuditBegun {
			t.Errorf("without an end: %+v", r)
		}
		told = append(told, strings.TrimSpace(fmt.Sprint(r.Door, " ", r.Action, " ", r.Subject, " ", r.Outcome)))
	}
	for _, want := range []string{"oci ociBeginUpload notes@" + digest + " ok", "oci ociDeleteBlob notes@" + digest + " ok", "oci ociBeginUpload notes ok", "oci ociFinishUpload notes@" + digest + " ok",
		"oci ociDeleteManifest notes@none 404", "oci refusedKey  unauthenticated", "inference unload digits ok", "inference load digits ok", "inference setLogLevel  ok",
		"inference refusedKey  unauthenticated", "api deploy digits ok"} {
		if !slices.Contains(told, want) {
			t.Errorf("no record %q among\n%s", want, strings.Join(told, "\n"))
		}
	}
}

package fault_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/server"
	"github.com/penstock/penstock/test/live"
)

func sum(body []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(body)) }

// seen is what an OCI client sees of a repository: its tags, its versions by number, and what refers to each.
func seen(t *testing.T, s *live.Server, repo string) (all []string) {
	t.Helper()
	get := func(path string, into any) (digest string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.OCI+"/v2/"+repo+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode == http.StatusOK && into != nil {
			err = json.Unmarshal(body, into)
		}
		if err != nil {
			t.Fatal(err)
		}
		return answer.Header.Get("Docker-Content-Digest")
	}
	var list struct{ Tags []string }
	get("/tags/list", &list)
	for _, tag := range append(list.Tags, "1", "2", "3", "4", "5") {
		digest := get("/manifests/"+tag, nil)
		var index struct {
			Manifests []struct{ Digest, ArtifactType string }
		}
		if digest != "" {
			get("/referrers/"+digest, &index)
		}
		all = append(all, fmt.Sprint(repo, " ", tag, " ", digest, " ", index.Manifests))
	}
	return all
}

// send pushes a blob or a manifest to a server.
func send(t *testing.T, s *live.Server, method, path, media string, body []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.OCI+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", media)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		t.Fatalf("%s %s: %s", method, path, answer.Status)
	}
}

// TestMirrorKilled kills a server again and again while it mirrors another. At the end both are alike.
func TestMirrorKilled(t *testing.T) {
	t.Parallel()
	from := live.Start(t, t.TempDir())
	for _, file := range []string{"digits-v1.onnx", "digits-v2.onnx"} {
		if _, err := from.Push(t.Context(), "digits", live.Model(t, file, "")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := from.MoveAlias(t.Context(), "digits", "champion", api.AliasRequest{Version: 2}, 0); err != nil {
		t.Fatal(err)
	}
	const media = "application/vnd.oci.image.manifest.v1+json"
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	put := func(repo, tag string, subject string, size int) string {
		body := bytes.Repeat([]byte(tag+subject+"-"), size/(len(tag+subject)+1))
		empty := []byte("{}")
		for _, b := range [][]byte{body, empty} {
			send(t, from, http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest="+sum(b), "application/octet-stream", b)
		}
		m := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"application/vnd.example.data","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"application/octet-stream","digest":%q,"size":%d}]%s}`,
			media, sum(empty), sum(body), len(body), subject)
		reference := tag
		if tag == "" {
			reference = sum(m)
		}
		send(t, from, http.MethodPut, "/v2/"+repo+"/manifests/"+reference, media, m)
		return fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":%d}`, media, sum(m), len(m))
	}
	for i := range 4 {
		subject := put("default/big", fmt.Sprintf("T%d", i), "", 24<<20)
		put("default/big", "", subject, 1000)
	}
	dir := t.TempDir()
	inside := func(c *server.Config) { c.Egress = []string{"127.0.0.1"} }
	here := live.Start(t, dir, inside)
	if _, err := here.CreateMirror(t.Context(), api.MirrorRequest{Name: "hub", Remote: api.RemoteScheme + from.OCI + "/default", Match: []string{"*"}, Every: "1s",
		RemoteLogin: api.RemoteLogin{PlainHTTP: true}}); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		timer := time.NewTimer(time.Duration(20+random.IntN(300)) * time.Millisecond)
		<-timer.C
		here.Kill()
		here = live.Start(t, dir, inside)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	started := api.TimeOf(time.Now())
	for {
		m, err := here.Mirror(ctx, "hub")
		if err != nil {
			t.Fatal(err)
		}
		if !m.Status.Running && m.Status.Ended > started && m.Status.Error == "" {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no round ended: %+v", m.Status)
		}
	}
	for _, repo := range []string{"default/digits", "default/big"} {
		if got, want := seen(t, here, repo), seen(t, from, repo); !slices.Equal(got, want) || len(want) < 6 {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	v, err := here.Resolve(t.Context(), api.Ref{Model: "digits", Alias: "champion"})
	if err != nil || v.Number != 2 || v.State != api.VersionReady {
		t.Errorf("digits:champion is %+v, %v", v, err)
	}
}

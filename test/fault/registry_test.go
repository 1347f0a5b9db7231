package fault_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/server"
	"github.com/penstock/penstock/test/live"
)

// shipper pushes by the OCI door until an operation fails, as it does when the server is killed, and remembers what it was told.
type shipper struct {
	t      *testing.T
	random *rand.Rand
	serial int
	acked  int

	blobs    map[string][]byte // acknowledged ones, by digest
	tags     map[string]string // acknowledged ones: tag to the manifest's digest
	maybe    map[string]string // a tag that was sent without an answer
	versions int               // acknowledged ones

	upload string // one under way
	body   []byte // all that it will be
	sent   int    // acknowledged of it
}

const shipRepo = "/v2/default/ship"

func (d *shipper) ask(ctx context.Context, s *live.Server, method, path string, body []byte, headers ...string) (http.Header, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+s.OCI+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: status %d: %s", method, path, response.StatusCode, text)
	}
	return response.Header, text, err
}

func digestOf(body []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(body)) }

func (d *shipper) run(s *live.Server, ops *atomic.Int64) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		ops.Add(1)
		var err error
		switch d.random.IntN(4) {
		case 0:
			err = d.push(ctx, s, d.content())
		case 1, 2:
			err = d.chunk(ctx, s)
		default:
			err = d.manifest(ctx, s)
		}
		if err != nil {
			return
		}
		d.acked++
	}
}

func (d *shipper) content() []byte {
	d.serial++
	return bytes.Repeat([]byte(fmt.Sprint(d.serial, " ")), 1+d.random.IntN(100_000))
}

func (d *shipper) push(ctx context.Context, s *live.Server, body []byte) error {
	_, _, err := d.ask(ctx, s, "POST", shipRepo+"/blobs/uploads/?digest="+digestOf(body), body)
	if err == nil {
		d.blobs[digestOf(body)] = body
	}
	return err
}

// chunk begins an upload, adds to it, or ends it.
func (d *shipper) chunk(ctx context.Context, s *live.Server) error {
	if d.upload == "" {
		header, _, err := d.ask(ctx, s, "POST", shipRepo+"/blobs/uploads/", nil)
		if err == nil {
			d.upload, d.body, d.sent = header.Get("Location"), d.content(), 0
		}
		return err
	}
	if d.sent == len(d.body) {
		_, _, err := d.ask(ctx, s, "PUT", d.upload+"?digest="+digestOf(d.body), nil)
		if err == nil {
			d.blobs[digestOf(d.body)], d.upload = d.body, ""
		}
		return err
	}
	end := min(len(d.body), d.sent+1+d.random.IntN(200_000))
	_, _, err := d.ask(ctx, s, "PATCH", d.upload, d.body[d.sent:end], "Content-Range", fmt.Sprintf("%d-%d", d.sent, end-1))
	if err == nil {
		d.sent = end
	}
	return err
}

// manifest pushes an artifact: sometimes a model, which becomes a version.
func (d *shipper) manifest(ctx context.Context, s *live.Server) error {
	empty, layer, title := []byte("{}"), d.content(), "note.txt"
	if d.random.IntN(2) == 0 {
		layer, title = live.Model(d.t, "digits-v1.onnx", strconv.Itoa(d.serial)), "model.onnx"
	}
	for _, body := range [][]byte{empty, layer} {
		if err := d.push(ctx, s, body); err != nil {
			return err
		}
	}
	body := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/example",
		"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},
		"layers":[{"mediaType":"application/octet-stream","digest":%q,"size":%d,"annotations":{"org.opencontainers.image.title":%q}}]}`,
		digestOf(empty), digestOf(layer), len(layer), title)
	tag := fmt.Sprintf("t%d", d.random.IntN(3))
	d.maybe = map[string]string{tag: digestOf(body)}
	header, _, err := d.ask(ctx, s, "PUT", shipRepo+"/manifests/"+tag, body, "Content-Type", "application/vnd.oci.image.manifest.v1+json")
	if err == nil {
		d.tags[tag], d.maybe = digestOf(body), nil
		if header.Get("Penstock-Version") != "" {
			d.versions++
		}
	}
	return err
}

// TestRegistryKilled kills the server at random points of pushes by OCI clients. What was acknowledged is there: blobs, tags,
// versions, and each chunk of an upload, which then goes on. What was not is absent or whole.
func TestRegistryKilled(t *testing.T) {
	rounds := 30
	switch {
	case os.Getenv("PENSTOCK_SOAK") != "":
		rounds = 300
	case testing.Short():
		rounds = 4
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 7))
	d := &shipper{t: t, random: rand.New(rand.NewPCG(seed, 8)), blobs: map[string][]byte{}, tags: map[string]string{}}
	dir := t.TempDir()
	s := live.Start(t, dir)
	for round := range rounds {
		var ops atomic.Int64
		done := make(chan struct{})
		go func() { d.run(s, &ops); close(done) }()
		<-time.After(time.Duration(20+random.IntN(500)) * time.Millisecond)
		s.Kill()
		<-done
		s = live.Start(t, dir)
		d.check(s, dir, round)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d operations acknowledged over %d kills; %d blobs and %d versions, all there", d.acked, rounds, len(d.blobs), d.versions)
}

// check compares the restarted server with what was told.
func (d *shipper) check(s *live.Server, dir string, round int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for digest, body := range d.blobs {
		if _, got, err := d.ask(ctx, s, "GET", shipRepo+"/blobs/"+digest, nil); err != nil || !bytes.Equal(got, body) {
			d.t.Errorf("round %d: acknowledged blob %s: %d bytes, %v", round, digest, len(got), err)
		}
	}
	for tag, digest := range d.maybe {
		if _, got, err := d.ask(ctx, s, "GET", shipRepo+"/manifests/"+tag, nil); err == nil && digestOf(got) == digest {
			d.tags[tag] = digest // whole, so it may be there
		}
	}
	d.maybe = nil
	for tag, digest := range d.tags {
		_, got, err := d.ask(ctx, s, "GET", shipRepo+"/manifests/"+tag, nil)
		if err != nil || digestOf(got) != digest {
			d.t.Errorf("round %d: tag %s gives %s, want %s: %v", round, tag, digestOf(got), digest, err)
			continue
		}
		var m struct{ Layers []struct{ Digest string } }
		if err := json.Unmarshal(got, &m); err != nil || len(m.Layers) != 1 {
			d.t.Errorf("round %d: manifest of %s: %v", round, tag, err)
			continue
		}
		if _, got, err := d.ask(ctx, s, "GET", shipRepo+"/blobs/"+m.Layers[0].Digest, nil); err != nil || digestOf(got) != m.Layers[0].Digest {
			d.t.Errorf("round %d: layer of %s: %v", round, tag, err)
		}
	}
	if model, err := s.Model(ctx, "ship"); d.versions > 0 && (err != nil || int(model.Latest) < d.versions) {
		d.t.Errorf("round %d: %d versions were acknowledged, %d are there: %v", round, d.versions, model.Latest, err)
	} else if err == nil {
		d.versions = int(model.Latest)
	} else if !api.Is(err, api.CodeModelNotFound) {
		d.t.Errorf("round %d: %v", round, err)
	}
	d.checkUpload(ctx, s, round)
	d.checkStage(dir, round)
}

// checkUpload makes sure that the upload under way goes on at or behind what was acknowledged, or that it was finished.
func (d *shipper) checkUpload(ctx context.Context, s *live.Server, round int) {
	if d.upload == "" {
		return
	}
	header, _, err := d.ask(ctx, s, "GET", d.upload, nil)
	if err != nil {
		if _, got, other := d.ask(ctx, s, "GET", shipRepo+"/blobs/"+digestOf(d.body), nil); other != nil || !bytes.Equal(got, d.body) {
			d.t.Errorf("round %d: an upload of %d acknowledged bytes is gone: %v", round, d.sent, err)
		}
		d.upload = ""
		return
	}
	var last int
	if _, err := fmt.Sscanf(header.Get("Range"), "0-%d", &last); err != nil || last+1 < d.sent && d.sent > 0 {
		d.t.Errorf("round %d: %d bytes were acknowledged, the upload is at %q: %v", round, d.sent, header.Get("Range"), err)
	}
	if last > 0 {
		d.sent = last + 1
	}
}

// checkStage makes sure that no bytes lie about that belong to no upload.
func (d *shipper) checkStage(dir string, round int) {
	entries, err := os.ReadDir(filepath.Join(dir, "uploads"))
	if err != nil {
		d.t.Error(err)
	}
	names := map[string]int{}
	for _, e := range entries {
		id, _, _ := strings.Cut(e.Name(), ".")
		names[id]++
	}
	for id, files := range names {
		if files != 2 {
			d.t.Errorf("round %d: %d files of upload %q", round, files, id)
		}
	}
}

// TestRegistryRestored pushes what is no version and what is one, backs up, and pulls all of it from the restored server.
func TestRegistryRestored(t *testing.T) {
	s := live.Start(t, t.TempDir())
	d := &shipper{t: t, random: rand.New(rand.NewPCG(1, 2)), blobs: map[string][]byte{}, tags: map[string]string{}}
	for len(d.tags) < 3 || d.versions == 0 {
		if err := d.manifest(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := d.ask(t.Context(), s, "POST", shipRepo+"/blobs/uploads/", nil); err != nil { // an unfinished one stays behind
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if _, err := s.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	dir := filepath.Join(t.TempDir(), "restored")
	if err := server.Restore(t.Context(), &backup, server.Config{Data: dir}, slog.Default()); err != nil {
		t.Fatal(err)
	}
	d.check(live.Start(t, dir), dir, 0)
}

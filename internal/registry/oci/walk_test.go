package oci_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// shelf is what a repository holds, as a plain program would keep it.
type shelf struct {
	blobs     map[string]bool
	manifests map[string][]string // digest to parts
	tags      map[string]string   // tag to digest
}

func (s *shelf) needs(part string) bool {
	for _, parts := range s.manifests {
		if slices.Contains(parts, part) {
			return true
		}
	}
	return false
}

// walker does random things in two repositories of its own. All walkers push the same few contents, so that their bytes meet in
// the store and what one deletes is another's too.
type walker struct {
	*bench
	id     int
	dice   *rand.Rand
	repos  [2]string
	plain  map[string]*shelf
	bodies [][]byte
}

// TestWalk lets eight walkers push, tag, mount and delete together, and compares every answer with a plain model.
func TestWalk(t *testing.T) {
	steps := 250
	if testing.Short() {
		steps = 40
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	b := setUp(t, nil)
	bodies := [][]byte{[]byte("{}")}
	for i := range 6 {
		bodies = append(bodies, content(10+i*5000, fmt.Sprint("content ", i)))
	}
	walkers := make([]*walker, 8)
	for i := range walkers {
		w := &walker{bench: b, id: i, dice: rand.New(rand.NewPCG(seed, uint64(i))), plain: map[string]*shelf{}, bodies: bodies,
			repos: [2]string{fmt.Sprintf("acme/w%d", i), fmt.Sprintf("acme/w%d/more", i)}}
		for _, r := range w.repos {
			w.plain[r] = &shelf{map[string]bool{}, map[string][]string{}, map[string]string{}}
		}
		walkers[i] = w
	}
	for range 2 {
		var wg sync.WaitGroup
		for _, w := range walkers {
			wg.Go(func() { w.walk(steps / 2) })
		}
		wg.Wait()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		// After a restart everything is as it was.
		b.close()
		b.open()
		for _, w := range walkers {
			w.compare()
		}
	}
	if left := b.left(); len(left) > 0 {
		t.Errorf("seed %d: left %v", seed, left)
	}
}

func (w *walker) walk(steps int) {
	acts := []func(repo string){w.pushBlob, w.pushBlob, w.mount, w.dropBlob, w.pushManifest, w.pushManifest, w.dropTag, w.dropManifest, w.look}
	for range steps {
		acts[w.dice.IntN(len(acts))](w.repos[w.dice.IntN(2)])
	}
}

func (w *walker) body() []byte { return w.bodies[w.dice.IntN(len(w.bodies))] }

func (w *walker) pushBlob(repo string) {
	body := w.body()
	digest := sha(body)
	if w.dice.IntN(4) == 0 {
		digest = sha2(body)
	}
	switch w.dice.IntN(3) {
	case 0:
		w.do(http.StatusCreated, "acme", "POST", "/v2/"+repo+"/blobs/uploads/?digest="+digest, body)
	case 1:
		w.do(http.StatusCreated, "acme", "PUT", w.begin("acme", repo)+"?digest="+digest, body)
	default:
		at, cut := w.begin("acme", repo), w.dice.IntN(len(body))
		w.do(http.StatusAccepted, "acme", "PATCH", at, body[:cut])
		w.do(http.StatusCreated, "acme", "PUT", at+"?digest="+digest, body[cut:])
	}
	w.plain[repo].blobs[digest] = true
}

func (w *walker) mount(repo string) {
	from := w.repos[w.dice.IntN(2)]
	digest := sha(w.body())
	if w.plain[from].blobs[digest] {
		w.do(http.StatusCreated, "acme", "POST", "/v2/"+repo+"/blobs/uploads/?mount="+digest+"&from="+from, nil)
		w.plain[repo].blobs[digest] = true
		return
	}
	a := w.do(http.StatusAccepted, "acme", "POST", "/v2/"+repo+"/blobs/uploads/?mount="+digest+"&from="+from, nil)
	w.do(http.StatusNoContent, "acme", "DELETE", a.Header.Get("Location"), nil)
}

func (w *walker) dropBlob(repo string) {
	s, digest := w.plain[repo], sha(w.body())
	want := http.StatusNotFound
	switch {
	case s.needs(digest):
		want = http.StatusConflict
	case s.blobs[digest]:
		want = http.StatusAccepted
	}
	w.do(want, "acme", "DELETE", "/v2/"+repo+"/blobs/"+digest, nil)
	if want == http.StatusAccepted {
		delete(s.blobs, digest)
	}
}

// pushManifest makes one of a few manifests, so that they come again.
func (w *walker) pushManifest(repo string) {
	s := w.plain[repo]
	config := describe(mediaEmpty, w.bodies[0])
	m := manifest{SchemaVersion: 2, MediaType: mediaManifest, ArtifactType: "application/walk", Config: &config}
	parts, there := []string{config.Digest}, s.blobs[config.Digest]
	for range w.dice.IntN(3) {
		body := w.body()
		m.Layers = append(m.Layers, describe("application/octet-stream", body))
		parts = append(parts, sha(body))
		there = there && s.blobs[sha(body)]
	}
	body := encode(w.t, m)
	digest, reference := sha(body), fmt.Sprintf("T%d", w.dice.IntN(4))
	tags := []string{reference}
	if w.dice.IntN(2) == 0 {
		tags = []string{"T1", "T2"}[:w.dice.IntN(3)]
		reference = digest + "?tag=" + strings.Join(tags, "&tag=")
		if len(tags) == 0 {
			reference = digest
		}
	}
	want := http.StatusCreated
	if !there {
		want = http.StatusNotFound
	}
	w.do(want, "acme", "PUT", "/v2/"+repo+"/manifests/"+reference, body, "Content-Type", mediaManifest)
	if there {
		s.manifests[digest] = parts
		for _, tag := range tags {
			s.tags[tag] = digest
		}
	}
}

func (w *walker) dropTag(repo string) {
	s, tag := w.plain[repo], fmt.Sprintf("T%d", w.dice.IntN(4))
	want := http.StatusAccepted
	if s.tags[tag] == "" {
		want = http.StatusNotFound
	}
	w.do(want, "acme", "DELETE", "/v2/"+repo+"/manifests/"+tag, nil)
	delete(s.tags, tag)
}

func (w *walker) dropManifest(repo string) {
	s := w.plain[repo]
	digests := slices.Sorted(maps.Keys(s.manifests))
	if len(digests) == 0 {
		w.do(http.StatusNotFound, "acme", "DELETE", "/v2/"+repo+"/manifests/"+sha([]byte("none")), nil)
		return
	}
	digest := digests[w.dice.IntN(len(digests))]
	w.do(http.StatusAccepted, "acme", "DELETE", "/v2/"+repo+"/manifests/"+digest, nil)
	delete(s.manifests, digest)
	maps.DeleteFunc(s.tags, func(_, d string) bool { return d == digest })
}

// look reads one thing back.
func (w *walker) look(repo string) {
	s, body := w.plain[repo], w.body()
	if s.blobs[sha(body)] {
		w.pulled("acme", repo, sha(body), body)
	} else {
		w.do(http.StatusNotFound, "acme", "HEAD", "/v2/"+repo+"/blobs/"+sha(body), nil)
	}
	w.tags(repo)
}

func (w *walker) tags(repo string) {
	w.t.Helper()
	s := w.plain[repo]
	a, err := w.try("acme", "GET", "/v2/"+repo+"/tags/list", nil)
	var list struct{ Tags []string }
	if err != nil || a.StatusCode == http.StatusOK && json.Unmarshal(a.body, &list) != nil {
		w.t.Errorf("tags of %s: %v, %s", repo, err, a.body)
	}
	if empty := len(s.blobs)+len(s.manifests) == 0; empty != (a.StatusCode == http.StatusNotFound) || !slices.Equal(list.Tags, slices.Sorted(maps.Keys(s.tags))) && len(s.tags) > 0 {
		w.t.Errorf("tags of %s: status %d, %v, want %v", repo, a.StatusCode, list.Tags, s.tags)
	}
}

// compare reads everything back.
func (w *walker) compare() {
	w.t.Helper()
	for _, repo := range w.repos {
		s := w.plain[repo]
		for _, body := range w.bodies {
			for _, digest := range []string{sha(body), sha2(body)} {
				if s.blobs[digest] {
					w.pulled("acme", repo, digest, body)
				} else {
					w.do(http.StatusNotFound, "acme", "HEAD", "/v2/"+repo+"/blobs/"+digest, nil)
				}
			}
		}
		for digest := range s.manifests {
			if a := w.do(http.StatusOK, "acme", "GET", "/v2/"+repo+"/manifests/"+digest, nil); sha(a.body) != digest {
				w.t.Errorf("manifest %s of %s is broken", digest, repo)
			}
		}
		for tag, digest := range s.tags {
			if a := w.do(http.StatusOK, "acme", "GET", "/v2/"+repo+"/manifests/"+tag, nil); sha(a.body) != digest {
				w.t.Errorf("tag %s of %s gives %s, want %s", tag, repo, sha(a.body), digest)
			}
		}
		w.tags(repo)
	}
}

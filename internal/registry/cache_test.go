package registry_test

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/registry"
)

// TestLargePush streams 300 MB of weights through upload, commit and cache, and watches the heap at every step.
func TestLargePush(t *testing.T) {
	const size, most = 300 << 20, 32 << 20
	b := setUp(t, nil)
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	watch := func(when string) {
		t.Helper()
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		if grown := int64(now.HeapAlloc) - int64(before.HeapAlloc); grown > most {
			t.Errorf("the heap grew by %d bytes %s", grown, when)
		}
	}
	random, left, reads := rand.NewChaCha8([32]byte{7}), size, 0
	digest, n, err := b.PutBlob(t.Context(), alice, readerFunc(func(p []byte) (int, error) {
		if reads++; reads%100 == 0 {
			watch("while it was uploaded")
		}
		if left == 0 {
			return 0, io.EOF
		}
		n, err := random.Read(p[:min(len(p), left)])
		left -= n
		return n, err
	}), "", -1)
	if err != nil || n != size {
		t.Fatalf("put %d bytes: %v", n, err)
	}
	model := b.upload(t, alice, "m.onnx", net{external: "w.bin", rows: size / 8}.onnx())
	v, _, err := b.Commit(t.Context(), alice, "large", api.Upload{Files: []api.UploadFile{model, {Path: "w.bin", Digest: digest, Size: n}}})
	if err != nil {
		t.Fatal(err)
	}
	watch("when it was committed")
	if _, err := b.Materialize(t.Context(), v.Digest); err != nil {
		t.Fatal(err)
	}
	watch("when it was materialized")
	if v.Info.Parameters != size/4 || v.Size != n+model.Size {
		t.Errorf("%d parameters, %d bytes", v.Info.Parameters, v.Size)
	}
}

func TestSamePushAtOnce(t *testing.T) {
	b := setUp(t, nil)
	body := net{}.onnx()
	var all sync.WaitGroup
	var made atomic.Int32
	for range 16 {
		all.Go(func() {
			digest, size, err := b.PutBlob(t.Context(), alice, strings.NewReader(body), "", -1)
			if err != nil {
				t.Error(err)
				return
			}
			v, created, err := b.Commit(t.Context(), alice, "digits", api.Upload{Files: []api.UploadFile{{Path: "m.onnx", Digest: digest, Size: size}}})
			if err != nil || v.Number != 1 {
				t.Errorf("commit at once: %+v, %v", v, err)
				return
			}
			if created {
				made.Add(1)
			}
			entry, err := b.Materialize(t.Context(), v.Digest)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := os.ReadFile(entry); err != nil || string(got) != body {
				t.Errorf("materialized %d bytes, %v", len(got), err)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 {
		t.Errorf("%d of 16 pushes made the version", made.Load())
	}
	if entries, err := os.ReadDir(filepath.Join(b.dir, "cache")); err != nil || len(entries) != 1 {
		t.Errorf("%d things in the cache, %v", len(entries), err)
	}
}

// slowBlobs holds the first reader of a blob until it is let go, and has no files on this machine.
type slowBlobs struct {
	blob.Store
	opened atomic.Int32
	begun  chan struct{} // closed when the first one opened
	let    chan struct{} // closed to let go
}

func (s *slowBlobs) Open(ctx context.Context, d api.Digest) (io.ReadSeekCloser, error) {
	if s.opened.Add(1) == 1 {
		close(s.begun)
		select {
		case <-s.let:
		case <-ctx.Done():
			return nil, api.Fail(api.CodeCanceled, "", "opening a blob was broken off").Because(ctx.Err())
		}
	}
	f, err := s.Store.Open(ctx, d)
	return struct{ io.ReadSeekCloser }{f}, err // only what the interface promises
}

// TestMaterializeOnce: many who want the same version share one filling; one who gives up does not take the others along.
func TestMaterializeOnce(t *testing.T) {
	b := setUp(t, nil)
	v := b.mustPush(t, alice, "digits", map[string]string{"m.onnx": net{external: "d/w.bin"}.onnx(), "d/w.bin": weights()})
	slow := &slowBlobs{Store: b.blobs, begun: make(chan struct{}), let: make(chan struct{})}
	b.open(t, func(cfg *registry.Config) { slow.Store, cfg.Blobs = cfg.Blobs, slow })

	first, giveUp := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		_, err := b.Materialize(first, v.Digest)
		wantCode(t, "who gave up", err, api.CodeCanceled)
	})
	<-slow.begun
	for range 8 {
		all.Go(func() {
			if _, err := b.Materialize(t.Context(), v.Digest); err != nil {
				t.Errorf("who waited: %v", err)
			}
		})
	}
	waiting, stop := context.WithCancel(t.Context())
	stop()
	_, err := b.Materialize(waiting, v.Digest)
	wantCode(t, "who stopped waiting", err, api.CodeCanceled)
	giveUp()
	all.Wait()
	if n := slow.opened.Load(); n != 1+3 {
		t.Errorf("%d blobs were opened, want 4: one by who gave up, then manifest, model and data once", n)
	}
}

// TestMaterializeRefusesDamage: bytes that changed on the disk never reach the runtime.
func TestMaterializeRefusesDamage(t *testing.T) {
	for _, local := range []bool{true, false} {
		b := setUp(t, nil)
		v := b.mustPush(t, alice, "digits", map[string]string{"m.onnx": net{}.onnx()})
		if !local {
			b.open(t, func(cfg *registry.Config) { cfg.Blobs = struct{ blob.Store }{cfg.Blobs} })
		}
		body := []byte(net{}.onnx())
		body[len(body)-1] ^= 1
		b.putInPlaceOf(t, v.Artifacts[0].Digest, body)
		_, err := b.Materialize(t.Context(), v.Digest)
		wantCode(t, "a flipped bit", err, api.CodeStorage)
		if entries, err := os.ReadDir(filepath.Join(b.dir, "cache")); err != nil || len(entries) != 0 {
			t.Errorf("%d things in the cache, %v", len(entries), err)
		}
	}
}

// putInPlaceOf gives a blob's file other content, as no one but a fault of the disk or a person could.
func (b *bench) putInPlaceOf(t *testing.T, d api.Digest, body []byte) {
	t.Helper()
	path, err := b.blobs.Path(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, body, 0o400); err != nil {
		t.Fatal(err)
	}
}

// TestSwappedDataIsAnother: a model's external data has no checksum that anybody must write, so the version's digest stands for
// it too. Other data of the same length are another version, and are not taken for the first one's.
func TestSwappedDataIsAnother(t *testing.T) {
	b := setUp(t, nil)
	model := net{external: "w.bin"}.onnx()
	swapped := []byte(weights())
	swapped[0] ^= 1
	v := b.mustPush(t, alice, "digits", map[string]string{"m.onnx": model, "w.bin": weights()})
	w := b.mustPush(t, alice, "digits", map[string]string{"m.onnx": model, "w.bin": string(swapped)})
	if v.Digest == w.Digest || w.Number != 2 {
		t.Errorf("%s is %s with other data", w.Ref(), v.Digest)
	}
	at := slices.IndexFunc(v.Artifacts, func(a api.Artifact) bool { return a.Role == api.RoleData })
	b.putInPlaceOf(t, v.Artifacts[at].Digest, swapped)
	_, err := b.Materialize(t.Context(), v.Digest)
	wantCode(t, "swapped data", err, api.CodeStorage)
	if _, err := b.Materialize(t.Context(), w.Digest); err != nil {
		t.Errorf("the version that has such data: %v", err)
	}
}

// TestCacheWalk does to a cache what a disk, a person and a restart can do, in any order: a version whose blobs are there
// always comes back whole, one whose blobs are away comes back as long as nobody touched its files.
func TestCacheWalk(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	b := setUp(t, nil)
	type state struct {
		version api.Version
		away    bool // its blobs are hidden
		whole   bool // its cached files are there and untouched
	}
	states := make([]*state, 4)
	for i := range states {
		name := string(rune('a' + i))
		states[i] = &state{version: b.mustPush(t, alice, "digits", map[string]string{
			"m.onnx": net{name: name, external: "w.bin"}.onnx(), "w.bin": weights() + name})}
	}
	hide := func(s *state, away bool) {
		from, to := filepath.Join(b.dir, "blobs"), filepath.Join(b.dir, "away")
		if !away {
			from, to = to, from
		}
		hex := s.version.Digest.Hex()
		if err := os.MkdirAll(filepath.Join(to, "sha256", hex[:2]), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(from, "sha256", hex[:2], hex), filepath.Join(to, "sha256", hex[:2], hex)); err != nil {
			t.Fatal(err)
		}
		s.away = away
	}
	for step := range 300 {
		s := states[random.IntN(len(states))]
		dir := filepath.Join(b.dir, "cache", s.version.Digest.Hex())
		switch random.IntN(8) {
		case 0:
			hide(s, !s.away)
		case 1:
			b.open(t, nil)
		case 2: // damage: a file gone, cut, or replaced by a link
			if !s.whole {
				continue
			}
			victim := []string{"manifest.json", "files/w.bin", "files/m.onnx"}[random.IntN(3)]
			if err := os.Remove(filepath.Join(dir, victim)); err != nil {
				t.Fatal(err)
			}
			switch random.IntN(3) {
			case 0:
				if err := os.WriteFile(filepath.Join(dir, victim), []byte("cut"), 0o600); err != nil {
					t.Fatal(err)
				}
			case 1:
				if err := os.Symlink("/dev/null", filepath.Join(dir, victim)); err != nil {
					t.Fatal(err)
				}
			}
			s.whole = false
		case 3: // a crash in the middle of a filling
			if err := os.MkdirAll(filepath.Join(b.dir, "cache", "new-LEFT", "files"), 0o700); err != nil {
				t.Fatal(err)
			}
			b.open(t, nil)
		default:
			entry, err := b.Materialize(t.Context(), s.version.Digest)
			if want := s.whole || !s.away; want != (err == nil) {
				t.Fatalf("step %d: %v; whole %v, away %v", step, err, s.whole, s.away)
			}
			if err == nil {
				s.whole = true
				name := strings.TrimPrefix(s.version.Info.Graph, "net ")
				if body, err := os.ReadFile(filepath.Join(filepath.Dir(entry), "w.bin")); err != nil || string(body) != weights()+name {
					t.Fatalf("step %d: %q, %v", step, body, err)
				}
			}
		}
	}
	b.open(t, nil)
	if left, err := filepath.Glob(filepath.Join(b.dir, "cache", "new-*")); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestTrim(t *testing.T) {
	b := setUp(t, nil)
	var digests []api.Digest
	for _, name := range []string{"a", "b", "c"} {
		v := b.mustPush(t, alice, "digits", map[string]string{"m.onnx": net{name: name}.onnx()})
		if _, err := b.Materialize(t.Context(), v.Digest); err != nil {
			t.Fatal(err)
		}
		digests = append(digests, v.Digest)
	}
	if err := b.Trim(t.Context(), func(d api.Digest) bool { return d == digests[1] }); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(b.dir, "cache"))
	if err != nil || len(entries) != 1 || entries[0].Name() != digests[1].Hex() {
		t.Errorf("left %v, %v", entries, err)
	}
	if _, err := b.Materialize(t.Context(), digests[0]); err != nil {
		t.Errorf("what was trimmed does not come back: %v", err)
	}
}

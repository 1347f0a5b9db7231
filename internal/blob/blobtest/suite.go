// Package blobtest is what every blob driver must pass: the promises of blob.Store as tests. It is no driver and holds no
// fakes; only tests of drivers call it.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
)

// room is a limit that no blob of the suite reaches unless it means to.
const room = 1 << 30

// Open gives an empty store, or the same one opened anew when it is called again within one test.
type Open func(t testing.TB) blob.Store

// Run puts a driver through the suite. Each test calls factory once for a place of its own and opens it from there.
func Run(t *testing.T, factory func(t testing.TB) Open) { RunWithin(t, 8<<20, factory) }

// RunWithin is Run for drivers that need other memory to put 64 MiB: one that keeps blobs in memory, for example.
func RunWithin(t *testing.T, memory int64, factory func(t testing.TB) Open) {
	tests := []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"what was put is read back", readBack},
		{"a digest that was named is checked", namedDigest},
		{"the limit holds to the byte", limit},
		{"a reader that fails leaves nothing", failingReader},
		{"a caller that goes away leaves nothing", canceled},
		{"malformed digests are refused", malformed},
		{"an absent blob is not found", absent},
		{"the same bytes at once are one blob", sameAtOnce},
		{"a file that is taken over is a blob", keptFile},
		{"what was opened outlives its deletion", deleteWhileOpen},
		{"a listing stops at the caller's error", stopListing},
		{"memory does not grow with the blob", func(t *testing.T, open Open) { flatMemory(t, open, memory) }},
		{"a random walk agrees with a map", walk},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, factory(t)) })
	}
}

// DigestOf is the digest of some bytes.
func DigestOf(b []byte) api.Digest {
	sum := sha256.Sum256(b)
	return api.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// keptFile hands files over, where the driver takes them.
func keptFile(t *testing.T, open Open) {
	s := open(t)
	keeper, ok := s.(blob.Keeper)
	if !ok {
		return // Put does for such a driver
	}
	for name, body := range map[string][]byte{"empty": {}, "some": []byte("some bytes"), "again": []byte("some bytes")} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
		info := blob.Info{Digest: DigestOf(body), Size: int64(len(body))}
		err := keeper.Keep(t.Context(), path, info)
		if errors.Is(err, errors.ErrUnsupported) {
			if left, readErr := os.ReadFile(path); readErr != nil || !bytes.Equal(left, body) {
				t.Errorf("%s: not taken, but the file is not as it was: %v", name, readErr)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the file is still there: %v", name, err)
		}
		if got, err := s.Stat(t.Context(), info.Digest); err != nil || got != info {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	// What is not as it was said to be is not taken.
	path := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, try := range map[string]struct {
		path string
		info blob.Info
	}{
		"another length": {path, blob.Info{Digest: DigestOf([]byte("longer")), Size: 6}},
		"no file":        {path + "-not", blob.Info{Digest: DigestOf([]byte("short")), Size: 5}},
		"a folder":       {t.TempDir(), blob.Info{Digest: DigestOf([]byte("short")), Size: 5}},
		"a bad digest":   {path, blob.Info{Digest: "sha256:../../x", Size: 5}},
	} {
		if err := keeper.Keep(t.Context(), try.path, try.info); err == nil {
			t.Errorf("%s was taken", name)
		}
		if _, err := s.Stat(t.Context(), try.info.Digest); err == nil {
			t.Errorf("%s is a blob", name)
		}
	}
}

func readBack(t *testing.T, open Open) {
	s := open(t)
	for _, size := range []int{0, 1, 255, 256<<10 - 1, 256 << 10, 256<<10 + 1, 3 << 20} {
		data := randomBytes(size)
		info := mustPut(t, s, data, "")
		if want := (blob.Info{Digest: DigestOf(data), Size: int64(size)}); info != want {
			t.Errorf("put of %d bytes says %+v, want %+v", size, info, want)
		}
		mustHold(t, open(t), data) // also after it was opened again
	}
	// A reader that gives one byte at a time, and one that gives its last bytes together with io.EOF.
	data := randomBytes(1000)
	for _, r := range []io.Reader{iotest.OneByteReader(bytes.NewReader(data)), iotest.DataErrReader(bytes.NewReader(data))} {
		info, err := s.Put(t.Context(), r, DigestOf(data), room)
		if err != nil || info.Size != 1000 {
			t.Errorf("put of an odd reader: %+v, %v", info, err)
		}
	}
}

func namedDigest(t *testing.T, open Open) {
	s := open(t)
	data := []byte("these bytes")
	mustPut(t, s, data, DigestOf(data))
	other := DigestOf([]byte("other bytes"))
	_, err := s.Put(t.Context(), strings.NewReader("not those"), other, room)
	wantCode(t, err, api.CodeDigestMismatch)
	_, err = s.Stat(t.Context(), other)
	wantCode(t, err, api.CodeBlobNotFound)
	_, err = s.Stat(t.Context(), DigestOf([]byte("not those")))
	wantCode(t, err, api.CodeBlobNotFound)
}

func limit(t *testing.T, open Open) {
	s := open(t)
	for _, size := range []int{0, 10, 256 << 10, 600 << 10} {
		data := randomBytes(size)
		if _, err := s.Put(t.Context(), bytes.NewReader(data), "", int64(size)); err != nil {
			t.Errorf("%d bytes within a limit of as many: %v", size, err)
		}
		data = randomBytes(size + 1)
		_, err := s.Put(t.Context(), bytes.NewReader(data), "", int64(size))
		wantCode(t, err, api.CodeTooLarge)
		if _, err := s.Stat(t.Context(), DigestOf(data)); !api.Is(err, api.CodeBlobNotFound) {
			t.Errorf("a blob over the limit was kept: %v", err)
		}
	}
}

func failingReader(t *testing.T, open Open) {
	s := open(t)
	head := randomBytes(300 << 10)
	for _, cause := range []error{errors.New("cable pulled"), io.ErrUnexpectedEOF} {
		r := io.MultiReader(bytes.NewReader(head), iotest.ErrReader(cause))
		if _, err := s.Put(t.Context(), r, "", room); err == nil || !errors.Is(err, cause) {
			t.Errorf("put of a reader that fails with %v: %v", cause, err)
		}
	}
	if n := len(list(t, s)); n != 0 {
		t.Errorf("%d blobs after uploads that broke off", n)
	}
	// An error that is already ours keeps its code.
	ours := api.Fail(api.CodeTooLarge, "", "the body is over its limit")
	_, err := s.Put(t.Context(), iotest.ErrReader(ours), "", room)
	wantCode(t, err, api.CodeTooLarge)
}

func canceled(t *testing.T, open Open) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	r := io.MultiReader(bytes.NewReader(randomBytes(1<<20)), readerFunc(func([]byte) (int, error) {
		cancel()
		return 1, nil
	}))
	_, err := s.Put(ctx, r, "", 1<<62)
	wantCode(t, err, api.CodeCanceled)
	if n := len(list(t, s)); n != 0 {
		t.Errorf("%d blobs after an upload that was cancelled", n)
	}
}

func malformed(t *testing.T, open Open) {
	s := open(t)
	mustPut(t, s, []byte("x"), "")
	good := string(DigestOf([]byte("x")))
	for _, bad := range []string{"", "x", good[:len(good)-1], good + "0", strings.ToUpper(good), "sha512" + good[6:],
		"sha256:" + strings.Repeat("../", 21) + "a", "sha256:../../../etc/passwd", good[7:], good[:20], good + "\n",
		"sha256:" + strings.Repeat("\x00", 64), "sha256-" + good[7:]} {
		digest := api.Digest(bad)
		if _, err := s.Stat(t.Context(), digest); err == nil || api.KindOf(err) != api.Invalid {
			t.Errorf("Stat(%q) = %v, want an invalid name", bad, err)
		}
		if _, err := s.Open(t.Context(), digest); err == nil || api.KindOf(err) != api.Invalid {
			t.Errorf("Open(%q) = %v, want an invalid name", bad, err)
		}
		if err := s.Delete(t.Context(), digest); err == nil || api.KindOf(err) != api.Invalid {
			t.Errorf("Delete(%q) = %v, want an invalid name", bad, err)
		}
		if bad == "" {
			continue // to Put an empty digest means: not known yet
		}
		if _, err := s.Put(t.Context(), strings.NewReader("x"), digest, room); err == nil || api.KindOf(err) != api.Invalid {
			t.Errorf("Put(%q) = %v, want an invalid name", bad, err)
		}
	}
}

func absent(t *testing.T, open Open) {
	s := open(t)
	digest := DigestOf([]byte("never put"))
	_, err := s.Stat(t.Context(), digest)
	wantCode(t, err, api.CodeBlobNotFound)
	_, err = s.Open(t.Context(), digest)
	wantCode(t, err, api.CodeBlobNotFound)
	if err := s.Delete(t.Context(), digest); err != nil {
		t.Errorf("delete of an absent blob: %v", err)
	}
	if local, ok := s.(blob.Local); ok {
		_, err = local.Path(t.Context(), digest)
		wantCode(t, err, api.CodeBlobNotFound)
	}
}

func sameAtOnce(t *testing.T, open Open) {
	s := open(t)
	data := randomBytes(700 << 10)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			info, err := s.Put(t.Context(), iotest.HalfReader(bytes.NewReader(data)), DigestOf(data), room)
			if err != nil || info.Size != int64(len(data)) {
				t.Errorf("put at once: %+v, %v", info, err)
				return
			}
			mustHold(t, s, data) // whoever was told that it is there must find it whole
		})
	}
	all.Wait()
	if got := list(t, s); len(got) != 1 {
		t.Errorf("%d blobs after 16 puts of the same bytes", len(got))
	}
}

func deleteWhileOpen(t *testing.T, open Open) {
	s := open(t)
	data := randomBytes(100 << 10)
	mustPut(t, s, data, "")
	f, err := s.Open(t.Context(), DigestOf(data))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Delete(t.Context(), DigestOf(data)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read after deletion: %d bytes, %v", len(got), err)
	}
	_, err = s.Stat(t.Context(), DigestOf(data))
	wantCode(t, err, api.CodeBlobNotFound)
	mustPut(t, s, data, "")
	mustHold(t, s, data)
}

func stopListing(t *testing.T, open Open) {
	s := open(t)
	for i := range 5 {
		mustPut(t, s, []byte{byte(i)}, "")
	}
	stop, seen := errors.New("enough"), 0
	err := s.List(t.Context(), func(blob.Info) error {
		if seen++; seen == 3 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || seen != 3 {
		t.Errorf("listing gave %d blobs and %v, want 3 and the caller's error", seen, err)
	}
}

func flatMemory(t *testing.T, open Open, most int64) {
	s := open(t)
	const size = 64 << 20
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	left := int64(size)
	random := rand.NewChaCha8([32]byte{1})
	r := readerFunc(func(p []byte) (int, error) {
		if left == 0 {
			runtime.ReadMemStats(&during)
			return 0, io.EOF
		}
		n, err := random.Read(p[:min(int64(len(p)), left)])
		left -= int64(n)
		return n, err
	})
	if info, err := s.Put(t.Context(), r, "", size); err != nil || info.Size != size {
		t.Fatalf("put: %+v, %v", info, err)
	}
	if grown := int64(during.TotalAlloc - before.TotalAlloc); grown > most {
		t.Errorf("put of %d bytes allocated %d", size, grown)
	}
}

// walk does what a user could do, in any order, on a few blobs, and compares with a map after every step.
func walk(t *testing.T, open Open) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	model := map[api.Digest][]byte{}
	pool := make([][]byte, 12)
	for i := range pool {
		pool[i] = randomBytes(random.IntN(2000))
	}
	s := open(t)
	for range 300 {
		data := pool[random.IntN(len(pool))]
		digest := DigestOf(data)
		switch random.IntN(6) {
		case 0, 1:
			mustPut(t, s, data, digest)
			model[digest] = data
		case 2:
			if err := s.Delete(t.Context(), digest); err != nil {
				t.Fatalf("delete: %v", err)
			}
			delete(model, digest)
		case 3: // a wrong digest or a broken sender changes nothing
			if _, err := s.Put(t.Context(), strings.NewReader("something else"), digest, room); err == nil {
				t.Fatal("put under a wrong digest went through")
			}
		case 4:
			s = open(t)
		case 5:
			_, err := s.Stat(t.Context(), digest)
			if _, there := model[digest]; there != (err == nil) {
				t.Fatalf("stat says %v, the model says %v", err, there)
			}
		}
	}
	got := list(t, s)
	if len(got) != len(model) {
		t.Errorf("%d blobs, the model has %d", len(got), len(model))
	}
	for digest, data := range model {
		if got[digest] != int64(len(data)) {
			t.Errorf("%s has size %d in the list, want %d", digest.Short(), got[digest], len(data))
		}
		mustHold(t, s, data)
	}
}

func mustPut(t testing.TB, s blob.Store, data []byte, want api.Digest) blob.Info {
	t.Helper()
	info, err := s.Put(t.Context(), bytes.NewReader(data), want, room)
	if err != nil {
		t.Fatalf("put %d bytes: %v", len(data), err)
	}
	return info
}

// mustHold reads a blob whole, and once more from its middle.
func mustHold(t testing.TB, s blob.Store, data []byte) {
	t.Helper()
	digest := DigestOf(data)
	if info, err := s.Stat(t.Context(), digest); err != nil || info.Size != int64(len(data)) || info.Digest != digest {
		t.Errorf("stat: %+v, %v", info, err)
	}
	f, err := s.Open(t.Context(), digest)
	if err != nil {
		t.Errorf("open: %v", err)
		return
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes back, %v; want the %d that were put", len(got), err, len(data))
	}
	if _, err := f.Seek(int64(len(data)/2), io.SeekStart); err != nil {
		t.Errorf("seek: %v", err)
	}
	if got, err = io.ReadAll(f); err != nil || !bytes.Equal(got, data[len(data)/2:]) {
		t.Errorf("read from the middle: %d bytes, %v", len(got), err)
	}
}

func list(t testing.TB, s blob.Store) map[api.Digest]int64 {
	t.Helper()
	got := map[api.Digest]int64{}
	err := s.List(t.Context(), func(info blob.Info) error {
		if _, twice := got[info.Digest]; twice {
			t.Errorf("%s listed twice", info.Digest)
		}
		got[info.Digest] = info.Size
		return nil
	})
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	return got
}

func wantCode(t testing.TB, err error, code api.Code) {
	t.Helper()
	if !api.Is(err, code) {
		t.Errorf("error %v, want code %s", err, code)
	}
}

func randomBytes(n int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], rand.Uint64())
	b := make([]byte, n)
	rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

package registry_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/blob/cloud"
	"github.com/penstock/penstock/internal/blob/files"
	"github.com/penstock/penstock/internal/registry"
	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/test/s3"
)

// TestCollectWalkInFailingBucket is the walk beside a bucket of which four of ten requests fail, in every way: refused, slow,
// broken off, cut, answers lost, never answered. Calls are tried twice, so that many fail.
func TestCollectWalkInFailingBucket(t *testing.T) {
	if testing.Short() {
		t.Skip("left out with -short: it starts an S3 server")
	}
	server := s3.Start(t)
	server.Bucket(t, "walk")
	proxy := s3.NewProxy(t, server)
	blobs := openBucket(t, proxy, "walk")
	y := newYard(t, "sqlite:"+filepath.Join(t.TempDir(), "p.db"), blobs)
	y.faulty.Store(true)
	seed := rand.Uint64()
	t.Logf("seed of the faults %d", seed)
	proxy.Fail(s3.Chance(rand.New(rand.NewPCG(seed, 0)), 40, s3.InternalError, s3.SlowDown, s3.Slow, s3.Reset, s3.Lost, s3.Cut, s3.Fault{Stall: true}))
	y.strolls(t, walkSteps()/4, func() { proxy.Fail(nil) })
	if y.refused.Load() == 0 {
		t.Error("nothing failed")
	}
}

func openBucket(t *testing.T, proxy *s3.Proxy, bucket string) *cloud.Store {
	t.Helper()
	blobs, err := cloud.Open(t.Context(), cloud.Config{URL: s3.URL(proxy.URL, bucket), Spool: t.TempDir(), Credentials: s3.Credentials(),
		Attempts: 2, Backoff: 5 * time.Millisecond, Stall: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	return blobs
}

// TestCollectWalkOnFullDisk is the walk on a disk of its own that is full half of the time, so that blobs, the database and the
// collection's own marks have no room.
func TestCollectWalkOnFullDisk(t *testing.T) {
	dir := smallDisk(t, 24<<20)
	blobs, err := files.Open(files.Config{Dir: filepath.Join(dir, "blobs")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	y := newYard(t, "sqlite:"+filepath.Join(dir, "p.db"), blobs)
	y.faulty.Store(true)
	filler := filepath.Join(dir, "filler")
	var mu sync.Mutex // one fills or empties at a time
	full := false
	toggle := func(*rand.Rand) {
		mu.Lock()
		defer mu.Unlock()
		if full = !full; !full {
			if err := os.Remove(filler); err != nil {
				t.Error(err)
			}
			return
		}
		fill(t, filler)
	}
	toggle(nil) // chance leaves one walk in a hundred without a change
	y.strolls(t, walkSteps(), func() { _ = os.Remove(filler) }, toggle)
	if y.refused.Load() == 0 {
		t.Error("nothing failed")
	}
	if left, err := os.ReadDir(filepath.Join(dir, "blobs", "uploads")); err != nil || len(left) != 0 {
		t.Errorf("%d unfinished uploads stay, %v", len(left), err)
	}
}

// fill writes a file until the disk has no room left.
func fill(t *testing.T, path string) {
	f, err := os.Create(path)
	if err != nil {
		if !errors.Is(err, syscall.ENOSPC) {
			t.Error(err)
		}
		return
	}
	defer f.Close()
	for piece := make([]byte, 64<<10); len(piece) > 0; {
		n, err := f.Write(piece)
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Error(err)
			return
		}
		if n < len(piece) {
			piece = piece[:len(piece)/2]
		}
	}
}

// smallDisk mounts a filesystem of so many bytes in memory until the test ends.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Skip("mounting a small disk is not permitted")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestCollectWalkWithFailingFiles is the walk on files whose every step may find no room.
func TestCollectWalkWithFailingFiles(t *testing.T) {
	var percent atomic.Int64
	blobs, err := files.Open(files.Config{Dir: filepath.Join(t.TempDir(), "blobs"), Fault: func(files.Step) error {
		if rand.Int64N(100) < percent.Load() {
			return syscall.ENOSPC
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	y := newYard(t, "sqlite:"+filepath.Join(t.TempDir(), "p.db"), blobs)
	y.faulty.Store(true)
	percent.Store(10)
	y.strolls(t, walkSteps(), func() { percent.Store(0) })
	if y.refused.Load() == 0 {
		t.Error("nothing failed")
	}
}

// brittle is a database of which one call of the collector fails: the next ones of a kind, counted down. after: it does what it
// was asked for, and says that it did not.
type brittle struct {
	*store.DB

	mu    sync.Mutex // guards the rest
	left  int        // calls until the one that fails; below 0: none does
	after bool
	what  string        // the call that failed
	ended chan struct{} // gets word of each end of the lease
}

func (b *brittle) arm(call int, after bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left, b.after, b.what = call, after, ""
}

func (b *brittle) failed() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.what
}

func (b *brittle) do(what string, call func() error) error {
	b.mu.Lock()
	fails := b.left == 0
	if b.left--; fails {
		b.what = what
	}
	after := b.after
	b.mu.Unlock()
	broken := api.Fail(api.CodeStorage, "", "the disk is full").Because(syscall.ENOSPC)
	if fails && !after {
		return broken
	}
	if err := call(); err != nil || !fails {
		return err
	}
	return broken
}

func (b *brittle) TakeLease(ctx context.Context, name, holder string, at api.Time, life time.Duration) error {
	return b.do("take the lease", func() error { return b.DB.TakeLease(ctx, name, holder, at, life) })
}

func (b *brittle) EndLease(ctx context.Context, name, holder string) error {
	defer func() { b.ended <- struct{}{} }()
	return b.do("end the lease", func() error { return b.DB.EndLease(ctx, name, holder) })
}

func (b *brittle) Collect(ctx context.Context, step string, terms api.CollectTerms, from string) (found []api.Collected, next string, err error) {
	err = b.do("collect "+step, func() error {
		found, next, err = b.DB.Collect(ctx, step, terms, from)
		return err
	})
	return found, next, err
}

func (b *brittle) Retained(ctx context.Context, after api.Repository, limit int) (models []api.Repository, err error) {
	err = b.do("list policies", func() error {
		models, err = b.DB.Retained(ctx, after, limit)
		return err
	})
	return models, err
}

func (b *brittle) MarkDead(ctx context.Context, blobs []api.BlobInfo, at api.Time) (dead int64, err error) {
	err = b.do("mark", func() error {
		dead, err = b.DB.MarkDead(ctx, blobs, at)
		return err
	})
	return dead, err
}

func (b *brittle) ClaimDead(ctx context.Context, run string, terms api.CollectTerms, after api.Digest) (dead []api.BlobInfo, waiting int64, err error) {
	err = b.do("claim", func() error {
		dead, waiting, err = b.DB.ClaimDead(ctx, run, terms, after)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return dead, waiting, nil
}

func (b *brittle) FinishDead(ctx context.Context, run string, gone, left []api.Digest) error {
	return b.do("finish", func() error { return b.DB.FinishDead(ctx, run, gone, left) })
}

func (b *brittle) SaveCollection(ctx context.Context, c api.Collection) error {
	return b.do("save", func() error { return b.DB.SaveCollection(ctx, c) })
}

// TestCollectFailsAtEachCall lets each call that a collection makes of its database fail in turn, undone and done. The run says
// so, what lives stays, the dead blob can be pushed again at once or soon, and the next run frees the rest.
func TestCollectFailsAtEachCall(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(map[bool]string{false: "undone", true: "done"}[after], func(t *testing.T) {
			blobs, err := files.Open(files.Config{Dir: filepath.Join(t.TempDir(), "blobs")})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { blobs.Close() })
			var b *brittle
			y := newYardAround(t, "sqlite:"+filepath.Join(t.TempDir(), "p.db"), blobs, func(db *store.DB) registry.CollectStore {
				b = &brittle{DB: db, left: -1, ended: make(chan struct{}, 1000)}
				return b
			})
			<-b.ended // the collector begins with a look at what an earlier life left, and none of its calls is to fail
			seen := map[string]bool{}
			for call := 0; ; call++ {
				what := y.failAt(t, b, call, after)
				if what == "" || t.Failed() {
					break
				}
				seen[what] = true
			}
			for _, want := range []string{"take the lease", "list policies", "collect versions", "collect holds", "mark", "claim", "finish", "save", "end the lease"} {
				if !seen[want] {
					t.Errorf("%q never failed", want)
				}
			}
		})
	}
}

// failAt makes a live blob, dead ones and bytes that no row names, and runs a collection of which one call fails.
func (y *yard) failAt(t *testing.T, b *brittle, call int, after bool) string {
	t.Helper()
	who := &api.Principal{Tenant: "acme", Name: "w", Scopes: []api.Scope{api.ScopeWrite}}
	repo := api.Repository{Tenant: "acme", Name: "r"}
	keep := func(body string) error {
		_, err := y.KeepBlob(t.Context(), who, repo, walkDigest(body), strings.NewReader(body), int64(len(body)))
		return err
	}
	dead, orphan, live := fmt.Sprint("dead ", call), fmt.Sprint("orphan ", call), fmt.Sprint("live ", call)
	if _, err := y.blobs.Put(t.Context(), strings.NewReader(orphan), walkDigest(orphan), 100); err != nil {
		t.Fatal(err)
	}
	if err := keep(dead); err != nil {
		t.Fatal(err)
	}
	y.minutes.Add(int64(2 * walkGrace / time.Minute))
	if err := keep(live); err != nil {
		t.Fatal(err)
	}
	for len(b.ended) > 0 {
		<-b.ended
	}
	b.arm(call, after)
	run, err := y.collector.Collect(overseer, false)
	if err == nil {
		run, err = y.collector.Collection(t.Context(), run.ID)
	}
	if call > 0 { // else it had none
		<-b.ended
	}
	what := b.failed()
	b.arm(-1, false)
	quiet := what == "" || what == "end the lease" // a lease ends by itself
	told := err != nil && api.Is(err, api.CodeStorage) || run.State == api.CollectionFailed && run.Code == api.CodeStorage && run.Error != ""
	if saved := what == "save"; !saved && quiet == told {
		t.Errorf("call %d, %s: %+v, %v", call, what, run, err)
	}
	y.present(t, call, live)
	if err := keep(dead); err != nil { // waits for the mark to go
		t.Errorf("call %d, %s: the dead blob cannot be pushed again: %v", call, what, err)
	}
	y.present(t, call, live, dead)
	// Settling is over when no run seems to be under way: the records are closed last but for the marks.
	for deadline := time.Now().Add(20 * time.Second); ; {
		runs, err := y.collector.Collections(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(runs, func(r api.Collection) bool { return r.State == api.CollectionRunning }) {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("call %d, %s: a run that is over seems to be under way: %+v", call, what, runs)
			break
		}
	}
	y.minutes.Add(int64(2 * walkGrace / time.Minute))
	for !y.collect(t) { // the one that settles may hold the turn
		continue
	}
	y.minutes.Add(int64(2 * walkGrace / time.Minute))
	y.collect(t)
	if err := y.blobs.List(t.Context(), func(i blob.Info) error {
		return fmt.Errorf("call %d, %s: %s is left", call, what, i.Digest)
	}); err != nil {
		t.Error(err)
	}
	return what
}

func (y *yard) present(t *testing.T, call int, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		if _, err := y.blobs.Stat(t.Context(), walkDigest(body)); err != nil {
			t.Errorf("call %d: %s is lost: %v", call, body, err)
		}
	}
}

// stubborn is a store that does not delete some blobs.
type stubborn struct {
	blob.Store

	refuse func(api.Digest) error
	asked  atomic.Int64
}

func (s *stubborn) Delete(ctx context.Context, d api.Digest) error {
	s.asked.Add(1)
	if err := s.refuse(d); err != nil {
		return err
	}
	return s.Store.Delete(ctx, d)
}

// TestCollectLeavesWhatStays has blobs that cannot be deleted among many that can: the others are freed in the same run, which
// counts what it left. A store that answers nothing is not asked for each of them.
func TestCollectLeavesWhatStays(t *testing.T) {
	inner, err := files.Open(files.Config{Dir: filepath.Join(t.TempDir(), "blobs")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inner.Close() })
	const many = 900
	all := make([]api.Digest, many)
	for i := range all {
		body := fmt.Sprint("dead ", i)
		all[i] = walkDigest(body)
		if _, err := inner.Put(t.Context(), strings.NewReader(body), all[i], 100); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(all)
	stays := all[:201] // more than are claimed at once
	s := &stubborn{Store: inner}
	y := newYard(t, "sqlite:"+filepath.Join(t.TempDir(), "p.db"), s)
	y.collect(t) // finds them
	y.minutes.Add(int64(walkGrace / time.Minute))

	run := func(want api.Collection) {
		t.Helper()
		got, err := y.collector.Collect(overseer, false)
		if err == nil {
			got, err = y.collector.Collection(t.Context(), got.ID)
		}
		if err != nil || got.State != want.State || got.Code != want.Code || got.Blobs != want.Blobs || got.Left != want.Left {
			t.Errorf("got %s %s, %d blobs, %d left, %v; want %s %s, %d, %d", got.State, got.Code, got.Blobs, got.Left, err, want.State, want.Code, want.Blobs, want.Left)
		}
	}
	s.refuse = func(api.Digest) error { return api.Fail(api.CodeUnavailable, "", "away") }
	s.asked.Store(0)
	run(api.Collection{State: api.CollectionFailed, Code: api.CodeUnavailable, Left: 200})
	if n := s.asked.Load(); n > 200 {
		t.Errorf("a store that is away was asked %d times", n)
	}
	s.refuse = func(d api.Digest) error {
		if _, is := slices.BinarySearch(stays, d); is {
			return api.Fail(api.CodeStorage, "", "it is locked")
		}
		return nil
	}
	run(api.Collection{State: api.CollectionFailed, Code: api.CodeStorage, Blobs: many - 201, Left: 201})
	// The loop does not list the store again and again for what stays.
	y.minutes.Add(24 * 60)
	cfg := y.collector.CollectorConfig
	cfg.Every = 24 * time.Hour
	daily, err := registry.NewCollector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if after, err := daily.Step(t.Context()); err != nil || after != 15*time.Minute {
		t.Errorf("a failed run is tried again after %v, %v", after, err)
	}
	s.refuse = func(api.Digest) error { return nil }
	run(api.Collection{State: api.CollectionDone, Blobs: 201})
}

// TestCollectWithoutAList frees what is known to be dead also where the bucket gives no list, and says that it gave none.
func TestCollectWithoutAList(t *testing.T) {
	if testing.Short() {
		t.Skip("left out with -short: it starts an S3 server")
	}
	server := s3.Start(t)
	server.Bucket(t, "unlisted")
	proxy := s3.NewProxy(t, server)
	y := newYard(t, "sqlite:"+filepath.Join(t.TempDir(), "p.db"), openBucket(t, proxy, "unlisted"))
	who := &api.Principal{Tenant: "acme", Name: "w", Scopes: []api.Scope{api.ScopeWrite}}
	for name, fault := range map[string]s3.Fault{"500": s3.InternalError, "503": s3.SlowDown, "cut": s3.Cut, "reset": s3.Reset, "no answer": {Stall: true}} {
		body := "dead of " + name
		if _, err := y.KeepBlob(t.Context(), who, api.Repository{Tenant: "acme", Name: "r"}, walkDigest(body), strings.NewReader(body), int64(len(body))); err != nil {
			t.Fatal(err)
		}
		y.minutes.Add(int64(2 * walkGrace / time.Minute))
		proxy.Fail(failList(fault))
		got, err := y.collector.Collect(overseer, false)
		if err == nil {
			got, err = y.collector.Collection(t.Context(), got.ID)
		}
		if err != nil || got.State != api.CollectionFailed || got.Code != api.CodeUnavailable || got.Blobs != 1 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		proxy.Fail(nil)
		if _, err := y.blobs.Stat(t.Context(), walkDigest(body)); !api.Is(err, api.CodeBlobNotFound) {
			t.Errorf("%s: the dead blob: %v", name, err)
		}
	}
}

// failList fails what asks for a list of keys.
func failList(f s3.Fault) func(*http.Request) s3.Fault {
	return func(r *http.Request) s3.Fault {
		if r.Method == http.MethodGet && r.URL.Query().Has("list-type") {
			return f
		}
		return s3.Fault{}
	}
}

// TestRoomIsGivenBack fails pushes while the database takes no change, and finds their room free once it does.
func TestRoomIsGivenBack(t *testing.T) {
	dir := smallDisk(t, 24<<20)
	blobs, err := files.Open(files.Config{Dir: filepath.Join(t.TempDir(), "blobs")}) // on a disk that has room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	y := newYard(t, "sqlite:"+filepath.Join(dir, "p.db"), blobs)
	who := &api.Principal{Tenant: "acme", Name: "w", Scopes: []api.Scope{api.ScopeWrite}}
	repo := api.Repository{Tenant: "acme", Name: "r"}
	filler := filepath.Join(dir, "filler")
	for i := range 4 {
		body := fmt.Sprint("broken off ", i)
		_, err := y.KeepBlob(t.Context(), who, repo, walkDigest(body), &trap{Reader: strings.NewReader(body), spring: func() { fill(t, filler) }}, int64(len(body)))
		y.faulty.Store(true)
		if err != nil && !y.fails(err) {
			t.Errorf("push on a full disk: %v", err)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
	if y.refused.Load() == 0 {
		t.Error("no push failed")
	}
	y.faulty.Store(false)
	y.minutes.Add(int64(2 * walkGrace / time.Minute))
	y.collect(t)
	usage(t, y)
	y.minutes.Add(int64(2 * walkGrace / time.Minute))
	y.collect(t)
	if err := blobs.List(t.Context(), func(i blob.Info) error { return fmt.Errorf("%s is left", i.Digest) }); err != nil {
		t.Error(err)
	}
}

// trap does something before the first byte is read.
type trap struct {
	*strings.Reader

	spring func()
	once   sync.Once
}

func (r *trap) Read(p []byte) (int, error) {
	r.once.Do(r.spring)
	return r.Reader.Read(p)
}

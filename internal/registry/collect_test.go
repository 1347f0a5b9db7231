package registry_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/blob/cloud"
	"github.com/penstock/penstock/internal/blob/files"
	"github.com/penstock/penstock/internal/registry"
	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/internal/store/storetest"
	"github.com/penstock/penstock/test/s3"
)

const (
	walkWindow = 4 * time.Hour
	walkGrace  = 2 * time.Hour
)

// yard is a catalog and a collector on real stores, with a clock that tests move.
type yard struct {
	*registry.Catalog
	collector *registry.Collector
	db        *store.DB
	blobs     blob.Store
	minutes   atomic.Int64
	faulty    atomic.Bool  // disk or bucket fail: calls may fail too, with the right words
	refused   atomic.Int64 // calls that did
}

func (y *yard) now() time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(y.minutes.Load()) * time.Minute)
}

func newYard(t *testing.T, url string, blobs blob.Store) *yard {
	t.Helper()
	return newYardAround(t, url, blobs, func(db *store.DB) registry.CollectStore { return db })
}

// newYardAround has a collector that sees the database through a wrapper.
func newYardAround(t *testing.T, url string, blobs blob.Store, around func(*store.DB) registry.CollectStore) *yard {
	t.Helper()
	y := &yard{blobs: blobs}
	var err error
	if y.db, err = store.Open(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, tenant := range []api.TenantID{"acme", "beta"} {
		if err := y.db.PutTenant(t.Context(), api.Tenant{ID: tenant}); err != nil {
			t.Fatal(err)
		}
	}
	if y.Catalog, err = registry.New(registry.Config{Store: y.db, Blobs: blobs, CacheDir: filepath.Join(dir, "cache"), Holder: dir, Now: y.now}); err != nil {
		t.Fatal(err)
	}
	if y.collector, err = registry.NewCollector(registry.CollectorConfig{Store: around(y.db), Blobs: blobs, Holder: dir,
		Every: -1, Window: walkWindow, Grace: walkGrace, Now: y.now, Log: slog.New(slog.DiscardHandler), Settle: y.Settle}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- y.collector.Run(ctx) }()
	for !y.collector.Runs() {
		runtime.Gosched()
	}
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-done, y.db.Close()); err != nil {
			t.Error(err)
		}
	})
	return y
}

var overseer = &api.Principal{Tenant: api.DefaultTenant, Name: "root", Scopes: []api.Scope{api.ScopeAdmin}}

// fails reports an error that the faults of disk or bucket explain: one with a code that says so, never one of ours.
func (y *yard) fails(err error) bool {
	var typed *api.Error
	if err == nil || !y.faulty.Load() || !errors.As(err, &typed) {
		return false
	}
	switch typed.Kind() {
	case api.Storage, api.Unavailable, api.Deadline:
		y.refused.Add(1)
		return true
	}
	return false
}

// collect runs a collection to its end; false: another one was under way, or faults kept it from its end and it says so.
func (y *yard) collect(t testing.TB) bool {
	t.Helper()
	run, err := y.collector.Collect(overseer, false)
	if api.Is(err, api.CodeCollecting) {
		return false
	}
	if err == nil {
		run, err = y.collector.Collection(t.Context(), run.ID)
	}
	if err == nil && run.State == api.CollectionFailed {
		err = &api.Error{Code: run.Code, Message: run.Error}
	}
	if y.fails(err) {
		return false
	}
	if err != nil || run.State != api.CollectionDone {
		t.Fatalf("collection: %+v, %v", run, err)
	}
	return true
}

// plainImage is a manifest as a plain program would keep it.
type plainImage struct {
	layers  []string // contents
	tags    map[string]bool
	deleted time.Time // zero: not
	body    []byte
}

// stroller does random things in a repository of its own; contents are shared by all, so that the bytes of one are another's too.
type stroller struct {
	*yard
	t      *testing.T
	who    *api.Principal
	repo   api.Repository
	dice   *rand.Rand
	blobs  map[string]time.Time // linked contents, by when
	images map[api.ContentDigest]*plainImage
	steps  int

	disturb func(*rand.Rand) // begins and ends faults; nil: there are none
}

func walkDigest(body string) api.Digest {
	return api.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(body))))
}

func (s *stroller) content() string {
	n := s.dice.IntN(12)
	return strings.Repeat(fmt.Sprint("content ", n, " "), 10+n*40)
}

func (s *stroller) must(what string, err error) {
	if err != nil && !s.fails(err) {
		s.t.Errorf("%s: step %d, %s: %v", s.repo.Name, s.steps, what, err)
	}
}

func (s *stroller) push(body string) {
	_, err := s.KeepBlob(s.t.Context(), s.who, s.repo, walkDigest(body), strings.NewReader(body), int64(len(body)))
	s.must("push a blob", err)
	if err == nil {
		s.blobs[body] = s.now()
	}
}

// image pushes blobs and a manifest of them under a tag.
func (s *stroller) image() {
	layers := []string{s.content(), s.content()}
	for _, l := range append(layers, "{}") {
		if s.dice.IntN(3) == 0 && !s.blobs[l].IsZero() && s.now().Sub(s.blobs[l]) < walkGrace/2 {
			continue // it is there: a client would not send it again
		}
		s.push(l)
		if s.blobs[l].IsZero() || s.now().Sub(s.blobs[l]) >= walkGrace/2 {
			return // a fault kept it out
		}
	}
	var list []string
	for _, l := range layers {
		list = append(list, fmt.Sprintf(`{"mediaType":"text/plain","digest":%q,"size":%d}`, walkDigest(l), len(l)))
	}
	body := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"a/b","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[%s]}`,
		walkDigest("{}"), strings.Join(list, ","))
	tag := fmt.Sprint("T", s.dice.IntN(3))
	got, err := s.PutManifest(s.t.Context(), s.who, s.repo, api.ManifestUpload{Tags: []string{tag}, MediaType: "application/vnd.oci.image.manifest.v1+json", Body: body})
	if err != nil {
		s.must("push a manifest", err)
		return
	}
	for _, other := range s.images {
		if other.deleted.IsZero() { // a deleted one remembers its tags
			delete(other.tags, tag)
		}
	}
	image := s.images[got.Digest]
	if image == nil || !image.deleted.IsZero() {
		image = &plainImage{layers: append(layers, "{}"), tags: map[string]bool{}, body: body}
		s.images[got.Digest] = image
	}
	image.tags[tag] = true
}

func (s *stroller) dropTag() {
	tag := fmt.Sprint("T", s.dice.IntN(3))
	err := s.DeleteTag(s.t.Context(), s.who, s.repo, tag)
	if s.fails(err) {
		return
	}
	there := false
	for _, image := range s.images {
		if image.deleted.IsZero() {
			there = there || image.tags[tag]
			delete(image.tags, tag)
		}
	}
	if there {
		s.must("delete a tag", err)
	} else if !api.Is(err, api.CodeManifestNotFound) {
		s.t.Errorf("delete a tag that is not there: %v", err)
	}
}

func (s *stroller) any() (api.ContentDigest, *plainImage) {
	var all []api.ContentDigest
	for d := range s.images {
		all = append(all, d)
	}
	if len(all) == 0 {
		return "", nil
	}
	slices.Sort(all)
	d := all[s.dice.IntN(len(all))]
	return d, s.images[d]
}

func (s *stroller) dropImage() {
	d, image := s.any()
	if image == nil || len(image.tags) == 0 || !image.deleted.IsZero() {
		return // one without a tag may be gone already
	}
	err := s.DeleteManifest(s.t.Context(), s.who, s.repo, d)
	s.must("delete a manifest", err)
	if err == nil {
		image.deleted = s.now()
	}
}

func (s *stroller) restore() {
	d, image := s.any()
	if image == nil || image.deleted.IsZero() {
		return
	}
	err := s.RestoreManifest(s.t.Context(), s.who, s.repo, d)
	switch since := s.now().Sub(image.deleted); {
	case err != nil && since < walkWindow/2:
		s.must("restore a manifest", err)
		return
	case err != nil:
		return // its window is over, or nearly
	}
	image.deleted = time.Time{}
	for tag := range image.tags { // those that others took stay theirs
		for other, o := range s.images {
			if other != d && o.deleted.IsZero() && o.tags[tag] {
				delete(image.tags, tag)
			}
		}
	}
}

// mount takes a blob over from a neighbour of the same tenant, which may lose it at any time.
func (s *stroller) mount(from string) {
	body := s.content()
	ok, err := s.MountBlob(s.t.Context(), s.who, s.repo, from, api.ContentDigest(walkDigest(body)))
	s.must("mount", err)
	if ok {
		s.blobs[body] = s.now()
	}
}

// look reads an image that must be whole.
func (s *stroller) look() {
	d, image := s.any()
	if image == nil || !image.deleted.IsZero() || len(image.tags) == 0 {
		return
	}
	s.whole(d, image)
}

func (s *stroller) whole(d api.ContentDigest, image *plainImage) {
	for tag := range image.tags {
		m, err := s.ManifestByTag(s.t.Context(), s.repo, tag)
		if s.fails(err) {
			return
		}
		if err != nil || m.Digest != d {
			s.must("find "+tag, errors.Join(err, fmt.Errorf("it is %s, want %s", m.Digest, d)))
			return
		}
	}
	for _, body := range append(image.layers, string(image.body)) {
		f, err := s.OpenBlob(s.t.Context(), walkDigest(body))
		if err != nil {
			s.must("open a layer of a live image", err)
			return
		}
		var b bytes.Buffer
		_, err = b.ReadFrom(f)
		f.Close()
		if s.fails(err) {
			return
		}
		if err != nil || b.String() != body {
			s.must("read a layer", errors.Join(err, fmt.Errorf("%d bytes of %d", b.Len(), len(body))))
		}
	}
}

func (s *stroller) stroll(steps int) {
	for s.steps = range steps {
		switch pick := s.dice.IntN(100); {
		case pick < 10:
			s.push(s.content())
		case pick < 40:
			s.image()
		case pick < 50:
			s.dropTag()
		case pick < 60:
			s.dropImage()
		case pick < 68:
			s.restore()
		case pick < 78:
			s.mount(fmt.Sprint("w", s.dice.IntN(8)))
		case pick < 97:
			s.look()
		default:
			s.collect(s.t)
		}
		if s.dice.IntN(4) == 0 {
			s.minutes.Add(1)
		}
		if s.disturb != nil && s.dice.IntN(40) == 0 {
			s.disturb(s.dice)
		}
		if s.t.Failed() {
			return
		}
	}
}

// strolls lets eight workers push, tag, mount, delete, restore and collect, and compares with the plain model: no live blob is
// lost, and after the last collection no dead one is left.
func strolls(t *testing.T, y *yard, steps int) { y.strolls(t, steps, nil) }

// strolls does so beside faults that disturb begins and ends, and heal ends for good; heal may be nil. What faults left behind
// that no row names has its grace from the first collection that finds it, so there are two.
func (y *yard) strolls(t *testing.T, steps int, heal func(), disturb ...func(*rand.Rand)) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	all := make([]*stroller, 8)
	var group sync.WaitGroup
	for i := range all {
		tenant := []api.TenantID{"acme", "beta"}[i%2]
		all[i] = &stroller{yard: y, t: t, who: &api.Principal{Tenant: tenant, Name: "w", Scopes: []api.Scope{api.ScopeWrite}},
			repo: api.Repository{Tenant: tenant, Name: fmt.Sprint("w", i)}, dice: rand.New(rand.NewPCG(seed, uint64(i))),
			blobs: map[string]time.Time{}, images: map[api.ContentDigest]*plainImage{}}
		if i < len(disturb) {
			all[i].disturb = disturb[i]
		}
		group.Go(func() { all[i].stroll(steps / 8) })
	}
	group.Wait()
	if t.Failed() {
		t.Fatalf("seed %d", seed)
	}
	if heal != nil {
		heal()
		y.faulty.Store(false)
		t.Logf("%d calls were refused", y.refused.Load())
		if !y.collect(t) {
			t.Fatal("another collection is under way")
		}
	}
	y.minutes.Add(int64((walkWindow + walkGrace) / time.Minute)) // all windows and graces are over
	if !y.collect(t) {
		t.Fatal("another collection is under way")
	}
	live := map[api.Digest]bool{}
	for _, s := range all {
		for d, image := range s.images {
			if !image.deleted.IsZero() || len(image.tags) == 0 {
				continue
			}
			s.whole(d, image)
			for _, body := range append(image.layers, string(image.body)) {
				live[walkDigest(body)] = true
			}
		}
	}
	left := 0
	if err := y.blobs.List(t.Context(), func(b blob.Info) error {
		if left++; !live[b.Digest] {
			t.Errorf("seed %d: dead blob %s is left", seed, b.Digest)
		}
		delete(live, b.Digest)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for d := range live {
		t.Errorf("seed %d: live blob %s is lost", seed, d)
	}
	usage(t, y)
	t.Logf("%d steps, %d blobs live at the end", steps, left)
}

// usage compares the sums that quotas go by with what is held.
func usage(t *testing.T, y *yard) {
	for _, tenant := range []api.TenantID{"acme", "beta"} {
		q, err := y.Quota(t.Context(), tenant)
		if err != nil {
			t.Fatal(err)
		}
		if q.Used.ReservedBytes != 0 || q.Used.ReservedBlobs != 0 || q.Used.Bytes < 0 {
			t.Errorf("tenant %s: %+v", tenant, q.Used)
		}
	}
}

func walkSteps() int {
	if testing.Short() || os.Getenv("PENSTOCK_WALK") == "" {
		return 1600
	}
	return 10_000
}

// TestCollectWalk is the walk on SQLite and files. PENSTOCK_WALK=1 takes 10,000 steps.
func TestCollectWalk(t *testing.T) {
	blobs, err := files.Open(files.Config{Dir: filepath.Join(t.TempDir(), "blobs")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	strolls(t, newYard(t, "sqlite:"+filepath.Join(t.TempDir(), "p.db"), blobs), walkSteps())
}

// TestCollectWalkInBucket is the walk on PostgreSQL and a bucket.
func TestCollectWalkInBucket(t *testing.T) {
	if testing.Short() {
		t.Skip("left out with -short: it starts PostgreSQL and an S3 server")
	}
	server := s3.Start(t)
	server.Bucket(t, "walk")
	t.Setenv("AWS_ACCESS_KEY_ID", s3.Access)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3.Secret)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	blobs, err := cloud.Open(t.Context(), cloud.Config{URL: s3.URL(server.Endpoint, "walk"), Spool: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	strolls(t, newYard(t, storetest.Postgres(t), blobs), walkSteps()/4)
}

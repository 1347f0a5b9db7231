package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/rollout"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // faults are what these tests are made of
	m.Run()
}

var someone = &api.Principal{Tenant: "default", Key: "k1", Name: "anna", Scopes: []api.Scope{api.ScopeAdmin}}

// database is a plain model of the store, with a switch that makes it unwritable and one that makes it hang.
type database struct {
	mu        sync.Mutex
	broken    error
	hangs     bool
	endpoints map[api.EndpointName]api.Endpoint
	revisions map[api.EndpointName][]api.Revision
	releases  map[api.EndpointName]map[int64]api.Release
}

func newDatabase() *database {
	return &database{endpoints: map[api.EndpointName]api.Endpoint{}, revisions: map[api.EndpointName][]api.Revision{}, releases: map[api.EndpointName]map[int64]api.Release{}}
}

func (d *database) write(ctx context.Context) (unlock func(), err error) {
	d.mu.Lock()
	hangs := d.hangs
	if d.broken != nil {
		defer d.mu.Unlock()
		return nil, d.broken
	}
	if hangs {
		d.mu.Unlock()
		<-ctx.Done()
		return nil, api.Fail(api.CodeStorage, "", "the database did not answer")
	}
	return d.mu.Unlock, nil
}

func (d *database) AllEndpoints(context.Context) (list []api.Endpoint, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ep := range d.endpoints {
		list = append(list, ep)
	}
	return list, nil
}

func (d *database) NewestRevisions(context.Context) (list []api.Revision, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, all := range d.revisions {
		if len(all) > 0 {
			list = append(list, all[len(all)-1])
		}
	}
	return list, nil
}

func (d *database) NewestReleases(context.Context) (list []api.Release, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, all := range d.releases {
		var last api.Release
		for _, rel := range all {
			if rel.Number > last.Number {
				last = rel
			}
		}
		if last.Number > 0 {
			list = append(list, last)
		}
	}
	return list, nil
}

func (d *database) StartRelease(ctx context.Context, spec api.EndpointSpec, ifGeneration int64, rev api.Revision, rel api.Release) (api.Endpoint, error) {
	unlock, err := d.write(ctx)
	if err != nil {
		return api.Endpoint{}, err
	}
	defer unlock()
	ep := d.endpoints[rev.Endpoint]
	if ifGeneration >= 0 && ep.Generation != ifGeneration {
		return ep, api.Fail(api.CodeStale, string(rev.Endpoint), "generation is %d", ep.Generation)
	}
	if n := len(d.revisions[rev.Endpoint]); int(rev.Number) != n+1 {
		return ep, api.Fail(api.CodeStale, string(rev.Endpoint), "revision %d after %d", rev.Number, n)
	}
	ep.Tenant, ep.Name, ep.Spec = rev.Tenant, rev.Endpoint, spec
	ep.Generation++
	d.endpoints[rev.Endpoint] = ep
	d.revisions[rev.Endpoint] = append(d.revisions[rev.Endpoint], rev)
	if d.releases[rev.Endpoint] == nil {
		d.releases[rev.Endpoint] = map[int64]api.Release{}
	}
	d.releases[rev.Endpoint][rel.Number] = rel
	return ep, nil
}

func (d *database) SaveRelease(ctx context.Context, rel api.Release, traffic *api.Traffic) error {
	unlock, err := d.write(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	d.releases[rel.Endpoint][rel.Number] = rel
	if traffic != nil {
		ep := d.endpoints[rel.Endpoint]
		ep.Traffic = *traffic
		d.endpoints[rel.Endpoint] = ep
	}
	return nil
}

func (d *database) SaveTraffic(ctx context.Context, _ api.Event, e api.EndpointName, traffic api.Traffic) error {
	unlock, err := d.write(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	ep := d.endpoints[e]
	ep.Traffic = traffic
	d.endpoints[e] = ep
	return nil
}

func (d *database) DeleteEndpoint(ctx context.Context, _ api.TenantID, e api.EndpointName, _ api.Time, _ string) error {
	unlock, err := d.write(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	delete(d.endpoints, e)
	delete(d.revisions, e)
	delete(d.releases, e)
	return nil
}

func (d *database) Revision(_ context.Context, _ api.TenantID, e api.EndpointName, n api.RevisionNumber) (api.Revision, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n < 1 || int(n) > len(d.revisions[e]) {
		return api.Revision{}, api.Fail(api.CodeRevisionNotFound, string(e), "no revision %d", n)
	}
	return d.revisions[e][n-1], nil
}

func (d *database) Revisions(_ context.Context, _ api.TenantID, e api.EndpointName, before api.RevisionNumber, limit int) (list []api.Revision, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range slices.Backward(d.revisions[e]) {
		if (before == 0 || r.Number < before) && len(list) < limit {
			list = append(list, r)
		}
	}
	return list, nil
}

func (d *database) Releases(_ context.Context, _ api.TenantID, e api.EndpointName, before int64, limit int) (list []api.Release, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.releases[e] {
		if before == 0 || r.Number < before {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b api.Release) int { return int(b.Number - a.Number) })
	return list[:min(len(list), limit)], nil
}

func (d *database) set(broken error, hangs bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken, d.hangs = broken, hangs
}

func (d *database) current(e api.EndpointName) api.RevisionNumber {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.endpoints[e].Traffic.Current
}

// catalog knows the versions 1 to 9 of every model; version 9 never loads.
type catalog struct{}

func (catalog) Resolve(_ context.Context, t api.TenantID, ref api.Ref) (api.Version, error) {
	if ref.Version < 1 || ref.Version > 9 {
		return api.Version{}, api.Fail(api.CodeVersionNotFound, ref.String(), "no such version")
	}
	return api.Version{Tenant: t, Model: ref.Model, Number: ref.Version, State: api.VersionReady, Format: "onnx",
		Digest: digest(ref.Version)}, nil
}

func digest(n api.VersionNumber) api.Digest { return api.Digest(fmt.Sprintf("sha256:%064d", n)) }

// fleet loads what is wanted at once, unless it is held back; version 9 fails.
type fleet struct {
	mu   sync.Mutex
	held bool
	want map[string]bool
	have map[string]bool
	told int // calls of Claim

	claims map[api.EndpointKey][]api.Want
}

func (f *fleet) Set(string) *api.ReplicaSet { return nil }

func (f *fleet) Claim(owner api.EndpointKey, wants []api.Want) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told++
	if f.claims == nil {
		f.claims = map[api.EndpointKey][]api.Want{}
	}
	f.claims[owner] = wants
	f.want = map[string]bool{}
	for _, claimed := range f.claims {
		for _, w := range claimed {
			f.want[w.Instance] = true
		}
	}
	for have := range f.have {
		if !f.want[have] {
			delete(f.have, have)
		}
	}
	f.load()
}

func (f *fleet) load() {
	for w := range f.want {
		if !f.held && w != digest(9).Hex() {
			f.have[w] = true
		}
	}
}

func (f *fleet) hold(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = on
	f.load()
}

func (f *fleet) State(instance string) api.InstanceState {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := api.InstanceState{Wanted: 1}
	switch {
	case !f.want[instance]:
		return api.InstanceState{}
	case instance == digest(9).Hex():
		s.Err = api.Fail(api.CodeLoadFailed, "m@9", "no such operator")
	case f.have[instance]:
		s.Replicas = []api.Replica{{Worker: "w", Instance: instance}}
	}
	return s
}

type meter struct{}

func (meter) ReleaseEnded(api.Release) {}

// bench is one controller over a database and a fleet, as after a start.
type bench struct {
	*rollout.Controller
	db      *database
	fleet   *fleet
	journal string
	mu      sync.Mutex
	routes  []api.PlanEndpoint // as published last
	stop    func()
}

func start(t *testing.T, db *database, journal string) *bench {
	t.Helper()
	b := &bench{db: db, fleet: &fleet{have: map[string]bool{}}, journal: journal}
	cfg := rollout.Config{JournalDir: journal, Now: time.Now, Log: slog.New(slog.DiscardHandler), Store: db,
		Catalog: catalog{}, Fleet: b.fleet, Meter: meter{}}
	b.Controller = rollout.New(cfg, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.routes = b.Routes()
	})
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return b
}

// serving is the version that the published plan serves on an endpoint; 0 for none.
func (b *bench) serving(e api.EndpointName) api.VersionNumber {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.routes {
		if r.Key.Endpoint == e && len(r.Variants) > 0 {
			return r.Variants[0].Version
		}
	}
	return 0
}

func spec(version int) api.EndpointSpec {
	return api.EndpointSpec{Variants: []api.VariantSpec{{Model: fmt.Sprintf("m@%d", version)}}}
}

// deploy releases a version and waits for the end.
func (b *bench) deploy(t *testing.T, version int) api.Release {
	t.Helper()
	rel, err := b.Deploy(t.Context(), someone, "e", spec(version), -1, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rel, err = b.Await(ctx, "default", "e", rel.Number)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

// TestStartLooksAtEverythingOnce starts with many endpoints, some with revisions kept warm. What must be loaded is made
// up from all of them, so it must not be made up again for each: only at the start, and when the rollback window ends.
func TestStartLooksAtEverythingOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const endpoints = 50
		db, journal := newDatabase(), t.TempDir()
		b := start(t, db, journal)
		for i := range endpoints {
			name := api.EndpointName(fmt.Sprint("e", i))
			for version := range 1 + i%2 {
				rel, err := b.Deploy(t.Context(), someone, name, spec(version+1), -1, "")
				if err == nil {
					_, err = b.Await(t.Context(), "default", name, rel.Number)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		synctest.Wait()
		b.stop()
		told := func() (int, bool) {
			b.fleet.mu.Lock()
			defer b.fleet.mu.Unlock()
			return b.fleet.told, b.fleet.want[digest(1).Hex()]
		}
		again := start(t, db, journal)
		defer again.stop()
		b = again
		synctest.Wait()
		if n, warm := told(); n > endpoints || !warm {
			t.Errorf("the fleet was told %d times at the start; version 1 wanted: %v", n, warm)
		}
		<-time.After(25 * time.Hour)
		synctest.Wait()
		if n, _ := told(); n > 2*endpoints { // of each, when its window ended
			t.Errorf("the fleet was told %d times in all", n)
		}
	})
}

func TestDeployRollBackAndForth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newDatabase(), t.TempDir())
		defer b.stop()
		for v := 1; v <= 3; v++ {
			if rel := b.deploy(t, v); rel.State != api.ReleaseSucceeded || b.serving("e") != api.VersionNumber(v) {
				t.Fatalf("deploy of version %d: %+v, serving %d", v, rel, b.serving("e"))
			}
		}
		for i, want := range []api.VersionNumber{2, 1} {
			rel, err := b.Rollback(t.Context(), someone, "e", 0, "bad numbers")
			if err != nil || b.serving("e") != want || !rel.Durable || rel.Why != "bad numbers" || rel.By != "anna" {
				t.Fatalf("rollback %d: serving %d, %+v, %v", i, b.serving("e"), rel, err)
			}
		}
		if _, err := b.Rollback(t.Context(), someone, "e", 0, ""); !api.Is(err, api.CodeNothingEarlier) {
			t.Errorf("one more: %v", err)
		}
		if _, err := b.Rollback(t.Context(), someone, "e", 3, ""); err != nil || b.serving("e") != 3 {
			t.Errorf("forward to revision 3: serving %d, %v", b.serving("e"), err)
		}
		if _, err := b.Rollback(t.Context(), someone, "e", 7, ""); !api.Is(err, api.CodeRevisionNotFound) {
			t.Errorf("to an unknown revision: %v", err)
		}
		list, err := b.Releases(t.Context(), "default", "e", 0, 100)
		if err != nil || len(list) != 6 || list[0].Kind != api.ReleaseRollback || list[0].To != 3 {
			t.Errorf("history of %d releases, first %+v, %v", len(list), list[0], err)
		}
	})
}

func TestFailedLoadKeepsTheCurrentRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newDatabase(), t.TempDir())
		defer b.stop()
		b.deploy(t, 1)
		rel := b.deploy(t, 9)
		if rel.State != api.ReleaseFailed || rel.Reason == "" || b.serving("e") != 1 {
			t.Errorf("%+v, serving %d", rel, b.serving("e"))
		}
		if rel := b.deploy(t, 2); rel.State != api.ReleaseSucceeded || rel.From != 1 || rel.To != 3 {
			t.Errorf("the next deploy: %+v", rel)
		}
	})
}

func TestReleaseThatNeverLoadsEndsAtItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newDatabase(), t.TempDir())
		defer b.stop()
		b.deploy(t, 1)
		b.fleet.hold(true)
		rel, err := b.Deploy(t.Context(), someone, "e", spec(2), -1, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Deploy(t.Context(), someone, "e", spec(3), -1, ""); !api.Is(err, api.CodeBusy) {
			t.Errorf("a second release at the same time: %v", err)
		}
		rel, err = b.Await(t.Context(), "default", "e", rel.Number)
		if err != nil || rel.State != api.ReleaseFailed || b.serving("e") != 1 {
			t.Errorf("%+v %v", rel, err)
		}
	})
}

func TestRollbackNeedsNeitherDatabaseNorItsAnswer(t *testing.T) {
	for name, fault := range map[string]func(*database){
		"unwritable": func(d *database) { d.set(api.Fail(api.CodeStorage, "", "disk full"), false) },
		"hanging":    func(d *database) { d.set(nil, true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, newDatabase(), t.TempDir())
				b.deploy(t, 1)
				b.deploy(t, 2)
				fault(b.db)
				rel, err := b.Rollback(t.Context(), someone, "e", 0, "")
				if err != nil || b.serving("e") != 1 || !rel.Durable || rel.EffectUS > 100_000 {
					t.Fatalf("serving %d, %+v, %v", b.serving("e"), rel, err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := b.Deploy(ctx, someone, "e", spec(3), -1, ""); err == nil {
					t.Error("a deploy was acknowledged that the database never took")
				}
				if list, err := b.Releases(t.Context(), "default", "e", 0, 10); err != nil || list[0].Number != rel.Number {
					t.Errorf("history does not show the rollback: %v %v", list, err)
				}
				b.stop() // the server dies while the database is away
				b.db.set(nil, false)

				again := start(t, b.db, b.journal)
				defer again.stop()
				if again.serving("e") != 1 {
					t.Fatalf("after a restart version %d serves: the rollback was lost", again.serving("e"))
				}
				synctest.Wait()
				if got := b.db.current("e"); got != 1 {
					t.Errorf("database still says revision %d", got)
				}
				if left, _ := filepath.Glob(filepath.Join(b.journal, "*", "*.json")); len(left) > 0 {
					t.Errorf("journal entries stay behind: %v", left)
				}
			})
		})
	}
}

func TestRollbackWithoutAnyDiskSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "file-not-a-folder")
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		b := start(t, newDatabase(), dir)
		defer b.stop()
		b.deploy(t, 1)
		b.deploy(t, 2)
		b.db.set(api.Fail(api.CodeStorage, "", "disk full"), false)
		rel, err := b.Rollback(t.Context(), someone, "e", 0, "")
		if err != nil || b.serving("e") != 1 || rel.Durable {
			t.Errorf("serving %d, %+v, %v; want an effective rollback that is not called durable", b.serving("e"), rel, err)
		}
		b.db.set(nil, false)
		<-time.After(time.Minute)
		if got := b.db.current("e"); got != 1 {
			t.Errorf("the loop has not saved it: database says revision %d", got)
		}
	})
}

func TestRollbackAbortsTheReleaseUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newDatabase(), t.TempDir())
		defer b.stop()
		b.deploy(t, 1)
		b.deploy(t, 2)
		b.fleet.hold(true)
		open, err := b.Deploy(t.Context(), someone, "e", spec(3), -1, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Rollback(t.Context(), someone, "e", 0, ""); err != nil || b.serving("e") != 1 {
			t.Fatalf("serving %d, %v", b.serving("e"), err)
		}
		b.fleet.hold(false)
		<-time.After(time.Minute)
		rel, err := b.Await(t.Context(), "default", "e", open.Number)
		if err != nil || rel.State != api.ReleaseAborted || b.serving("e") != 1 {
			t.Errorf("%+v, serving %d, %v", rel, b.serving("e"), err)
		}
	})
}

func TestBadSpecs(t *testing.T) {
	b := start(t, newDatabase(), t.TempDir())
	defer b.stop()
	two := func(a, c api.VariantSpec) api.EndpointSpec {
		return api.EndpointSpec{Variants: []api.VariantSpec{a, c}}
	}
	for name, tc := range map[string]struct {
		endpoint api.EndpointName
		spec     api.EndpointSpec
		want     api.Code
	}{
		"no variants":     {"e", api.EndpointSpec{}, api.CodeBadRequest},
		"bad name":        {"../e", spec(1), api.CodeBadName},
		"bad strategy":    {"e", api.EndpointSpec{Variants: spec(1).Variants, Strategy: "yolo"}, api.CodeBadRequest},
		"bad batching":    {"e", api.EndpointSpec{Variants: []api.VariantSpec{{Model: "m@1", Serving: api.Serving{Batching: &api.Batching{MaxSize: -1}}}}}, api.CodeBadRequest},
		"unknown version": {"e", spec(77), api.CodeVersionNotFound},
		"bad reference":   {"e", api.EndpointSpec{Variants: []api.VariantSpec{{Model: "m@x"}}}, api.CodeBadName},
		"foreign model":   {"e", api.EndpointSpec{Variants: []api.VariantSpec{{Model: "other/m@1"}}}, api.CodeModelNotFound},
		"unnamed arms":    {"e", two(api.VariantSpec{Model: "m@1", Weight: 1}, api.VariantSpec{Model: "m@2", Weight: 1}), api.CodeBadName},
		"twin arms":       {"e", two(api.VariantSpec{Name: "a", Model: "m@1", Weight: 1}, api.VariantSpec{Name: "a", Model: "m@2", Weight: 1}), api.CodeBadRequest},
		"negative weight": {"e", two(api.VariantSpec{Name: "a", Model: "m@1", Weight: -1}, api.VariantSpec{Name: "b", Model: "m@2", Weight: 1}), api.CodeBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := b.Deploy(t.Context(), someone, tc.endpoint, tc.spec, -1, ""); !api.Is(err, tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
	if _, err := b.Deploy(t.Context(), someone, "e", spec(1), 5, ""); !api.Is(err, api.CodeStale) {
		t.Errorf("wrong generation: %v", err)
	}
	if _, err := b.Endpoint(t.Context(), "default", "e"); !api.Is(err, api.CodeEndpointNotFound) {
		t.Errorf("a refused deploy left an endpoint behind: %v", err)
	}
}

// TestWeightsLeftOut wants what the API says: without any weight all arms weigh the same, and beside weights that were
// written an arm without one stands by.
func TestWeightsLeftOut(t *testing.T) {
	b := start(t, newDatabase(), t.TempDir())
	defer b.stop()
	for i, tc := range []struct{ given, want [2]int64 }{
		{[2]int64{0, 0}, [2]int64{1, 1}},
		{[2]int64{0, 5}, [2]int64{0, 5}},
		{[2]int64{90, 10}, [2]int64{90, 10}},
	} {
		name := api.EndpointName(fmt.Sprintf("e%d", i))
		spec := api.EndpointSpec{Variants: []api.VariantSpec{{Name: "a", Model: "m@1", Weight: tc.given[0]}, {Name: "b", Model: "m@2", Weight: tc.given[1]}}}
		if _, err := b.Deploy(t.Context(), someone, name, spec, 0, ""); err != nil {
			t.Fatal(err)
		}
		revisions, err := b.Revisions(t.Context(), "default", name, 0, 1)
		if err != nil || len(revisions) != 1 {
			t.Fatal(revisions, err)
		}
		if got := [2]int64{revisions[0].Variants[0].Weight, revisions[0].Variants[1].Weight}; got != tc.want {
			t.Errorf("given %v: weights %v, want %v", tc.given, got, tc.want)
		}
	}
}

// TestRandomWalk takes random steps - deploys, rollbacks, loads, unloads, faults of database and fleet, restarts - beside a
// plain model: a stack of the versions that served. What was acknowledged must serve, also after a restart.
func TestRandomWalk(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 3))
	for round := range 30 {
		synctest.Test(t, func(t *testing.T) { walk(t, random, round) })
	}
}

func walk(t *testing.T, random *rand.Rand, round int) {
	b := start(t, newDatabase(), t.TempDir())
	defer func() { b.stop() }()
	var stack []int // versions that served, the last serves
	broken, off, there := false, false, false
	for step := range 60 {
		switch pick := random.IntN(13); {
		case pick < 4:
			version := 1 + random.IntN(9)
			rel, err := b.Deploy(t.Context(), someone, "e", spec(version), -1, "")
			if broken != (err != nil) {
				t.Fatalf("round %d step %d: deploy with broken=%v: %v", round, step, broken, err)
			}
			if err != nil {
				break
			}
			there = true
			rel, err = b.Await(t.Context(), "default", "e", rel.Number)
			if want := map[bool]api.ReleaseState{true: api.ReleaseFailed, false: api.ReleaseSucceeded}[version == 9]; err != nil || rel.State != want {
				t.Fatalf("round %d step %d: deploy of %d ended %s, %v", round, step, version, rel.State, err)
			}
			if version != 9 {
				stack, off = append(stack, version), false
			}
		case pick < 7:
			_, err := b.Rollback(t.Context(), someone, "e", 0, "")
			cold := broken && api.Is(err, api.CodeStorage) // it has to load the revision first, which needs a record
			if legal := len(stack) > 1 && !cold; legal != (err == nil) {
				t.Fatalf("round %d step %d: rollback with stack %v: %v", round, step, stack, err)
			}
			if err == nil {
				stack, off = stack[:len(stack)-1], false
			}
		case pick < 8:
			broken = !broken
			b.db.set(map[bool]error{true: api.Fail(api.CodeStorage, "", "disk full")}[broken], false)
		case pick < 9:
			b.stop()
			b.db.set(nil, false)
			broken = false
			b = start(t, b.db, b.journal)
		case pick < 11:
			err := b.Unload(t.Context(), someone, "e")
			// A rollback that the journal alone holds has to reach the database first, so a broken one may refuse more.
			if must := there && !broken; must != (err == nil) && (err == nil) != (there && (off || len(stack) == 0)) {
				t.Fatalf("round %d step %d: unload with stack %v, broken=%v, off=%v: %v", round, step, stack, broken, off, err)
			}
			off = off || err == nil && len(stack) > 0
		case pick < 12:
			err := b.Load(t.Context(), someone, "e")
			if must := len(stack) > 0 && (!broken || !off); must != (err == nil) && (!broken || off) {
				t.Fatalf("round %d step %d: load with stack %v, broken=%v, off=%v: %v", round, step, stack, broken, off, err)
			}
			off = off && err != nil
		default:
			<-time.After(time.Duration(random.IntN(30)) * time.Hour)
		}
		want := 0
		if len(stack) > 0 && !off {
			want = stack[len(stack)-1]
		}
		if got := b.serving("e"); int(got) != want {
			t.Fatalf("round %d step %d: version %d serves, want %d (stack %v)", round, step, got, want, stack)
		}
	}
}

func TestUnknownEndpoint(t *testing.T) {
	b := start(t, newDatabase(), t.TempDir())
	defer b.stop()
	ctx := t.Context()
	_, a := b.Endpoint(ctx, "default", "x")
	_, r := b.Rollback(ctx, someone, "x", 0, "")
	_, l := b.Releases(ctx, "default", "x", 0, 10)
	_, w := b.Await(ctx, "default", "x", 1)
	for i, err := range []error{a, r, l, w, b.Delete(ctx, someone, "x")} {
		if !api.Is(err, api.CodeEndpointNotFound) {
			t.Errorf("call %d: %v", i, errors.Unwrap(err))
		}
	}
}

// TestInstancesAreSharedByWhatTheyAre: the same version with the same settings is loaded once, with others again.
func TestInstancesAreSharedByWhatTheyAre(t *testing.T) {
	name := func(replicas int, b *api.Batching) string {
		return rollout.Instance(&api.Variant{Digest: "sha256:0123", Serving: api.Serving{Replicas: replicas, Batching: b}})
	}
	plain := name(0, nil)
	if plain != "0123" {
		t.Errorf("an instance with default settings is named %q", plain)
	}
	if other := name(3, &api.Batching{Mode: api.BatchAuto}); other != plain {
		t.Errorf("the defaults written out make it %q", other)
	}
	on := name(0, &api.Batching{Mode: api.BatchOn})
	if on == plain || on != name(2, &api.Batching{Mode: api.BatchOn}) || on == name(0, &api.Batching{Mode: api.BatchOn, MaxSize: 4}) {
		t.Errorf("other settings: %q", on)
	}
}

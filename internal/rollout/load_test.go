package rollout_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/rollout"
)

func index(t *testing.T, b *bench) api.ModelIndex {
	t.Helper()
	list := b.Index("default")
	if len(list) != 1 {
		t.Fatalf("index %+v", list)
	}
	return list[0]
}

func TestUnloadAndLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newDatabase(), t.TempDir())
		b.deploy(t, 1)
		b.deploy(t, 2)
		if got := index(t, b); got != (api.ModelIndex{Endpoint: "e", Version: 2, State: api.ModelReady}) {
			t.Errorf("served: %+v", got)
		}
		for range 2 { // the second time there is nothing to do
			if err := b.Unload(t.Context(), someone, "e"); err != nil || b.serving("e") != 0 {
				t.Fatalf("unload: serving %d, %v", b.serving("e"), err)
			}
		}
		if got := index(t, b); got != (api.ModelIndex{Endpoint: "e", Version: 2, State: api.ModelUnavailable, Reason: "unloaded"}) {
			t.Errorf("unloaded: %+v", got)
		}
		if n := len(b.fleet.have); n != 0 {
			t.Errorf("%d versions stay loaded", n)
		}
		b.stop()
		b = start(t, b.db, b.journal)
		defer func() { b.stop() }()
		if b.serving("e") != 0 || len(b.fleet.want) != 0 {
			t.Fatalf("after a restart version %d serves, wanted %v", b.serving("e"), b.fleet.want)
		}
		for range 2 {
			if err := b.Load(t.Context(), someone, "e"); err != nil || b.serving("e") != 2 {
				t.Fatalf("load: serving %d, %v", b.serving("e"), err)
			}
		}
		if got, err := b.Rollback(t.Context(), someone, "e", 0, ""); err != nil || b.serving("e") != 1 || got.EffectUS > 1000 {
			t.Errorf("the previous revision is not warm again: %+v, %v", got, err)
		}
	})
}

func TestUnloadedEndpointComesBackByReleaseAndRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newDatabase(), t.TempDir())
		defer b.stop()
		b.deploy(t, 1)
		for name, act := range map[string]func() error{
			"deploy":                    func() error { b.deploy(t, 2); return nil },
			"rollback":                  func() error { _, err := b.Rollback(t.Context(), someone, "e", 1, ""); return err },
			"rollback to what it has":   func() error { _, err := b.Rollback(t.Context(), someone, "e", 1, ""); return err },
			"deploy of what never load": nil,
		} {
			if err := b.Unload(t.Context(), someone, "e"); err != nil {
				t.Fatal(err)
			}
			if act == nil {
				if b.deploy(t, 9); b.serving("e") != 0 {
					t.Errorf("%s: version %d serves", name, b.serving("e"))
				}
				continue
			}
			if err := act(); err != nil || b.serving("e") == 0 {
				t.Errorf("%s: serving %d, %v", name, b.serving("e"), err)
			}
		}
	})
}

func TestLoadThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newDatabase(), t.TempDir())
		defer b.stop()
		if err := b.Load(t.Context(), someone, "e"); !api.Is(err, api.CodeEndpointNotFound) {
			t.Errorf("unknown: %v", err)
		}
		b.deploy(t, 1)
		unload := func() {
			t.Helper()
			if err := b.Unload(t.Context(), someone, "e"); err != nil {
				t.Fatal(err)
			}
		}
		unload()
		b.fleet.hold(true)
		hurry, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Load(hurry, someone, "e"); !api.Is(err, api.CodeLoading) {
			t.Errorf("the caller gave up: %v", err)
		}
		if got := index(t, b); got.State != api.ModelLoading {
			t.Errorf("while it loads: %+v", got)
		}
		loaded := make(chan error)
		go func() { loaded <- b.Load(t.Context(), someone, "e") }()
		synctest.Wait()
		b.fleet.hold(false)
		if err := <-loaded; err != nil || b.serving("e") != 1 {
			t.Errorf("serving %d, %v", b.serving("e"), err)
		}
		b.fleet.hold(true)
		for name, tc := range map[string]struct {
			act  func() error
			want api.Code
		}{
			"never loads": {func() error { <-time.After(time.Hour); return nil }, api.CodeLoadFailed},
			"unloaded":    {func() error { return b.Unload(t.Context(), someone, "e") }, api.CodeLoadFailed},
		} {
			unload()
			go func() { loaded <- b.Load(t.Context(), someone, "e") }()
			synctest.Wait()
			if err := tc.act(); err != nil {
				t.Fatal(name, err)
			}
			if err := <-loaded; !api.Is(err, tc.want) || b.serving("e") != 0 {
				t.Errorf("%s: serving %d, %v", name, b.serving("e"), err)
			}
		}
		go func() { loaded <- b.Load(t.Context(), someone, "e") }()
		synctest.Wait()
		if err := b.Delete(t.Context(), someone, "e"); err != nil {
			t.Fatal(err)
		}
		if err := <-loaded; !api.Is(err, api.CodeEndpointNotFound) {
			t.Errorf("deleted: %v", err)
		}
	})
}

func TestLoadEndsWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newDatabase(), t.TempDir())
		defer b.stop()
		b.deploy(t, 1)
		if err := b.Unload(t.Context(), someone, "e"); err != nil {
			t.Fatal(err)
		}
		b.fleet.hold(true)
		loaded := make(chan error)
		go func() { loaded <- b.Load(t.Context(), someone, "e") }()
		synctest.Wait()
		b.Drain()
		if err := <-loaded; !api.Is(err, api.CodeShuttingDown) {
			t.Error(err)
		}
		if err := b.Load(t.Context(), someone, "e"); !api.Is(err, api.CodeShuttingDown) {
			t.Error(err)
		}
	})
}

func TestUnloadWhileBusyOrBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newDatabase(), t.TempDir())
		defer b.stop()
		b.deploy(t, 1)
		b.db.set(api.Fail(api.CodeStorage, "", "disk full"), false)
		if err := b.Unload(t.Context(), someone, "e"); !api.Is(err, api.CodeStorage) || b.serving("e") != 1 {
			t.Errorf("without the database: serving %d, %v", b.serving("e"), err)
		}
		b.db.set(nil, false)
		b.fleet.hold(true)
		if _, err := b.Deploy(t.Context(), someone, "e", spec(2), -1, ""); err != nil {
			t.Fatal(err)
		}
		if err := b.Unload(t.Context(), someone, "e"); !api.Is(err, api.CodeBusy) {
			t.Errorf("during a release: %v", err)
		}
	})
}

func TestIndexIsSortedAndOwn(t *testing.T) {
	b := start(t, newDatabase(), t.TempDir())
	defer b.stop()
	for _, name := range []api.EndpointName{"c", "a", "b"} {
		if _, err := b.Deploy(t.Context(), someone, name, spec(9), -1, ""); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.Index("other"); len(got) != 0 {
		t.Errorf("a foreign tenant sees %+v", got)
	}
	got := b.Index("default")
	if !slices.IsSortedFunc(got, func(a, c api.ModelIndex) int { return int(a.Endpoint[0]) - int(c.Endpoint[0]) }) || len(got) != 3 {
		t.Errorf("%+v", got)
	}
}

// TestLoadsAndReleasesAtOnce lets many callers load, unload, deploy and roll back one endpoint at the same time. Whatever
// the order was: in the end memory and database agree, also after a restart, and the fleet holds what serves and no more.
func TestLoadsAndReleasesAtOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range 20 {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, newDatabase(), t.TempDir())
			b.deploy(t, 1)
			b.deploy(t, 2)
			var callers sync.WaitGroup
			for caller := range 4 {
				random := rand.New(rand.NewPCG(seed, uint64(10*round+caller)))
				callers.Go(func() {
					for range 20 {
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(3000))*time.Millisecond)
						switch random.IntN(5) {
						case 0:
							_, _ = b.Deploy(ctx, someone, "e", spec(1+random.IntN(9)), -1, "")
						case 1:
							_, _ = b.Rollback(ctx, someone, "e", 0, "")
						case 2:
							_ = b.Load(ctx, someone, "e")
						default:
							_ = b.Unload(ctx, someone, "e")
						}
						cancel()
						<-time.After(time.Duration(random.IntN(500)) * time.Millisecond)
					}
				})
			}
			callers.Wait()
			<-time.After(time.Hour) // what is under way ends
			before, err := b.Endpoint(t.Context(), "default", "e")
			if err != nil {
				t.Fatal(err)
			}
			off := before.Traffic.Unloaded
			if serves := b.serving("e") != 0; serves == off || off && len(b.fleet.want) != 0 || !off && len(b.fleet.have) == 0 {
				t.Errorf("unloaded %v, serving %d, wanted %v", off, b.serving("e"), b.fleet.want)
			}
			serving := b.serving("e")
			b.stop()
			again := start(t, b.db, b.journal)
			defer again.stop()
			after, err := again.Endpoint(t.Context(), "default", "e")
			if err != nil || !reflect.DeepEqual(before.Traffic, after.Traffic) || again.serving("e") != serving {
				t.Errorf("before the restart %+v, serving %d\nafter it %+v, serving %d, %v", before.Traffic, serving, after.Traffic, again.serving("e"), err)
			}
		})
	}
}

// fullFleet has everything loaded.
type fullFleet struct{}

func (fullFleet) Claim(api.EndpointKey, []api.Want) {}

func (fullFleet) Set(string) *api.ReplicaSet { return nil }

func (fullFleet) State(instance string) api.InstanceState {
	return api.InstanceState{Wanted: 1, Replicas: []api.Replica{{Worker: "w", Instance: instance}}}
}

// BenchmarkIndex lists a tenant of 5,000 endpoints among 10,000.
func BenchmarkIndex(b *testing.B) {
	const endpoints = 5000
	db := newDatabase()
	for i := range 2 * endpoints {
		name := api.EndpointName(fmt.Sprintf("endpoint-%d", i))
		tenant := api.TenantID([]string{"default", "other"}[i%2])
		db.endpoints[name] = api.Endpoint{Tenant: tenant, Name: name, Generation: 1, Traffic: api.Traffic{Current: 1}}
		db.revisions[name] = []api.Revision{{Tenant: tenant, Endpoint: name, Number: 1,
			Variants: []api.Variant{{Name: "main", Model: "m", Version: 1, Digest: digest(api.VersionNumber(i + 10))}}}}
	}
	c := rollout.New(rollout.Config{JournalDir: b.TempDir(), Now: time.Now, Log: slog.New(slog.DiscardHandler), Store: db,
		Catalog: catalog{}, Fleet: fullFleet{}, Meter: meter{}}, func() {})
	if err := c.Open(b.Context()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if n := len(c.Index("default")); n != endpoints {
			b.Fatal(n)
		}
	}
}

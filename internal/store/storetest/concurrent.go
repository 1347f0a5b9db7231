package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

const workers = 16

// together runs a function in many goroutines at once.
func together(run func(worker int)) {
	var all sync.WaitGroup
	for worker := range workers {
		all.Go(func() { run(worker) })
	}
	all.Wait()
}

// concurrentCommits pushes the same and different bytes into one model from all sides.
func concurrentCommits(t *testing.T, db *store.DB) {
	const each, distinct = 12, 60
	var mu sync.Mutex // guards the two below
	numbers, made := map[api.Digest]api.VersionNumber{}, 0
	together(func(worker int) {
		for i := range each {
			v, created, err := db.CommitVersion(t.Context(), version("fraud", (worker*each+i)%distinct), []api.AliasName{"newest"}, "")
			if err != nil {
				t.Errorf("commit: %v", err)
				return
			}
			mu.Lock()
			if known, ok := numbers[v.Digest]; ok && known != v.Number {
				t.Errorf("%s has the numbers %d and %d", v.Digest.Short(), known, v.Number)
			}
			numbers[v.Digest] = v.Number
			if created {
				made++
			}
			mu.Unlock()
		}
	})
	if made != distinct {
		t.Errorf("%d versions were made of %d contents", made, distinct)
	}
	var list []api.VersionNumber
	for _, v := range got(db.Versions(t.Context(), "acme", "fraud", 0, 1000))(t) {
		list = append(list, v.Number)
	}
	for i, n := range list {
		if n != api.VersionNumber(distinct-i) {
			t.Fatalf("numbers have a gap or a duplicate: %v", list)
		}
	}
	seen := 0
	for _, e := range got(db.Events(t.Context(), "acme", 0, 1000))(t) {
		if e.Kind == "version.pushed" {
			seen++
		}
	}
	if seen != distinct {
		t.Errorf("%d events for %d versions", seen, distinct)
	}
	chain(t, db, "newest")
}

// concurrentAliases moves one alias by compare-and-swap and checks that the history is one chain.
func concurrentAliases(t *testing.T, db *store.DB) {
	for i := range 3 {
		commit(t, db, version("fraud", i))
	}
	const each = 10
	together(func(worker int) {
		for i := range each {
			for moved := false; !moved; {
				m, err := db.Model(t.Context(), "acme", "fraud")
				if err != nil {
					t.Errorf("model: %v", err)
					return
				}
				var now api.Alias
				if len(m.Aliases) > 0 {
					now = m.Aliases[0]
				}
				to := now.Version%3 + 1
				a, err := db.MoveAlias(t.Context(), Move("acme", "fraud", "live", to, now.Moves, fmt.Sprint(worker), fmt.Sprint(i), 1))
				if moved = err == nil; moved && (a.Moves != now.Moves+1 || a.Version != to) {
					t.Errorf("moved %+v to %+v", now, a)
				}
				if err != nil && !api.Is(err, api.CodeStale) {
					t.Errorf("move: %v", err)
					return
				}
			}
		}
	})
	if moves := chain(t, db, "live"); moves != workers*each {
		t.Errorf("the history has %d moves, want %d", moves, workers*each)
	}
}

// chain checks that an alias's history has no gap and each move begins where the one before ended.
func chain(t *testing.T, db *store.DB, alias api.AliasName) int {
	t.Helper()
	history := got(db.AliasHistory(t.Context(), "acme", "fraud", alias, 1000))(t)
	slices.Reverse(history)
	var at api.VersionNumber
	for i, move := range history {
		if move.Seq != int64(i+1) || move.From != at || move.From == move.To {
			t.Fatalf("move %d breaks the chain at version %d: %+v", i+1, at, move)
		}
		at = move.To
	}
	return len(history)
}

// concurrentEndpoint lets everybody change one endpoint at a known generation and release under the next number.
func concurrentEndpoint(t *testing.T, db *store.DB) {
	ctx := t.Context()
	got(db.SaveSpec(ctx, "acme", "digits", spec("digits@1"), 0, 5))(t)
	var mu sync.Mutex // guards the two below
	specs, revisions := 0, 0
	together(func(int) {
		if _, err := db.SaveSpec(ctx, "acme", "digits", spec("digits@2"), 1, 6); err == nil {
			mu.Lock()
			specs++
			mu.Unlock()
		} else if !api.Is(err, api.CodeStale) {
			t.Errorf("save the spec: %v", err)
		}
		if err := db.SaveRevision(ctx, revision(1), release(1, 1)); err == nil {
			mu.Lock()
			revisions++
			mu.Unlock()
		} else if !api.Is(err, api.CodeStale) {
			t.Errorf("save the revision: %v", err)
		}
		if _, err := db.RecordCrash(ctx, digest("bad"), "x", 1); err != nil {
			t.Errorf("record a crash: %v", err)
		}
	})
	if specs != 1 || revisions != 1 {
		t.Errorf("%d specs and %d revisions won, want one each", specs, revisions)
	}
	if count, _, err := db.Crashes(ctx, digest("bad")); err != nil || count != workers {
		t.Errorf("%d crashes, %v", count, err)
	}
}

// concurrentClaims checks that one of many equal requests does the work.
func concurrentClaims(t *testing.T, db *store.DB) {
	var mu sync.Mutex // guards claimed
	claimed := 0
	together(func(int) {
		reply, err := db.ClaimIdempotency(t.Context(), "acme", "key", "hash", 1)
		if err == nil && reply == nil {
			mu.Lock()
			claimed++
			mu.Unlock()
		} else if !api.Is(err, api.CodeBusy) {
			t.Errorf("claim: %v, %v", reply, err)
		}
	})
	if claimed != 1 {
		t.Errorf("%d requests claimed the key", claimed)
	}
}

// sharedGroup checks that writes which are committed together still fail alone.
func sharedGroup(t *testing.T, db *store.DB) {
	together(func(worker int) {
		for i := range 8 {
			id := api.TenantID(fmt.Sprintf("t-%d-%d", worker, i))
			if err := db.PutTenant(t.Context(), api.Tenant{ID: id}); err != nil {
				t.Errorf("put %s: %v", id, err)
			}
			refused(t, api.CodeExists, db.PutTenant(t.Context(), api.Tenant{ID: "acme"}))
			refused(t, api.CodeBadRequest, db.PutTenant(t.Context(), api.Tenant{ID: id + "\x00"}))
		}
	})
	if all := got(db.Tenants(t.Context()))(t); len(all) != workers*8+1 {
		t.Errorf("%d tenants, want %d", len(all), workers*8+1)
	}
}

// givenUp cancels writes at every moment and checks that each was kept or not, and the others were.
func givenUp(t *testing.T, db *store.DB) {
	together(func(worker int) {
		for i := range 8 {
			ctx, cancel := context.WithCancel(t.Context())
			id := api.TenantID(fmt.Sprintf("t-%d-%d", worker, i))
			ended := make(chan error, 1)
			go func() { ended <- db.PutTenant(ctx, api.Tenant{ID: id}) }()
			if worker%2 == 0 {
				cancel()
			}
			err := <-ended
			if cancel(); err != nil && (worker%2 == 1 || !api.Is(err, api.CodeCanceled)) {
				t.Errorf("put %s: %v", id, err)
			}
			if err == nil {
				refused(t, api.CodeExists, db.PutTenant(t.Context(), api.Tenant{ID: id}))
			}
		}
	})
}

// eventOrder follows the events while everybody writes some: a reader that goes on after the last Seq misses none.
func eventOrder(t *testing.T, db *store.DB) {
	const each = 20
	done := make(chan struct{})
	go func() {
		defer close(done)
		together(func(worker int) {
			for i := range each {
				if err := db.AppendEvent(t.Context(), api.Event{Tenant: "acme", Text: fmt.Sprint(worker, i)}); err != nil {
					t.Errorf("append: %v", err)
				}
			}
		})
	}()
	last, over := int64(0), false
	for !over {
		select {
		case <-done:
			over = true // one more look
		default:
		}
		for _, e := range got(db.Events(t.Context(), "acme", last, 1000))(t) {
			if e.Seq != last+1 {
				t.Fatalf("event %d follows %d", e.Seq, last)
			}
			last = e.Seq
		}
	}
	if last != workers*each {
		t.Errorf("saw %d events, want %d", last, workers*each)
	}
}

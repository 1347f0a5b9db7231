package storetest

import (
	"errors"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

func notes(t *testing.T, db *store.DB) {
	ctx := t.Context()
	v := version("fraud", 1)
	v.Origin = api.Origin{Framework: "sklearn", Datasets: []string{"d1"}}
	v.Notes = api.Notes{Task: "classification", Results: []api.Result{{Metric: "auc", Value: 0.5, Dataset: "mnist", Split: "test"}}}
	v.Label = "1.0.0"
	v = commit(t, db, v)
	same(t, "read again", got(db.Version(ctx, "acme", "fraud", 1))(t), v)
	edited := got(db.EditVersion(ctx, "acme", "fraud", 1, func(v *api.Version) (api.Event, error) {
		v.Notes.Task, v.Notes.Owner = "ranking", "ann\x00"
		v.Gates = append(v.Gates, api.GateResult{Name: "accuracy", Passed: true, At: 5, By: "ci"})
		v.Card, v.Digest = "changed", "sha256:no"
		return api.Event{Tenant: "acme", Kind: "version.noted", Subject: "fraud@1", By: "ann", At: 5}, nil
	}))(t)
	if edited.Changes != 1 {
		t.Errorf("changed %d times", edited.Changes)
	}
	read := got(db.Version(ctx, "acme", "fraud", 1))(t)
	want := v
	want.Notes.Task, want.Notes.Owner, want.Gates, want.Changes = "ranking", read.Notes.Owner, edited.Gates, 1
	same(t, "what may change changed, and nothing else", read, want)
	stop := errors.New("stop")
	if _, err := db.EditVersion(ctx, "acme", "fraud", 1, func(v *api.Version) (api.Event, error) {
		v.Notes.Task = "never"
		return api.Event{}, stop
	}); !errors.Is(err, stop) {
		t.Errorf("edit hands back %v, want the callback's error", err)
	}
	same(t, "after an edit that failed", got(db.Version(ctx, "acme", "fraud", 1))(t), want)
	_, err := db.EditVersion(ctx, "acme", "fraud", 9, nil)
	refused(t, api.CodeVersionNotFound, err)
	last := got(db.Events(ctx, "acme", -1, 1))(t)[0]
	same(t, "event", last.Kind+" "+last.Subject, "version.noted fraud@1")

	for text, count := range map[string]int{"task": 1, "owner": 1, "gate.accuracy": 1, "metrics.auc": 1, "metrics.auc.mnist.test": 1, "framework": 1, "dataset": 1, "licence": 0} {
		found := got(db.Search(ctx, api.Search{Tenant: "acme", Where: api.Condition{Op: api.OpHas, Field: text}}))(t)
		if len(found) != count {
			t.Errorf("%d versions have %s, want %d", len(found), text, count)
		}
	}
	if found := got(db.Search(ctx, api.Search{Tenant: "acme", Where: api.Condition{Op: api.OpIs, Field: "task", Words: []string{"classification"}}}))(t); len(found) != 0 {
		t.Errorf("the task from before is found still: %v", found)
	}
}

func labels(t *testing.T, db *store.DB) {
	ctx := t.Context()
	for i, label := range []string{"1.0.0", "1.2.0", "2.0.0-rc.1", "1.10.0", "", "1.9.9"} {
		v := version("fraud", i)
		v.Label = label
		commit(t, db, v)
	}
	again := version("fraud", 77)
	again.Label = "1.2.0"
	_, _, err := db.CommitVersion(ctx, again, nil, "")
	refused(t, api.CodeExists, err)
	other := version("other", 1)
	other.Label = "1.2.0"
	commit(t, db, other)

	same(t, "by label", got(db.VersionByLabel(ctx, "acme", "fraud", "2.0.0-rc.1"))(t).Number, 3)
	_, err = db.VersionByLabel(ctx, "acme", "fraud", "3.0.0")
	refused(t, api.CodeVersionNotFound, err)
	_, err = db.VersionByLabel(ctx, "acme", "nope", "3.0.0")
	refused(t, api.CodeModelNotFound, err)
	for text, number := range map[string]api.VersionNumber{"^1.2": 4, "~1.2": 2, "1.x": 4, "^2": 0, "~1.9": 6} {
		r, err := api.ParseLabelRange(text)
		must(t, err)
		v, err := db.VersionInRange(ctx, "acme", "fraud", r)
		if number == 0 {
			refused(t, api.CodeVersionNotFound, err)
			continue
		}
		must(t, err)
		same(t, text, v.Number, number)
	}
	give := func(n api.VersionNumber, label string) error {
		_, err := db.EditVersion(ctx, "acme", "fraud", n, func(v *api.Version) (api.Event, error) {
			v.Label = label
			return api.Event{}, nil
		})
		return err
	}
	refused(t, api.CodeExists, give(5, "1.0.0"))
	must(t, give(5, "3.0.0"))
	same(t, "given later", got(db.VersionByLabel(ctx, "acme", "fraud", "3.0.0"))(t).Number, 5)
}

func rules(t *testing.T, db *store.DB) {
	ctx := t.Context()
	commit(t, db, version("fraud", 1))
	commit(t, db, version("fraud", 2))
	pass := func(n api.VersionNumber, gate string, passed bool) {
		got(db.EditVersion(ctx, "acme", "fraud", n, func(v *api.Version) (api.Event, error) {
			v.Gates = []api.GateResult{{Name: gate, Passed: passed}}
			return api.Event{}, nil
		}))(t)
	}
	put := func(rule api.AliasRule) error { return db.PutAliasRule(ctx, "acme", "fraud", rule) }
	rule := api.AliasRule{Alias: "live", Scopes: []api.Scope{api.ScopeGate}, Keys: []api.KeyID{"K1"}, Gates: []string{"accuracy"}, Changed: 3, ChangedBy: "boss"}
	must(t, put(rule))
	same(t, "rules", got(db.AliasRules(ctx, "acme", "fraud"))(t), []api.AliasRule{rule})
	refused(t, api.CodeModelNotFound, db.PutAliasRule(ctx, "acme", "nope", rule))

	move := func(to api.VersionNumber, by *api.Principal) error {
		_, err := db.MoveAlias(ctx, api.AliasChange{Tenant: "acme", Model: "fraud", Alias: "live", To: to, Moves: -1, By: by, At: 9})
		return err
	}
	good := &api.Principal{Name: "good", Key: "K1", Scopes: []api.Scope{api.ScopeWrite}}
	pass(1, "accuracy", true)
	for name, by := range map[string]*api.Principal{"nobody": nil, "a writer": me, "a reader": {Name: "r", Scopes: []api.Scope{api.ScopeRead}},
		"one of a like name": {Name: "K1", Key: "K2", Scopes: []api.Scope{api.ScopeWrite, api.ScopeInfer}}} {
		if err := move(1, by); !api.Is(err, api.CodeProtected) {
			t.Errorf("%s moved it: %v", name, err)
		}
	}
	refused(t, api.CodeProtected, move(2, good)) // no gate has looked at it
	pass(2, "other", true)
	refused(t, api.CodeProtected, move(2, good))
	pass(2, "accuracy", false)
	refused(t, api.CodeProtected, move(2, good))
	must(t, move(1, good))
	must(t, move(1, me)) // where it is already
	pass(2, "accuracy", true)
	must(t, move(2, &api.Principal{Name: "gate", Scopes: []api.Scope{api.ScopeGate}}))
	must(t, move(1, &api.Principal{Name: "admin", Scopes: []api.Scope{api.ScopeAdmin}}))
	refused(t, api.CodeProtected, move(0, me))
	// A push moves aliases too, and leaves nothing when one of them is refused.
	v := version("fraud", 3)
	_, _, err := db.CommitVersion(ctx, v, []api.AliasName{"next", "live"}, "")
	refused(t, api.CodeProtected, err)
	_, err = db.Version(ctx, "acme", "fraud", 3)
	refused(t, api.CodeVersionNotFound, err)
	must(t, move(0, good)) // who may move it may delete it; no gate is asked
	must(t, put(api.AliasRule{Alias: "live"}))
	must(t, move(2, me))
	same(t, "history", len(got(db.AliasHistory(ctx, "acme", "fraud", "live", 100))(t)), 5)
}

func expectedMoves(t *testing.T, db *store.DB) {
	ctx := t.Context()
	commit(t, db, version("fraud", 1))
	commit(t, db, version("fraud", 2))
	move := func(to, expect api.VersionNumber) error {
		change := Move("acme", "fraud", "live", to, -1, "me", "", 1)
		change.Expect = &expect
		_, err := db.MoveAlias(ctx, change)
		return err
	}
	refused(t, api.CodeStale, move(1, 2))
	must(t, move(1, 0))
	refused(t, api.CodeStale, move(2, 0))
	refused(t, api.CodeStale, move(2, 2))
	must(t, move(2, 1))
}

// searchOfDeleted checks that no search shows a deleted version, that one that is restored is found as before, and that
// latest and labels follow.
func searchOfDeleted(t *testing.T, db *store.DB) {
	ctx := t.Context()
	v1, _ := pushVersion(t, db, "one", 1)
	pushVersion(t, db, "two", 2, "live")
	got(db.EditVersion(ctx, "acme", "fraud", 1, func(v *api.Version) (api.Event, error) {
		v.Notes.Task, v.Label = "ranking", "1.0.0"
		return api.Event{}, nil
	}))(t)
	got(db.EditVersion(ctx, "acme", "fraud", 2, func(v *api.Version) (api.Event, error) {
		v.Label = "1.1.0"
		return api.Event{}, nil
	}))(t)
	r, err := api.ParseLabelRange("^1.0")
	must(t, err)
	numbers := func(where api.Condition) []api.VersionNumber {
		all := []api.VersionNumber{}
		for _, f := range got(db.Search(ctx, api.Search{Tenant: "acme", Where: where, Sort: api.SearchSort{Field: "version", Numeric: true}}))(t) {
			all = append(all, f.Number)
		}
		return all
	}
	is := func(field, word string) api.Condition {
		return api.Condition{Op: api.OpIs, Field: field, Words: []string{word}}
	}
	found := func(when string, latest api.VersionNumber, all ...api.VersionNumber) {
		t.Helper()
		same(t, when+", all", numbers(api.Condition{}), all)
		same(t, when+", latest", numbers(is("latest", "true")), []api.VersionNumber{latest})
	}
	found("at first", 2, 1, 2)

	del := api.Deletion{By: "me", At: 50}
	must(t, db.DeleteVersion(ctx, "acme", "fraud", 1, del))
	found("without the first", 2, 2)
	same(t, "its task", numbers(is("task", "ranking")), []api.VersionNumber{})
	_, err = db.VersionByLabel(ctx, "acme", "fraud", "1.0.0")
	refused(t, api.CodeVersionNotFound, err)
	got(db.RestoreVersion(ctx, "acme", "fraud", 1, del))(t)
	found("restored", 2, 1, 2)
	same(t, "its task again", numbers(is("task", "ranking")), []api.VersionNumber{1})
	same(t, "by label", got(db.VersionByLabel(ctx, "acme", "fraud", "1.0.0"))(t).Number, 1)

	got(db.MoveAlias(ctx, Move("acme", "fraud", "live", 0, -1, "me", "", 51)))(t)
	must(t, db.DeleteVersion(ctx, "acme", "fraud", 2, del))
	found("without the second", 1, 1)
	same(t, "the highest label that is left", got(db.VersionInRange(ctx, "acme", "fraud", r))(t).Number, 1)
	v3, _ := pushVersion(t, db, "three", 52)
	same(t, "the next", v3.Number, 3)
	found("with a third", 3, 1, 3)
	again, _ := pushVersion(t, db, "two", 53, "live") // the same content is the same version
	same(t, "pushed again", again.Number, 2)
	found("pushed again", 3, 1, 2, 3)
	same(t, "its alias", numbers(is("alias", "live")), []api.VersionNumber{2})

	must(t, db.DeleteModel(ctx, "acme", "fraud", true, del))
	same(t, "of no model", numbers(api.Condition{}), []api.VersionNumber{})
	same(t, "without alias", numbers(is("alias", "live")), []api.VersionNumber{})
	must(t, db.RestoreManifest(ctx, shop, api.ContentDigest(v1.Digest), del))
	found("by its manifest", 1, 1)
	// What a deleted model's alias has as a rule holds for its deletion too.
	got(db.MoveAlias(ctx, Move("acme", "fraud", "live", 1, -1, "me", "", 54)))(t)
	must(t, db.PutAliasRule(ctx, "acme", "fraud", api.AliasRule{Alias: "live", Scopes: []api.Scope{api.ScopeAdmin}}))
	del.Who = me
	refused(t, api.CodeProtected, db.DeleteModel(ctx, "acme", "fraud", true, del))
	refused(t, api.CodeProtected, db.DeleteTag(ctx, shop, "live", me, 55))
	found("protected", 1, 1)
	del.Who = &api.Principal{Name: "boss", Scopes: []api.Scope{api.ScopeAdmin}}
	must(t, db.DeleteModel(ctx, "acme", "fraud", true, del))
}

package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

func tenants(t *testing.T, db *store.DB) {
	ctx := t.Context()
	must(t, db.PutTenant(ctx, api.Tenant{ID: "a-b", Created: 3}))
	must(t, db.PutTenant(ctx, api.Tenant{ID: "a.b", Created: 4}))
	refused(t, api.CodeExists, db.PutTenant(ctx, api.Tenant{ID: "acme", Created: 2}))
	same(t, "tenants, by bytes", got(db.Tenants(ctx))(t), []api.Tenant{
		{ID: "a-b", Created: 3, Weight: 1, Generation: 1}, {ID: "a.b", Created: 4, Weight: 1, Generation: 1}, {ID: "acme", Created: 1, Weight: 1, Generation: 1}})
	changed := api.Tenant{ID: "a-b", Created: 3, Weight: 7, Generation: 2}
	e := api.Event{Tenant: "a-b", At: 9, Kind: "tenant.changed", Subject: "a-b", Text: "The weight is 7.", By: "me"}
	same(t, "weight set", got(db.SetWeight(ctx, "a-b", 7, 1, e))(t), changed)
	same(t, "set again, changes nothing", got(db.SetWeight(ctx, "a-b", 7, -1, e))(t), changed)
	_, err := db.SetWeight(ctx, "a-b", 8, 1, e)
	refused(t, api.CodeStale, err)
	_, err = db.SetWeight(ctx, "nobody", 8, -1, e)
	refused(t, api.CodeNotFound, err)
	same(t, "weight kept", got(db.Tenants(ctx))(t)[0], changed)
	if events := got(db.Events(ctx, "a-b", 0, 10))(t); len(events) != 1 || events[0].Text != e.Text {
		t.Errorf("events of a change: %+v", events)
	}
	must(t, db.Ping(ctx))
}

func keys(t *testing.T, db *store.DB) {
	ctx := t.Context()
	k := api.Key{ID: "k1", Tenant: "acme", Name: "ci", Hint: "inf…abcd", Scopes: []api.Scope{api.ScopeRead, api.ScopeInfer}, Created: 5, Expires: 9}
	mac := []byte{0, 1, 0xff, 0x7f}
	must(t, db.PutKey(ctx, k, mac))
	refused(t, api.CodeExists, db.PutKey(ctx, k, mac))
	orphan := k
	orphan.Tenant = "nobody"
	refused(t, api.CodeNotFound, db.PutKey(ctx, orphan, mac))
	refused(t, api.CodeNotFound, db.RevokeKey(ctx, "acme", "k2", 7))
	refused(t, api.CodeNotFound, db.RevokeKey(ctx, "other", "k1", 7))
	must(t, db.RevokeKey(ctx, "acme", "k1", 7))
	must(t, db.RevokeKey(ctx, "acme", "k1", 8)) // the first time stays
	k.Revoked = 7
	seen := 0
	must(t, db.EachKey(ctx, func(stored api.Key, hash []byte) error {
		seen++
		same(t, "key", stored, k)
		same(t, "mac", hash, mac)
		return nil
	}))
	if seen != 1 {
		t.Errorf("saw %d keys, want 1", seen)
	}
	stop := errors.New("stop")
	if err := db.EachKey(ctx, func(api.Key, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("EachKey hands back %v, want the callback's error", err)
	}
}

func versions(t *testing.T, db *store.DB) {
	ctx := t.Context()
	v, created, err := db.CommitVersion(ctx, version("fraud", 1), []api.AliasName{"champion", "champion"}, "first")
	must(t, err)
	want := version("fraud", 1)
	want.Number = 1
	same(t, "committed", v, want)
	if !created {
		t.Error("the first commit did not create")
	}
	same(t, "by number", got(db.Version(ctx, "acme", "fraud", 1))(t), want)
	same(t, "by digest", got(db.VersionByDigest(ctx, "acme", "fraud", want.Digest))(t), want)

	again := version("fraud", 1)
	again.Card, again.Tags, again.Created, again.CreatedBy = "other", nil, 99, "someone"
	v, created, err = db.CommitVersion(ctx, again, []api.AliasName{"latest-good"}, "again")
	must(t, err)
	same(t, "the same digest gives the old version", v, want)
	if created {
		t.Error("the second commit of a digest created")
	}
	if v := commit(t, db, version("fraud", 2)); v.Number != 2 {
		t.Errorf("the second version has number %d", v.Number)
	}
	if v := commit(t, db, version("digits", 1)); v.Number != 1 {
		t.Errorf("the same bytes in another model have number %d", v.Number)
	}
	model := got(db.Model(ctx, "acme", "fraud"))(t)
	same(t, "model", model, api.Model{Tenant: "acme", Name: "fraud", Created: want.Created, Latest: 2, Aliases: []api.Alias{
		{Name: "champion", Version: 1, Moved: want.Created, MovedBy: "ci", Moves: 1},
		{Name: "latest-good", Version: 1, Moved: 99, MovedBy: "someone", Moves: 1}}})

	_, err = db.Version(ctx, "acme", "fraud", 3)
	refused(t, api.CodeVersionNotFound, err)
	_, err = db.Version(ctx, "acme", "nope", 1)
	refused(t, api.CodeModelNotFound, err)
	_, err = db.VersionByDigest(ctx, "acme", "fraud", digest("nope"))
	refused(t, api.CodeVersionNotFound, err)
	stray := version("fraud", 3)
	stray.Tenant = "nobody"
	_, _, err = db.CommitVersion(ctx, stray, nil, "")
	refused(t, api.CodeNotFound, err)

	kinds := []string{}
	for _, e := range got(db.Events(ctx, "acme", 0, 10))(t) {
		kinds = append(kinds, e.Kind+" "+e.Subject)
	}
	same(t, "events", kinds, []string{"version.pushed fraud@1", "alias.moved fraud:champion", "alias.moved fraud:latest-good",
		"version.pushed fraud@2", "version.pushed digits@1"})
}

func versionPages(t *testing.T, db *store.DB) {
	ctx := t.Context()
	for i := range 7 {
		commit(t, db, version("fraud", i))
	}
	var numbers []api.VersionNumber
	for before := api.VersionNumber(0); ; {
		some := got(db.Versions(ctx, "acme", "fraud", before, 3))(t)
		if len(some) == 0 {
			break
		}
		for _, v := range some {
			numbers = append(numbers, v.Number)
		}
		before = some[len(some)-1].Number
	}
	same(t, "pages", numbers, []int{7, 6, 5, 4, 3, 2, 1})
	if all := got(db.Versions(ctx, "acme", "fraud", 0, 5000))(t); len(all) != 7 {
		t.Errorf("%d versions, want 7", len(all))
	}
	_, err := db.Versions(ctx, "acme", "nope", 0, 5)
	refused(t, api.CodeModelNotFound, err)
}

func tags(t *testing.T, db *store.DB) {
	ctx := t.Context()
	want := commit(t, db, version("fraud", 1))
	v := got(db.SetTags(ctx, "acme", "fraud", 1, map[string]string{"a": "1", "b": "2"}, []string{"stage", "b", "never"}, "me", 9))(t)
	want.Tags = map[string]string{"a": "1"}
	same(t, "tagged", v, want)
	same(t, "tagged, read again", got(db.Version(ctx, "acme", "fraud", 1))(t), want)
	v = got(db.SetTags(ctx, "acme", "fraud", 1, nil, []string{"a"}, "me", 9))(t)
	want.Tags = nil
	same(t, "no tags", v, want)
	many := map[string]string{}
	for i := range 300 {
		many[fmt.Sprint("t", i)] = ""
	}
	_, err := db.SetTags(ctx, "acme", "fraud", 1, many, nil, "me", 9)
	refused(t, api.CodeTooLarge, err)
	_, err = db.SetTags(ctx, "acme", "fraud", 2, nil, nil, "me", 9)
	refused(t, api.CodeVersionNotFound, err)
}

func models(t *testing.T, db *store.DB) {
	ctx := t.Context()
	for _, name := range []string{"b", "a.b", "a-b", "a", "b2"} {
		commit(t, db, version(name, name), "one", "two")
	}
	var names []api.ModelName
	for after := api.ModelName(""); ; {
		some := got(db.Models(ctx, "acme", after, 2))(t)
		if len(some) == 0 {
			break
		}
		for _, m := range some {
			names = append(names, m.Name)
			if len(m.Aliases) != 2 || m.Latest != 1 {
				t.Errorf("model %+v lacks something", m)
			}
		}
		after = some[len(some)-1].Name
	}
	same(t, "models by bytes", names, []string{"a", "a-b", "a.b", "b", "b2"})
	_, err := db.Model(ctx, "acme", "c")
	refused(t, api.CodeModelNotFound, err)
}

func aliases(t *testing.T, db *store.DB) {
	ctx := t.Context()
	commit(t, db, version("fraud", 1))
	commit(t, db, version("fraud", 2))
	move := func(to api.VersionNumber, ifMoves int64) (api.Alias, error) {
		return db.MoveAlias(ctx, Move("acme", "fraud", "live", to, ifMoves, "me", "why", 10+api.Time(to)))
	}
	_, err := move(0, -1)
	refused(t, api.CodeAliasNotFound, err)
	_, err = move(3, -1)
	refused(t, api.CodeVersionNotFound, err)
	_, err = move(1, 5)
	refused(t, api.CodeStale, err)
	same(t, "made", got(move(1, 0))(t), api.Alias{Name: "live", Version: 1, Moved: 11, MovedBy: "me", Moves: 1})
	_, err = move(2, 0)
	refused(t, api.CodeStale, err)
	same(t, "moved", got(move(2, 1))(t), api.Alias{Name: "live", Version: 2, Moved: 12, MovedBy: "me", Moves: 2})
	same(t, "moved to where it was", got(move(2, -1))(t).Moves, 2)
	_, err = move(1, 1)
	refused(t, api.CodeStale, err)
	same(t, "deleted", got(move(0, 2))(t), api.Alias{Name: "live", Version: 0, Moved: 10, MovedBy: "me", Moves: 3})
	same(t, "none left", got(db.Model(ctx, "acme", "fraud"))(t).Aliases, []api.Alias{})
	_, err = move(1, 2) // an ETag from before
	refused(t, api.CodeStale, err)
	same(t, "made again", got(move(1, 0))(t).Moves, 4)
	same(t, "history", got(db.AliasHistory(ctx, "acme", "fraud", "live", 3))(t), []api.AliasMove{
		{Seq: 4, From: 0, To: 1, At: 11, By: "me", Why: "why"}, {Seq: 3, From: 2, To: 0, At: 10, By: "me", Why: "why"},
		{Seq: 2, From: 1, To: 2, At: 12, By: "me", Why: "why"}})
	_, err = db.AliasHistory(ctx, "acme", "fraud", "dead", 3)
	refused(t, api.CodeAliasNotFound, err)
	_, err = db.AliasHistory(ctx, "acme", "nope", "live", 3)
	refused(t, api.CodeModelNotFound, err)
	_, err = db.MoveAlias(ctx, Move("acme", "nope", "live", 1, -1, "", "", 1))
	refused(t, api.CodeModelNotFound, err)
}

func spec(model string) api.EndpointSpec {
	return api.EndpointSpec{Variants: []api.VariantSpec{{Name: "main", Model: model, Weight: 3, Serving: api.Serving{Replicas: 2}}},
		Strategy: api.StrategyBlueGreen, Sticky: true}
}

func endpoints(t *testing.T, db *store.DB) {
	ctx := t.Context()
	_, err := db.SaveSpec(ctx, "acme", "digits", spec("digits@1"), 1, 5)
	refused(t, api.CodeStale, err)
	want := api.Endpoint{Tenant: "acme", Name: "digits", Spec: spec("digits@1"), Generation: 1, Created: 5}
	same(t, "made", got(db.SaveSpec(ctx, "acme", "digits", spec("digits@1"), 0, 5))(t), want)
	_, err = db.SaveSpec(ctx, "acme", "digits", spec("digits@2"), 0, 6)
	refused(t, api.CodeExists, err)
	_, err = db.SaveSpec(ctx, "acme", "digits", spec("digits@2"), 2, 6)
	refused(t, api.CodeStale, err)
	want.Spec, want.Generation = spec("digits@2"), 2
	same(t, "changed", got(db.SaveSpec(ctx, "acme", "digits", spec("digits@2"), 1, 6))(t), want)
	want.Generation = 3
	same(t, "changed whatever it was", got(db.SaveSpec(ctx, "acme", "digits", spec("digits@2"), -1, 6))(t), want)
	same(t, "read", got(db.Endpoint(ctx, "acme", "digits"))(t), want)
	_, err = db.SaveSpec(ctx, "nobody", "digits", spec("digits@1"), 0, 5)
	refused(t, api.CodeNotFound, err)

	must(t, db.PutTenant(ctx, api.Tenant{ID: "zeta"}))
	other := got(db.SaveSpec(ctx, "zeta", "a", spec("a@1"), -1, 7))(t)
	second := got(db.SaveSpec(ctx, "acme", "e2", spec("a@1"), -1, 7))(t)
	same(t, "all", got(db.AllEndpoints(ctx))(t), []api.Endpoint{want, second, other})
	same(t, "first page", got(db.Endpoints(ctx, "acme", "", 1))(t), []api.Endpoint{want})
	same(t, "second page", got(db.Endpoints(ctx, "acme", "digits", 1))(t), []api.Endpoint{second})

	must(t, db.SaveRevision(ctx, revision(1), release(1, 1)))
	same(t, "newest revision", got(db.NewestRevisions(ctx))(t), []api.Revision{revision(1)})
	same(t, "newest release", got(db.NewestReleases(ctx))(t), []api.Release{release(1, 1)})
	must(t, db.SaveRevision(ctx, revision(2), release(2, 2)))
	same(t, "newest revision of two", got(db.NewestRevisions(ctx))(t), []api.Revision{revision(2)})
	same(t, "newest release of two", got(db.NewestReleases(ctx))(t), []api.Release{release(2, 2)})
	must(t, db.DeleteEndpoint(ctx, "acme", "digits", 8, "me"))
	refused(t, api.CodeEndpointNotFound, db.DeleteEndpoint(ctx, "acme", "digits", 8, "me"))
	_, err = db.Endpoint(ctx, "acme", "digits")
	refused(t, api.CodeEndpointNotFound, err)
	_, err = db.Revision(ctx, "acme", "digits", 1)
	refused(t, api.CodeEndpointNotFound, err)
	last := got(db.Events(ctx, "acme", -1, 1))(t)[0]
	last.Seq = 0
	same(t, "event", last, api.Event{Tenant: "acme", At: 8, Kind: "endpoint.deleted", Subject: "digits", Text: "Endpoint digits was deleted.", By: "me"})
}

func crashes(t *testing.T, db *store.DB) {
	ctx := t.Context()
	count, reason, err := db.Crashes(ctx, digest("bad"))
	must(t, err)
	if count != 0 || reason != "" {
		t.Errorf("a file that never crashed has %d crashes: %s", count, reason)
	}
	for want := 1; want <= 3; want++ {
		if count := got(db.RecordCrash(ctx, digest("bad"), fmt.Sprint("reason ", want), 5))(t); count != want {
			t.Errorf("crash %d counts as %d", want, count)
		}
	}
	count, reason, err = db.Crashes(ctx, digest("bad"))
	must(t, err)
	if count != 3 || reason != "reason 3" {
		t.Errorf("got %d, %q", count, reason)
	}

	v := version("fraud", "bad")
	same(t, "before the version", got(db.Tried(ctx, "acme", "fraud", v.Digest))(t), api.Tried{Crashes: 3, Crash: "reason 3"})
	v.State, v.Reason = api.VersionRejected, "it leaks"
	commit(t, db, v)
	same(t, "a version", got(db.Tried(ctx, "acme", "fraud", v.Digest))(t),
		api.Tried{Crashes: 3, Crash: "reason 3", Version: 1, State: api.VersionRejected, Reason: "it leaks"})
	same(t, "of another model", got(db.Tried(ctx, "acme", "digits", v.Digest))(t), api.Tried{Crashes: 3, Crash: "reason 3"})
	must(t, db.DeleteVersion(ctx, "acme", "fraud", 1, api.Deletion{By: "me", At: 6}))
	same(t, "deleted", got(db.Tried(ctx, "acme", "fraud", v.Digest))(t), api.Tried{Crashes: 3, Crash: "reason 3"})
	same(t, "nothing", got(db.Tried(ctx, "acme", "fraud", digest("good")))(t), api.Tried{})
}

func events(t *testing.T, db *store.DB) {
	ctx := t.Context()
	var all []api.Event
	for i := range 6 {
		e := api.Event{Tenant: []api.TenantID{"acme", "", "zeta"}[i%3], At: api.Time(i), Kind: "k", Subject: "s", Text: fmt.Sprint(i), By: "me"}
		must(t, db.AppendEvent(ctx, e))
		e.Seq = int64(i + 1)
		all = append(all, e)
	}
	same(t, "all", got(db.Events(ctx, "", 0, 0))(t), all)
	same(t, "after 4", got(db.Events(ctx, "", 4, 10))(t), all[4:])
	same(t, "two after 1", got(db.Events(ctx, "", 1, 2))(t), all[1:3])
	same(t, "newest two", got(db.Events(ctx, "", -1, 2))(t), all[4:])
	same(t, "of a tenant", got(db.Events(ctx, "acme", 0, 10))(t), []api.Event{all[0], all[3]})
	same(t, "newest of a tenant", got(db.Events(ctx, "zeta", -1, 1))(t), []api.Event{all[5]})
	if none := got(db.Events(ctx, "acme", 4, 10))(t); len(none) != 0 {
		t.Errorf("events after the last: %v", none)
	}
}

func idempotency(t *testing.T, db *store.DB) {
	ctx := t.Context()
	const hour, day = api.Time(3600e6), api.Time(24 * 3600e6)
	claim := func(tenant api.TenantID, hash string, at api.Time) (*store.Reply, error) {
		return db.ClaimIdempotency(ctx, tenant, "key", hash, at)
	}
	if r := got(claim("acme", "h1", day))(t); r != nil {
		t.Errorf("a new key has the reply %v", r)
	}
	_, err := claim("acme", "h1", day+1)
	refused(t, api.CodeBusy, err)
	_, err = claim("acme", "h2", day+1)
	refused(t, api.CodeIdempotency, err)
	if r := got(claim("zeta", "h2", day+1))(t); r != nil {
		t.Errorf("another tenant's key has the reply %v", r)
	}
	must(t, db.FinishIdempotency(ctx, "acme", "key", 201, []byte("{\"a\":\x00\xff}")))
	must(t, db.FinishIdempotency(ctx, "acme", "key", 500, nil)) // the first reply stays
	must(t, db.ForgetIdempotency(ctx, "acme", "key"))           // finished: stays
	same(t, "reply", got(claim("acme", "h1", day+2))(t), &store.Reply{Status: 201, Body: []byte("{\"a\":\x00\xff}")})
	_, err = claim("acme", "h2", day+hour)
	refused(t, api.CodeIdempotency, err)
	if r := got(claim("acme", "h2", 2*day+1))(t); r != nil {
		t.Errorf("a key of yesterday has the reply %v", r)
	}
	must(t, db.ForgetIdempotency(ctx, "acme", "key"))
	if r := got(claim("acme", "h3", 2*day+2))(t); r != nil {
		t.Errorf("a forgotten key has the reply %v", r)
	}
	if r := got(claim("acme", "h4", 2*day+3+hour))(t); r != nil {
		t.Errorf("a key whose server is gone has the reply %v", r)
	}
}

// otherTenant checks that nothing of one tenant can be named from another: every answer is that of a missing thing.
func otherTenant(t *testing.T, db *store.DB) {
	ctx := t.Context()
	v := commit(t, db, version("fraud", 1), "live")
	got(db.SaveSpec(ctx, "acme", "digits", spec("fraud@1"), 0, 5))(t)
	must(t, db.SaveRevision(ctx, revision(1), release(1, 1)))
	must(t, db.PutTenant(ctx, api.Tenant{ID: "zeta"}))
	for _, c := range []struct {
		name string
		code api.Code
		call func(tenant api.TenantID) error
	}{
		{"model", api.CodeModelNotFound, func(o api.TenantID) error { _, err := db.Model(ctx, o, "fraud"); return err }},
		{"version", api.CodeModelNotFound, func(o api.TenantID) error { _, err := db.Version(ctx, o, "fraud", 1); return err }},
		{"digest", api.CodeModelNotFound, func(o api.TenantID) error { _, err := db.VersionByDigest(ctx, o, "fraud", v.Digest); return err }},
		{"versions", api.CodeModelNotFound, func(o api.TenantID) error { _, err := db.Versions(ctx, o, "fraud", 0, 9); return err }},
		{"tags", api.CodeModelNotFound, func(o api.TenantID) error { _, err := db.SetTags(ctx, o, "fraud", 1, nil, nil, "me", 9); return err }},
		{"alias", api.CodeModelNotFound, func(o api.TenantID) error {
			_, err := db.MoveAlias(ctx, Move(o, "fraud", "live", 1, -1, "", "", 1))
			return err
		}},
		{"history", api.CodeModelNotFound, func(o api.TenantID) error { _, err := db.AliasHistory(ctx, o, "fraud", "live", 1); return err }},
		{"endpoint", api.CodeEndpointNotFound, func(o api.TenantID) error { _, err := db.Endpoint(ctx, o, "digits"); return err }},
		{"delete", api.CodeEndpointNotFound, func(o api.TenantID) error { return db.DeleteEndpoint(ctx, o, "digits", 1, "") }},
		{"revision", api.CodeEndpointNotFound, func(o api.TenantID) error { _, err := db.Revision(ctx, o, "digits", 1); return err }},
		{"revisions", api.CodeEndpointNotFound, func(o api.TenantID) error { _, err := db.Revisions(ctx, o, "digits", 0, 1); return err }},
		{"release", api.CodeEndpointNotFound, func(o api.TenantID) error { _, err := db.Release(ctx, o, "digits", 1); return err }},
		{"releases", api.CodeEndpointNotFound, func(o api.TenantID) error { _, err := db.Releases(ctx, o, "digits", 0, 1); return err }},
		{"save release", api.CodeEndpointNotFound, func(o api.TenantID) error {
			r := release(1, 1)
			r.Tenant = o
			return db.SaveRelease(ctx, r, &api.Traffic{Current: 1})
		}},
		{"save traffic", api.CodeEndpointNotFound, func(o api.TenantID) error {
			return db.SaveTraffic(ctx, api.Event{Tenant: o}, "digits", api.Traffic{Current: 1})
		}},
		{"save revision", api.CodeEndpointNotFound, func(o api.TenantID) error {
			rev, rel := revision(2), release(2, 2)
			rev.Tenant, rel.Tenant = o, o
			return db.SaveRevision(ctx, rev, rel)
		}},
	} {
		foreign, missing := c.call("zeta"), c.call("nobody")
		refused(t, c.code, foreign)
		if fmt.Sprint(foreign) != fmt.Sprint(missing) {
			t.Errorf("%s: a foreign name answers %q, a missing one %q", c.name, foreign, missing)
		}
	}
	for name, count := range map[string]int{
		"models":    len(got(db.Models(ctx, "zeta", "", 9))(t)),
		"endpoints": len(got(db.Endpoints(ctx, "zeta", "", 9))(t)),
		"events":    len(got(db.Events(ctx, "zeta", 0, 9))(t)),
	} {
		if count != 0 {
			t.Errorf("tenant zeta sees %d %s of acme", count, name)
		}
	}
}

// hostileText checks that both databases take and refuse the same.
func hostileText(t *testing.T, db *store.DB) {
	ctx := t.Context()
	const odd = "NUL \x00, bad UTF-8 \xff\xfe, quote ' \" ; -- $1 ? \\ 💧"
	const kept = "NUL \uFFFD, bad UTF-8 \uFFFD, quote ' \" ; -- $1 ? \\ 💧"
	v := version("fraud", 1)
	v.CreatedBy, v.Card, v.Tags = odd, odd, map[string]string{"odd": odd}
	commit(t, db, v, "live")
	stored := got(db.Version(ctx, "acme", "fraud", 1))(t)
	if stored.CreatedBy != kept || stored.Tags["odd"] != kept || stored.Card != kept {
		t.Errorf("stored %q, %q, %q", stored.CreatedBy, stored.Tags["odd"], stored.Card)
	}
	got(db.MoveAlias(ctx, Move("acme", "fraud", "live", 0, -1, odd, odd, 1)))(t)
	if h := got(db.AliasHistory(ctx, "acme", "fraud", "live", 1))(t)[0]; h.Why != kept || h.By != kept {
		t.Errorf("history %+v", h)
	}
	must(t, db.AppendEvent(ctx, api.Event{Tenant: "acme", Kind: odd, Subject: odd, Text: odd, By: odd}))
	_, err := db.Model(ctx, "acme", odd)
	refused(t, api.CodeBadRequest, err)
	_, err = db.Model(ctx, "acme", "x' OR '1'='1")
	refused(t, api.CodeModelNotFound, err)
	refused(t, api.CodeBadRequest, db.PutTenant(ctx, api.Tenant{ID: "\x00"}))
}

func endedContext(t *testing.T, db *store.DB) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := db.CommitVersion(ctx, version("fraud", 1), nil, "")
	refused(t, api.CodeCanceled, err)
	_, err = db.Model(ctx, "acme", "fraud")
	refused(t, api.CodeCanceled, err)
	past, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	_, err = db.Tenants(past)
	refused(t, api.CodeDeadline, err)
	_, err = db.Model(t.Context(), "acme", "fraud")
	refused(t, api.CodeModelNotFound, err)
}

func closed(t *testing.T, db *store.DB) {
	must(t, db.Close())
	must(t, db.Close())
	ctx := t.Context()
	refused(t, api.CodeStorage, db.PutTenant(ctx, api.Tenant{ID: "late"}))
	_, err := db.Tenants(ctx)
	refused(t, api.CodeStorage, err)
	refused(t, api.CodeStorage, db.Ping(ctx))
	refused(t, api.CodeStorage, db.EachKey(ctx, func(api.Key, []byte) error { return nil }))
}

package storetest

import (
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

// trustPolicies: one per tenant, changed by compare-and-swap, with an event each.
func trustPolicies(t *testing.T, db *store.DB) {
	ctx := t.Context()
	same(t, "none yet", got(db.TrustPolicy(ctx, "acme"))(t), api.TrustPolicy{})
	p := api.TrustPolicy{Require: true, Aliases: []api.AliasName{"champion"}, Keys: []api.TrustedKey{{Name: "k", PublicKey: "pem", ID: "id", Expires: 9}}, Changed: 5, ChangedBy: "me"}
	_, err := db.SaveTrustPolicy(ctx, "acme", p, 1)
	refused(t, api.CodeStale, err)
	_, err = db.SaveTrustPolicy(ctx, "nobody", p, -1)
	refused(t, api.CodeNotFound, err)
	p.Generation = 1
	same(t, "made", got(db.SaveTrustPolicy(ctx, "acme", p, 0))(t), p)
	same(t, "read", got(db.TrustPolicy(ctx, "acme"))(t), p)
	_, err = db.SaveTrustPolicy(ctx, "acme", p, 0)
	refused(t, api.CodeStale, err)
	off := api.TrustPolicy{Changed: 6, ChangedBy: "me", Generation: 2}
	same(t, "changed", got(db.SaveTrustPolicy(ctx, "acme", off, 1))(t), off)
	same(t, "read again", got(db.TrustPolicy(ctx, "acme"))(t), off)
	same(t, "another tenant's", got(db.TrustPolicy(ctx, "default"))(t), api.TrustPolicy{})
	events := got(db.Events(ctx, "acme", -1, 10))(t)
	if len(events) != 2 || events[1].Kind != "trust.changed" || events[0].Text != "Only signed versions are deployed." {
		t.Errorf("events %+v", events)
	}
}

// lineageLinks: kept with the version that a push makes, once, and found from both ends in their own tenant.
func lineageLinks(t *testing.T, db *store.DB) {
	ctx := t.Context()
	v := version("fraud", 1)
	push := api.ManifestPush{Version: &v, Manifest: api.Manifest{Repository: api.Repository{Tenant: "acme", Name: "fraud"}, Pushed: 7, PushedBy: "me",
		RepositoryBlob: api.RepositoryBlob{Digest: api.ContentDigest(v.Digest), Blob: v.Digest}},
		Lineage: []api.LineageLink{{FromKind: api.LineageDataset, From: "d", ToKind: api.LineageRun, To: "r"}, {FromKind: api.LineageRun, From: "r", Text: "tool=1"},
			{FromKind: api.LineageVersion, From: "fraud@1"}}}
	for range 2 {
		if _, _, err := db.PutManifest(ctx, push); err != nil {
			t.Fatal(err)
		}
	}
	toVersion := api.LineageLink{FromKind: api.LineageRun, From: "r", ToKind: api.LineageVersion, To: "fraud@1", Text: "tool=1", Added: 7, AddedBy: "me"}
	same(t, "of the version", got(db.LinksTo(ctx, "acme", api.LineageVersion, "fraud@1", 10))(t), []api.LineageLink{toVersion})
	same(t, "from the run", got(db.LinksFrom(ctx, "acme", api.LineageRun, "r", 10))(t), []api.LineageLink{toVersion})
	same(t, "to the run", len(got(db.LinksTo(ctx, "acme", api.LineageRun, "r", 10))(t)), 1)
	same(t, "another tenant's", len(got(db.LinksFrom(ctx, "default", api.LineageRun, "r", 10))(t)), 0)
}

// revisionsOfVersions: an underscore in a name, which a text search takes for any character, finds no other model.
func revisionsOfVersions(t *testing.T, db *store.DB) {
	ctx := t.Context()
	got(db.SaveSpec(ctx, "acme", "digits", spec("a_b@1"), 0, 5))(t)
	for n, model := range []api.ModelName{"a_b", "axb", "a_b"} {
		rev, rel := revision(api.RevisionNumber(n+1)), release(int64(n+1), api.RevisionNumber(n+1))
		rev.Variants = []api.Variant{{Name: "main", Model: model, Version: 1, Digest: "d"}, {Name: "chain", Chain: &api.Chain{Steps: []api.ChainStep{{Name: "s", Model: "step", Version: api.VersionNumber(n + 1)}}}}}
		must(t, db.SaveRevision(ctx, rev, rel))
	}
	numbers := func(m api.ModelName, v api.VersionNumber) (all []api.RevisionNumber) {
		for _, rev := range got(db.RevisionsOf(ctx, "acme", m, v))(t) {
			all = append(all, rev.Number)
		}
		return all
	}
	same(t, "of an arm", numbers("a_b", 1), []api.RevisionNumber{3, 1})
	same(t, "of another name", numbers("axb", 1), []api.RevisionNumber{2})
	same(t, "of a step", numbers("step", 2), []api.RevisionNumber{2})
	same(t, "of another number", len(numbers("a_b", 11)), 0)
}

// callers: added up, found by revision and by key, and gone with their endpoint.
func callers(t *testing.T, db *store.DB) {
	ctx := t.Context()
	got(db.SaveSpec(ctx, "acme", "digits", spec("a@1"), 0, 5))(t)
	one := api.CallerTally{Tenant: "acme", Endpoint: "digits", Revision: 1, Model: "a", Version: 1, Key: "k1", Requests: 2, First: 5, Last: 9}
	two := one
	two.Key, two.Requests = "k2", 10
	must(t, db.AddCallers(ctx, []api.CallerTally{one, two}))
	late := one
	late.First, late.Last = 7, 8
	must(t, db.AddCallers(ctx, []api.CallerTally{late}))
	one.Requests = 4
	same(t, "of the revision", got(db.CallersOf(ctx, "acme", "digits", 1, 10))(t), []api.CallerTally{two, one})
	same(t, "the busiest", got(db.CallersOf(ctx, "acme", "digits", 1, 1))(t), []api.CallerTally{two})
	same(t, "of the key", got(db.CallsOf(ctx, "acme", "k1", 10))(t), []api.CallerTally{one})
	same(t, "of another revision", len(got(db.CallersOf(ctx, "acme", "digits", 2, 10))(t)), 0)
	must(t, db.DeleteEndpoint(ctx, "acme", "digits", 8, "me"))
	same(t, "after the endpoint", len(got(db.CallersOf(ctx, "acme", "digits", 1, 10))(t)), 0)
}

package storetest

import (
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

func revision(n api.RevisionNumber) api.Revision {
	return api.Revision{Tenant: "acme", Endpoint: "digits", Number: n, Strategy: api.StrategyDirect, Created: api.Time(n), By: "me",
		Variants: []api.Variant{{Name: "main", Model: "digits", Version: 1, Digest: digest(n), Format: "onnx", Weight: 1,
			Signature: version("digits", 1).Signature}}}
}

func release(n int64, to api.RevisionNumber) api.Release {
	return api.Release{Tenant: "acme", Endpoint: "digits", Number: n, Kind: api.ReleaseDeploy, From: to - 1, To: to,
		Strategy: api.StrategyDirect, State: api.ReleasePending, By: "me", Why: "why", Started: api.Time(100 + n), Durable: true}
}

func releases(t *testing.T, db *store.DB) {
	ctx := t.Context()
	refused(t, api.CodeEndpointNotFound, db.SaveRevision(ctx, revision(1), release(1, 1)))
	refused(t, api.CodeEndpointNotFound, db.SaveRelease(ctx, release(1, 1), nil))
	refused(t, api.CodeEndpointNotFound, db.SaveTraffic(ctx, api.Event{Tenant: "acme"}, "digits", api.Traffic{}))
	got(db.SaveSpec(ctx, "acme", "digits", spec("digits@1"), 0, 5))(t)
	must(t, db.SaveRevision(ctx, revision(1), release(1, 1)))
	refused(t, api.CodeStale, db.SaveRevision(ctx, revision(1), release(2, 1)))
	refused(t, api.CodeStale, db.SaveRevision(ctx, revision(2), release(1, 2)))
	strange := release(9, 9)
	strange.Endpoint = "another"
	refused(t, api.CodeBadRequest, db.SaveRevision(ctx, revision(9), strange))
	_, err := db.Revision(ctx, "acme", "digits", 2) // the release's number was taken, so the revision went too
	refused(t, api.CodeRevisionNotFound, err)
	must(t, db.SaveRevision(ctx, revision(2), release(2, 2)))
	must(t, db.SaveRevision(ctx, revision(3), release(3, 3)))

	same(t, "revision", got(db.Revision(ctx, "acme", "digits", 2))(t), revision(2))
	same(t, "revisions", got(db.Revisions(ctx, "acme", "digits", 0, 2))(t), []api.Revision{revision(3), revision(2)})
	same(t, "revisions below", got(db.Revisions(ctx, "acme", "digits", 2, 2))(t), []api.Revision{revision(1)})
	same(t, "release", got(db.Release(ctx, "acme", "digits", 2))(t), release(2, 2))
	same(t, "releases", got(db.Releases(ctx, "acme", "digits", 0, 2))(t), []api.Release{release(3, 3), release(2, 2)})
	same(t, "releases below", got(db.Releases(ctx, "acme", "digits", 2, 2))(t), []api.Release{release(1, 1)})
	_, err = db.Release(ctx, "acme", "digits", 4)
	refused(t, api.CodeNotFound, err)
}

// releaseReplay brings the reports of a release, twice and out of order, as a journal would.
func releaseReplay(t *testing.T, db *store.DB) {
	ctx := t.Context()
	got(db.SaveSpec(ctx, "acme", "digits", spec("digits@1"), 0, 5))(t)
	must(t, db.SaveRevision(ctx, revision(1), release(1, 1)))
	loading, done := release(1, 1), release(1, 1)
	loading.State = api.ReleaseLoading
	done.State, done.Ended = api.ReleaseSucceeded, 500
	traffic := api.Traffic{Current: 1, History: []api.RevisionNumber{1}, Warm: []api.RevisionNumber{1}, Changed: 500}
	for range 2 {
		must(t, db.SaveRelease(ctx, loading, nil))
		must(t, db.SaveRelease(ctx, loading, nil))
		must(t, db.SaveRelease(ctx, done, &traffic))
	}
	same(t, "release", got(db.Release(ctx, "acme", "digits", 1))(t), done)
	same(t, "traffic", got(db.Endpoint(ctx, "acme", "digits"))(t).Traffic, traffic)
	got(db.SaveSpec(ctx, "acme", "digits", spec("digits@2"), -1, 6))(t)
	same(t, "traffic after a new spec", got(db.Endpoint(ctx, "acme", "digits"))(t).Traffic, traffic)

	traffic.Unloaded = true // nothing is released by that
	event := api.Event{Tenant: "acme", At: 550, Kind: "endpoint.unloaded", Subject: "digits", Text: "Endpoint digits was unloaded."}
	must(t, db.SaveTraffic(ctx, event, "digits", traffic))
	same(t, "traffic without a release", got(db.Endpoint(ctx, "acme", "digits"))(t).Traffic, traffic)

	back := release(2, 1) // a rollback comes without a revision of its own
	back.Kind, back.State, back.Ended, back.Reason = api.ReleaseRollback, api.ReleaseFailed, 600, "no memory"
	must(t, db.SaveRelease(ctx, back, nil))
	var lines []string
	for _, e := range got(db.Events(ctx, "acme", 0, 10))(t) {
		lines = append(lines, e.Kind+" "+e.Subject+" "+e.At.Std().Format("05.000000")+" "+e.Text)
	}
	same(t, "events", lines, []string{
		"release.pending digits 00.000101 Release 1 of digits (deploy to revision 1): pending",
		"release.loading digits 00.000101 Release 1 of digits (deploy to revision 1): loading",
		"release.succeeded digits 00.000500 Release 1 of digits (deploy to revision 1): succeeded",
		"endpoint.unloaded digits 00.000550 Endpoint digits was unloaded.",
		"release.failed digits 00.000600 Release 2 of digits (rollback to revision 1): failed, no memory"})
}

// startRelease checks that a deploy is kept whole or not at all.
func startRelease(t *testing.T, db *store.DB) {
	ctx := t.Context()
	first := got(db.StartRelease(ctx, spec("digits@1"), 0, revision(1), release(1, 1)))(t)
	same(t, "made", first.Generation, 1)
	_, err := db.StartRelease(ctx, spec("digits@2"), 0, revision(2), release(2, 2))
	refused(t, api.CodeExists, err)
	_, err = db.StartRelease(ctx, spec("digits@2"), 7, revision(2), release(2, 2))
	refused(t, api.CodeStale, err)
	_, err = db.StartRelease(ctx, spec("digits@2"), 1, revision(2), release(1, 2)) // the release's number is taken
	refused(t, api.CodeStale, err)
	same(t, "nothing of it stayed", got(db.Endpoint(ctx, "acme", "digits"))(t), first)
	same(t, "revisions", got(db.Revisions(ctx, "acme", "digits", 0, 9))(t), []api.Revision{revision(1)})
	same(t, "changed", got(db.StartRelease(ctx, spec("digits@2"), 1, revision(2), release(2, 2)))(t).Generation, 2)
	strange := release(3, 3)
	strange.Endpoint = "another"
	_, err = db.StartRelease(ctx, spec("digits@3"), -1, revision(3), strange)
	refused(t, api.CodeBadRequest, err)
	same(t, "releases", got(db.Releases(ctx, "acme", "digits", 0, 9))(t), []api.Release{release(2, 2), release(1, 1)})
}

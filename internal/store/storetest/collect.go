package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

// terms keep the dead for ten microseconds, so that the times of the cases can be small numbers.
func terms(now api.Time) api.CollectTerms {
	return api.CollectTerms{Now: now, Window: 10 * time.Microsecond, Grace: 10 * time.Microsecond, Pending: 10 * time.Microsecond}
}

// sweepAll takes every step and deletes what is due, and gives what was found, by its kind and subject.
func sweepAll(t testing.TB, db *store.DB, now api.Time) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, step := range db.CollectSteps() {
		for from := ""; ; {
			some, next, err := db.Collect(t.Context(), step, terms(now), from)
			must(t, err)
			for _, c := range some {
				found[string(c.Kind)+" "+c.Subject] = c.Why
			}
			if from = next; from == "" {
				break
			}
		}
	}
	for {
		dead, _, err := db.ClaimDead(t.Context(), "run", terms(now), "")
		must(t, err)
		if len(dead) == 0 {
			return found
		}
		gone := make([]api.Digest, len(dead))
		for i, b := range dead {
			gone[i] = b.Digest
			found["blob "+string(b.Digest)] = "dead"
		}
		must(t, db.FinishDead(t.Context(), "run", gone, nil))
	}
}

func holdBlob(t testing.TB, db *store.DB, b api.RepositoryBlob, at api.Time) {
	t.Helper()
	must(t, db.KeepBlob(t.Context(), api.BlobKeep{Repository: api.Repository{Tenant: "acme"}, Blob: b, At: at}))
}

// pushVersion pushes a version of fraud made of one layer.
func pushVersion(t testing.TB, db *store.DB, of any, at api.Time, aliases ...api.AliasName) (api.Version, api.ManifestPush) {
	t.Helper()
	layer := repositoryBlob(fmt.Sprint("layer of ", of))
	holdBlob(t, db, layer, at)
	push := manifestOf(of, layer)
	v := version("fraud", of)
	v.Digest, v.Created = push.Blob, at
	push.Version, push.Aliases, push.Links, push.Why, push.Pushed = &v, aliases, []api.RepositoryBlob{layer}, "pushed", at
	return putManifest(t, db, push), push
}

// collection checks what dies and what does not, and when.
func collection(t *testing.T, db *store.DB) {
	ctx := t.Context()
	lonely, fresh := repositoryBlob("lonely"), repositoryBlob("fresh")
	holdBlob(t, db, lonely, 1)
	holdBlob(t, db, fresh, 95)
	linked := repositoryBlob("linked")
	must(t, db.LinkBlob(ctx, shop, linked, 1))
	v1, push1 := pushVersion(t, db, "one", 1, "live")
	v2, push2 := pushVersion(t, db, "two", 2)
	// An index of a child, both without a tag; what refers to the index; and what refers to what was never here.
	child := manifestOf("child")
	child.Pushed = 3
	putManifest(t, db, child)
	index := manifestOf("index", child.RepositoryBlob)
	index.Pushed, index.Tags = 3, []string{"idx"}
	putManifest(t, db, index)
	signature := manifestOf("signature")
	signature.Subject, signature.Pushed = index.Digest, 3
	putManifest(t, db, signature)
	second := manifestOf("signature of the signature")
	second.Subject, second.Pushed = signature.Digest, 3
	putManifest(t, db, second)
	stray := manifestOf("stray")
	stray.Subject, stray.Pushed = repositoryBlob("never").Digest, 3
	putManifest(t, db, stray)
	ofVersion := manifestOf("report")
	ofVersion.Subject, ofVersion.Pushed = push2.Digest, 3
	putManifest(t, db, ofVersion)

	rehearsed := got(db.Rehearse(ctx, terms(100), []api.BlobInfo{{Digest: digest("orphan"), Size: 5}}))(t)
	found := sweepAll(t, db, 100)
	blobs := 0
	for _, c := range rehearsed {
		if found[string(c.Kind)+" "+c.Subject] == "" {
			t.Errorf("rehearsed, and not found: %+v", c)
		}
		blobs++
	}
	if blobs != len(found) {
		t.Errorf("%d things rehearsed, %d found", blobs, len(found))
	}
	same(t, "found", found, map[string]string{
		"hold " + string(lonely.Blob): "no manifest of the tenant is made of it", "blob " + string(lonely.Blob): "dead",
		"link fraud@" + string(linked.Digest): "no manifest of the repository is made of it",
		"hold " + string(linked.Blob):         "no manifest of the tenant is made of it", "blob " + string(linked.Blob): "dead",
		"manifest fraud@" + string(stray.Digest): "what it refers to is gone",
		"hold " + string(stray.Blob):             "no manifest of the tenant is made of it", "blob " + string(stray.Blob): "dead"})

	collectionLater(t, db, fresh, []api.ManifestPush{child, index, signature, second})
	// A deleted version goes with its report, its number never comes back, and what has an alias cannot be deleted.
	refused(t, api.CodeInUse, db.DeleteVersion(ctx, "acme", "fraud", v1.Number, api.Deletion{By: "me", At: 200}))
	must(t, db.DeleteVersion(ctx, "acme", "fraud", v2.Number, api.Deletion{By: "me", At: 200}))
	same(t, "deleted, and in its window", len(sweepAll(t, db, 209)), 0)
	found = sweepAll(t, db, 210)
	for _, want := range []string{"version fraud@2", "manifest fraud@" + string(push2.Digest), "manifest fraud@" + string(ofVersion.Digest), "blob " + string(push2.Blob)} {
		if found[want] == "" {
			t.Errorf("%s is left: %v", want, found)
		}
	}
	if v, _ := pushVersion(t, db, "two", 300); v.Number != 3 {
		t.Errorf("pushed again it is %d", v.Number)
	}
	same(t, "v1 is whole", got(db.ManifestByTag(ctx, shop, "live"))(t).Digest, push1.Digest)
}

func collectionLater(t *testing.T, db *store.DB, fresh api.RepositoryBlob, together []api.ManifestPush) {
	ctx := t.Context()
	// The index loses its tag: it and all around it live for another window, and then go together.
	must(t, db.DeleteTag(ctx, shop, "idx", me, 100))
	same(t, "in the window", sweepAll(t, db, 109), map[string]string{"hold " + string(fresh.Blob): "no manifest of the tenant is made of it", "blob " + string(fresh.Blob): "dead"})
	found := sweepAll(t, db, 110)
	for _, m := range together {
		if found["manifest fraud@"+string(m.Digest)] == "" || found["blob "+string(m.Blob)] == "" {
			t.Errorf("%s is left: %v", m.Digest, found)
		}
	}
}

// trash checks deletion and restoring.
func trash(t *testing.T, db *store.DB) {
	ctx := t.Context()
	v1, push1 := pushVersion(t, db, "one", 1)
	v2, _ := pushVersion(t, db, "two", 2, "live")
	del := api.Deletion{By: "me", At: 50, Why: "old"}
	must(t, db.DeleteVersion(ctx, "acme", "fraud", 1, del))
	_, err := db.Version(ctx, "acme", "fraud", 1)
	refused(t, api.CodeVersionNotFound, err)
	_, err = db.VersionByDigest(ctx, "acme", "fraud", v1.Digest)
	refused(t, api.CodeVersionNotFound, err)
	_, err = db.ManifestByDigest(ctx, shop, push1.Digest)
	refused(t, api.CodeManifestNotFound, err)
	_, err = db.ManifestByTag(ctx, shop, "1")
	refused(t, api.CodeManifestNotFound, err)
	_, err = db.MoveAlias(ctx, Move("acme", "fraud", "old", 1, -1, "me", "", 51))
	refused(t, api.CodeVersionNotFound, err)
	refused(t, api.CodeVersionNotFound, db.DeleteVersion(ctx, "acme", "fraud", 1, del))
	same(t, "listed", len(got(db.Versions(ctx, "acme", "fraud", 0, 9))(t)), 1)
	same(t, "trash", got(db.Trash(ctx, "acme", 9))(t), []api.Deleted{{Repository: "fraud", Version: 1, Digest: push1.Digest, Type: "application/a", Deleted: 50, By: "me"}})
	same(t, "others' trash", len(got(db.Trash(ctx, "zeta", 9))(t)), 0)
	// Its blob cannot be taken away for good, only out of sight.
	layer := repositoryBlob("layer of one")
	must(t, db.UnlinkBlob(ctx, shop, layer.Digest))
	_, err = db.RepositoryBlob(ctx, shop, layer.Digest)
	refused(t, api.CodeBlobNotFound, err)
	same(t, "restored", got(db.RestoreVersion(ctx, "acme", "fraud", 1, api.Deletion{By: "me", At: 60}))(t), v1)
	same(t, "its blob", got(db.RepositoryBlob(ctx, shop, layer.Digest))(t), layer)
	_, err = db.RestoreVersion(ctx, "acme", "fraud", 1, del)
	refused(t, api.CodeVersionNotFound, err)
	// The same content pushed again is the same version, deleted or not.
	must(t, db.DeleteVersion(ctx, "acme", "fraud", 1, del))
	if again, _ := pushVersion(t, db, "one", 70); again.Number != 1 {
		t.Errorf("pushed again it is %d", again.Number)
	}
	// A model goes whole or not at all; its numbers go on.
	refused(t, api.CodeInUse, db.DeleteModel(ctx, "acme", "fraud", false, del))
	same(t, "still there", got(db.Version(ctx, "acme", "fraud", 1))(t).Number, 1)
	must(t, db.DeleteModel(ctx, "acme", "fraud", true, del))
	_, err = db.Model(ctx, "acme", "fraud")
	refused(t, api.CodeModelNotFound, err)
	same(t, "models", len(got(db.Models(ctx, "acme", "", 9))(t)), 0)
	got(db.RestoreVersion(ctx, "acme", "fraud", v2.Number, api.Deletion{By: "me", At: 90}))(t)
	same(t, "latest", got(db.Model(ctx, "acme", "fraud"))(t).Latest, 2)
	// Deleted for good.
	must(t, db.DeleteVersion(ctx, "acme", "fraud", 2, api.Deletion{By: "me", At: 95, Now: true}))
	_, err = db.RestoreVersion(ctx, "acme", "fraud", 2, del)
	refused(t, api.CodeVersionNotFound, err)
	if found := sweepAll(t, db, 96); found["version fraud@2"] == "" {
		t.Errorf("found %v", found)
	}
	// Of manifests that are no versions, tags come back where they are free.
	note := manifestOf("note")
	note.Tags = []string{"a", "b"}
	putManifest(t, db, note)
	must(t, db.DeleteManifest(ctx, shop, note.Digest, "me", 100))
	_, err = db.ManifestByTag(ctx, shop, "a")
	refused(t, api.CodeManifestNotFound, err)
	other := manifestOf("other")
	other.Tags = []string{"b"}
	putManifest(t, db, other)
	must(t, db.RestoreManifest(ctx, shop, note.Digest, api.Deletion{By: "me", At: 110}))
	same(t, "tag a", got(db.ManifestByTag(ctx, shop, "a"))(t).Digest, note.Digest)
	same(t, "tag b", got(db.ManifestByTag(ctx, shop, "b"))(t).Digest, other.Digest)
	refused(t, api.CodeManifestNotFound, db.RestoreManifest(ctx, shop, note.Digest, del))
}

// heldVersions checks that what an endpoint needs is not deleted, and that a deploy and a deletion cannot pass each other.
func heldVersions(t *testing.T, db *store.DB) {
	ctx := t.Context()
	var all []api.Version
	for i := range 5 {
		v, _ := pushVersion(t, db, i, api.Time(i+1))
		all = append(all, v)
	}
	rev := func(n api.RevisionNumber, v api.Version) api.Revision {
		r := revision(n)
		r.Variants = []api.Variant{{Name: "main", Model: v.Model, Version: v.Number, Digest: v.Digest}}
		if n == 3 { // by way of a chain
			r.Variants = []api.Variant{{Name: "main", Chain: &api.Chain{Steps: []api.ChainStep{{Op: "top"}, {Model: v.Model, Version: v.Number, Digest: v.Digest}}}}}
		}
		return r
	}
	for i, v := range all[:4] {
		n := api.RevisionNumber(i + 1)
		rel := release(int64(n), n)
		if rel.State = api.ReleaseSucceeded; n == 4 {
			rel.State = api.ReleaseLoading
		}
		r := rev(n, v)
		if _, err := db.StartRelease(ctx, spec("x"), -1, r, rel); err != nil {
			t.Fatal(err)
		}
		if n == 3 {
			must(t, db.SaveRelease(ctx, rel, &api.Traffic{Current: 3, Previous: 2, Warm: []api.RevisionNumber{2}}))
		}
	}
	del := api.Deletion{By: "me", At: 50}
	must(t, db.DeleteVersion(ctx, "acme", "fraud", 1, del)) // served long ago
	for n, why := range map[api.VersionNumber]string{2: "rollback window", 3: "current revision", 4: "under way"} {
		err := db.DeleteVersion(ctx, "acme", "fraud", n, del)
		refused(t, api.CodeInUse, err)
		if known := (*api.Error)(nil); !errors.As(err, &known) || !strings.Contains(known.Message, why) {
			t.Errorf("version %d: %v, want %s", n, err, why)
		}
	}
	must(t, db.DeleteVersion(ctx, "acme", "fraud", 5, del))
	_, err := db.StartRelease(ctx, spec("x"), -1, rev(9, all[4]), release(9, 9))
	refused(t, api.CodeVersionNotFound, err)
}

// quotas checks limits of bytes and objects.
func quotas(t *testing.T, db *store.DB) {
	ctx := t.Context()
	set := func(q api.QuotaRequest, generation int64) (api.Quota, error) {
		return db.SetQuota(ctx, "acme", q, generation, "me", 1)
	}
	reserve := func(id string, of any, bytes int64) error {
		return db.Reserve(ctx, api.Reservation{ID: id, Holder: "h", Tenant: "acme", Blob: repositoryBlob(of).Blob, Bytes: bytes, At: 2})
	}
	q := got(db.Quota(ctx, "acme"))(t)
	same(t, "none", q, api.Quota{Tenant: "acme"})
	_, err := set(api.QuotaRequest{Bytes: 20}, 7)
	refused(t, api.CodeStale, err)
	q = got(set(api.QuotaRequest{Bytes: 20, Blobs: 3}, 0))(t)
	same(t, "generation", q.Generation, 1)
	must(t, reserve("a", 1, 7))
	must(t, reserve("a", 1, 7)) // the same
	must(t, reserve("b", 2, 13))
	refused(t, api.CodeQuotaExceeded, reserve("c", 3, 1))
	must(t, db.ReleaseRoom(ctx, "b"))
	must(t, reserve("b", 2, 7))
	refused(t, api.CodeQuotaExceeded, reserve("b", 2, 14)) // grows
	must(t, db.KeepBlob(ctx, api.BlobKeep{Repository: shop, Blob: repositoryBlob(1), Reservation: "a", At: 3}))
	must(t, db.KeepBlob(ctx, api.BlobKeep{Repository: shop, Blob: repositoryBlob(2), Reservation: "b", At: 3}))
	same(t, "used", got(db.Quota(ctx, "acme"))(t).Used, api.Usage{Bytes: 14, Blobs: 2})
	must(t, reserve("again", 1, 7)) // it holds it already
	must(t, db.KeepBlob(ctx, api.BlobKeep{Repository: api.Repository{Tenant: "acme", Name: "other"}, Blob: repositoryBlob(1), Reservation: "again", At: 3}))
	same(t, "twice is once", got(db.Quota(ctx, "acme"))(t).Used, api.Usage{Bytes: 14, Blobs: 2})
	take := func(n int) api.Reservation {
		return api.Reservation{ID: "take", Holder: "h", Tenant: "acme", Blob: repositoryBlob(n).Blob, Bytes: 1000, At: 3}
	}
	same(t, "taken: what is held, which takes no room", got(db.TakeBlobs(ctx, take(1), take(9)))(t), map[api.Digest]int64{repositoryBlob(1).Blob: 7})
	must(t, reserve("d", 4, 1))
	refused(t, api.CodeQuotaExceeded, reserve("e", 5, 1)) // a fourth blob
	must(t, db.KeepRoom(ctx, "h", nil))
	same(t, "a restart", got(db.Quota(ctx, "acme"))(t).Used, api.Usage{Bytes: 14, Blobs: 2})

	got(set(api.QuotaRequest{Models: 1, Versions: 2, Tags: 2}, 1))(t)
	pushVersion(t, db, "one", 5, "a")
	pushVersion(t, db, "two", 5, "a", "b")
	layer := repositoryBlob("more")
	holdBlob(t, db, layer, 5)
	third := manifestOf("three", layer)
	v := version("fraud", "three")
	third.Version, third.Links = &v, []api.RepositoryBlob{layer}
	_, _, err = db.PutManifest(ctx, third)
	refused(t, api.CodeQuotaExceeded, err)
	_, err = db.MoveAlias(ctx, Move("acme", "fraud", "c", 1, -1, "me", "", 6))
	refused(t, api.CodeQuotaExceeded, err)
	got(db.MoveAlias(ctx, Move("acme", "fraud", "b", 1, -1, "me", "", 6)))(t) // it is there
	got(db.MoveAlias(ctx, Move("acme", "fraud", "a", 1, -1, "me", "", 6)))(t)
	tagged := manifestOf("tagged")
	tagged.Tags = []string{"Z"}
	_, _, err = db.PutManifest(ctx, tagged)
	refused(t, api.CodeQuotaExceeded, err)
	must(t, db.DeleteVersion(ctx, "acme", "fraud", 2, api.Deletion{By: "me", At: 7}))
	putManifest(t, db, third)
	_, err = db.RestoreVersion(ctx, "acme", "fraud", 2, api.Deletion{By: "me", At: 8})
	refused(t, api.CodeQuotaExceeded, err)
	elsewhere := version("other", "four")
	_, _, err = db.CommitVersion(ctx, elsewhere, nil, "")
	refused(t, api.CodeQuotaExceeded, err)
	same(t, "objects", got(db.Quota(ctx, "acme"))(t).Used.Versions, 2)
}

// crowd lets a thousand uploads, a hundred at a time, ask for room that is there for ten, with and without known digests.
func crowd(t *testing.T, db *store.DB) {
	ctx := t.Context()
	got(db.SetQuota(ctx, "acme", api.QuotaRequest{Bytes: 1005}, -1, "me", 1))(t)
	var all sync.WaitGroup
	var let, refusals atomic.Int64
	places := make(chan struct{}, 100) // so that none waits longer than the store lets it
	for i := range 1000 {
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			b := repositoryBlob(i)
			b.Size = 100
			r := api.Reservation{ID: fmt.Sprint("r", i), Holder: "h", Tenant: "acme", Blob: b.Blob, Bytes: 100, At: 2}
			if i%2 == 0 {
				r.Blob = ""
			}
			switch err := db.Reserve(ctx, r); {
			case api.Is(err, api.CodeQuotaExceeded):
				refusals.Add(1)
			case err != nil:
				t.Error(err)
			default:
				let.Add(1)
				must(t, db.KeepBlob(ctx, api.BlobKeep{Repository: shop, Blob: b, Reservation: r.ID, At: 3}))
			}
		})
	}
	all.Wait()
	if let.Load() != 10 || refusals.Load() != 990 {
		t.Errorf("%d were let in, %d refused", let.Load(), refusals.Load())
	}
	same(t, "used", got(db.Quota(ctx, "acme"))(t).Used, api.Usage{Bytes: 1000, Blobs: 10})
}

// sweptBlobs checks that a blob is never held while it is being deleted, and never deleted while it is held.
func sweptBlobs(t *testing.T, db *store.DB) {
	ctx := t.Context()
	a, b := repositoryBlob("a"), repositoryBlob("b")
	reserve := func(id string, of api.RepositoryBlob) error {
		return db.Reserve(ctx, api.Reservation{ID: id, Holder: "h", Tenant: "acme", Blob: of.Blob, Bytes: of.Size, At: 5})
	}
	infos := []api.BlobInfo{{Digest: a.Blob, Size: 7}, {Digest: b.Blob, Size: 7}}
	must(t, reserve("held", b))
	same(t, "marked", got(db.MarkDead(ctx, infos, 1))(t), 1)
	dead, waiting, err := db.ClaimDead(ctx, "run", terms(5), "")
	must(t, err)
	if len(dead) != 0 || waiting != 1 {
		t.Errorf("within the grace: %v dead, %d waiting", dead, waiting)
	}
	dead, _, err = db.ClaimDead(ctx, "run", terms(20), "")
	must(t, err)
	same(t, "claimed", dead, infos[:1])
	for what, err := range map[string]error{"reserve": reserve("x", a), "keep": db.KeepBlob(ctx, api.BlobKeep{Repository: shop, Blob: a, At: 20})} {
		if !errors.Is(err, api.ErrSwept) || !api.Is(err, api.CodeUnavailable) {
			t.Errorf("%s while it is deleted: %v", what, err)
		}
	}
	// The run dies here; the next one goes on with what it left, whatever the grace.
	dead, _, err = db.ClaimDead(ctx, "next", api.CollectTerms{Now: 21, Grace: time.Hour}, "")
	must(t, err)
	same(t, "claimed again", dead, infos[:1])
	must(t, db.FinishDead(ctx, "run", []api.Digest{a.Blob}, nil)) // the dead run's word counts no more
	if err := reserve("x", a); !errors.Is(err, api.ErrSwept) {
		t.Errorf("after the dead run's word: %v", err)
	}
	must(t, db.FinishDead(ctx, "next", nil, []api.Digest{a.Blob})) // could not be deleted
	must(t, reserve("x", a))
	dead, _, err = db.ClaimDead(ctx, "third", terms(1000), "")
	must(t, err)
	same(t, "nothing is dead", len(dead), 0)
	// Leases.
	must(t, db.TakeLease(ctx, "l", "one", 10, time.Microsecond))
	refused(t, api.CodeCollecting, db.TakeLease(ctx, "l", "two", 10, time.Microsecond))
	must(t, db.TakeLease(ctx, "l", "one", 10, time.Microsecond))
	must(t, db.TakeLease(ctx, "l", "two", 12, time.Microsecond))
	must(t, db.EndLease(ctx, "l", "one"))
	refused(t, api.CodeCollecting, db.TakeLease(ctx, "l", "one", 12, time.Microsecond))
	must(t, db.EndLease(ctx, "l", "two"))
	must(t, db.TakeLease(ctx, "l", "one", 12, time.Microsecond))
}

// retention checks the rules of a policy, and that what is needed outlives them.
func retention(t *testing.T, db *store.DB) {
	ctx := t.Context()
	const day = api.Time(24 * time.Hour / time.Microsecond)
	for i := range 6 {
		v, _ := pushVersion(t, db, i, api.Time(i)*day+1)
		if i == 1 {
			got(db.SetTags(ctx, "acme", "fraud", v.Number, nil, []string{"stage"}, "tester", 1))(t)
		}
	}
	now := 6 * day
	got(db.MoveAlias(ctx, Move("acme", "fraud", "live", 1, -1, "me", "", 1)))(t)
	r := revision(1)
	r.Variants = []api.Variant{{Name: "main", Model: "fraud", Version: 2, Digest: got(db.Version(ctx, "acme", "fraud", 2))(t).Digest}}
	rel := release(1, 1)
	rel.State, rel.Ended = api.ReleaseSucceeded, 2*day
	got(db.StartRelease(ctx, spec("x"), -1, r, rel))(t)
	judged := func(rules api.RetentionRules) (deleted []api.VersionNumber) {
		got(db.SetRetention(ctx, "acme", "fraud", rules, -1, "me", 1))(t)
		for _, v := range got(db.ApplyRetention(ctx, "acme", "fraud", now, true))(t) {
			if v.Delete {
				deleted = append(deleted, v.Version)
			}
		}
		return deleted
	}
	_, err := db.SetRetention(ctx, "acme", "fraud", api.RetentionRules{}, 7, "me", 1)
	refused(t, api.CodeStale, err)
	_, err = db.Retention(ctx, "acme", "nobody")
	refused(t, api.CodeModelNotFound, err)
	same(t, "no rule", judged(api.RetentionRules{}), []api.VersionNumber(nil))
	same(t, "the last two", judged(api.RetentionRules{KeepLast: 2}), []api.VersionNumber{4, 3, 2})
	same(t, "three days", judged(api.RetentionRules{KeepDays: 3}), []api.VersionNumber{3, 2})
	same(t, "what served", judged(api.RetentionRules{KeepServedDays: 3}), []api.VersionNumber{6, 5, 4, 3})
	same(t, "tagged", judged(api.RetentionRules{KeepTagged: true}), []api.VersionNumber{2})
	same(t, "any rule", judged(api.RetentionRules{KeepLast: 1, KeepDays: 2, KeepServedDays: 1}), []api.VersionNumber{4, 3})
	same(t, "those with one", got(db.Retained(ctx, api.Repository{}, 9))(t), []api.Repository{shop})
	got(db.ApplyRetention(ctx, "acme", "fraud", now, false))(t)
	same(t, "kept", len(got(db.Versions(ctx, "acme", "fraud", 0, 9))(t)), 4)
	same(t, "can be restored", len(got(db.Trash(ctx, "acme", 9))(t)), 2)
	kinds := map[string]int{}
	for _, e := range got(db.Events(ctx, "acme", 0, 99))(t) {
		kinds[e.Kind+" by "+e.By]++
	}
	same(t, "events", kinds["version.deleted by retention"], 2)
}

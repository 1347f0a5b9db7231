package storetest

import (
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

var shop = api.Repository{Tenant: "acme", Name: "fraud"}

func repositoryBlob(of any) api.RepositoryBlob {
	d := digest(of)
	return api.RepositoryBlob{Digest: api.ContentDigest(d), Blob: d, Size: 7}
}

// manifestOf makes a manifest of parts that the repository must hold.
func manifestOf(of any, parts ...api.RepositoryBlob) api.ManifestPush {
	push := api.ManifestPush{Manifest: api.Manifest{Repository: shop, RepositoryBlob: repositoryBlob(of), MediaType: "application/m",
		ArtifactType: "application/a", Pushed: 11, PushedBy: "ci"}}
	for _, p := range parts {
		push.Parts = append(push.Parts, p.Digest)
	}
	return push
}

func putManifest(t testing.TB, db *store.DB, push api.ManifestPush) api.Version {
	t.Helper()
	v, _, err := db.PutManifest(t.Context(), push)
	must(t, err)
	return v
}

func repositoryBlobs(t *testing.T, db *store.DB) {
	ctx := t.Context()
	b, long := repositoryBlob(1), repositoryBlob(2)
	long.Digest = api.ContentDigest("sha512:" + digest(3).Hex() + digest(4).Hex())
	_, err := db.RepositoryBlob(ctx, shop, b.Digest)
	refused(t, api.CodeBlobNotFound, err)
	_, err = db.RepositoryTags(ctx, shop, "", 9)
	refused(t, api.CodeModelNotFound, err)
	must(t, db.LinkBlob(ctx, shop, b, 5))
	must(t, db.LinkBlob(ctx, shop, b, 6))
	must(t, db.LinkBlob(ctx, shop, long, 6))
	same(t, "blob", got(db.RepositoryBlob(ctx, shop, b.Digest))(t), b)
	same(t, "blob by sha512", got(db.RepositoryBlob(ctx, shop, long.Digest))(t), long)
	same(t, "no tags", got(db.RepositoryTags(ctx, shop, "", 9))(t), []string{})
	refused(t, api.CodeNotFound, db.LinkBlob(ctx, api.Repository{Tenant: "nobody", Name: "m"}, b, 5))

	other := api.Repository{Tenant: "acme", Name: "team/other"}
	must(t, db.PutTenant(ctx, api.Tenant{ID: "zeta"}))
	for _, c := range []struct {
		name string
		to   api.Repository
		from string
		b    api.RepositoryBlob
		want bool
	}{
		{"from the one that has it", other, "fraud", b, true},
		{"from any", other, "", long, true},
		{"from one that has it not", api.Repository{Tenant: "acme", Name: "third"}, "none", b, false},
		{"what nobody has", other, "", repositoryBlob(9), false},
		{"another tenant's", api.Repository{Tenant: "zeta", Name: "fraud"}, "fraud", b, false},
		{"another tenant's, from any", api.Repository{Tenant: "zeta", Name: "m"}, "", b, false},
	} {
		if ok := got(db.MountBlob(ctx, c.to, c.from, c.b.Digest, 8))(t); ok != c.want {
			t.Errorf("mount %s: %v", c.name, ok)
		}
		_, err := db.RepositoryBlob(ctx, c.to, c.b.Digest)
		if (err == nil) != c.want {
			t.Errorf("mounted %s: %v", c.name, err)
		}
	}
	must(t, db.UnlinkBlob(ctx, shop, b.Digest))
	refused(t, api.CodeBlobNotFound, db.UnlinkBlob(ctx, shop, b.Digest))
	same(t, "the other keeps it", got(db.RepositoryBlob(ctx, other, b.Digest))(t), b)
}

func manifests(t *testing.T, db *store.DB) {
	ctx := t.Context()
	layer := repositoryBlob("layer")
	push := manifestOf("m1", layer, layer)
	push.Tags = []string{"Tag", "v1"}
	_, _, err := db.PutManifest(ctx, push)
	refused(t, api.CodeBlobNotFound, err)
	_, err = db.ManifestByTag(ctx, shop, "v1")
	refused(t, api.CodeManifestNotFound, err)
	must(t, db.LinkBlob(ctx, shop, layer, 5))
	if v := putManifest(t, db, push); v.Number != 0 {
		t.Errorf("a manifest without a version gave %+v", v)
	}
	same(t, "by digest", got(db.ManifestByDigest(ctx, shop, push.Digest))(t), push.Manifest)
	same(t, "by tag", got(db.ManifestByTag(ctx, shop, "Tag"))(t), push.Manifest)
	same(t, "tags", got(db.RepositoryTags(ctx, shop, "", 9))(t), []string{"Tag", "v1"})
	same(t, "tags after", got(db.RepositoryTags(ctx, shop, "Tag", 9))(t), []string{"v1"})
	refused(t, api.CodeInUse, db.UnlinkBlob(ctx, shop, layer.Digest))

	second := manifestOf("m2", push.RepositoryBlob) // an index of the first
	second.Tags, second.Subject, second.Annotations = []string{"v1"}, push.Digest, map[string]string{"k": "v\x00"}
	putManifest(t, db, second)
	putManifest(t, db, second)
	same(t, "moved", got(db.ManifestByTag(ctx, shop, "v1"))(t).Digest, second.Digest)
	refused(t, api.CodeInUse, db.DeleteManifest(ctx, shop, push.Digest, "me", 20))
	third := manifestOf("m3")
	third.Subject, third.ArtifactType = push.Digest, "application/b"
	putManifest(t, db, third)
	digests := func(kind string, after api.ContentDigest, limit int) (all []api.ContentDigest) {
		for _, m := range got(db.Referrers(ctx, shop, push.Digest, kind, after, limit))(t) {
			all = append(all, m.Digest)
		}
		return all
	}
	sorted := []api.ContentDigest{min(second.Digest, third.Digest), max(second.Digest, third.Digest)}
	same(t, "referrers", digests("", "", 9), sorted)
	same(t, "referrers of a type", digests("application/b", "", 9), []api.ContentDigest{third.Digest})
	same(t, "first page", digests("", "", 1), sorted[:1])
	same(t, "second page", digests("", sorted[0], 1), sorted[1:])
	same(t, "no referrers", len(got(db.Referrers(ctx, shop, second.Digest, "", "", 9))(t)), 0)

	must(t, db.DeleteManifest(ctx, shop, second.Digest, "me", 20))
	_, err = db.ManifestByTag(ctx, shop, "v1")
	refused(t, api.CodeManifestNotFound, err)
	must(t, db.DeleteTag(ctx, shop, "Tag", me, 20))
	refused(t, api.CodeManifestNotFound, db.DeleteTag(ctx, shop, "Tag", me, 20))
	must(t, db.DeleteManifest(ctx, shop, push.Digest, "me", 20))
	refused(t, api.CodeManifestNotFound, db.DeleteManifest(ctx, shop, push.Digest, "me", 20))
	must(t, db.UnlinkBlob(ctx, shop, layer.Digest))
}

// pushedVersions checks manifests that are versions, and that a tag names one thing.
func pushedVersions(t *testing.T, db *store.DB) {
	ctx := t.Context()
	layer := repositoryBlob("layer")
	unknown := manifestOf("early")
	unknown.Version, unknown.Links = new(version("fraud", "early")), []api.RepositoryBlob{layer}
	_, _, err := db.PutManifest(ctx, unknown)
	refused(t, api.CodeBlobNotFound, err) // a version's files must be held before
	must(t, db.KeepBlob(ctx, api.BlobKeep{Repository: api.Repository{Tenant: "acme"}, Blob: layer, At: 1}))
	versionPush := func(of any, aliases ...api.AliasName) api.ManifestPush {
		push := manifestOf(of, layer)
		v := version("fraud", of)
		v.Digest = push.Blob
		push.Version, push.Aliases, push.Links, push.Why = &v, aliases, []api.RepositoryBlob{layer}, "pushed"
		return push
	}
	first := versionPush("one", "v1")
	if v := putManifest(t, db, first); v.Number != 1 {
		t.Errorf("version %+v", v)
	}
	if v := putManifest(t, db, versionPush("one", "v1", "again")); v.Number != 1 {
		t.Errorf("once more it is %d", v.Number)
	}
	second := versionPush("two", "v2")
	putManifest(t, db, second)
	for tag, want := range map[string]api.ContentDigest{"v1": first.Digest, "again": first.Digest, "v2": second.Digest, "1": first.Digest, "2": second.Digest, "latest": second.Digest} {
		same(t, "tag "+tag, got(db.ManifestByTag(ctx, shop, tag))(t).Digest, want)
	}
	for _, tag := range []string{"3", "0", "01x", "v3"} {
		_, err := db.ManifestByTag(ctx, shop, tag)
		refused(t, api.CodeManifestNotFound, err)
	}
	same(t, "tags", got(db.RepositoryTags(ctx, shop, "", 9))(t), []string{"again", "v1", "v2"})
	refused(t, api.CodeInUse, db.DeleteManifest(ctx, shop, first.Digest, "me", 20))

	note := manifestOf("note")
	note.Tags = []string{"v1", "latest", "2"}
	putManifest(t, db, note)
	for _, tag := range note.Tags {
		same(t, "pushed "+tag, got(db.ManifestByTag(ctx, shop, tag))(t).Digest, note.Digest)
	}
	same(t, "aliases left", len(got(db.Model(ctx, "acme", "fraud"))(t).Aliases), 2)
	same(t, "the history goes on", got(db.AliasHistory(ctx, "acme", "fraud", "v1", 1))(t)[0].To, 0)
	got(db.MoveAlias(ctx, Move("acme", "fraud", "v1", 2, -1, "me", "by hand", 30)))(t)
	same(t, "by hand", got(db.ManifestByTag(ctx, shop, "v1"))(t).Digest, second.Digest)
	must(t, db.DeleteTag(ctx, shop, "v1", me, 40))
	_, err = db.ManifestByTag(ctx, shop, "v1")
	refused(t, api.CodeManifestNotFound, err)
	refused(t, api.CodeManifestNotFound, db.DeleteTag(ctx, shop, "v1", me, 40))

	// What was made of a manifest: the tag gives the manifest, the alias the version.
	kit := manifestOf("kit")
	kit.Version, kit.Tags, kit.Aliases = first.Version, []string{"kit"}, []api.AliasName{"kit"}
	if v := putManifest(t, db, kit); v.Number != 1 {
		t.Errorf("the kit is version %d", v.Number)
	}
	same(t, "kit", got(db.ManifestByTag(ctx, shop, "kit"))(t).Digest, kit.Digest)
	same(t, "nothing to make up for", len(got(db.VersionsWithoutManifest(ctx, 9))(t)), 0)
	old := commit(t, db, version("old", 1))
	same(t, "one of before", got(db.VersionsWithoutManifest(ctx, 9))(t), []api.Version{old})
	kinds := map[string]int{}
	for _, e := range got(db.Events(ctx, "acme", 0, 99))(t) {
		kinds[e.Kind+" "+e.Subject]++
	}
	same(t, "events", kinds, map[string]int{"version.pushed fraud@1": 1, "version.pushed fraud@2": 1, "version.pushed old@1": 1,
		"alias.moved fraud:v1": 2, "alias.deleted fraud:v1": 2, "alias.moved fraud:v2": 1, "alias.moved fraud:kit": 1, "alias.moved fraud:again": 1,
		"tag.pushed fraud:2": 1, "tag.pushed fraud:kit": 1, "tag.pushed fraud:latest": 1, "tag.pushed fraud:v1": 1})
}

func repositoriesApart(t *testing.T, db *store.DB) {
	ctx := t.Context()
	must(t, db.PutTenant(ctx, api.Tenant{ID: "zeta"}))
	layer := repositoryBlob("layer")
	push := manifestOf("m", layer)
	push.Links, push.Tags = []api.RepositoryBlob{layer}, []string{"v1"}
	putManifest(t, db, push)
	for _, repo := range []api.Repository{{Tenant: "zeta", Name: "fraud"}, {Tenant: "nobody", Name: "fraud"}, {Tenant: "acme", Name: "other"}} {
		for name, c := range map[string]struct {
			code api.Code
			call func() error
		}{
			"blob":       {api.CodeBlobNotFound, func() error { _, err := db.RepositoryBlob(ctx, repo, layer.Digest); return err }},
			"unlink":     {api.CodeBlobNotFound, func() error { return db.UnlinkBlob(ctx, repo, layer.Digest) }},
			"by digest":  {api.CodeManifestNotFound, func() error { _, err := db.ManifestByDigest(ctx, repo, push.Digest); return err }},
			"by tag":     {api.CodeManifestNotFound, func() error { _, err := db.ManifestByTag(ctx, repo, "v1"); return err }},
			"delete":     {api.CodeManifestNotFound, func() error { return db.DeleteManifest(ctx, repo, push.Digest, "me", 1) }},
			"delete tag": {api.CodeManifestNotFound, func() error { return db.DeleteTag(ctx, repo, "v1", me, 1) }},
			"tags":       {api.CodeModelNotFound, func() error { _, err := db.RepositoryTags(ctx, repo, "", 9); return err }},
		} {
			if err := c.call(); !api.Is(err, c.code) {
				t.Errorf("%s of %s: %v", name, repo, err)
			}
		}
		if found := got(db.Referrers(ctx, repo, push.Digest, "", "", 9))(t); len(found) > 0 {
			t.Errorf("referrers of %s: %v", repo, found)
		}
	}
	same(t, "it is still there", got(db.ManifestByTag(ctx, shop, "v1"))(t).Digest, push.Digest)
}

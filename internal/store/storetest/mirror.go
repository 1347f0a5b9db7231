package storetest

import (
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

func mirrors(t *testing.T, db *store.DB) {
	ctx := t.Context()
	m := api.Mirror{Tenant: "acme", Name: "hub", Direction: api.DirectionImport, Remote: "oci://h/p", Match: []string{"*"}, Tags: []string{"*"}, Every: "10m", Created: 3, CreatedBy: "ci"}
	must(t, db.PutMirror(ctx, m, "sealed"))
	refused(t, api.CodeExists, db.PutMirror(ctx, m, ""))
	nobody := m
	nobody.Tenant = "nobody"
	refused(t, api.CodeNotFound, db.PutMirror(ctx, nobody, ""))
	got, sealed, err := db.Mirror(ctx, "acme", "hub")
	must(t, err)
	same(t, "mirror", got, m)
	same(t, "sealed", sealed, "sealed")
	_, _, err = db.Mirror(ctx, "acme", "none")
	refused(t, api.CodeNotFound, err)

	status := api.MirrorStatus{Running: true, Began: 4}
	must(t, db.SaveMirrorStatus(ctx, "acme", "hub", status))
	status = api.MirrorStatus{Began: 4, Ended: 5, Faults: 1, Error: "away", Code: api.CodeRemoteAway}
	must(t, db.SaveMirrorStatus(ctx, "acme", "hub", status))
	status.Faults, status.Ended = 2, 6 // the same again is no event
	must(t, db.SaveMirrorStatus(ctx, "acme", "hub", status))
	status = api.MirrorStatus{Began: 7, Ended: 8, Seen: 3, Copied: 1}
	must(t, db.SaveMirrorStatus(ctx, "acme", "hub", status))
	refused(t, api.CodeNotFound, db.SaveMirrorStatus(ctx, "acme", "none", status))
	m.Status = status
	all, err := db.Mirrors(ctx, "acme")
	must(t, err)
	same(t, "mirrors", all, []api.Mirror{m})
	all, err = db.Mirrors(ctx, "")
	must(t, err)
	same(t, "mirrors of all tenants", all, []api.Mirror{m})
	refused(t, api.CodeNotFound, db.DeleteMirror(ctx, "acme", "none", "me", 9))
	must(t, db.DeleteMirror(ctx, "acme", "hub", "me", 9))
	_, _, err = db.Mirror(ctx, "acme", "hub")
	refused(t, api.CodeNotFound, err)
	events, err := db.Events(ctx, "acme", 0, 10)
	must(t, err)
	var kinds []string
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	same(t, "events", kinds, []string{"mirror.created", "mirror.failed", "mirror.synced", "mirror.deleted"})
}

func derived(t *testing.T, db *store.DB) {
	ctx := t.Context()
	part := repositoryBlob("part")
	must(t, db.LinkBlob(ctx, shop, part, 1))
	push := manifestOf("manifest", part)
	putManifest(t, db, push)
	version := push.Blob
	image := api.Derived{Repository: shop, Digest: api.ContentDigest(digest("image")), Version: version, MediaType: "application/i", Size: 9,
		Pieces: []api.Piece{{Text: []byte("text"), Size: 4}, {Blob: part.Blob, Size: 3}, {Size: 2}}}
	layer := api.Derived{Repository: shop, Digest: api.ContentDigest(digest("layer")), Version: version, Size: 2, Pieces: []api.Piece{{Size: 2}}}
	_, err := db.ImageOf(ctx, shop, version)
	refused(t, api.CodeManifestNotFound, err)
	must(t, db.PutDerived(ctx, []api.Derived{image, layer}))
	must(t, db.PutDerived(ctx, []api.Derived{image, layer}))
	got, err := db.ImageOf(ctx, shop, version)
	must(t, err)
	same(t, "image", got, image)
	got, err = db.Derived(ctx, shop, layer.Digest)
	must(t, err)
	same(t, "layer", got, layer)
	other := api.Repository{Tenant: "acme", Name: "other"}
	_, err = db.Derived(ctx, other, layer.Digest)
	refused(t, api.CodeManifestNotFound, err)
	// Without what it is made of it is gone too.
	must(t, db.DeleteManifest(ctx, shop, push.Digest, "tester", 1))
	_, err = db.Derived(ctx, shop, layer.Digest)
	refused(t, api.CodeManifestNotFound, err)
	refused(t, api.CodeManifestNotFound, db.PutDerived(ctx, []api.Derived{image, layer}))
	names, err := db.Repositories(ctx, "acme", "", 10)
	must(t, err)
	same(t, "repositories", len(names), 0)
}

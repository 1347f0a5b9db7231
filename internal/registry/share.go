package registry

import (
	"context"
	"slices"

	"github.com/penstock/penstock/api"
)

// ShareModel lets another tenant copy versions of a model, or no more. It needs the scope admin.
func (c *Catalog) ShareModel(ctx context.Context, p *api.Principal, m api.ModelName, with api.TenantID, share bool) error {
	if !p.Allows(api.ScopeAdmin) {
		return api.Fail(api.CodeForbidden, "", "this needs a key with the scope %q", api.ScopeAdmin)
	}
	if err := api.CheckName("tenant", string(with)); err != nil {
		return err
	}
	at := api.TimeOf(c.now())
	if !share {
		return c.store.DeleteModelReader(ctx, p.Tenant, m, with, at, p.Name)
	}
	if with == p.Tenant {
		return api.Fail(api.CodeBadRequest, string(m), "the model is this tenant's own")
	}
	return c.store.PutModelReader(ctx, p.Tenant, m, api.ModelReader{Tenant: with, Granted: at, GrantedBy: p.Name})
}

// ModelReaders lists who may copy versions of a model.
func (c *Catalog) ModelReaders(ctx context.Context, t api.TenantID, m api.ModelName) ([]api.ModelReader, error) {
	return c.store.ModelReaders(ctx, t, m)
}

// CopyVersion makes a version of the caller's tenant out of one of another tenant, whose owner shared the model. No bytes
// move: both hold the same blobs, each by a row of its own, so neither can take them from the other. Without a share the
// answer is that of a model that does not exist.
func (c *Catalog) CopyVersion(ctx context.Context, p *api.Principal, model api.ModelName, in api.SharedCopyRequest) (api.Version, bool, error) {
	if err := mayWrite(p); err != nil {
		return api.Version{}, false, err
	}
	ref, err := api.ParseRef(in.Ref)
	if err != nil {
		return api.Version{}, false, err
	}
	missing := api.Fail(api.CodeModelNotFound, string(ref.Model), "no such model is shared with this tenant").
		WithCure("Ask its owner for `penstock share %s %s`.", ref.Model, p.Tenant)
	readers, err := c.store.ModelReaders(ctx, in.Tenant, ref.Model)
	if err != nil && !api.Is(err, api.CodeModelNotFound) {
		return api.Version{}, false, err
	}
	if ref.Tenant != "" && ref.Tenant != in.Tenant || !slices.ContainsFunc(readers, func(r api.ModelReader) bool { return r.Tenant == p.Tenant }) {
		return api.Version{}, false, missing
	}
	ref.Tenant = ""
	v, err := c.Resolve(ctx, in.Tenant, ref)
	if err != nil {
		return v, false, err
	}
	if v.State != api.VersionReady {
		return v, false, api.Fail(api.CodeModelRefused, v.Ref().String(), "the version is %s: %s", v.State, v.Reason)
	}
	up := api.Upload{Metrics: v.Metrics, Notes: v.Notes, Tags: v.Tags, Aliases: in.Aliases, Why: "copied from another tenant"}
	repo := api.Repository{Tenant: p.Tenant, Name: string(model)}
	// Each blob takes room of the caller's quota like one that is sent, and is reserved first: no collection takes it between
	// the look and the row.
	for _, a := range v.Artifacts {
		if err := c.LinkKept(ctx, repo, api.RepositoryBlob{Digest: api.ContentDigest(a.Digest), Blob: a.Digest, Size: a.Size}); err != nil {
			return v, false, err
		}
		up.Files = append(up.Files, api.UploadFile{Path: a.Path, Digest: a.Digest, Size: a.Size})
	}
	// What the card or the file say is learned again; only what was said at the push goes along, or the digest would differ.
	if said := c.saidOrigin(ctx, &v); said != nil {
		up.Origin = *said
	}
	return c.Commit(ctx, p, model, up)
}

// saidOrigin reads from a version's manifest what was said at its push about where it came from.
func (c *Catalog) saidOrigin(ctx context.Context, v *api.Version) *api.Origin {
	body, err := c.readSmall(ctx, v.Digest)
	if err != nil {
		return nil
	}
	m, err := readManifest(body, "")
	if err != nil {
		return nil
	}
	o := c.origin(&m)
	return &o
}

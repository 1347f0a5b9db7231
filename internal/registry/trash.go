package registry

import (
	"context"

	"github.com/penstock/penstock/api"
)

// TrashStore is what the catalog needs of the database to delete and to restore.
type TrashStore interface {
	DeleteVersion(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber, d api.Deletion) error
	DeleteModel(ctx context.Context, t api.TenantID, m api.ModelName, withAliases bool, d api.Deletion) error
	RestoreVersion(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber, d api.Deletion) (api.Version, error)
	RestoreManifest(ctx context.Context, repo api.Repository, digest api.ContentDigest, d api.Deletion) error
	Trash(ctx context.Context, t api.TenantID, limit int) ([]api.Deleted, error)
}

func (c *Catalog) deletion(p *api.Principal, why string, forGood bool) api.Deletion {
	return api.Deletion{By: p.Name, Why: why, At: api.TimeOf(c.now()), Now: forGood, Who: p}
}

// DeleteVersion deletes a version. It can be restored for a while, unless forGood says otherwise; its number is not given
// out again. What an alias or an endpoint needs is refused.
func (c *Catalog) DeleteVersion(ctx context.Context, p *api.Principal, ref api.Ref, why string, forGood bool) error {
	if err := mayWrite(p); err != nil {
		return err
	}
	if err := c.limits.checkWhy(why); err != nil {
		return err
	}
	v, err := c.Resolve(ctx, p.Tenant, ref)
	if err != nil {
		return err
	}
	return c.store.DeleteVersion(ctx, p.Tenant, v.Model, v.Number, c.deletion(p, why, forGood))
}

// DeleteModel deletes all versions of a model, and its aliases where that is asked for: all of it or nothing.
func (c *Catalog) DeleteModel(ctx context.Context, p *api.Principal, m api.ModelName, withAliases bool, why string, forGood bool) error {
	if err := mayWrite(p); err != nil {
		return err
	}
	if err := c.limits.checkWhy(why); err != nil {
		return err
	}
	return c.store.DeleteModel(ctx, p.Tenant, m, withAliases, c.deletion(p, why, forGood))
}

// RestoreVersion takes the deletion of a version back.
func (c *Catalog) RestoreVersion(ctx context.Context, p *api.Principal, m api.ModelName, n api.VersionNumber) (api.Version, error) {
	if err := mayWrite(p); err != nil {
		return api.Version{}, err
	}
	return c.store.RestoreVersion(ctx, p.Tenant, m, n, c.deletion(p, "", false))
}

// RestoreManifest takes the deletion of a manifest back, with those of its tags that are free.
func (c *Catalog) RestoreManifest(ctx context.Context, p *api.Principal, repo api.Repository, digest api.ContentDigest) error {
	if err := mayPush(p, repo); err != nil {
		return err
	}
	return c.store.RestoreManifest(ctx, repo, digest, c.deletion(p, "", false))
}

// Trash lists what can be restored, what was deleted last first.
func (c *Catalog) Trash(ctx context.Context, t api.TenantID, limit int) ([]api.Deleted, error) {
	all, err := c.store.Trash(ctx, t, clampList(limit))
	for i := range all {
		all[i].Until = all[i].Deleted + api.Time(c.window.Microseconds())
	}
	return all, err
}

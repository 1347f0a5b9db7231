package registry

import (
	"context"

	"github.com/penstock/penstock/api"
)

// RenameStore is what the catalog needs of the database for names that change.
type RenameStore interface {
	RenameModel(ctx context.Context, r api.Rename) (api.Model, error)
	ForgetRedirect(ctx context.Context, t api.TenantID, name api.ModelName, by string, at api.Time) error
	Redirects(ctx context.Context, t api.TenantID, after api.ModelName, limit int) ([]api.Redirect, error)
}

// Renamed is told of a model's new name, once that is durable.
type Renamed func(t api.TenantID, from, to api.ModelName)

// RenameModel gives a model another name. Every earlier name goes on leading to it, in references of all kinds.
func (c *Catalog) RenameModel(ctx context.Context, p *api.Principal, m api.ModelName, in api.RenameRequest) (api.Model, error) {
	if err := mayWrite(p); err != nil {
		return api.Model{}, err
	}
	if err := api.CheckName("model", string(in.To)); err != nil {
		return api.Model{}, err
	}
	if err := c.limits.checkWhy(in.Why); err != nil {
		return api.Model{}, err
	}
	c.renaming.Lock()
	defer c.renaming.Unlock()
	before, err := c.store.Model(ctx, p.Tenant, m)
	if err != nil {
		return api.Model{}, err
	}
	after, err := c.store.RenameModel(ctx, api.Rename{Tenant: p.Tenant, From: m, To: in.To, By: p.Name, Why: in.Why, At: api.TimeOf(c.now())})
	if err == nil && c.renamed != nil {
		c.renamed(p.Tenant, before.Name, after.Name)
	}
	return after, err
}

// ForgetRedirect frees an earlier name of a model: links by it end, and the next model may take it. It needs the scope
// admin, since whoever pushes under the name then stands where somebody's references still point.
func (c *Catalog) ForgetRedirect(ctx context.Context, p *api.Principal, name api.ModelName) error {
	if !p.Allows(api.ScopeAdmin) {
		return api.Fail(api.CodeForbidden, "", "this needs a key with the scope %q", api.ScopeAdmin)
	}
	return c.store.ForgetRedirect(ctx, p.Tenant, name, p.Name, api.TimeOf(c.now()))
}

// Redirects lists the earlier names of a tenant's models by name, those after the cursor.
func (c *Catalog) Redirects(ctx context.Context, t api.TenantID, after api.ModelName, limit int) ([]api.Redirect, error) {
	return c.store.Redirects(ctx, t, after, clampList(limit))
}

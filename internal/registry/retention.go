package registry

import (
	"context"

	"github.com/penstock/penstock/api"
)

// RetentionStore is what the catalog needs of the database for policies and quotas.
type RetentionStore interface {
	Retention(ctx context.Context, t api.TenantID, m api.ModelName) (api.Retention, error)
	SetRetention(ctx context.Context, t api.TenantID, m api.ModelName, rules api.RetentionRules, ifGeneration int64, by string, at api.Time) (api.Retention, error)
	ApplyRetention(ctx context.Context, t api.TenantID, m api.ModelName, at api.Time, dry bool) ([]api.RetentionVerdict, error)
	Quota(ctx context.Context, t api.TenantID) (api.Quota, error)
	SetQuota(ctx context.Context, t api.TenantID, q api.QuotaRequest, ifGeneration int64, by string, at api.Time) (api.Quota, error)
}

// Retention gives a model's policy.
func (c *Catalog) Retention(ctx context.Context, t api.TenantID, m api.ModelName) (api.Retention, error) {
	return c.store.Retention(ctx, t, m)
}

// SetRetention sets a model's policy. The collector applies it with each run; ApplyRetention does so now.
func (c *Catalog) SetRetention(ctx context.Context, p *api.Principal, m api.ModelName, rules api.RetentionRules, ifGeneration int64) (api.Retention, error) {
	if err := mayWrite(p); err != nil {
		return api.Retention{}, err
	}
	return c.store.SetRetention(ctx, p.Tenant, m, rules, ifGeneration, p.Name, api.TimeOf(c.now()))
}

// ApplyRetention deletes what a model's policy does not keep, or only tells what that is.
func (c *Catalog) ApplyRetention(ctx context.Context, p *api.Principal, m api.ModelName, dry bool) ([]api.RetentionVerdict, error) {
	if err := mayWrite(p); err != nil {
		return nil, err
	}
	return c.store.ApplyRetention(ctx, p.Tenant, m, api.TimeOf(c.now()), dry)
}

// Quota gives what a tenant may store and what it stores.
func (c *Catalog) Quota(ctx context.Context, t api.TenantID) (api.Quota, error) {
	return c.store.Quota(ctx, t)
}

// SetQuota sets what a tenant may store. Who may do so was asked before: a tenant does not set its own.
func (c *Catalog) SetQuota(ctx context.Context, by *api.Principal, t api.TenantID, q api.QuotaRequest, ifGeneration int64) (api.Quota, error) {
	if by.Tenant != api.DefaultTenant || !by.Allows(api.ScopeAdmin) {
		return api.Quota{}, api.Fail(api.CodeForbidden, "", "this needs a key of tenant %q with the scope %q", api.DefaultTenant, api.ScopeAdmin)
	}
	return c.store.SetQuota(ctx, t, q, ifGeneration, by.Name, api.TimeOf(c.now()))
}

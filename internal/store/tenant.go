package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// PutTenant makes a tenant.
func (db *DB) PutTenant(ctx context.Context, t api.Tenant) error {
	return change(ctx, db, "keep the tenant", func(ctx context.Context, s session) error {
		made, err := s.exec(ctx, `INSERT INTO tenants (id, created) VALUES (?, ?) ON CONFLICT DO NOTHING`, t.ID, t.Created)
		if err == nil && made == 0 {
			return api.Fail(api.CodeExists, string(t.ID), "the tenant exists already")
		}
		return err
	})
}

// Tenants lists every tenant by name.
func (db *DB) Tenants(ctx context.Context) ([]api.Tenant, error) {
	return read(ctx, db, "list tenants", func(ctx context.Context, s session) ([]api.Tenant, error) {
		var all []api.Tenant
		err := s.each(ctx, `SELECT id, created FROM tenants ORDER BY id`, nil, func(scan func(...any) error) error {
			var t api.Tenant
			err := scan(&t.ID, &t.Created)
			all = append(all, t)
			return err
		})
		return all, err
	})
}

// needTenant fails when the tenant was never made: nothing may belong to nobody.
func needTenant(ctx context.Context, s session, t api.TenantID) error {
	var one int64
	found, err := s.one(ctx, `SELECT 1 FROM tenants WHERE id = ?`, []any{t}, &one)
	if err == nil && !found {
		return api.Fail(api.CodeNotFound, string(t), "no such tenant")
	}
	return err
}

package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// PutTenant makes a tenant, with weight 1.
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
		err := s.each(ctx, `SELECT id, created, weight, generation FROM tenants ORDER BY id`, nil, func(scan func(...any) error) error {
			var t api.Tenant
			err := scan(&t.ID, &t.Created, &t.Weight, &t.Generation)
			all = append(all, t)
			return err
		})
		return all, err
	})
}

// SetWeight changes a tenant's weight and records the event, whose tenant it is. It holds only if the tenant has changed
// ifGeneration times (-1: any). Setting the weight that it has changes nothing.
func (db *DB) SetWeight(ctx context.Context, id api.TenantID, weight int, ifGeneration int64, e api.Event) (api.Tenant, error) {
	return write(ctx, db, "set the weight", func(ctx context.Context, s session) (t api.Tenant, err error) {
		found, err := s.one(ctx, `SELECT id, created, weight, generation FROM tenants WHERE id = ?`, []any{id},
			&t.ID, &t.Created, &t.Weight, &t.Generation)
		switch {
		case err != nil:
			return t, err
		case !found:
			return t, api.Fail(api.CodeNotFound, string(id), "no such tenant")
		case ifGeneration >= 0 && ifGeneration != t.Generation:
			return t, api.Fail(api.CodeStale, string(id), "the tenant is at change %d, not %d", t.Generation, ifGeneration)
		case weight == t.Weight:
			return t, nil
		}
		t.Weight, t.Generation = weight, t.Generation+1
		if err := s.put(ctx, `UPDATE tenants SET weight = ?, generation = ? WHERE id = ?`, t.Weight, t.Generation, id); err != nil {
			return t, err
		}
		return t, db.appendEvent(ctx, s, e)
	})
}

// needTenant fails when the tenant was never made: nothing may belong to nobody.
func needTenant(ctx context.Context, s session, t api.TenantID) error {
	var one int64
	found, err := s.one(ctx, `SELECT 1 FROM tenants WHERE id = ?`, []any{t}, &one)
	if err == nil && !found {
		err = noTenant(t)
	}
	return err
}

func noTenant(t api.TenantID) error { return api.Fail(api.CodeNotFound, string(t), "no such tenant") }

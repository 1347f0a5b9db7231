package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// readersOfModelMax is how many tenants may copy from one model.
const readersOfModelMax = 1000

// PutModelReader lets another tenant copy versions of a model, and records model.shared.
func (db *DB) PutModelReader(ctx context.Context, t api.TenantID, m api.ModelName, r api.ModelReader) error {
	return changeModel(ctx, db, "share the model", t, m, func(ctx context.Context, s session, m api.ModelName) error {
		if _, err := needModel(ctx, s, t, m); err != nil {
			return err
		}
		if err := needTenant(ctx, s, r.Tenant); err != nil {
			return err
		}
		var held int64
		if _, err := s.one(ctx, `SELECT COUNT(*) FROM model_readers WHERE tenant = ? AND model = ?`, []any{t, m}, &held); err != nil {
			return err
		}
		if held >= readersOfModelMax {
			return api.Fail(api.CodeTooLarge, string(m), "a model is shared with at most %d tenants", readersOfModelMax)
		}
		added, err := s.exec(ctx, `INSERT INTO model_readers (tenant, model, reader, granted, granted_by) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			t, m, r.Tenant, r.Granted, clean(r.GrantedBy))
		if err != nil || added == 0 {
			return err
		}
		return db.appendEvent(ctx, s, api.Event{Tenant: t, At: r.Granted, Kind: "model.shared", Subject: string(m),
			Text: "Tenant " + string(r.Tenant) + " may copy versions of " + string(m) + ".", By: r.GrantedBy})
	})
}

// DeleteModelReader takes it back; copies stay, which are the other tenant's own.
func (db *DB) DeleteModelReader(ctx context.Context, t api.TenantID, m api.ModelName, reader api.TenantID, at api.Time, by string) error {
	return changeModel(ctx, db, "share the model no more", t, m, func(ctx context.Context, s session, m api.ModelName) error {
		if _, err := needModel(ctx, s, t, m); err != nil {
			return err
		}
		gone, err := s.exec(ctx, `DELETE FROM model_readers WHERE tenant = ? AND model = ? AND reader = ?`, t, m, reader)
		if err != nil {
			return err
		}
		if gone == 0 {
			return api.Fail(api.CodeNotFound, string(m), "the model is not shared with this tenant")
		}
		return db.appendEvent(ctx, s, api.Event{Tenant: t, At: at, Kind: "model.unshared", Subject: string(m),
			Text: "Tenant " + string(reader) + " may copy versions of " + string(m) + " no more.", By: by})
	})
}

// ModelReaders lists who may copy versions of a model.
func (db *DB) ModelReaders(ctx context.Context, t api.TenantID, m api.ModelName) ([]api.ModelReader, error) {
	return readModel(ctx, db, "list who may copy", t, m, func(ctx context.Context, s session, m api.ModelName) ([]api.ModelReader, error) {
		var all []api.ModelReader
		err := s.each(ctx, `SELECT reader, granted, granted_by FROM model_readers WHERE tenant = ? AND model = ? ORDER BY reader`, []any{t, m},
			func(scan func(...any) error) error {
				var r api.ModelReader
				err := scan(&r.Tenant, &r.Granted, &r.GrantedBy)
				all = append(all, r)
				return err
			})
		if err == nil {
			_, err = needModel(ctx, s, t, m)
		}
		return all, err
	})
}

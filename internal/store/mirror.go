package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// mirrorsMax is how many mirrors one tenant may have.
const mirrorsMax = 64

// PutMirror keeps a new mirror, with what its other side knows us by, sealed.
func (db *DB) PutMirror(ctx context.Context, m api.Mirror, sealed string) error {
	spec, err := encode(m)
	if err != nil {
		return err
	}
	return change(ctx, db, "keep the mirror", func(ctx context.Context, s session) error {
		if err := needTenant(ctx, s, m.Tenant); err != nil {
			return err
		}
		var held int64
		if _, err := s.one(ctx, `SELECT COUNT(*) FROM mirrors WHERE tenant = ?`, []any{m.Tenant}, &held); err != nil {
			return err
		}
		if held >= mirrorsMax {
			return api.Fail(api.CodeTooLarge, string(m.Name), "a tenant has at most %d mirrors", mirrorsMax).WithCure("Delete one that is not needed.")
		}
		made, err := s.exec(ctx, `INSERT INTO mirrors (tenant, name, spec, sealed, status) VALUES (?, ?, ?, ?, '{}') ON CONFLICT DO NOTHING`,
			m.Tenant, m.Name, spec, sealed)
		if err == nil && made == 0 {
			err = api.Fail(api.CodeExists, string(m.Name), "a mirror of this name exists already").WithCure("Delete it first: a mirror is not changed.")
		}
		if err != nil {
			return err
		}
		return db.appendEvent(ctx, s, api.Event{Tenant: m.Tenant, At: m.Created, Kind: "mirror.created", Subject: string(m.Name),
			Text: "Mirror " + string(m.Name) + " of " + m.Remote + " was made.", By: m.CreatedBy})
	})
}

// DeleteMirror removes a mirror; what it copied stays.
func (db *DB) DeleteMirror(ctx context.Context, t api.TenantID, name api.MirrorName, by string, at api.Time) error {
	return change(ctx, db, "delete the mirror", func(ctx context.Context, s session) error {
		n, err := s.exec(ctx, `DELETE FROM mirrors WHERE tenant = ? AND name = ?`, t, name)
		if err == nil && n == 0 {
			err = noMirror(name)
		}
		if err != nil {
			return err
		}
		return db.appendEvent(ctx, s, api.Event{Tenant: t, At: at, Kind: "mirror.deleted", Subject: string(name), Text: "Mirror " + string(name) + " was deleted.", By: by})
	})
}

// SaveMirrorStatus writes down how a mirror's rounds go. One that was deleted meanwhile is not found. A round that fails, and the
// first one that comes to its end after that, are events.
func (db *DB) SaveMirrorStatus(ctx context.Context, t api.TenantID, name api.MirrorName, status api.MirrorStatus) error {
	doc, err := encode(status)
	if err != nil {
		return err
	}
	return change(ctx, db, "write the mirror's status down", func(ctx context.Context, s session) error {
		var text string
		found, err := s.one(ctx, `SELECT status FROM mirrors WHERE tenant = ? AND name = ?`, []any{t, name}, &text)
		if err == nil && !found {
			err = noMirror(name)
		}
		var before api.MirrorStatus
		if err == nil {
			err = decode(text, &before)
		}
		if err != nil {
			return err
		}
		if err := s.put(ctx, `UPDATE mirrors SET status = ? WHERE tenant = ? AND name = ?`, doc, t, name); err != nil {
			return err
		}
		e := api.Event{Tenant: t, At: status.Ended, Subject: string(name)}
		switch {
		case status.Running:
			return nil
		case status.Error != "" && status.Error != before.Error:
			e.Kind, e.Text = "mirror.failed", "A round of mirror "+string(name)+" failed: "+status.Error
		case status.Error == "" && (before.Faults > 0 || status.Copied > 0):
			e.Kind, e.Text = "mirror.synced", "Mirror "+string(name)+" is up to date."
		default:
			return nil
		}
		return db.appendEvent(ctx, s, e)
	})
}

func noMirror(name api.MirrorName) error {
	return api.Fail(api.CodeNotFound, string(name), "no such mirror")
}

// Mirror finds a mirror, and what was sealed for it.
func (db *DB) Mirror(ctx context.Context, t api.TenantID, name api.MirrorName) (m api.Mirror, sealed string, _ error) {
	type both struct {
		mirror api.Mirror
		sealed string
	}
	b, err := read(ctx, db, "read the mirror", func(ctx context.Context, s session) (b both, _ error) {
		var spec, status string
		found, err := s.one(ctx, `SELECT spec, sealed, status FROM mirrors WHERE tenant = ? AND name = ?`, []any{t, name}, &spec, &b.sealed, &status)
		if err == nil && !found {
			err = noMirror(name)
		}
		if err == nil {
			err = decode(spec, &b.mirror)
		}
		if err == nil {
			err = decode(status, &b.mirror.Status)
		}
		return b, err
	})
	return b.mirror, b.sealed, err
}

// Mirrors lists a tenant's mirrors by name, or those of all tenants when t is empty.
func (db *DB) Mirrors(ctx context.Context, t api.TenantID) ([]api.Mirror, error) {
	return read(ctx, db, "list the mirrors", func(ctx context.Context, s session) (all []api.Mirror, _ error) {
		query, args := `SELECT spec, status FROM mirrors ORDER BY tenant, name`, []any{}
		if t != "" {
			query, args = `SELECT spec, status FROM mirrors WHERE tenant = ? ORDER BY name`, []any{t}
		}
		err := s.each(ctx, query, args, func(scan func(...any) error) error {
			var spec, status string
			var m api.Mirror
			err := scan(&spec, &status)
			if err == nil {
				err = decode(spec, &m)
			}
			if err == nil {
				m.Status = api.MirrorStatus{}
				err = decode(status, &m.Status)
			}
			all = append(all, m)
			return err
		})
		return all, err
	})
}

// Repositories lists a tenant's repositories that hold a manifest, by their bytes, from the first after the one given.
func (db *DB) Repositories(ctx context.Context, t api.TenantID, after string, limit int) ([]string, error) {
	return read(ctx, db, "list the repositories", func(ctx context.Context, s session) (all []string, _ error) {
		err := s.each(ctx, `SELECT DISTINCT repository FROM manifests WHERE tenant = ? AND repository > ? AND deleted = 0 ORDER BY repository LIMIT ?`,
			[]any{t, after, page(limit)}, func(scan func(...any) error) error {
				var name string
				err := scan(&name)
				all = append(all, name)
				return err
			})
		return all, err
	})
}

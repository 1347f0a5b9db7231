package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// lives holds for a model m that has a version which is not deleted. The row of one that has none keeps its numbers. The sign
// keeps SQLite from beginning with all versions that are not deleted, by the index on that column.
const lives = `EXISTS (SELECT 1 FROM versions v WHERE v.tenant = m.tenant AND v.model = m.name AND +v.deleted = 0/*EACH*/)`

// Model gives a model with its live aliases, by its name or an earlier one.
func (db *DB) Model(ctx context.Context, t api.TenantID, m api.ModelName) (api.Model, error) {
	return readModel(ctx, db, "read the model", t, m, func(ctx context.Context, s session, m api.ModelName) (api.Model, error) {
		return needWholeModel(ctx, s, t, m)
	})
}

func needWholeModel(ctx context.Context, s session, t api.TenantID, m api.ModelName) (api.Model, error) {
	found, err := models(ctx, s, `SELECT m.tenant, m.name, m.created, (SELECT MAX(number) FROM versions v WHERE v.tenant = m.tenant AND v.model = m.name AND v.deleted = 0),
			COALESCE(a.name, ''), COALESCE(a.version, 0), COALESCE(a.moved, 0), COALESCE(a.moved_by, ''), COALESCE(a.moves, 0)
			FROM models m LEFT JOIN aliases a ON a.tenant = m.tenant AND a.model = m.name AND a.version > 0
			WHERE m.tenant = ? AND m.name = ? AND `+lives+` ORDER BY a.name`, t, m)
	if err != nil || len(found) == 0 {
		return api.Model{}, orElse(err, noModel(m))
	}
	return found[0], nil
}

// Models lists a tenant's models by name, from the first after the one given.
func (db *DB) Models(ctx context.Context, t api.TenantID, after api.ModelName, limit int) ([]api.Model, error) {
	return read(ctx, db, "list models", func(ctx context.Context, s session) ([]api.Model, error) {
		return models(ctx, s, `SELECT m.tenant, m.name, m.created, (SELECT MAX(number) FROM versions v WHERE v.tenant = m.tenant AND v.model = m.name AND v.deleted = 0),
			COALESCE(a.name, ''), COALESCE(a.version, 0), COALESCE(a.moved, 0), COALESCE(a.moved_by, ''), COALESCE(a.moves, 0)
			FROM (SELECT tenant, name, created FROM models m WHERE tenant = ? AND name > ? AND `+lives+` ORDER BY name LIMIT ?) m
			LEFT JOIN aliases a ON a.tenant = m.tenant AND a.model = m.name AND a.version > 0
			ORDER BY m.name, a.name`, t, after, page(limit))
	})
}

// models folds the rows of one statement, one per model and alias, so that both come from the same moment.
func models(ctx context.Context, s session, query string, args ...any) ([]api.Model, error) {
	var all []api.Model
	err := s.each(ctx, query, args, func(scan func(...any) error) error {
		m := api.Model{Aliases: []api.Alias{}}
		var a api.Alias
		if err := scan(&m.Tenant, &m.Name, &m.Created, &m.Latest, &a.Name, &a.Version, &a.Moved, &a.MovedBy, &a.Moves); err != nil {
			return err
		}
		if len(all) == 0 || all[len(all)-1].Name != m.Name {
			all = append(all, m)
		}
		if last := &all[len(all)-1]; a.Version > 0 {
			last.Aliases = append(last.Aliases, a)
		}
		return nil
	})
	return all, err
}

// needModel gives the model's newest number, or fails when there is no such model.
func needModel(ctx context.Context, s session, t api.TenantID, m api.ModelName) (latest api.VersionNumber, _ error) {
	found, err := s.one(ctx, `SELECT latest FROM models m WHERE tenant = ? AND name = ? AND `+lives, []any{t, m}, &latest)
	if err == nil && !found {
		return 0, noModel(m)
	}
	return latest, err
}

func noModel(m api.ModelName) error {
	return api.Fail(api.CodeModelNotFound, string(m), "no such model")
}

// orElse is the first fault that there is.
func orElse(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// A model is its name: every row that belongs to it holds that. A rename moves all of them in one transaction and leaves a
// redirect, so nothing but the way in has to know of earlier names.

// The limits of renames.
const (
	redirectsMax = 100 // earlier names of one model
	renameBatch  = 200 // revisions that are read at a time
)

// current gives the name that a model has now; one that is no earlier name is given back.
func current(ctx context.Context, s session, t api.TenantID, m api.ModelName) (api.ModelName, error) {
	_, err := s.one(ctx, currentName, []any{t, m}, &m)
	return m, err
}

const currentName = `SELECT model FROM model_redirects WHERE tenant = ? AND name = ?`

// currentRepository is current for the repository of a model.
func currentRepository(ctx context.Context, s session, repo api.Repository) (api.Repository, error) {
	m, err := current(ctx, s, repo.Tenant, api.ModelName(repo.Name))
	repo.Name = string(m)
	return repo, err
}

// readModel reads what a model's name leads to. The name itself comes first, so only what is not found costs a second look:
// that one is of one moment, since a rename may have come between two statements of the first.
func readModel[T any](ctx context.Context, db *DB, act string, t api.TenantID, m api.ModelName,
	run func(context.Context, session, api.ModelName) (T, error)) (T, error) {
	return read(ctx, db, act, func(ctx context.Context, s session) (none T, _ error) {
		value, err := run(ctx, s, m)
		if err == nil || !isOurs(err) || api.KindOf(err) != api.NotFound {
			return value, err
		}
		tx, err := db.reads.BeginTx(ctx, db.dialect.snapshot())
		if err != nil {
			return none, err
		}
		defer func() { _ = tx.Rollback() }() // it only read
		s.on = tx
		now, err := current(ctx, s, t, m)
		if err != nil {
			return none, err
		}
		return run(ctx, s, now)
	})
}

// readRepository is readModel for the repository of a model.
func readRepository[T any](ctx context.Context, db *DB, act string, repo api.Repository,
	run func(context.Context, session, api.Repository) (T, error)) (T, error) {
	return readModel(ctx, db, act, repo.Tenant, api.ModelName(repo.Name), func(ctx context.Context, s session, m api.ModelName) (T, error) {
		return run(ctx, s, api.Repository{Tenant: repo.Tenant, Name: string(m)})
	})
}

// writeModel is write on the model that a name leads to.
func writeModel[T any](ctx context.Context, db *DB, act string, t api.TenantID, m api.ModelName,
	run func(context.Context, session, api.ModelName) (T, error)) (T, error) {
	return write(ctx, db, act, func(ctx context.Context, s session) (T, error) {
		now, err := current(ctx, s, t, m)
		if err != nil {
			var none T
			return none, err
		}
		return run(ctx, s, now)
	})
}

// changeModel is writeModel for functions without a result.
func changeModel(ctx context.Context, db *DB, act string, t api.TenantID, m api.ModelName, run func(context.Context, session, api.ModelName) error) error {
	_, err := writeModel(ctx, db, act, t, m, func(ctx context.Context, s session, m api.ModelName) (struct{}, error) {
		return struct{}{}, run(ctx, s, m)
	})
	return err
}

// changeRepository is changeModel for the repository of a model.
func changeRepository(ctx context.Context, db *DB, act string, repo api.Repository,
	run func(context.Context, session, api.Repository) error) error {
	return changeModel(ctx, db, act, repo.Tenant, api.ModelName(repo.Name), func(ctx context.Context, s session, m api.ModelName) error {
		return run(ctx, s, api.Repository{Tenant: repo.Tenant, Name: string(m)})
	})
}

// notRedirected refuses to make anything new under an earlier name of a model.
func notRedirected(ctx context.Context, s session, t api.TenantID, name api.ModelName) error {
	now, err := current(ctx, s, t, name)
	if err != nil {
		return err
	}
	return redirected(name, now)
}

// redirected is the error of a name that leads to another.
func redirected(name, now api.ModelName) error {
	if now == name {
		return nil
	}
	return api.Fail(api.CodeRedirected, string(name), "the model %s had this name, which leads to it still", now).
		WithCure("Use the name %s; or free this one with `penstock rename --forget %s`, which breaks old links.", now, name)
}

// RenameModel gives a model another name and leaves a redirect from the one before, in one transaction with model.renamed.
// Earlier names lead to the new one from then on. A model that has the name already stays as it is, so the call can be
// repeated.
func (db *DB) RenameModel(ctx context.Context, r api.Rename) (api.Model, error) {
	return writeModel(ctx, db, "rename the model", r.Tenant, r.From, func(ctx context.Context, s session, from api.ModelName) (api.Model, error) {
		if _, err := needModel(ctx, s, r.Tenant, from); err != nil {
			return api.Model{}, err
		}
		if from == r.To {
			return needWholeModel(ctx, s, r.Tenant, from)
		}
		if err := freeName(ctx, s, r.Tenant, from, r.To); err != nil {
			return api.Model{}, err
		}
		text := fmt.Sprintf("Model %s was renamed to %s", from, r.To)
		if r.Why != "" {
			text += ": " + r.Why
		}
		// The subject is the old name, and the event comes before the change: whoever follows an old name must hear what became of it.
		e := api.Event{Tenant: r.Tenant, At: r.At, Kind: "model.renamed", Subject: string(from), Text: text + ".", By: r.By}
		if err := db.appendEvent(ctx, s, e); err != nil {
			return api.Model{}, err
		}
		if err := moveModel(ctx, s, r.Tenant, from, r.To); err != nil {
			return api.Model{}, err
		}
		if err := redirect(ctx, s, &r, from); err != nil {
			return api.Model{}, err
		}
		return needWholeModel(ctx, s, r.Tenant, r.To)
	})
}

// freeName refuses a name that something else has, or had. One that the model had itself is free for it.
func freeName(ctx context.Context, s session, t api.TenantID, from, to api.ModelName) error {
	now, err := current(ctx, s, t, to)
	if err != nil || now == from {
		return err
	}
	if now != to {
		return notRedirected(ctx, s, t, to)
	}
	var latest, alive int64
	known, err := s.one(ctx, `SELECT m.latest, (SELECT COUNT(*) FROM versions v WHERE v.tenant = m.tenant AND v.model = m.name AND +v.deleted = 0)
		FROM models m WHERE m.tenant = ? AND m.name = ?`, []any{t, to}, &latest, &alive)
	switch {
	case err != nil:
		return err
	case known && alive > 0:
		return api.Fail(api.CodeExists, string(to), "the tenant has a model of this name").WithCure("Choose another name.")
	case known:
		return api.Fail(api.CodeExists, string(to), "a model of this name was deleted, and its numbers up to %d are never given out again", latest).
			WithCure("Choose another name.")
	}
	var one int64
	known, err = s.one(ctx, `SELECT 1 FROM manifests WHERE tenant = ? AND repository = ? UNION ALL
		SELECT 1 FROM repository_blobs WHERE tenant = ? AND repository = ? LIMIT 1`, []any{t, to, t, to}, &one)
	if err == nil && known {
		return api.Fail(api.CodeExists, string(to), "a repository of this name holds something that is no model").
			WithCure("Choose another name.")
	}
	return err
}

// moveModel puts the new name in the place of the old one wherever it stands. Rows with others below them that do not follow
// by themselves are copied first and removed last.
func moveModel(ctx context.Context, s session, t api.TenantID, from, to api.ModelName) error {
	for _, copied := range [][2]string{{"models", "name"}, {"aliases", "model"}, {"manifests", "repository"}} {
		if err := copyRows(ctx, s, copied[0], copied[1], t, from, to); err != nil {
			return err
		}
	}
	for _, moved := range [][2]string{{"versions", "model"}, {"alias_moves", "model"}, {"alias_rules", "model"}, {"model_readers", "model"},
		{"retention", "model"}, {"model_redirects", "model"}, {"manifest_parts", "repository"}, {"manifest_tags", "repository"},
		{"repository_blobs", "repository"}, {"derived", "repository"}} {
		if err := s.put(ctx, fmt.Sprintf(`UPDATE %s SET %s = ? WHERE tenant = ? AND %s = ?`, moved[0], moved[1], moved[1]), to, t, from); err != nil {
			return fmt.Errorf("move %s: %w", moved[0], err)
		}
	}
	for _, gone := range [][2]string{{"manifests", "repository"}, {"aliases", "model"}, {"models", "name"}} {
		if err := s.put(ctx, fmt.Sprintf(`DELETE FROM %s WHERE tenant = ? AND %s = ?`, gone[0], gone[1]), t, from); err != nil {
			return fmt.Errorf("move %s: %w", gone[0], err)
		}
	}
	if err := moveMentions(ctx, s, t, from, to); err != nil {
		return err
	}
	return moveRevisions(ctx, s, t, from, to)
}

// copyRows copies the rows of a name under another one.
func copyRows(ctx context.Context, s session, name, column string, t api.TenantID, from, to api.ModelName) error {
	all := tables()
	columns := all[slices.IndexFunc(all, func(t table) bool { return t.name == name })].columns
	selected := slices.Clone(columns)
	selected[slices.Index(columns, column)] = "CAST(? AS TEXT)"
	err := s.put(ctx, fmt.Sprintf(`INSERT INTO %s (%s) SELECT %s FROM %s WHERE tenant = ? AND %s = ?`,
		name, strings.Join(columns, ", "), strings.Join(selected, ", "), name, column), to, t, from)
	if err != nil {
		return fmt.Errorf("copy %s: %w", name, err)
	}
	return nil
}

// moveMentions renames where the name is part of a row that is not the model's own.
func moveMentions(ctx context.Context, s session, t api.TenantID, from, to api.ModelName) error {
	if err := s.put(ctx, `UPDATE catalogue_words SET word = ? WHERE tenant = ? AND field = 'name' AND word = ?`, to, t, from); err != nil {
		return err
	}
	if err := s.put(ctx, `DELETE FROM catalogue_terms WHERE tenant = ? AND field = 'name' AND word = ?`, t, from); err != nil {
		return err
	}
	if err := insertRows(ctx, s, `INSERT INTO catalogue_terms (tenant, field, word) VALUES `, 3, []any{t, "name", to}); err != nil {
		return err
	}
	// "@" and the next byte after it bound what begins with the name and a version.
	for _, end := range []string{"from", "to"} {
		if err := s.put(ctx, fmt.Sprintf(`UPDATE lineage_links SET %[1]s_name = ? || SUBSTR(%[1]s_name, ?)
			WHERE tenant = ? AND %[1]s_kind = ? AND %[1]s_name >= ? AND %[1]s_name < ?`, end),
			to, len(from)+1, t, api.LineageVersion, from+"@", from+"A"); err != nil {
			return err
		}
	}
	// Counts that came late may stand under the new name already, from when another model had it.
	if err := s.put(ctx, `INSERT INTO callers (tenant, endpoint, revision, api_key, model, version, requests, first_seen, last_seen)
		SELECT tenant, endpoint, revision, api_key, CAST(? AS TEXT), version, requests, first_seen, last_seen FROM callers
		WHERE tenant = ? AND model = ?
		ON CONFLICT (tenant, endpoint, revision, api_key, model, version) DO UPDATE SET requests = callers.requests + excluded.requests`, to, t, from); err != nil {
		return err
	}
	err := s.put(ctx, `DELETE FROM callers WHERE tenant = ? AND model = ?`, t, from)
	return err
}

// moveRevisions renames in the tenant's revisions. What they run stays as it is; only its name follows, so that a revision
// never speaks of another model that takes the old name one day. As in RevisionsOf, the text search only narrows down.
func moveRevisions(ctx context.Context, s session, t api.TenantID, from, to api.ModelName) error {
	endpoint, number := api.EndpointName(""), api.RevisionNumber(0)
	for {
		found, err := documents[api.Revision](ctx, s, `SELECT doc FROM revisions WHERE tenant = ? AND (endpoint, number) > (?, ?) AND doc LIKE ?
			ORDER BY endpoint, number LIMIT ?`, t, endpoint, number, fmt.Sprintf(`%%"model":"%s","version":%%`, from), renameBatch)
		if err != nil || len(found) == 0 {
			return err
		}
		for i := range found {
			endpoint, number = found[i].Endpoint, found[i].Number
			renamed, changed := found[i].Renamed(from, to)
			if !changed {
				continue
			}
			doc, err := encode(renamed)
			if err != nil {
				return err
			}
			if err := s.put(ctx, `UPDATE revisions SET doc = ? WHERE tenant = ? AND endpoint = ? AND number = ?`, doc, t, endpoint, number); err != nil {
				return err
			}
		}
	}
}

// redirect leaves the old name behind, and takes the new one from the redirects where the model had it before.
func redirect(ctx context.Context, s session, r *api.Rename, from api.ModelName) error {
	if err := s.put(ctx, `DELETE FROM model_redirects WHERE tenant = ? AND name = ?`, r.Tenant, r.To); err != nil {
		return err
	}
	var kept int64
	if _, err := s.one(ctx, `SELECT COUNT(*) FROM model_redirects WHERE tenant = ? AND model = ?`, []any{r.Tenant, r.To}, &kept); err != nil {
		return err
	}
	if kept >= redirectsMax {
		return api.Fail(api.CodeTooLarge, string(from), "a model keeps at most %d earlier names", redirectsMax).
			WithCure("List them with `penstock rename --list`, and free one with `penstock rename --forget NAME`.")
	}
	err := s.put(ctx, `INSERT INTO model_redirects (tenant, name, model, renamed, renamed_by) VALUES (?, ?, ?, ?, ?)`,
		r.Tenant, from, r.To, r.At, clean(r.By))
	return err
}

// renamedSince puts present names in a revision whose references were resolved before a rename.
func renamedSince(ctx context.Context, s session, rev api.Revision) (api.Revision, bool, error) {
	changed := false
	for _, ref := range rev.Versions() {
		now, err := current(ctx, s, rev.Tenant, ref.Model)
		if err != nil {
			return rev, false, err
		}
		if now != ref.Model {
			rev, _ = rev.Renamed(ref.Model, now)
			changed = true
		}
	}
	return rev, changed, nil
}

// ForgetRedirect frees an earlier name, and records model.redirect_removed. Links by that name end here.
func (db *DB) ForgetRedirect(ctx context.Context, t api.TenantID, name api.ModelName, by string, at api.Time) error {
	return change(ctx, db, "forget the redirect", func(ctx context.Context, s session) error {
		var model api.ModelName
		found, err := s.one(ctx, `DELETE FROM model_redirects WHERE tenant = ? AND name = ? RETURNING model`, []any{t, name}, &model)
		if err != nil {
			return err
		}
		if !found {
			return api.Fail(api.CodeNotFound, string(name), "no model had this name").WithCure("List earlier names with `penstock rename --list`.")
		}
		return db.appendEvent(ctx, s, api.Event{Tenant: t, At: at, Kind: "model.redirect_removed", Subject: string(name),
			Text: fmt.Sprintf("The name %s leads to model %s no more.", name, model), By: by})
	})
}

// Redirects lists a tenant's earlier names by name, from the first after the one given.
func (db *DB) Redirects(ctx context.Context, t api.TenantID, after api.ModelName, limit int) ([]api.Redirect, error) {
	return read(ctx, db, "list the redirects", func(ctx context.Context, s session) ([]api.Redirect, error) {
		all := []api.Redirect{}
		err := s.each(ctx, `SELECT name, model, renamed, renamed_by FROM model_redirects WHERE tenant = ? AND name > ? ORDER BY name LIMIT ?`,
			[]any{t, after, page(limit)}, func(scan func(...any) error) error {
				var r api.Redirect
				err := scan(&r.Name, &r.Model, &r.Renamed, &r.By)
				all = append(all, r)
				return err
			})
		return all, err
	})
}

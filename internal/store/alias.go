package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/penstock/penstock/api"
)

// MoveAlias points an alias at a version, or deletes it when To is 0. It holds only if the alias is as expected, and if its
// rule lets the mover and the version through. A move to where it already points changes nothing. A deleted alias keeps its
// history and its count, so an ETag from before never fits again.
func (db *DB) MoveAlias(ctx context.Context, move api.AliasChange) (api.Alias, error) {
	return writeModel(ctx, db, "move the alias", move.Tenant, move.Model, func(ctx context.Context, s session, m api.ModelName) (api.Alias, error) {
		move := move
		move.Model = m
		return db.moveAlias(ctx, s, &move)
	})
}

// moveAlias also keeps the index of versions, and records alias.moved or alias.deleted.
func (db *DB) moveAlias(ctx context.Context, s session, move *api.AliasChange) (now api.Alias, _ error) {
	m, err := askMove(ctx, s, move.Tenant, move.Model, move.Alias)
	if err != nil {
		return now, err
	}
	if move.To != 0 {
		if err := s.ask(ctx, versionByNumber, []any{move.Tenant, move.Model, move.To}, func(scan func(...any) error) error {
			v, err := scanVersion(scan)
			m.to = &v
			return err
		}); err != nil {
			return now, err
		}
	}
	if err := s.answers(ctx); err != nil {
		return now, err
	}
	return db.moveKnown(ctx, s, move, m)
}

// moveAliases points aliases at a version that is there. What is known of their moves was asked in this write, before any of them.
func (db *DB) moveAliases(ctx context.Context, s session, move api.AliasChange, names []api.AliasName, to *api.Version, known map[api.AliasName]*moving) error {
	var made int64
	for _, name := range names {
		move.Alias = name
		m, asked := known[name]
		if !asked { // or it was moved already
			var err error
			if m, err = askMove(ctx, s, move.Tenant, move.Model, name); err != nil {
				return err
			}
			if err := s.answers(ctx); err != nil {
				return err
			}
		} else {
			delete(known, name)
			m.names += made
		}
		m.to = to
		if _, err := db.moveKnown(ctx, s, &move, m); err != nil {
			return err
		}
		if !m.found {
			made++
		}
	}
	return nil
}

// moveKnown moves an alias when all that the move depends on is known.
func (db *DB) moveKnown(ctx context.Context, s session, move *api.AliasChange, m *moving) (now api.Alias, _ error) {
	if err := m.check(ctx, s, move); err != nil {
		return now, err
	}
	old := m.old
	if move.To != 0 && old.Version == 0 {
		if err := roomWithin(ctx, s, &m.quota, move.Tenant, move.Model, objectTag); err != nil {
			return now, err
		}
	}
	if err := m.takeTag(ctx, s, move); err != nil {
		return now, err
	}
	if m.found && old.Version == move.To {
		return old, nil
	}
	if !m.found && m.names >= aliasesMax { // deleted ones count, too, because Model answers with all that live
		return now, api.Fail(api.CodeTooLarge, string(move.Model), "a model has at most %d aliases", aliasesMax).
			WithCure("Move an alias that exists instead of making another.")
	}
	now = api.Alias{Name: move.Alias, Version: move.To, Moved: move.At, MovedBy: clean(move.Mover()), Moves: old.Moves + 1}
	if err := s.put(ctx, `INSERT INTO aliases (tenant, model, name, version, moved, moved_by, moves) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (tenant, model, name) DO UPDATE SET version = excluded.version, moved = excluded.moved,
		moved_by = excluded.moved_by, moves = excluded.moves`,
		move.Tenant, move.Model, now.Name, now.Version, now.Moved, now.MovedBy, now.Moves); err != nil {
		return now, err
	}
	if err := s.put(ctx, `INSERT INTO alias_moves (tenant, model, alias, seq, from_version, to_version, moved, moved_by, why)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		move.Tenant, move.Model, now.Name, now.Moves, old.Version, now.Version, now.Moved, now.MovedBy, clean(move.Why)); err != nil {
		return now, err
	}
	if err := indexAlias(ctx, s, move, old.Version); err != nil {
		return now, err
	}
	return now, db.appendEvent(ctx, s, moved(move, old.Version))
}

func moved(move *api.AliasChange, from api.VersionNumber) api.Event {
	subject := api.Ref{Model: move.Model, Alias: move.Alias}.String()
	e := api.Event{Tenant: move.Tenant, At: move.At, Kind: "alias.moved", Subject: subject, By: move.Mover()}
	switch {
	case move.To == 0:
		e.Kind, e.Text = "alias.deleted", fmt.Sprintf("Alias %s, which named version %d, was deleted", subject, from)
	case from == 0:
		e.Text = fmt.Sprintf("Alias %s names version %d", subject, move.To)
	default:
		e.Text = fmt.Sprintf("Alias %s moved from version %d to %d", subject, from, move.To)
	}
	if e.Text += "."; move.Why != "" {
		e.Text += " " + move.Why
	}
	return e
}

// moving is what a move of an alias depends on.
type moving struct {
	old   api.Alias // its row, also one of a deleted alias
	found bool      // it has one
	to    *api.Version
	rule  *api.AliasRule
	names int64 // aliases of the model
	tags  int64 // tags of this name, of manifests
	quota api.Quota
}

// askMoves asks for it for aliases of a model.
func askMoves(ctx context.Context, s session, t api.TenantID, model api.ModelName, names []api.AliasName) (all map[api.AliasName]*moving, err error) {
	all = make(map[api.AliasName]*moving, len(names))
	for _, name := range names {
		if all[name], err = askMove(ctx, s, t, model, name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// askMove asks for it, but for the version.
func askMove(ctx context.Context, s session, t api.TenantID, model api.ModelName, name api.AliasName) (*moving, error) {
	m, alias := &moving{}, []any{t, model, name}
	return m, s.ask(ctx, `SELECT g.names, g.tags, g.rule, g.quota, COALESCE(a.name, ''), COALESCE(a.version, 0), COALESCE(a.moved, 0),
		COALESCE(a.moved_by, ''), COALESCE(a.moves, 0) FROM (SELECT
		(SELECT COUNT(*) FROM aliases WHERE tenant = ? AND model = ?) AS names,
		(SELECT COUNT(*) FROM manifest_tags WHERE tenant = ? AND repository = ? AND name = ?) AS tags,
		COALESCE((SELECT doc FROM alias_rules WHERE tenant = ? AND model = ? AND alias = ?), '') AS rule,
		COALESCE((SELECT doc FROM quotas WHERE tenant = ?), '') AS quota) g
		LEFT JOIN aliases a ON a.tenant = ? AND a.model = ? AND a.name = ?`,
		slices.Concat(alias[:2], alias, alias, alias[:1], alias), m.scan)
}

func (m *moving) scan(scan func(...any) error) error {
	var rule, quota string
	if err := scan(&m.names, &m.tags, &rule, &quota, &m.old.Name, &m.old.Version, &m.old.Moved, &m.old.MovedBy, &m.old.Moves); err != nil {
		return err
	}
	m.found = m.old.Name != ""
	if rule != "" {
		m.rule = new(api.AliasRule)
		if err := decode(rule, m.rule); err != nil {
			return err
		}
	}
	if quota == "" {
		return nil
	}
	return decode(quota, &m.quota)
}

// takeTag removes a tag of the alias's name: a name means one thing to OCI clients, and an alias takes the place of a tag.
func (m *moving) takeTag(ctx context.Context, s session, move *api.AliasChange) error {
	if m.tags == 0 {
		return nil
	}
	if err := loseTag(ctx, s, api.Repository{Tenant: move.Tenant, Name: string(move.Model)}, string(move.Alias), move.At); err != nil {
		return err
	}
	return s.put(ctx, `DELETE FROM manifest_tags WHERE tenant = ? AND repository = ? AND name = ?`, move.Tenant, move.Model, move.Alias)
}

// check asks what is expected before the rule: who comes too late must not be told that a gate is missing for a move that
// would not happen. The rule is of the transaction of the move: no result of a gate and no rule comes between.
func (m *moving) check(ctx context.Context, s session, move *api.AliasChange) error {
	old := m.old
	subject := api.Ref{Model: move.Model, Alias: move.Alias}.String()
	switch {
	case move.To != 0 && m.to == nil:
		return noVersion(ctx, s, move.Tenant, api.Ref{Model: move.Model, Version: move.To})
	case move.To == 0:
		if _, err := needModel(ctx, s, move.Tenant, move.Model); err != nil {
			return err
		}
		if old.Version == 0 {
			return api.Fail(api.CodeAliasNotFound, subject, "the model has no such alias")
		}
	}
	if expected := move.Moves < 0 || move.Moves == old.Moves || move.Moves == 0 && old.Version == 0; !expected {
		return api.Fail(api.CodeStale, subject, "the alias has moved %d times, not %d", old.Moves, move.Moves)
	}
	if move.Expect != nil && *move.Expect != old.Version {
		names := "no version"
		if old.Version != 0 {
			names = api.Ref{Model: move.Model, Version: old.Version}.String()
		}
		return api.Fail(api.CodeStale, subject, "the alias names %s, not version %d", names, *move.Expect)
	}
	if move.To != 0 && old.Version == move.To || m.rule == nil {
		return nil // it is there already, or anybody may move it
	}
	return m.rule.Check(move.By, m.to)
}

// AliasHistory lists the moves of an alias, newest first; a deleted alias still has them.
func (db *DB) AliasHistory(ctx context.Context, t api.TenantID, m api.ModelName, a api.AliasName, limit int) ([]api.AliasMove, error) {
	return readModel(ctx, db, "list the alias's moves", t, m, func(ctx context.Context, s session, m api.ModelName) ([]api.AliasMove, error) {
		var all []api.AliasMove
		err := s.each(ctx, `SELECT seq, from_version, to_version, moved, moved_by, why FROM alias_moves
			WHERE tenant = ? AND model = ? AND alias = ? ORDER BY seq DESC LIMIT ?`, []any{t, m, a, page(limit)},
			func(scan func(...any) error) error {
				var move api.AliasMove
				err := scan(&move.Seq, &move.From, &move.To, &move.At, &move.By, &move.Why)
				all = append(all, move)
				return err
			})
		if err != nil || len(all) > 0 {
			return all, err
		}
		if _, err := needModel(ctx, s, t, m); err != nil {
			return nil, err
		}
		return nil, api.Fail(api.CodeAliasNotFound, api.Ref{Model: m, Alias: a}.String(), "the model has no such alias")
	})
}

// findAlias finds the row of an alias, also of a deleted one.
func findAlias(ctx context.Context, s session, t api.TenantID, m api.ModelName, name api.AliasName) (a api.Alias, found bool, _ error) {
	found, err := s.one(ctx, `SELECT name, version, moved, moved_by, moves FROM aliases WHERE tenant = ? AND model = ? AND name = ?`,
		[]any{t, m, name}, &a.Name, &a.Version, &a.Moved, &a.MovedBy, &a.Moves)
	return a, found, err
}

package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// aliasMove is what a caller asks of an alias.
type aliasMove struct {
	tenant  api.TenantID
	model   api.ModelName
	alias   api.AliasName
	to      api.VersionNumber // 0 deletes
	ifMoves int64             // -1: any
	by      string
	why     string
	at      api.Time
}

// MoveAlias points an alias at a version, or deletes it when to is 0. It holds only if the alias has moved ifMoves times
// (-1: any; 0: there must be no such alias now). A move to where it already points changes nothing. A deleted alias keeps
// its history and its count, so an ETag from before never fits again.
func (db *DB) MoveAlias(ctx context.Context, t api.TenantID, m api.ModelName, a api.AliasName, to api.VersionNumber,
	ifMoves int64, by, why string, at api.Time) (api.Alias, error) {
	return write(ctx, db, "move the alias", func(ctx context.Context, s session) (api.Alias, error) {
		return moveAlias(ctx, s, aliasMove{t, m, a, to, ifMoves, by, why, at})
	})
}

func moveAlias(ctx context.Context, s session, move aliasMove) (now api.Alias, _ error) {
	subject := api.Ref{Model: move.model, Alias: move.alias}.String()
	old, found, err := findAlias(ctx, s, move.tenant, move.model, move.alias)
	if err != nil {
		return now, err
	}
	if move.to != 0 {
		_, err = needVersion(ctx, s, move.tenant, move.model, move.to)
	} else if _, err = needModel(ctx, s, move.tenant, move.model); err == nil && old.Version == 0 {
		err = api.Fail(api.CodeAliasNotFound, subject, "the model has no such alias")
	}
	if err != nil {
		return now, err
	}
	expected := move.ifMoves < 0 || move.ifMoves == old.Moves || move.ifMoves == 0 && old.Version == 0
	if !expected {
		return now, api.Fail(api.CodeStale, subject, "the alias has moved %d times, not %d", old.Moves, move.ifMoves)
	}
	// A name means one thing to OCI clients: an alias that is moved by hand takes the place of a tag.
	if _, err := s.exec(ctx, `DELETE FROM manifest_tags WHERE tenant = ? AND repository = ? AND name = ?`,
		move.tenant, move.model, move.alias); err != nil {
		return now, err
	}
	if found && old.Version == move.to {
		return old, nil
	}
	if !found {
		if err := roomForAlias(ctx, s, move); err != nil {
			return now, err
		}
	}
	now = api.Alias{Name: move.alias, Version: move.to, Moved: move.at, MovedBy: clean(move.by), Moves: old.Moves + 1}
	if _, err := s.exec(ctx, `INSERT INTO aliases (tenant, model, name, version, moved, moved_by, moves) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (tenant, model, name) DO UPDATE SET version = excluded.version, moved = excluded.moved,
		moved_by = excluded.moved_by, moves = excluded.moves`,
		move.tenant, move.model, now.Name, now.Version, now.Moved, now.MovedBy, now.Moves); err != nil {
		return now, err
	}
	_, err = s.exec(ctx, `INSERT INTO alias_moves (tenant, model, alias, seq, from_version, to_version, moved, moved_by, why)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		move.tenant, move.model, now.Name, now.Moves, old.Version, now.Version, now.Moved, now.MovedBy, clean(move.why))
	return now, err
}

// AliasHistory lists the moves of an alias, newest first; a deleted alias still has them.
func (db *DB) AliasHistory(ctx context.Context, t api.TenantID, m api.ModelName, a api.AliasName, limit int) ([]api.AliasMove, error) {
	return read(ctx, db, "list the alias's moves", func(ctx context.Context, s session) ([]api.AliasMove, error) {
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

// roomForAlias bounds the names of one model, deleted ones too, because Model answers with all that live.
func roomForAlias(ctx context.Context, s session, move aliasMove) error {
	var names int64
	_, err := s.one(ctx, `SELECT COUNT(*) FROM aliases WHERE tenant = ? AND model = ?`, []any{move.tenant, move.model}, &names)
	if err == nil && names >= aliasesMax {
		return api.Fail(api.CodeTooLarge, string(move.model), "a model has at most %d aliases", aliasesMax).
			WithCure("Move an alias that exists instead of making another.")
	}
	return err
}

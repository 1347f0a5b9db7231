package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// RecordCrash counts a crash of the runtime on a file, and returns how many there were.
func (db *DB) RecordCrash(ctx context.Context, d api.Digest, reason string, at api.Time) (count int, err error) {
	return write(ctx, db, "record the crash", func(ctx context.Context, s session) (count int, err error) {
		_, err = s.one(ctx, `INSERT INTO crashes (digest, crashes, reason, seen) VALUES (?, 1, ?, ?)
			ON CONFLICT (digest) DO UPDATE SET crashes = crashes.crashes + 1, reason = excluded.reason, seen = excluded.seen
			RETURNING crashes`, []any{d, clean(reason), at}, &count)
		return count, err
	})
}

// Crashes tells how often a file crashed the runtime and the last reason; 0 and nothing for a file that never did.
func (db *DB) Crashes(ctx context.Context, d api.Digest) (count int, reason string, err error) {
	type crashes struct {
		count  int
		reason string
	}
	c, err := read(ctx, db, "read the crashes", func(ctx context.Context, s session) (c crashes, err error) {
		_, err = s.one(ctx, `SELECT crashes, reason FROM crashes WHERE digest = ?`, []any{d}, &c.count, &c.reason)
		return c, err
	})
	return c.count, c.reason, err
}

// Tried tells what is known of a version's content before it is tried out: of its crashes, and of the version of the model that
// has it, if there is one.
func (db *DB) Tried(ctx context.Context, t api.TenantID, m api.ModelName, d api.Digest) (api.Tried, error) {
	return read(ctx, db, "read what is known of it", func(ctx context.Context, s session) (known api.Tried, _ error) {
		_, err := s.one(ctx, `SELECT COALESCE(c.crashes, 0), COALESCE(c.reason, ''), COALESCE(v.number, 0), COALESCE(v.state, ''), COALESCE(v.reason, '')
			FROM (SELECT 1 AS one) o LEFT JOIN crashes c ON c.digest = ?
			LEFT JOIN versions v ON v.tenant = ? AND v.model = ? AND v.digest = ? AND v.deleted = 0`, []any{d, t, m, d},
			&known.Crashes, &known.Crash, &known.Version, &known.State, &known.Reason)
		return known, err
	})
}

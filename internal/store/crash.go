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

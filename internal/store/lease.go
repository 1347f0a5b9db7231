package store

import (
	"context"
	"time"

	"github.com/penstock/penstock/api"
)

// TakeLease gives a name to one holder at a time, until it lets go or its time is up. Who holds it renews it by taking it
// again. The error is CodeCollecting while another holds it.
func (db *DB) TakeLease(ctx context.Context, name, holder string, at api.Time, life time.Duration) error {
	return change(ctx, db, "take the lease", func(ctx context.Context, s session) error {
		var other string
		var until api.Time
		if _, err := s.one(ctx, `SELECT holder, until FROM leases WHERE name = ?`, []any{name}, &other, &until); err != nil {
			return err
		}
		if other != holder && until > at {
			e := api.Fail(api.CodeCollecting, "", "another collection or a backup is under way, at the latest until %s without further word", until.Std().Format(time.RFC3339))
			e.RetryAfter = 5 * time.Second
			return e
		}
		err := s.put(ctx, `INSERT INTO leases (name, holder, until) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until`, name, holder, at+api.Time(life.Microseconds()))
		return err
	})
}

// EndLease gives a name back; one that another holds is left alone.
func (db *DB) EndLease(ctx context.Context, name, holder string) error {
	return change(ctx, db, "end the lease", func(ctx context.Context, s session) error {
		err := s.put(ctx, `DELETE FROM leases WHERE name = ? AND holder = ?`, name, holder)
		return err
	})
}

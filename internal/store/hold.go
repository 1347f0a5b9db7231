package store

import (
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
)

// What tenants hold. A row of tenant_blobs keeps bytes alive, a reservation does so while bytes are on their way. Both are
// written in transactions that never overlap with those of the sweep, and that is all that makes the sweep safe: bytes are
// deleted only after a transaction found neither and marked them, and nobody can hold what is marked.

// Reserve sets room aside before bytes arrive. A reservation of the same id and blob is changed to the bytes given, by
// which an upload of unknown length grows. A blob that the tenant holds needs no room, but is touched. It fails with
// CodeQuotaExceeded, or with the cause api.ErrSwept while the blob is being deleted.
func (db *DB) Reserve(ctx context.Context, room ...api.Reservation) error {
	_, err := writeLater(ctx, db, "reserve room", func(ctx context.Context, s session) (func(context.Context, session) (struct{}, error), error) {
		var checks []func(context.Context, session) error
		for some := range reservations(room) {
			check, err := reserve(ctx, s, some)
			if err != nil {
				return nil, err
			}
			checks = append(checks, check)
		}
		return func(ctx context.Context, s session) (done struct{}, _ error) {
			for _, check := range checks {
				if err := check(ctx, s); err != nil {
					return done, err
				}
			}
			return done, nil
		}, nil
	})
	return err
}

// reservations splits rooms into those of one reservation and tenant, as many as one statement takes.
func reservations(room []api.Reservation) iter.Seq[[]api.Reservation] {
	return func(yield func([]api.Reservation) bool) {
		for len(room) > 0 {
			n := 1
			for n < len(room) && n < indexRowsMax && room[n].ID == room[0].ID && room[n].Tenant == room[0].Tenant {
				n++
			}
			if !yield(room[:n]) {
				return
			}
			room = room[n:]
		}
	}
}

// reserve makes one reservation of blobs of one tenant. What may be wrong with it is known by check, when the answers are there;
// only a tenant with limits has to be waited for.
func reserve(ctx context.Context, s session, room []api.Reservation) (check func(context.Context, session) error, _ error) {
	first := room[0]
	var blobs []api.Digest
	for _, r := range room {
		if r.Blob != "" && !slices.Contains(blobs, r.Blob) {
			blobs = append(blobs, r.Blob)
		}
	}
	g, err := askGround(ctx, s, first.Tenant, "", blobs, first.At)
	if err != nil {
		return nil, err
	}
	if !s.gathered.free[first.Tenant] {
		if err := s.answers(ctx); err != nil {
			return nil, err
		}
		if err := g.check(ctx, s); err != nil {
			return nil, err
		}
		if err := g.roomFor(ctx, s, room); err != nil {
			return nil, err
		}
	}
	if len(blobs) > 0 {
		// What was set aside before the digest was known is for these blobs.
		if err := s.put(ctx, `DELETE FROM reservations WHERE id = ? AND blob = ''`, first.ID); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context, s session) error {
		if err := g.check(ctx, s); err != nil {
			return err
		}
		return g.touch(ctx, s)
	}, putReservations(ctx, s, lastOfEach(room))
}

// lastOfEach leaves out rooms for a blob that another one follows for.
func lastOfEach(room []api.Reservation) (last []api.Reservation) {
	for i, r := range room {
		if r.Blob == "" || !slices.ContainsFunc(room[i+1:], func(o api.Reservation) bool { return o.Blob == r.Blob }) {
			last = append(last, r)
		}
	}
	return last
}

// putReservations writes the rows of rooms of one tenant. A blob that it holds needs no room.
func putReservations(ctx context.Context, s session, room []api.Reservation) error {
	const row = `(?, ?, CAST(? AS BIGINT), ?, CAST(? AS BIGINT)), `
	var cells []any
	for _, r := range room {
		cells = append(cells, r.ID, r.Blob, r.Bytes, r.Holder, r.At)
	}
	return s.put(ctx, `INSERT INTO reservations (id, blob, tenant, bytes, blobs, holder, made)
		SELECT r.column1, r.column2, t.id, CASE WHEN b.blob IS NULL THEN r.column3 ELSE 0 END, CASE WHEN b.blob IS NULL THEN 1 ELSE 0 END, r.column4, r.column5
		FROM (VALUES `+strings.TrimSuffix(strings.Repeat(row, len(room)), ", ")+`) r
		JOIN tenants t ON t.id = ? LEFT JOIN tenant_blobs b ON b.tenant = t.id AND b.blob = r.column2 WHERE 1 = 1
		ON CONFLICT (id, blob) DO UPDATE SET bytes = excluded.bytes, blobs = excluded.blobs, made = excluded.made`,
		append(cells, room[0].Tenant)...)
}

// ReleaseRoom ends a reservation; one that is unknown is no error.
func (db *DB) ReleaseRoom(ctx context.Context, id string) error {
	return change(ctx, db, "release room", func(ctx context.Context, s session) error { return release(ctx, s, id) })
}

func release(ctx context.Context, s session, id string) error {
	if id == "" {
		return nil
	}
	err := s.put(ctx, `DELETE FROM reservations WHERE id = ?`, id)
	return err
}

// KeepRoom ends what a holder reserved in an earlier life, but for what it says that it still needs.
func (db *DB) KeepRoom(ctx context.Context, holder string, but []api.Reservation) error {
	return change(ctx, db, "release room", func(ctx context.Context, s session) error {
		if err := s.put(ctx, `DELETE FROM reservations WHERE holder = ?`, holder); err != nil {
			return err
		}
		for _, r := range but {
			// Nothing is checked: these bytes are here already.
			if err := s.put(ctx, `INSERT INTO reservations (id, blob, tenant, bytes, blobs, holder, made) VALUES (?, ?, ?, ?, 1, ?, ?)
				ON CONFLICT DO NOTHING`, r.ID, r.Blob, r.Tenant, r.Bytes, holder, r.At); err != nil {
				return err
			}
		}
		return nil
	})
}

// KeepBlob makes a tenant, and a repository that is named, hold a blob whose bytes are in the store.
func (db *DB) KeepBlob(ctx context.Context, k api.BlobKeep) error {
	return change(ctx, db, "keep the blob", func(ctx context.Context, s session) error {
		if err := release(ctx, s, k.Reservation); err != nil {
			return err
		}
		if k.Name == "" {
			return hold(ctx, s, k.Repository, []api.RepositoryBlob{k.Blob}, k.At)
		}
		return linkBlob(ctx, s, k.Repository, k.Blob, k.At)
	})
}

// TakeBlobs tells how long those of the blobs are that the tenant holds, keeps them for another grace, and reserves them,
// which takes no room.
func (db *DB) TakeBlobs(ctx context.Context, room ...api.Reservation) (map[api.Digest]int64, error) {
	return writeLater(ctx, db, "take the blobs", func(ctx context.Context, s session) (func(context.Context, session) (map[api.Digest]int64, error), error) {
		sizes := make(map[api.Digest]int64, len(room))
		var touches []*ground
		for some := range reservations(room) {
			g, err := takeBlobs(ctx, s, some, sizes)
			if err != nil {
				return nil, err
			}
			touches = append(touches, g)
		}
		return func(ctx context.Context, s session) (map[api.Digest]int64, error) {
			for _, g := range touches {
				if err := g.touch(ctx, s); err != nil {
					return nil, err
				}
			}
			return sizes, nil
		}, nil
	})
}

// takeBlobs reserves those blobs of one reservation that the tenant holds; such a blob is not being deleted. sizes are those
// when the answers are there, and so is what is to be touched.
func takeBlobs(ctx context.Context, s session, room []api.Reservation, sizes map[api.Digest]int64) (*ground, error) {
	first := room[0]
	g := &ground{tenant: first.Tenant, held: map[api.Digest]bool{}, at: first.At}
	blobs := make([]any, len(room))
	for i, r := range room {
		blobs[i] = r.Blob
	}
	in := `tenant = ? AND blob IN (` + marks(len(blobs)) + `)`
	if err := s.put(ctx, `INSERT INTO reservations (id, blob, tenant, bytes, blobs, holder, made)
		SELECT ?, blob, tenant, 0, 0, ?, CAST(? AS BIGINT) FROM tenant_blobs WHERE `+in+` ON CONFLICT (id, blob) DO UPDATE SET made = excluded.made`,
		append([]any{first.ID, first.Holder, first.At, first.Tenant}, blobs...)...); err != nil {
		return nil, err
	}
	return g, s.ask(ctx, `SELECT blob, size, touched FROM tenant_blobs WHERE `+in, append([]any{first.Tenant}, blobs...), func(scan func(...any) error) error {
		var blob api.Digest
		var size int64
		var touched api.Time
		err := scan(&blob, &size, &touched)
		sizes[blob] = size
		g.hold(blob, touched)
		return err
	})
}

// touchAfter is how old a look at a blob must be before another one is written down.
const touchAfter = 10 * time.Minute

// HeldBlob tells how long a blob is that the tenant holds. Whoever asks may go on without sending it, so it is kept for
// another grace.
func (db *DB) HeldBlob(ctx context.Context, t api.TenantID, b api.Digest, at api.Time) (size int64, err error) {
	type row struct {
		size    int64
		touched api.Time
	}
	held, err := read(ctx, db, "find the blob", func(ctx context.Context, s session) (r row, _ error) {
		found, err := s.one(ctx, `SELECT size, touched FROM tenant_blobs WHERE tenant = ? AND blob = ?`, []any{t, b}, &r.size, &r.touched)
		if err == nil && !found {
			err = api.Fail(api.CodeBlobNotFound, string(b), "no such blob")
		}
		return r, err
	})
	if err != nil || held.touched >= at.Before(touchAfter) {
		return held.size, err
	}
	return held.size, change(ctx, db, "find the blob", func(ctx context.Context, s session) error {
		var one api.Digest
		found, err := s.one(ctx, `UPDATE tenant_blobs SET touched = ? WHERE tenant = ? AND blob = ? RETURNING blob`, []any{at, t, b}, &one)
		if err == nil && !found {
			err = api.Fail(api.CodeBlobNotFound, string(b), "no such blob")
		}
		return err
	})
}

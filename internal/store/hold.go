package store

import (
	"context"
	"slices"
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
	return change(ctx, db, "reserve room", func(ctx context.Context, s session) error {
		for rest := room; len(rest) > 0; {
			n := 1
			for n < len(rest) && n < indexRowsMax && rest[n].ID == rest[0].ID && rest[n].Tenant == rest[0].Tenant {
				n++
			}
			if err := reserve(ctx, s, rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
		return nil
	})
}

// reserve makes one reservation of blobs of one tenant.
func reserve(ctx context.Context, s session, room []api.Reservation) error {
	first := room[0]
	var blobs []api.Digest
	for _, r := range room {
		if r.Blob != "" && !slices.Contains(blobs, r.Blob) {
			blobs = append(blobs, r.Blob)
		}
	}
	g, err := askGround(ctx, s, first.Tenant, "", blobs, first.At)
	if err != nil {
		return err
	}
	if err := s.answers(ctx); err != nil {
		return err
	}
	if err := g.check(ctx, s); err != nil {
		return err
	}
	if err := g.touch(ctx, s); err != nil {
		return err
	}
	if len(blobs) > 0 {
		// What was set aside before the digest was known is for these blobs.
		if err := s.put(ctx, `DELETE FROM reservations WHERE id = ? AND blob = ''`, first.ID); err != nil {
			return err
		}
	}
	var cells []any
	var more, count int64
	for i, r := range room {
		if r.Blob != "" && slices.ContainsFunc(room[i+1:], func(o api.Reservation) bool { return o.Blob == r.Blob }) {
			continue // the last counts
		}
		one := int64(1)
		if g.held[r.Blob] {
			one, r.Bytes = 0, 0
		}
		more, count = more+r.Bytes, count+one
		cells = append(cells, r.ID, r.Blob, r.Tenant, r.Bytes, one, r.Holder, r.At)
	}
	if err := roomFor(ctx, s, g.quota, first, blobs, more, count); err != nil {
		return err
	}
	return insertMany(ctx, s, `INSERT INTO reservations (id, blob, tenant, bytes, blobs, holder, made) VALUES `,
		` ON CONFLICT (id, blob) DO UPDATE SET bytes = excluded.bytes, blobs = excluded.blobs, made = excluded.made`, 7, cells)
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
	return write(ctx, db, "take the blobs", func(ctx context.Context, s session) (map[api.Digest]int64, error) {
		type row struct {
			size    int64
			touched api.Time
		}
		found, rows := make([]bool, len(room)), make([]row, len(room))
		for i, r := range room {
			if err := s.askOne(ctx, &found[i], `SELECT size, touched FROM tenant_blobs WHERE tenant = ? AND blob = ?`,
				[]any{r.Tenant, r.Blob}, &rows[i].size, &rows[i].touched); err != nil {
				return nil, err
			}
		}
		if err := s.answers(ctx); err != nil {
			return nil, err
		}
		sizes := make(map[api.Digest]int64, len(room))
		var cells []any
		for i, r := range room {
			// One that is held is not being deleted.
			if _, again := sizes[r.Blob]; !found[i] || again {
				continue
			}
			sizes[r.Blob] = rows[i].size
			cells = append(cells, r.ID, r.Blob, r.Tenant, 0, 0, r.Holder, r.At)
			if rows[i].touched >= r.At.Before(touchApart) {
				continue
			}
			if err := s.put(ctx, `UPDATE tenant_blobs SET touched = ? WHERE tenant = ? AND blob = ?`, r.At, r.Tenant, r.Blob); err != nil {
				return nil, err
			}
		}
		return sizes, insertMany(ctx, s, `INSERT INTO reservations (id, blob, tenant, bytes, blobs, holder, made) VALUES `,
			` ON CONFLICT (id, blob) DO UPDATE SET made = excluded.made`, 7, cells)
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

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
	var found bool
	var quota api.Quota
	if err := askTenant(ctx, s, first.Tenant, &found); err != nil {
		return err
	}
	if err := askQuota(ctx, s, first.Tenant, &quota); err != nil {
		return err
	}
	var blobs []api.Digest
	for _, r := range room {
		if r.Blob != "" && !slices.Contains(blobs, r.Blob) {
			blobs = append(blobs, r.Blob)
		}
	}
	known, err := askTouch(ctx, s, first.Tenant, blobs, first.At)
	if err != nil {
		return err
	}
	if err := s.answers(ctx); err != nil {
		return err
	}
	if !found {
		return noTenant(first.Tenant)
	}
	if err := known.check(); err != nil {
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
		if known.held[r.Blob] {
			one, r.Bytes = 0, 0
		}
		more, count = more+r.Bytes, count+one
		cells = append(cells, r.ID, r.Blob, r.Tenant, r.Bytes, one, r.Holder, r.At)
	}
	if err := roomFor(ctx, s, quota, first, blobs, more, count); err != nil {
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
		if err := needTenant(ctx, s, k.Tenant); err != nil {
			return err
		}
		if err := release(ctx, s, k.Reservation); err != nil {
			return err
		}
		if k.Name == "" {
			return hold(ctx, s, k.Tenant, []api.RepositoryBlob{k.Blob}, k.At)
		}
		return linkBlob(ctx, s, k.Repository, k.Blob, k.At)
	})
}

// TakeBlobs tells how long those of the blobs are that the tenant holds, keeps them for another grace, and reserves them,
// which takes no room.
func (db *DB) TakeBlobs(ctx context.Context, room ...api.Reservation) (map[api.Digest]int64, error) {
	return write(ctx, db, "take the blobs", func(ctx context.Context, s session) (map[api.Digest]int64, error) {
		found, size := make([]bool, len(room)), make([]int64, len(room))
		for i, r := range room {
			if err := s.askOne(ctx, &found[i], `UPDATE tenant_blobs SET touched = ? WHERE tenant = ? AND blob = ? RETURNING size`,
				[]any{r.At, r.Tenant, r.Blob}, &size[i]); err != nil {
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
			if _, again := sizes[r.Blob]; found[i] && !again {
				sizes[r.Blob] = size[i]
				cells = append(cells, r.ID, r.Blob, r.Tenant, 0, 0, r.Holder, r.At)
			}
		}
		return sizes, insertMany(ctx, s, `INSERT INTO reservations (id, blob, tenant, bytes, blobs, holder, made) VALUES `,
			` ON CONFLICT (id, blob) DO UPDATE SET made = excluded.made`, 7, cells)
	})
}

// touch keeps blobs for another grace that the tenant holds, and tells which those are.
func touch(ctx context.Context, s session, t api.TenantID, blobs []api.Digest, at api.Time) (map[api.Digest]bool, error) {
	held := make(map[api.Digest]bool, len(blobs))
	if err := askHeld(ctx, s, t, blobs, at, held); err != nil {
		return nil, err
	}
	return held, s.answers(ctx)
}

// askHeld is touch for a question that others follow at once.
func askHeld(ctx context.Context, s session, t api.TenantID, blobs []api.Digest, at api.Time, held map[api.Digest]bool) error {
	return s.ask(ctx, `UPDATE tenant_blobs SET touched = ? WHERE tenant = ? AND blob IN (`+marks(len(blobs))+`) RETURNING blob`,
		append([]any{at, t}, anys(blobs)...), intoSet(held))
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
		held, err := touch(ctx, s, t, []api.Digest{b}, at)
		if err == nil && !held[b] {
			err = api.Fail(api.CodeBlobNotFound, string(b), "no such blob")
		}
		return err
	})
}

// hold writes down that a tenant holds blobs, and counts them.
func hold(ctx context.Context, s session, t api.TenantID, blobs []api.RepositoryBlob, at api.Time) error {
	known, err := askTouch(ctx, s, t, digestsOf(blobs), at)
	if err != nil {
		return err
	}
	if err := s.answers(ctx); err != nil {
		return err
	}
	if err := known.check(); err != nil {
		return err
	}
	return known.hold(ctx, s, t, blobs, at)
}

// digestsOf lists each blob once.
func digestsOf(blobs []api.RepositoryBlob) (all []api.Digest) {
	seen := make(map[api.Digest]bool, len(blobs))
	for _, b := range blobs {
		if !seen[b.Blob] {
			seen[b.Blob] = true
			all = append(all, b.Blob)
		}
	}
	return all
}

// use counts what a tenant holds.
func use(ctx context.Context, s session, t api.TenantID, bytes, blobs int64) error {
	err := s.put(ctx, `INSERT INTO tenant_usage (tenant, bytes, blobs) VALUES (?, ?, ?)
		ON CONFLICT (tenant) DO UPDATE SET bytes = tenant_usage.bytes + excluded.bytes, blobs = tenant_usage.blobs + excluded.blobs`, t, bytes, blobs)
	return err
}

// touched is what is known of blobs that a tenant is to hold, when the answers to askTouch are there.
type touched struct {
	held  map[api.Digest]bool // by the tenant already; they are kept for another grace
	swept api.Digest          // one that a sweep is deleting
	found bool
}

// askTouch is touch for a tenant that is to hold the blobs.
func askTouch(ctx context.Context, s session, t api.TenantID, blobs []api.Digest, at api.Time) (*touched, error) {
	x := &touched{held: make(map[api.Digest]bool, len(blobs))}
	for some := range slices.Chunk(blobs, indexRowsMax) {
		if err := s.askOne(ctx, &x.found, `SELECT blob FROM dead_blobs WHERE blob IN (`+marks(len(some))+`) AND sweep <> '' LIMIT 1`, anys(some), &x.swept); err != nil {
			return nil, err
		}
		if err := askHeld(ctx, s, t, some, at, x.held); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// check refuses blobs that a sweep is deleting.
func (x *touched) check() error {
	if !x.found {
		return nil
	}
	e := api.Fail(api.CodeUnavailable, string(x.swept), "the blob was dead, and is being deleted at this moment").
		WithCure("Send it again.").Because(api.ErrSwept)
	e.RetryAfter = time.Second
	return e
}

// hold writes down that the tenant holds those that it did not.
func (x *touched) hold(ctx context.Context, s session, t api.TenantID, blobs []api.RepositoryBlob, at api.Time) error {
	var cells, fresh []any
	var bytes int64
	for _, b := range blobs {
		if !x.held[b.Blob] {
			x.held[b.Blob] = true
			cells, fresh, bytes = append(cells, t, b.Blob, b.Size, at), append(fresh, b.Blob), bytes+b.Size
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := insertMany(ctx, s, `INSERT INTO tenant_blobs (tenant, blob, size, touched) VALUES `, "", 4, cells); err != nil {
		return err
	}
	for some := range slices.Chunk(fresh, indexRowsMax) {
		if err := s.put(ctx, `DELETE FROM dead_blobs WHERE blob IN (`+marks(len(some))+`)`, some...); err != nil {
			return err
		}
	}
	return use(ctx, s, t, bytes, int64(len(fresh)))
}

// askPromised makes sure that blobs that a version is made of did not go away since they were uploaded: the tenant holds them,
// or this push reserved them. check says so when the answers are there.
func askPromised(ctx context.Context, s session, t api.TenantID, blobs []api.RepositoryBlob, reservation string) (check func() error, _ error) {
	there := map[api.Digest]bool{}
	for some := range slices.Chunk(digestsOf(blobs), indexRowsMax) {
		args := append(append([]any{t}, anys(some)...), append([]any{reservation}, anys(some)...)...)
		if err := s.ask(ctx, `SELECT blob FROM tenant_blobs WHERE tenant = ? AND blob IN (`+marks(len(some))+`)
			UNION ALL SELECT blob FROM reservations WHERE id = ? AND blob IN (`+marks(len(some))+`)`, args, intoSet(there)); err != nil {
			return nil, err
		}
	}
	return func() error {
		for _, b := range blobs {
			if !there[b.Blob] {
				return api.Fail(api.CodeBlobNotFound, string(b.Blob), "the blob was collected before the push ended")
			}
		}
		return nil
	}, nil
}

package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// The objects that are counted beside bytes and blobs.
const (
	objectModel   = "models"
	objectVersion = "versions"
	objectTag     = "tags"
)

// quotaOf reads a tenant's quota; one that was never set has no limits.
func quotaOf(ctx context.Context, s session, t api.TenantID) (q api.Quota, _ error) {
	var doc string
	var generation int64
	found, err := s.one(ctx, `SELECT doc, generation FROM quotas WHERE tenant = ?`, []any{t}, &doc, &generation)
	if err == nil && found {
		err = decode(doc, &q)
		q.Generation = generation
	}
	return q, err
}

// roomFor refuses a reservation that would take a tenant over its quota: what it holds, what others reserved, and this, for
// the blobs named.
func roomFor(ctx context.Context, s session, q api.Quota, r api.Reservation, named []api.Digest, bytes, blobs int64) error {
	if q.Bytes == 0 && q.Blobs == 0 || bytes == 0 && blobs == 0 {
		return nil
	}
	use, err := usageOf(ctx, s, r.Tenant, r.ID, named)
	if err != nil {
		return err
	}
	if total := use.Bytes + use.ReservedBytes + bytes; q.Bytes > 0 && total > q.Bytes {
		return api.Fail(api.CodeQuotaExceeded, string(r.Tenant), "%d bytes more would make %d, over the tenant's quota of %d bytes: it holds %d, and uploads under way have reserved %d",
			bytes, total, q.Bytes, use.Bytes, use.ReservedBytes)
	}
	if total := use.Blobs + use.ReservedBlobs + blobs; q.Blobs > 0 && total > q.Blobs {
		return api.Fail(api.CodeQuotaExceeded, string(r.Tenant), "%d more would make %d blobs, over the tenant's quota of %d", blobs, total, q.Blobs)
	}
	return nil
}

// usageOf sums what a tenant holds, and what is reserved, but for some blobs of one reservation; without blobs, for that part
// of it whose digest is unknown.
func usageOf(ctx context.Context, s session, t api.TenantID, but string, blobs []api.Digest) (u api.Usage, _ error) {
	if _, err := s.one(ctx, `SELECT bytes, blobs FROM tenant_usage WHERE tenant = ?`, []any{t}, &u.Bytes, &u.Blobs); err != nil {
		return u, err
	}
	more := s.gathered.used(t)
	u.Bytes, u.Blobs = u.Bytes+more.bytes, u.Blobs+more.blobs
	if len(blobs) == 0 {
		blobs = []api.Digest{""}
	}
	_, err := s.one(ctx, `SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT), CAST(COALESCE(SUM(blobs), 0) AS BIGINT) FROM reservations
		WHERE tenant = ? AND NOT (id = ? AND blob IN (`+marks(len(blobs))+`))`, append([]any{t, but}, anys(blobs)...), &u.ReservedBytes, &u.ReservedBlobs)
	return u, err
}

// counts counts the objects of a tenant, up to a bound where one is given.
var counts = map[string]string{
	objectModel:   `SELECT COUNT(*) FROM (SELECT DISTINCT model FROM versions WHERE tenant = ? AND deleted = 0 LIMIT ?) o`,
	objectVersion: `SELECT COUNT(*) FROM (SELECT 1 FROM versions WHERE tenant = ? AND deleted = 0 LIMIT ?) o`,
	objectTag: `SELECT COUNT(*) FROM (SELECT name FROM (SELECT tenant, name FROM aliases WHERE version > 0
		UNION ALL SELECT tenant, name FROM manifest_tags) n WHERE tenant = ? LIMIT ?) o`,
}

// roomForObjects refuses one object more than the tenant's quota has room for. It is asked before the object is made.
func roomForObjects(ctx context.Context, s session, t api.TenantID, m api.ModelName, kind string) error {
	q, err := quotaOf(ctx, s, t)
	if err != nil {
		return err
	}
	return roomWithin(ctx, s, &q, t, m, kind)
}

func roomWithin(ctx context.Context, s session, q *api.Quota, t api.TenantID, m api.ModelName, kind string) error {
	if kind == objectVersion && q.Models > 0 {
		// The first version of a model makes it one model more.
		var one int64
		known, err := s.one(ctx, `SELECT 1 FROM versions WHERE tenant = ? AND model = ? AND deleted = 0 LIMIT 1`, []any{t, m}, &one)
		if err != nil {
			return err
		}
		if !known {
			if err := roomForObject(ctx, s, t, objectModel, q.Models); err != nil {
				return err
			}
		}
	}
	return roomForObject(ctx, s, t, kind, map[string]int64{objectVersion: q.Versions, objectTag: q.Tags}[kind])
}

func roomForObject(ctx context.Context, s session, t api.TenantID, kind string, limit int64) error {
	if limit <= 0 {
		return nil
	}
	var n int64
	if _, err := s.one(ctx, counts[kind], []any{t, limit}, &n); err != nil {
		return err
	}
	if n >= limit {
		return api.Fail(api.CodeQuotaExceeded, string(t), "one more would be over the tenant's quota of %d %s", limit, kind)
	}
	return nil
}

// Quota gives a tenant's limits and what it uses of them.
func (db *DB) Quota(ctx context.Context, t api.TenantID) (api.Quota, error) {
	return read(ctx, db, "read the quota", func(ctx context.Context, s session) (api.Quota, error) {
		if err := needTenant(ctx, s, t); err != nil {
			return api.Quota{}, err
		}
		return shownQuota(ctx, s, t)
	})
}

func shownQuota(ctx context.Context, s session, t api.TenantID) (q api.Quota, err error) {
	if q, err = quotaOf(ctx, s, t); err != nil {
		return q, err
	}
	q.Tenant = t
	if q.Used, err = usageOf(ctx, s, t, "", nil); err != nil {
		return q, err
	}
	const all = 1 << 62
	for kind, n := range map[string]*int64{objectModel: &q.Used.Models, objectVersion: &q.Used.Versions, objectTag: &q.Used.Tags} {
		if _, err := s.one(ctx, counts[kind], []any{t, all}, n); err != nil {
			return q, err
		}
	}
	return q, nil
}

// SetQuota sets a tenant's limits, if they stand at ifGeneration (-1: any; 0: none were set), and records quota.set. A limit
// below what is used takes nothing away: it only lets nothing more in.
func (db *DB) SetQuota(ctx context.Context, t api.TenantID, q api.QuotaRequest, ifGeneration int64, by string, at api.Time) (api.Quota, error) {
	doc, err := encode(q)
	if err != nil {
		return api.Quota{}, err
	}
	return write(ctx, db, "set the quota", func(ctx context.Context, s session) (api.Quota, error) {
		if err := needTenant(ctx, s, t); err != nil {
			return api.Quota{}, err
		}
		var generation int64
		if _, err := s.one(ctx, `SELECT generation FROM quotas WHERE tenant = ?`, []any{t}, &generation); err != nil {
			return api.Quota{}, err
		}
		if ifGeneration >= 0 && ifGeneration != generation {
			return api.Quota{}, api.Fail(api.CodeStale, string(t), "the quota is at generation %d, not %d", generation, ifGeneration)
		}
		delete(s.gathered.free, t)
		if err := s.put(ctx, `INSERT INTO quotas (tenant, doc, generation) VALUES (?, ?, 1)
			ON CONFLICT (tenant) DO UPDATE SET doc = excluded.doc, generation = quotas.generation + 1`, t, doc); err != nil {
			return api.Quota{}, err
		}
		if err := db.appendEvent(ctx, s, api.Event{Tenant: t, At: at, Kind: "quota.set", Subject: string(t), Text: "The quota was set to " + doc + ".", By: by}); err != nil {
			return api.Quota{}, err
		}
		return shownQuota(ctx, s, t)
	})
}

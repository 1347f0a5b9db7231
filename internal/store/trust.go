package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// TrustPolicy gives a tenant's policy; one of generation 0, which asks for nothing, when there never was one.
func (db *DB) TrustPolicy(ctx context.Context, t api.TenantID) (api.TrustPolicy, error) {
	return read(ctx, db, "read the trust policy", func(ctx context.Context, s session) (api.TrustPolicy, error) {
		return trustPolicy(ctx, s, t)
	})
}

func trustPolicy(ctx context.Context, s session, t api.TenantID) (p api.TrustPolicy, _ error) {
	var doc string
	var row api.TrustPolicy
	found, err := s.one(ctx, `SELECT generation, doc, changed, changed_by FROM trust_policies WHERE tenant = ?`, []any{t},
		&row.Generation, &doc, &row.Changed, &row.ChangedBy)
	if err != nil || !found {
		return p, err
	}
	err = decode(doc, &p)
	p.Generation, p.Changed, p.ChangedBy = row.Generation, row.Changed, row.ChangedBy
	return p, err
}

// SaveTrustPolicy puts a policy in the place of the one whose generation is ifGeneration; -1 is any, 0 is none.
func (db *DB) SaveTrustPolicy(ctx context.Context, t api.TenantID, p api.TrustPolicy, ifGeneration int64) (api.TrustPolicy, error) {
	return write(ctx, db, "keep the trust policy", func(ctx context.Context, s session) (api.TrustPolicy, error) {
		if err := needTenant(ctx, s, t); err != nil {
			return p, err
		}
		old, err := trustPolicy(ctx, s, t)
		if err != nil {
			return p, err
		}
		if ifGeneration >= 0 && old.Generation != ifGeneration {
			return p, api.Fail(api.CodeStale, "trust", "the trust policy has changed: it is at generation %d, not %d", old.Generation, ifGeneration)
		}
		p.Generation, p.ChangedBy = old.Generation+1, clean(p.ChangedBy)
		doc, err := encode(api.TrustRequest{Require: p.Require, Aliases: p.Aliases, Keys: p.Keys})
		if err != nil {
			return p, err
		}
		if err := s.put(ctx, `INSERT INTO trust_policies (tenant, generation, doc, changed, changed_by) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (tenant) DO UPDATE SET generation = excluded.generation, doc = excluded.doc, changed = excluded.changed,
			changed_by = excluded.changed_by`, t, p.Generation, doc, p.Changed, p.ChangedBy); err != nil {
			return p, err
		}
		text := "Versions are deployed without a signature."
		if p.Require {
			text = "Only signed versions are deployed."
		}
		return p, db.appendEvent(ctx, s, api.Event{Tenant: t, At: p.Changed, Kind: "trust.changed", Subject: "trust", Text: text, By: p.ChangedBy})
	})
}

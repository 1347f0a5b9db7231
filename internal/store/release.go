package store

import (
	"context"
	"fmt"

	"github.com/penstock/penstock/api"
)

// SaveRelease keeps where a release stands and, when traffic is given, what serves on its endpoint, in one transaction.
// It can be repeated. Each change of state is recorded once as event release.<state>. A release that is over stays over:
// a late report of an earlier state, as a replayed journal brings it, changes the traffic only.
func (db *DB) SaveRelease(ctx context.Context, rel api.Release, traffic *api.Traffic) error {
	var serving string
	if traffic != nil {
		text, err := encode(traffic)
		if err != nil {
			return err
		}
		serving = text
	}
	return change(ctx, db, "keep the release", func(ctx context.Context, s session) error {
		if _, err := needEndpoint(ctx, s, rel.Tenant, rel.Endpoint); err != nil {
			return err
		}
		if serving != "" {
			if err := s.put(ctx, `UPDATE endpoints SET traffic = ? WHERE tenant = ? AND name = ?`, serving, rel.Tenant, rel.Endpoint); err != nil {
				return err
			}
		}
		return db.saveRelease(ctx, s, rel)
	})
}

func (db *DB) saveRelease(ctx context.Context, s session, rel api.Release) error {
	doc, err := encode(rel)
	if err != nil {
		return err
	}
	old, known, err := findRelease(ctx, s, rel.Tenant, rel.Endpoint, rel.Number)
	if err != nil || known && old.State.Final() && !rel.State.Final() {
		return err
	}
	if err := s.put(ctx, `INSERT INTO releases (tenant, endpoint, number, state, doc) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (tenant, endpoint, number) DO UPDATE SET state = excluded.state, doc = excluded.doc`,
		rel.Tenant, rel.Endpoint, rel.Number, rel.State, doc); err != nil {
		return err
	}
	if known && old.State == rel.State {
		return nil
	}
	return db.appendEvent(ctx, s, released(rel))
}

func released(rel api.Release) api.Event {
	at := rel.Started
	if rel.State.Final() && rel.Ended != 0 {
		at = rel.Ended
	}
	text := fmt.Sprintf("Release %d of %s (%s to revision %d): %s", rel.Number, rel.Endpoint, rel.Kind, rel.To, rel.State)
	if rel.Reason != "" {
		text += ", " + rel.Reason
	}
	return api.Event{Tenant: rel.Tenant, At: at, Kind: "release." + string(rel.State), Subject: string(rel.Endpoint), Text: text, By: rel.By}
}

// Release gives one release.
func (db *DB) Release(ctx context.Context, t api.TenantID, e api.EndpointName, n int64) (api.Release, error) {
	return read(ctx, db, "read the release", func(ctx context.Context, s session) (api.Release, error) {
		rel, found, err := findRelease(ctx, s, t, e, n)
		if err != nil || found {
			return rel, err
		}
		if _, err := needEndpoint(ctx, s, t, e); err != nil {
			return rel, err
		}
		return rel, api.Fail(api.CodeNotFound, string(e), "the endpoint has no release %d", n)
	})
}

// Releases lists an endpoint's releases, newest first, from the one below the number given; 0 begins with the newest.
func (db *DB) Releases(ctx context.Context, t api.TenantID, e api.EndpointName, before int64, limit int) ([]api.Release, error) {
	return read(ctx, db, "list releases", func(ctx context.Context, s session) ([]api.Release, error) {
		if _, err := needEndpoint(ctx, s, t, e); err != nil {
			return nil, err
		}
		return documents[api.Release](ctx, s, `SELECT doc FROM releases WHERE tenant = ? AND endpoint = ? AND number < ?
			ORDER BY number DESC LIMIT ?`, t, e, below(before), page(limit))
	})
}

func findRelease(ctx context.Context, s session, t api.TenantID, e api.EndpointName, n int64) (rel api.Release, found bool, _ error) {
	all, err := documents[api.Release](ctx, s, `SELECT doc FROM releases WHERE tenant = ? AND endpoint = ? AND number = ?`, t, e, n)
	if err != nil || len(all) == 0 {
		return rel, false, err
	}
	return all[0], true, nil
}

package store

import (
	"context"
	"fmt"

	"github.com/penstock/penstock/api"
)

// SaveSpec keeps what the user asked for and counts the generation up. It holds only if the endpoint stands at
// ifGeneration (-1: any; 0: it must not exist). The traffic is not touched.
func (db *DB) SaveSpec(ctx context.Context, t api.TenantID, e api.EndpointName, spec api.EndpointSpec, ifGeneration int64,
	at api.Time) (api.Endpoint, error) {
	text, err := encode(spec)
	if err != nil {
		return api.Endpoint{}, err
	}
	return write(ctx, db, "keep the endpoint", func(ctx context.Context, s session) (api.Endpoint, error) {
		return saveSpec(ctx, s, t, e, text, ifGeneration, at)
	})
}

func saveSpec(ctx context.Context, s session, t api.TenantID, e api.EndpointName, spec string, ifGeneration int64,
	at api.Time) (none api.Endpoint, _ error) {
	if err := needTenant(ctx, s, t); err != nil {
		return none, err
	}
	var generation int64
	found, err := s.one(ctx, `SELECT generation FROM endpoints WHERE tenant = ? AND name = ?`, []any{t, e}, &generation)
	switch {
	case err != nil:
		return none, err
	case found && ifGeneration == 0:
		return none, api.Fail(api.CodeExists, string(e), "the endpoint exists already")
	case ifGeneration > 0 && generation != ifGeneration:
		return none, api.Fail(api.CodeStale, string(e), "the endpoint is at generation %d, not %d", generation, ifGeneration)
	}
	traffic, err := encode(api.Traffic{})
	if err != nil {
		return none, err
	}
	if err := s.put(ctx, `INSERT INTO endpoints (tenant, name, spec, generation, created, traffic) VALUES (?, ?, ?, 1, ?, ?)
		ON CONFLICT (tenant, name) DO UPDATE SET spec = excluded.spec, generation = endpoints.generation + 1`,
		t, e, spec, at, traffic); err != nil {
		return none, err
	}
	return needEndpoint(ctx, s, t, e)
}

// SaveTraffic keeps what serves on an endpoint when no release moved it, and records why, in one transaction.
func (db *DB) SaveTraffic(ctx context.Context, ev api.Event, e api.EndpointName, traffic api.Traffic) error {
	text, err := encode(traffic)
	if err != nil {
		return err
	}
	return change(ctx, db, "keep the traffic", func(ctx context.Context, s session) error {
		if _, err := needEndpoint(ctx, s, ev.Tenant, e); err != nil {
			return err
		}
		if err := s.put(ctx, `UPDATE endpoints SET traffic = ? WHERE tenant = ? AND name = ?`, text, ev.Tenant, e); err != nil {
			return err
		}
		return db.appendEvent(ctx, s, ev)
	})
}

// Endpoint gives one endpoint with its traffic; its status is the fleet's to say.
func (db *DB) Endpoint(ctx context.Context, t api.TenantID, e api.EndpointName) (api.Endpoint, error) {
	return read(ctx, db, "read the endpoint", func(ctx context.Context, s session) (api.Endpoint, error) {
		return needEndpoint(ctx, s, t, e)
	})
}

// Endpoints lists a tenant's endpoints by name, from the first after the one given.
func (db *DB) Endpoints(ctx context.Context, t api.TenantID, after api.EndpointName, limit int) ([]api.Endpoint, error) {
	return read(ctx, db, "list endpoints", func(ctx context.Context, s session) ([]api.Endpoint, error) {
		return endpoints(ctx, s, `SELECT tenant, name, spec, generation, created, traffic FROM endpoints
			WHERE tenant = ? AND name > ? ORDER BY name LIMIT ?`, t, after, page(limit))
	})
}

// AllEndpoints lists the endpoints of all tenants, by tenant and name, for compiling the plan.
func (db *DB) AllEndpoints(ctx context.Context) ([]api.Endpoint, error) {
	return read(ctx, db, "list endpoints", func(ctx context.Context, s session) ([]api.Endpoint, error) {
		return endpoints(ctx, s, `SELECT tenant, name, spec, generation, created, traffic FROM endpoints ORDER BY tenant, name`)
	})
}

// DeleteEndpoint removes an endpoint with its revisions and releases, and records endpoint.deleted.
func (db *DB) DeleteEndpoint(ctx context.Context, t api.TenantID, e api.EndpointName, at api.Time, by string) error {
	return change(ctx, db, "delete the endpoint", func(ctx context.Context, s session) error {
		if _, err := needEndpoint(ctx, s, t, e); err != nil {
			return err
		}
		for _, statement := range []string{
			`DELETE FROM callers WHERE tenant = ? AND endpoint = ?`, // another endpoint of this name begins with revision 1 again
			`DELETE FROM releases WHERE tenant = ? AND endpoint = ?`,
			`DELETE FROM revisions WHERE tenant = ? AND endpoint = ?`,
			`DELETE FROM endpoints WHERE tenant = ? AND name = ?`,
		} {
			if err := s.put(ctx, statement, t, e); err != nil {
				return err
			}
		}
		return db.appendEvent(ctx, s, api.Event{Tenant: t, At: at, Kind: "endpoint.deleted", Subject: string(e),
			Text: fmt.Sprintf("Endpoint %s was deleted.", e), By: by})
	})
}

func needEndpoint(ctx context.Context, s session, t api.TenantID, e api.EndpointName) (api.Endpoint, error) {
	found, err := endpoints(ctx, s, `SELECT tenant, name, spec, generation, created, traffic FROM endpoints
		WHERE tenant = ? AND name = ?`, t, e)
	if err != nil || len(found) == 0 {
		return api.Endpoint{}, orElse(err, api.Fail(api.CodeEndpointNotFound, string(e), "no such endpoint"))
	}
	return found[0], nil
}

func endpoints(ctx context.Context, s session, query string, args ...any) ([]api.Endpoint, error) {
	var all []api.Endpoint
	err := s.each(ctx, query, args, func(scan func(...any) error) error {
		var e api.Endpoint
		var spec, traffic string
		if err := scan(&e.Tenant, &e.Name, &spec, &e.Generation, &e.Created, &traffic); err != nil {
			return err
		}
		if err := decode(spec, &e.Spec); err != nil {
			return err
		}
		err := decode(traffic, &e.Traffic)
		all = append(all, e)
		return err
	})
	return all, err
}

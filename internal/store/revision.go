package store

import (
	"context"
	"fmt"
	"math"

	"github.com/penstock/penstock/api"
)

// SaveRevision keeps a new revision together with the release that brings it out, under the numbers that the caller
// chose. A number that is taken means that somebody else released meanwhile: stale, and nothing is kept.
func (db *DB) SaveRevision(ctx context.Context, rev api.Revision, rel api.Release) error {
	doc, err := encode(rev)
	if err != nil {
		return err
	}
	return change(ctx, db, "keep the revision", func(ctx context.Context, s session) error {
		if _, err := needEndpoint(ctx, s, rev.Tenant, rev.Endpoint); err != nil {
			return err
		}
		return db.saveRevision(ctx, s, rev, doc, rel)
	})
}

// StartRelease keeps what the user asked for, the revision that it resolves to and the release that brings it out, in
// one transaction: a deploy is there whole or not at all. ifGeneration is as in SaveSpec, the numbers as in SaveRevision.
func (db *DB) StartRelease(ctx context.Context, spec api.EndpointSpec, ifGeneration int64, rev api.Revision, rel api.Release) (api.Endpoint, error) {
	text, err := encode(spec)
	if err != nil {
		return api.Endpoint{}, err
	}
	doc, err := encode(rev)
	if err != nil {
		return api.Endpoint{}, err
	}
	return write(ctx, db, "keep the deploy", func(ctx context.Context, s session) (api.Endpoint, error) {
		ep, err := saveSpec(ctx, s, rev.Tenant, rev.Endpoint, text, ifGeneration, rev.Created)
		if err != nil {
			return ep, err
		}
		return ep, db.saveRevision(ctx, s, rev, doc, rel)
	})
}

func (db *DB) saveRevision(ctx context.Context, s session, rev api.Revision, doc string, rel api.Release) error {
	if rev.Tenant != rel.Tenant || rev.Endpoint != rel.Endpoint {
		return api.Fail(api.CodeBadRequest, string(rev.Endpoint), "revision and release belong to different endpoints")
	}
	if err := undeleted(ctx, s, &rev); err != nil {
		return err
	}
	rev, renamed, err := renamedSince(ctx, s, rev)
	if err != nil {
		return err
	}
	if renamed {
		if doc, err = encode(rev); err != nil {
			return err
		}
	}
	made, err := s.exec(ctx, `INSERT INTO revisions (tenant, endpoint, number, doc) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		rev.Tenant, rev.Endpoint, rev.Number, doc)
	if err != nil {
		return err
	}
	if made == 0 {
		return api.Fail(api.CodeStale, string(rev.Endpoint), "revision %d exists already", rev.Number)
	}
	_, known, err := findRelease(ctx, s, rel.Tenant, rel.Endpoint, rel.Number)
	if err != nil {
		return err
	}
	if known {
		return api.Fail(api.CodeStale, string(rel.Endpoint), "release %d exists already", rel.Number)
	}
	return db.saveRelease(ctx, s, rel)
}

// Revision gives one revision.
func (db *DB) Revision(ctx context.Context, t api.TenantID, e api.EndpointName, n api.RevisionNumber) (api.Revision, error) {
	return read(ctx, db, "read the revision", func(ctx context.Context, s session) (api.Revision, error) {
		found, err := documents[api.Revision](ctx, s, `SELECT doc FROM revisions WHERE tenant = ? AND endpoint = ? AND number = ?`, t, e, n)
		if err == nil && len(found) > 0 {
			return found[0], nil
		}
		if err == nil {
			_, err = needEndpoint(ctx, s, t, e)
		}
		return api.Revision{}, orElse(err, api.Fail(api.CodeRevisionNotFound, fmt.Sprintf("%s#%d", e, n), "the endpoint has no such revision"))
	})
}

// Revisions lists an endpoint's revisions, newest first, from the one below the number given; 0 begins with the newest.
func (db *DB) Revisions(ctx context.Context, t api.TenantID, e api.EndpointName, before api.RevisionNumber, limit int) ([]api.Revision, error) {
	return read(ctx, db, "list revisions", func(ctx context.Context, s session) ([]api.Revision, error) {
		if _, err := needEndpoint(ctx, s, t, e); err != nil {
			return nil, err
		}
		return documents[api.Revision](ctx, s, `SELECT doc FROM revisions WHERE tenant = ? AND endpoint = ? AND number < ?
			ORDER BY number DESC LIMIT ?`, t, e, below(int64(before)), page(limit))
	})
}

// below is the cursor of a list that runs downwards.
func below(before int64) int64 {
	if before <= 0 {
		return math.MaxInt64
	}
	return before
}

// documents reads rows of one JSON column.
func documents[T any](ctx context.Context, s session, query string, args ...any) ([]T, error) {
	var all []T
	err := s.each(ctx, query, args, func(scan func(...any) error) error {
		var text string
		if err := scan(&text); err != nil {
			return err
		}
		var value T
		err := decode(text, &value)
		all = append(all, value)
		return err
	})
	return all, err
}

package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// NewestRevisions gives the newest revision of every endpoint of all tenants, in one read: a start with thousands of
// endpoints does not ask for each.
func (db *DB) NewestRevisions(ctx context.Context) ([]api.Revision, error) {
	return read(ctx, db, "list the newest revisions", func(ctx context.Context, s session) ([]api.Revision, error) {
		return documents[api.Revision](ctx, s, `SELECT r.doc FROM revisions r WHERE r.number =
			(SELECT MAX(o.number) FROM revisions o WHERE o.tenant = r.tenant AND o.endpoint = r.endpoint)`)
	})
}

// NewestReleases gives the newest release of every endpoint of all tenants.
func (db *DB) NewestReleases(ctx context.Context) ([]api.Release, error) {
	return read(ctx, db, "list the newest releases", func(ctx context.Context, s session) ([]api.Release, error) {
		return documents[api.Release](ctx, s, `SELECT r.doc FROM releases r WHERE r.number =
			(SELECT MAX(o.number) FROM releases o WHERE o.tenant = r.tenant AND o.endpoint = r.endpoint)`)
	})
}

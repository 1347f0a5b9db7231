package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/penstock/penstock/api"
)

// The limits of lineage.
const (
	callersMax = 1000 // keys counted by themselves per revision
	usesMax    = 200  // revisions that one question about a version looks at
)

// CallersOther is the key under which further callers of a revision are counted.
const CallersOther api.KeyID = "other"

func putLinks(ctx context.Context, s session, push *api.ManifestPush, version api.Ref) error {
	for _, l := range push.Lineage {
		if l.To == "" {
			l.ToKind, l.To = api.LineageVersion, version.String()
		}
		if l.FromKind == l.ToKind && l.From == l.To {
			continue // the same content pushed again as derived from itself
		}
		if l.FromKind == api.LineageVersion { // its model may have been renamed since it was looked up
			model, version, _ := strings.Cut(l.From, "@")
			now, err := current(ctx, s, push.Tenant, api.ModelName(model))
			if err != nil {
				return err
			}
			l.From = string(now) + "@" + version
		}
		if err := s.put(ctx, `INSERT INTO lineage_links (tenant, from_kind, from_name, to_kind, to_name, note, added, added_by)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`, push.Tenant, l.FromKind, l.From, l.ToKind, l.To, clean(l.Text),
			push.Pushed, clean(push.PushedBy)); err != nil {
			return err
		}
	}
	return nil
}

const linkColumns = `SELECT from_kind, from_name, to_kind, to_name, note, added, added_by FROM lineage_links WHERE tenant = ? AND `

// LinksFrom lists what came of a thing, oldest first; LinksTo what it came from.
func (db *DB) LinksFrom(ctx context.Context, t api.TenantID, kind api.LineageKind, name string, limit int) ([]api.LineageLink, error) {
	return db.links(ctx, linkColumns+`from_kind = ? AND from_name = ? ORDER BY added, to_kind, to_name LIMIT ?`, t, kind, name, page(limit))
}

// LinksTo lists what a thing came from, oldest first.
func (db *DB) LinksTo(ctx context.Context, t api.TenantID, kind api.LineageKind, name string, limit int) ([]api.LineageLink, error) {
	return db.links(ctx, linkColumns+`to_kind = ? AND to_name = ? ORDER BY added, from_kind, from_name LIMIT ?`, t, kind, name, page(limit))
}

func (db *DB) links(ctx context.Context, query string, args ...any) ([]api.LineageLink, error) {
	return read(ctx, db, "read the lineage", func(ctx context.Context, s session) ([]api.LineageLink, error) {
		var all []api.LineageLink
		err := s.each(ctx, query, args, func(scan func(...any) error) error {
			var l api.LineageLink
			err := scan(&l.FromKind, &l.From, &l.ToKind, &l.To, &l.Text, &l.Added, &l.AddedBy)
			all = append(all, l)
			return err
		})
		return all, err
	})
}

// RevisionsOf lists the revisions of which a version is an arm or a step, newest first. The text search only narrows down:
// what it finds is read and looked into.
func (db *DB) RevisionsOf(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber) ([]api.Revision, error) {
	return read(ctx, db, "find the revisions", func(ctx context.Context, s session) ([]api.Revision, error) {
		m, err := current(ctx, s, t, m)
		if err != nil {
			return nil, err
		}
		found, err := documents[api.Revision](ctx, s, `SELECT doc FROM revisions WHERE tenant = ? AND doc LIKE ? ORDER BY endpoint, number DESC LIMIT ?`,
			t, fmt.Sprintf(`%%"model":"%s","version":%d,%%`, m, n), usesMax)
		var all []api.Revision
		for _, rev := range found {
			for _, ref := range rev.Versions() {
				if ref.Model == m && ref.Version == n {
					all = append(all, rev)
					break
				}
			}
		}
		return all, err
	})
}

// AddCallers adds tallies to those that are stored, all or none. A tally that is added twice is counted twice.
func (db *DB) AddCallers(ctx context.Context, tallies []api.CallerTally) error {
	return change(ctx, db, "count the callers", func(ctx context.Context, s session) error {
		for i := range tallies {
			if err := addCaller(ctx, s, tallies[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func addCaller(ctx context.Context, s session, c api.CallerTally) error {
	model, err := current(ctx, s, c.Tenant, c.Model) // it may have been renamed since it was called
	if err != nil {
		return err
	}
	c.Model = model
	n, err := s.exec(ctx, `UPDATE callers SET requests = requests + ?, last_seen = CASE WHEN last_seen < ? THEN ? ELSE last_seen END
		WHERE tenant = ? AND endpoint = ? AND revision = ? AND api_key = ? AND model = ? AND version = ?`,
		c.Requests, c.Last, c.Last, c.Tenant, c.Endpoint, c.Revision, c.Key, c.Model, c.Version)
	if err != nil || n > 0 {
		return err
	}
	var known int64
	if _, err := s.one(ctx, `SELECT COUNT(*) FROM callers WHERE tenant = ? AND endpoint = ? AND revision = ?`, []any{c.Tenant, c.Endpoint, c.Revision}, &known); err != nil {
		return err
	}
	if known >= callersMax {
		c.Key = CallersOther
	}
	err = s.put(ctx, `INSERT INTO callers (tenant, endpoint, revision, api_key, model, version, requests, first_seen, last_seen)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, endpoint, revision, api_key, model, version) DO UPDATE SET
		requests = callers.requests + excluded.requests, last_seen = excluded.last_seen`,
		c.Tenant, c.Endpoint, c.Revision, c.Key, c.Model, c.Version, c.Requests, c.First, c.Last)
	return err
}

const callerColumns = `SELECT tenant, endpoint, revision, api_key, model, version, requests, first_seen, last_seen FROM callers WHERE tenant = ? AND `

// CallersOf lists who called a revision, the busiest first.
func (db *DB) CallersOf(ctx context.Context, t api.TenantID, e api.EndpointName, n api.RevisionNumber, limit int) ([]api.CallerTally, error) {
	return db.callers(ctx, callerColumns+`endpoint = ? AND revision = ? ORDER BY requests DESC, api_key, model, version LIMIT ?`, t, e, n, page(limit))
}

// CallsOf lists what a key called, the busiest first.
func (db *DB) CallsOf(ctx context.Context, t api.TenantID, key api.KeyID, limit int) ([]api.CallerTally, error) {
	return db.callers(ctx, callerColumns+`api_key = ? ORDER BY requests DESC, endpoint, revision, model, version LIMIT ?`, t, key, page(limit))
}

func (db *DB) callers(ctx context.Context, query string, args ...any) ([]api.CallerTally, error) {
	return read(ctx, db, "read the callers", func(ctx context.Context, s session) ([]api.CallerTally, error) {
		var all []api.CallerTally
		err := s.each(ctx, query, args, func(scan func(...any) error) error {
			var c api.CallerTally
			err := scan(&c.Tenant, &c.Endpoint, &c.Revision, &c.Key, &c.Model, &c.Version, &c.Requests, &c.First, &c.Last)
			all = append(all, c)
			return err
		})
		return all, err
	})
}

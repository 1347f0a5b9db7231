package store

import (
	"context"
	"fmt"
	"maps"

	"github.com/penstock/penstock/api"
)

// CommitVersion adds a version in one transaction: the model is made if it is missing, the version gets the number after
// the latest, the aliases move to it and version.pushed is recorded. When the model already holds the digest, that
// version is returned with created false, and only the aliases move.
func (db *DB) CommitVersion(ctx context.Context, v api.Version, aliases []api.AliasName, why string) (_ api.Version, created bool, _ error) {
	type outcome struct {
		version api.Version
		created bool
	}
	o, err := write(ctx, db, "keep the version", func(ctx context.Context, s session) (o outcome, err error) {
		if o.version, o.created, err = commitVersion(ctx, s, v); err != nil {
			return o, err
		}
		for _, name := range aliases {
			move := aliasMove{v.Tenant, v.Model, name, o.version.Number, -1, v.CreatedBy, why, v.Created}
			if _, err := moveAlias(ctx, s, move); err != nil {
				return o, err
			}
		}
		if o.created {
			err = db.appendEvent(ctx, s, pushed(&o.version, aliases))
		}
		return o, err
	})
	return o.version, o.created, err
}

func commitVersion(ctx context.Context, s session, v api.Version) (_ api.Version, created bool, _ error) {
	if err := needTenant(ctx, s, v.Tenant); err != nil {
		return v, false, err
	}
	if len(v.Tags) > tagsMax {
		return v, false, tooManyTags(v.Ref())
	}
	if _, err := s.exec(ctx, `INSERT INTO models (tenant, name, created, latest) VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING`,
		v.Tenant, v.Model, v.Created); err != nil {
		return v, false, err
	}
	old, err := versions(ctx, s, `SELECT tenant, model, number, digest, state, reason, tags, doc FROM versions
		WHERE tenant = ? AND model = ? AND digest = ?`, v.Tenant, v.Model, v.Digest)
	if err != nil {
		return v, false, err
	}
	if len(old) > 0 {
		return old[0], false, nil
	}
	if _, err := s.one(ctx, `UPDATE models SET latest = latest + 1 WHERE tenant = ? AND name = ? RETURNING latest`,
		[]any{v.Tenant, v.Model}, &v.Number); err != nil {
		return v, false, err
	}
	v.Reason, v.CreatedBy, v.Card = clean(v.Reason), clean(v.CreatedBy), clean(v.Card)
	v.Tags = cleanTags(v.Tags)
	tags, err := encode(v.Tags)
	if err != nil {
		return v, false, err
	}
	doc, err := encodeVersion(v)
	if err != nil {
		return v, false, err
	}
	_, err = s.exec(ctx, `INSERT INTO versions (tenant, model, number, digest, state, reason, tags, doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		v.Tenant, v.Model, v.Number, v.Digest, v.State, v.Reason, tags, doc)
	return v, true, err
}

// encodeVersion writes what never changes; what has a column of its own is left out.
func encodeVersion(v api.Version) (string, error) {
	v.Tenant, v.Model, v.Number, v.Digest, v.State, v.Reason, v.Tags = "", "", 0, "", "", "", nil
	return encode(v)
}

func pushed(v *api.Version, aliases []api.AliasName) api.Event {
	text := fmt.Sprintf("Version %s was pushed", v.Ref())
	for i, a := range aliases {
		if i == 0 {
			text += " and is now"
		}
		text += fmt.Sprintf(" %s:%s", v.Model, a)
	}
	return api.Event{Tenant: v.Tenant, At: v.Created, Kind: "version.pushed", Subject: v.Ref().String(), Text: text + ".", By: v.CreatedBy}
}

// Version gives one version by its number.
func (db *DB) Version(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber) (api.Version, error) {
	return read(ctx, db, "read the version", func(ctx context.Context, s session) (api.Version, error) {
		return needVersion(ctx, s, t, m, n)
	})
}

// VersionByDigest gives the model's version that has the manifest digest.
func (db *DB) VersionByDigest(ctx context.Context, t api.TenantID, m api.ModelName, d api.Digest) (api.Version, error) {
	return read(ctx, db, "read the version", func(ctx context.Context, s session) (api.Version, error) {
		found, err := versions(ctx, s, `SELECT tenant, model, number, digest, state, reason, tags, doc FROM versions
			WHERE tenant = ? AND model = ? AND digest = ?`, t, m, d)
		if err != nil || len(found) == 0 {
			return api.Version{}, orElse(err, noVersion(ctx, s, t, api.Ref{Model: m, Digest: d}))
		}
		return found[0], nil
	})
}

// Versions lists a model's versions, newest first, from the one below the number given; 0 begins with the newest.
func (db *DB) Versions(ctx context.Context, t api.TenantID, m api.ModelName, before api.VersionNumber, limit int) ([]api.Version, error) {
	return read(ctx, db, "list versions", func(ctx context.Context, s session) ([]api.Version, error) {
		if _, err := needModel(ctx, s, t, m); err != nil {
			return nil, err
		}
		return versions(ctx, s, `SELECT tenant, model, number, digest, state, reason, tags, doc FROM versions
			WHERE tenant = ? AND model = ? AND number < ? ORDER BY number DESC LIMIT ?`, t, m, below(int64(before)), page(limit))
	})
}

// SetTags sets and removes tags, and returns the version as it is then. A tag in both is removed.
func (db *DB) SetTags(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber,
	set map[string]string, remove []string) (api.Version, error) {
	set = cleanTags(set)
	return write(ctx, db, "tag the version", func(ctx context.Context, s session) (api.Version, error) {
		v, err := needVersion(ctx, s, t, m, n)
		if err != nil {
			return v, err
		}
		if v.Tags == nil {
			v.Tags = map[string]string{}
		}
		maps.Copy(v.Tags, set)
		for _, name := range remove {
			delete(v.Tags, name)
		}
		if len(v.Tags) > tagsMax {
			return v, tooManyTags(v.Ref())
		}
		tags, err := encode(v.Tags)
		if err != nil {
			return v, err
		}
		_, err = s.exec(ctx, `UPDATE versions SET tags = ? WHERE tenant = ? AND model = ? AND number = ?`, tags, t, m, n)
		return v, err
	})
}

// cleanTags makes a copy, whose texts fit both databases.
func cleanTags(tags map[string]string) map[string]string {
	if tags == nil {
		return nil
	}
	cleaned := make(map[string]string, len(tags))
	for name, value := range tags {
		cleaned[clean(name)] = clean(value)
	}
	return cleaned
}

func tooManyTags(ref api.Ref) error {
	return api.Fail(api.CodeTooLarge, ref.String(), "a version has at most %d tags", tagsMax).WithCure("Remove tags first.")
}

func needVersion(ctx context.Context, s session, t api.TenantID, m api.ModelName, n api.VersionNumber) (api.Version, error) {
	found, err := versions(ctx, s, `SELECT tenant, model, number, digest, state, reason, tags, doc FROM versions
		WHERE tenant = ? AND model = ? AND number = ?`, t, m, n)
	if err != nil || len(found) == 0 {
		return api.Version{}, orElse(err, noVersion(ctx, s, t, api.Ref{Model: m, Version: n}))
	}
	return found[0], nil
}

// noVersion tells a missing version from a missing model.
func noVersion(ctx context.Context, s session, t api.TenantID, ref api.Ref) error {
	if _, err := needModel(ctx, s, t, ref.Model); err != nil {
		return err
	}
	return api.Fail(api.CodeVersionNotFound, ref.String(), "the model has no such version")
}

func versions(ctx context.Context, s session, query string, args ...any) ([]api.Version, error) {
	var all []api.Version
	err := s.each(ctx, query, args, func(scan func(...any) error) error {
		var v, row api.Version
		var tags, doc string
		if err := scan(&row.Tenant, &row.Model, &row.Number, &row.Digest, &row.State, &row.Reason, &tags, &doc); err != nil {
			return err
		}
		if err := decode(doc, &v); err != nil {
			return err
		}
		v.Tenant, v.Model, v.Number, v.Digest, v.State, v.Reason = row.Tenant, row.Model, row.Number, row.Digest, row.State, row.Reason
		err := decode(tags, &v.Tags)
		all = append(all, v)
		return err
	})
	return all, err
}

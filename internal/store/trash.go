package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/penstock/penstock/api"
)

// Soft delete: a deleted version or manifest is a row that no other method sees, until it is restored or collected.

// goneForGood is the time of a deletion that cannot be taken back: its window is over.
const goneForGood api.Time = 1

// DeleteVersion hides a version with its manifest, and records version.deleted. One that an alias, an endpoint or a release
// under way holds is refused with that as the reason. Its number is never given out again.
func (db *DB) DeleteVersion(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber, d api.Deletion) error {
	return changeModel(ctx, db, "delete the version", t, m, func(ctx context.Context, s session, m api.ModelName) error {
		v, err := needVersion(ctx, s, t, m, n)
		if err != nil {
			return err
		}
		held, err := holders(ctx, s, t)
		if err != nil {
			return err
		}
		return db.deleteVersion(ctx, s, v, held, d)
	})
}

// DeleteModel hides all versions of a model, if nothing holds one of them; its aliases go too when that is asked for.
func (db *DB) DeleteModel(ctx context.Context, t api.TenantID, m api.ModelName, withAliases bool, d api.Deletion) error {
	return changeModel(ctx, db, "delete the model", t, m, func(ctx context.Context, s session, m api.ModelName) error {
		if _, err := needModel(ctx, s, t, m); err != nil {
			return err
		}
		if withAliases {
			var names []api.AliasName
			if err := s.each(ctx, `SELECT name FROM aliases WHERE tenant = ? AND model = ? AND version > 0`, []any{t, m}, func(scan func(...any) error) error {
				var a api.AliasName
				err := scan(&a)
				names = append(names, a)
				return err
			}); err != nil {
				return err
			}
			for _, a := range names {
				// A rule that protects an alias holds here too: who may not delete the alias may not delete the model below it.
				move := api.AliasChange{Tenant: t, Model: m, Alias: a, Moves: -1, By: d.Actor(), Why: "the model was deleted", At: d.At}
				if _, err := db.moveAlias(ctx, s, &move); err != nil {
					return err
				}
			}
		}
		held, err := holders(ctx, s, t)
		if err != nil {
			return err
		}
		all, err := versions(ctx, s, `SELECT `+versionColumns+` FROM versions
			WHERE tenant = ? AND model = ? AND deleted = 0 ORDER BY number`, t, m)
		if err != nil {
			return err
		}
		for _, v := range all {
			if err := db.deleteVersion(ctx, s, v, held, d); err != nil {
				return err
			}
		}
		return nil
	})
}

func (db *DB) deleteVersion(ctx context.Context, s session, v api.Version, held map[api.Digest]string, d api.Deletion) error {
	ref := v.Ref().String()
	var alias api.AliasName
	found, err := s.one(ctx, `SELECT name FROM aliases WHERE tenant = ? AND model = ? AND version = ? ORDER BY name LIMIT 1`, []any{v.Tenant, v.Model, v.Number}, &alias)
	if err != nil {
		return err
	}
	if found {
		return api.Fail(api.CodeInUse, ref, "the alias %s:%s names it", v.Model, alias).WithCure("Move or delete the alias first: `penstock alias %s %s --delete`.", v.Model, alias)
	}
	if by := held[v.Digest]; by != "" {
		return api.Fail(api.CodeInUse, ref, "%s", by).WithCure("Deploy another version, and wait for the rollback window; or delete the endpoint.")
	}
	at := d.At
	if d.Now {
		at = goneForGood
	}
	if err := s.put(ctx, `UPDATE versions SET deleted = ?, deleted_by = ? WHERE tenant = ? AND model = ? AND number = ?`,
		at, clean(d.By), v.Tenant, v.Model, v.Number); err != nil {
		return err
	}
	if err := unindexVersion(ctx, s, &v); err != nil {
		return err
	}
	repo := api.Repository{Tenant: v.Tenant, Name: string(v.Model)}
	if err := hideManifest(ctx, s, repo, api.ContentDigest(v.Digest), at, d); err != nil {
		return err
	}
	text := fmt.Sprintf("Version %s was deleted", ref)
	if d.Why != "" {
		text += ": " + d.Why
	}
	return db.appendEvent(ctx, s, api.Event{Tenant: v.Tenant, At: d.At, Kind: "version.deleted", Subject: ref, Text: text + ".", By: d.By})
}

// hideManifest hides a manifest, which may not be there, and takes its tags away. What it is made of has a window of its own
// from now on.
func hideManifest(ctx context.Context, s session, repo api.Repository, digest api.ContentDigest, at api.Time, d api.Deletion) error {
	var tags []string
	if err := s.each(ctx, `SELECT name FROM manifest_tags WHERE tenant = ? AND repository = ? AND digest = ? ORDER BY name`, []any{repo.Tenant, repo.Name, digest},
		func(scan func(...any) error) error {
			var tag string
			err := scan(&tag)
			tags = append(tags, tag)
			return err
		}); err != nil {
		return err
	}
	lost, err := encode(tags)
	if err != nil {
		return err
	}
	if err := s.put(ctx, `DELETE FROM manifest_tags WHERE tenant = ? AND repository = ? AND digest = ?`, repo.Tenant, repo.Name, digest); err != nil {
		return err
	}
	if err := s.put(ctx, `UPDATE manifests SET touched = ? WHERE tenant = ? AND repository = ? AND deleted = 0 AND touched < ?
		AND digest IN (SELECT part FROM manifest_parts WHERE tenant = ? AND repository = ? AND digest = ?)`,
		at, repo.Tenant, repo.Name, at, repo.Tenant, repo.Name, digest); err != nil {
		return err
	}
	err = s.put(ctx, `UPDATE manifests SET deleted = ?, deleted_by = ?, lost_tags = ? WHERE tenant = ? AND repository = ? AND digest = ?`,
		at, clean(d.By), lost, repo.Tenant, repo.Name, digest)
	return err
}

// holders tells what an endpoint of the tenant needs, by the digests of versions: of the current revision, of those that a
// rollback may go to, and of releases under way.
func holders(ctx context.Context, s session, t api.TenantID) (map[api.Digest]string, error) {
	all, err := endpoints(ctx, s, `SELECT tenant, name, spec, generation, created, traffic FROM endpoints WHERE tenant = ? ORDER BY name`, t)
	if err != nil {
		return nil, err
	}
	held := map[api.Digest]string{}
	hold := func(e api.EndpointName, n api.RevisionNumber, why string) error {
		if n == 0 {
			return nil
		}
		revs, err := documents[api.Revision](ctx, s, `SELECT doc FROM revisions WHERE tenant = ? AND endpoint = ? AND number = ?`, t, e, n)
		if err != nil || len(revs) == 0 {
			return err
		}
		for _, d := range revisionDigests(&revs[0]) {
			if held[d] == "" {
				held[d] = fmt.Sprintf("%s of endpoint %s, revision %d, needs it", why, e, n)
			}
		}
		return nil
	}
	for _, e := range all {
		open, err := documents[api.Release](ctx, s, `SELECT doc FROM releases WHERE tenant = ? AND endpoint = ? AND state IN (?, ?)`,
			t, e.Name, api.ReleasePending, api.ReleaseLoading)
		if err != nil {
			return nil, err
		}
		err = hold(e.Name, e.Traffic.Current, "the current revision")
		for _, rel := range open {
			err = firstFault(err, hold(e.Name, rel.To, fmt.Sprintf("release %d, under way,", rel.Number)))
		}
		for _, n := range append(slices.Clone(e.Traffic.Warm), e.Traffic.Previous) {
			err = firstFault(err, hold(e.Name, n, "the rollback window"))
		}
		if err != nil {
			return nil, err
		}
	}
	return held, nil
}

func firstFault(err, next error) error {
	if err != nil {
		return err
	}
	return next
}

// revisionDigests lists the versions that a revision runs, by the digests of their manifests.
func revisionDigests(rev *api.Revision) (all []api.Digest) {
	for _, v := range rev.Variants {
		all = append(all, v.Digest)
		if v.Chain == nil {
			continue
		}
		for _, step := range v.Chain.Steps {
			if step.Digest != "" {
				all = append(all, step.Digest)
			}
		}
	}
	return all
}

// undeleted refuses a revision of versions that were deleted since they were looked up.
func undeleted(ctx context.Context, s session, rev *api.Revision) error {
	for _, d := range revisionDigests(rev) {
		var ref api.Ref
		found, err := s.one(ctx, `SELECT model, number FROM versions v WHERE tenant = ? AND digest = ? AND deleted > 0
			AND NOT EXISTS (SELECT 1 FROM versions o WHERE o.tenant = v.tenant AND o.digest = v.digest AND o.deleted = 0)`,
			[]any{rev.Tenant, d}, &ref.Model, &ref.Version)
		if err != nil {
			return err
		}
		if found {
			return api.Fail(api.CodeVersionNotFound, ref.String(), "the version was deleted a moment ago").WithCure("Restore it with `penstock undelete %s`.", ref)
		}
	}
	return nil
}

// RestoreVersion makes a deleted version visible again, under its own number, and records version.restored.
func (db *DB) RestoreVersion(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber, d api.Deletion) (api.Version, error) {
	return writeModel(ctx, db, "restore the version", t, m, func(ctx context.Context, s session, m api.ModelName) (api.Version, error) {
		found, err := versions(ctx, s, `SELECT `+versionColumns+` FROM versions
			WHERE tenant = ? AND model = ? AND number = ? AND deleted > ?`, t, m, n, goneForGood)
		if err != nil {
			return api.Version{}, err
		}
		if len(found) == 0 {
			return api.Version{}, api.Fail(api.CodeVersionNotFound, api.Ref{Model: m, Version: n}.String(), "there is no such deleted version").
				WithCure("See what can be restored with `penstock trash`.")
		}
		return found[0], db.restoreVersion(ctx, s, found[0], d)
	})
}

func (db *DB) restoreVersion(ctx context.Context, s session, v api.Version, d api.Deletion) error {
	if err := roomForObjects(ctx, s, v.Tenant, v.Model, objectVersion); err != nil {
		return err
	}
	if err := s.put(ctx, `UPDATE versions SET deleted = 0, deleted_by = '' WHERE tenant = ? AND model = ? AND number = ?`, v.Tenant, v.Model, v.Number); err != nil {
		return err
	}
	if err := reindexVersion(ctx, s, &v); err != nil {
		return err
	}
	if err := showManifest(ctx, s, api.Repository{Tenant: v.Tenant, Name: string(v.Model)}, api.ContentDigest(v.Digest), d); err != nil {
		return err
	}
	return db.appendEvent(ctx, s, api.Event{Tenant: v.Tenant, At: d.At, Kind: "version.restored", Subject: v.Ref().String(),
		Text: fmt.Sprintf("Version %s was restored.", v.Ref()), By: d.By})
}

// RestoreManifest makes a deleted manifest visible again with all that it is made of, and with those of its tags that no
// other manifest took meanwhile. One that is a version comes back as that.
func (db *DB) RestoreManifest(ctx context.Context, repo api.Repository, digest api.ContentDigest, d api.Deletion) error {
	return changeRepository(ctx, db, "restore the manifest", repo, func(ctx context.Context, s session, repo api.Repository) error {
		found, err := versions(ctx, s, `SELECT `+versionColumns+` FROM versions
			WHERE tenant = ? AND model = ? AND digest = ? AND deleted > ?`, repo.Tenant, repo.Name, digest, goneForGood)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return db.restoreVersion(ctx, s, found[0], d)
		}
		var one int64
		hidden, err := s.one(ctx, `SELECT 1 FROM manifests WHERE tenant = ? AND repository = ? AND digest = ? AND deleted > ?`,
			[]any{repo.Tenant, repo.Name, digest, goneForGood}, &one)
		if err != nil {
			return err
		}
		if !hidden {
			return api.Fail(api.CodeManifestNotFound, repo.Name, "the repository has no deleted manifest %s", digest).
				WithCure("See what can be restored with `penstock trash`.")
		}
		return showManifest(ctx, s, repo, digest, d)
	})
}

// showManifest ends the hiding of a manifest and of its parts, on every level.
func showManifest(ctx context.Context, s session, repo api.Repository, digest api.ContentDigest, d api.Deletion) error {
	for level := []api.ContentDigest{digest}; len(level) > 0; {
		next := level[0]
		level = level[1:]
		var lost string
		found, err := s.one(ctx, `UPDATE manifests SET deleted = 0, deleted_by = '', touched = ? WHERE tenant = ? AND repository = ? AND digest = ? AND deleted > 0
			RETURNING lost_tags`, []any{d.At, repo.Tenant, repo.Name, next}, &lost)
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		if err := retakeTags(ctx, s, repo, next, lost, d); err != nil {
			return err
		}
		if err := s.put(ctx, `UPDATE repository_blobs SET hidden = 0 WHERE tenant = ? AND repository = ?
			AND digest IN (SELECT part FROM manifest_parts WHERE tenant = ? AND repository = ? AND digest = ?)`,
			repo.Tenant, repo.Name, repo.Tenant, repo.Name, next); err != nil {
			return err
		}
		if err := s.each(ctx, `SELECT part FROM manifest_parts p WHERE tenant = ? AND repository = ? AND digest = ?`, []any{repo.Tenant, repo.Name, next},
			func(scan func(...any) error) error {
				var part api.ContentDigest
				err := scan(&part)
				level = append(level, part)
				return err
			}); err != nil {
			return err
		}
	}
	return nil
}

func retakeTags(ctx context.Context, s session, repo api.Repository, digest api.ContentDigest, lost string, d api.Deletion) error {
	var tags []string
	if lost == "" {
		return nil
	}
	if err := decode(lost, &tags); err != nil {
		return err
	}
	for _, tag := range tags {
		old, _, err := findAlias(ctx, s, repo.Tenant, api.ModelName(repo.Name), api.AliasName(tag))
		if err != nil {
			return err
		}
		if old.Version != 0 {
			continue
		}
		if err := s.put(ctx, `INSERT INTO manifest_tags (tenant, repository, name, digest, moved, moved_by) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			repo.Tenant, repo.Name, tag, digest, d.At, clean(d.By)); err != nil {
			return err
		}
	}
	return nil
}

// Trash lists what a tenant can restore, what was deleted last first.
func (db *DB) Trash(ctx context.Context, t api.TenantID, limit int) ([]api.Deleted, error) {
	return read(ctx, db, "list what was deleted", func(ctx context.Context, s session) ([]api.Deleted, error) {
		var all []api.Deleted
		err := s.each(ctx, `SELECT m.repository, m.digest, m.deleted, m.deleted_by, m.artifact_type, COALESCE(v.number, 0)
			FROM manifests m LEFT JOIN versions v ON v.tenant = m.tenant AND v.model = m.repository AND v.digest = m.digest
			WHERE m.tenant = ? AND m.deleted > ? ORDER BY m.deleted DESC, m.repository, m.digest LIMIT ?`, []any{t, goneForGood, page(limit)},
			func(scan func(...any) error) error {
				var d api.Deleted
				err := scan(&d.Repository, &d.Digest, &d.Deleted, &d.By, &d.Type, &d.Version)
				all = append(all, d)
				return err
			})
		return all, err
	})
}

// loseTag gives a manifest that a tag leaves a window of its own.
func loseTag(ctx context.Context, s session, repo api.Repository, tag string, at api.Time) error {
	err := s.put(ctx, `UPDATE manifests SET touched = ? WHERE tenant = ? AND repository = ? AND touched < ?
		AND digest = (SELECT digest FROM manifest_tags WHERE tenant = ? AND repository = ? AND name = ?)`,
		at, repo.Tenant, repo.Name, at, repo.Tenant, repo.Name, tag)
	return err
}

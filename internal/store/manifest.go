package store

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/api"
)

// PutManifest keeps a manifest and all that goes with it in one transaction: the blobs that the repository holds from now
// on, the version that it is, its tags and aliases. Every part must be in the repository. A tag names one thing: one that
// is kept as a tag ends an alias of that name, and an alias that moves ends a tag. The same manifest can be put again.
// The version returned is zero for a push without one.
func (db *DB) PutManifest(ctx context.Context, push api.ManifestPush) (_ api.Version, created bool, _ error) {
	type outcome struct {
		version api.Version
		created bool
	}
	o, err := write(ctx, db, "keep the manifest", func(ctx context.Context, s session) (o outcome, err error) {
		if err := needTenant(ctx, s, push.Tenant); err != nil {
			return o, err
		}
		if err := putManifest(ctx, s, push); err != nil {
			return o, err
		}
		if push.Version != nil {
			if o.version, o.created, err = commitVersion(ctx, s, *push.Version); err != nil {
				return o, err
			}
			if o.created {
				if err := db.appendEvent(ctx, s, pushed(&o.version, push.Aliases)); err != nil {
					return o, err
				}
			}
		}
		return o, putTags(ctx, s, push, o.version.Number)
	})
	return o.version, o.created, err
}

func putManifest(ctx context.Context, s session, push api.ManifestPush) error {
	for _, b := range push.Links {
		if err := linkBlob(ctx, s, push.Repository, b, push.Pushed); err != nil {
			return err
		}
	}
	for _, part := range push.Parts {
		if err := needPart(ctx, s, push.Repository, part); err != nil {
			return err
		}
	}
	annotations, err := encode(push.Annotations)
	if err != nil {
		return err
	}
	n, err := s.exec(ctx, `INSERT INTO manifests (tenant, repository, digest, blob, size, media_type, artifact_type, subject,
		annotations, pushed, pushed_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		push.Tenant, push.Name, push.Digest, push.Blob, push.Size, clean(push.MediaType), clean(push.ArtifactType), push.Subject,
		annotations, push.Pushed, clean(push.PushedBy))
	if err != nil || n == 0 {
		return err
	}
	for _, part := range push.Parts {
		if _, err := s.exec(ctx, `INSERT INTO manifest_parts (tenant, repository, digest, part) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			push.Tenant, push.Name, push.Digest, part); err != nil {
			return err
		}
	}
	return nil
}

// needPart checks that a blob or a manifest is in the repository.
func needPart(ctx context.Context, s session, repo api.Repository, part api.ContentDigest) error {
	if _, found, err := findBlob(ctx, s, repo, part); err != nil || found {
		return err
	}
	var one int64
	found, err := s.one(ctx, `SELECT 1 FROM manifests WHERE tenant = ? AND repository = ? AND digest = ?`,
		[]any{repo.Tenant, repo.Name, part}, &one)
	if err == nil && !found {
		return api.Fail(api.CodeBlobNotFound, string(part), "the manifest names it, but the repository does not hold it").
			WithCure("Push it to this repository first.")
	}
	return err
}

func putTags(ctx context.Context, s session, push api.ManifestPush, version api.VersionNumber) error {
	model := api.ModelName(push.Name)
	for _, name := range push.Aliases {
		move := aliasMove{push.Tenant, model, name, version, -1, push.PushedBy, push.Why, push.Pushed}
		if _, err := moveAlias(ctx, s, move); err != nil {
			return err
		}
	}
	for _, tag := range push.Tags {
		if !slices.Contains(push.Aliases, api.AliasName(tag)) {
			old, _, err := findAlias(ctx, s, push.Tenant, model, api.AliasName(tag))
			if err != nil {
				return err
			}
			if old.Version != 0 {
				move := aliasMove{push.Tenant, model, old.Name, 0, -1, push.PushedBy, "the tag was pushed for another manifest", push.Pushed}
				if _, err := moveAlias(ctx, s, move); err != nil {
					return err
				}
			}
		}
		if _, err := s.exec(ctx, `INSERT INTO manifest_tags (tenant, repository, name, digest, moved, moved_by) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (tenant, repository, name) DO UPDATE SET digest = excluded.digest, moved = excluded.moved, moved_by = excluded.moved_by`,
			push.Tenant, push.Name, tag, push.Digest, push.Pushed, clean(push.PushedBy)); err != nil {
			return err
		}
	}
	return nil
}

const manifestColumns = `tenant, repository, digest, blob, size, media_type, artifact_type, subject, annotations, pushed, pushed_by`

func manifests(ctx context.Context, s session, query string, args ...any) ([]api.Manifest, error) {
	var all []api.Manifest
	err := s.each(ctx, query, args, func(scan func(...any) error) error {
		var m api.Manifest
		var annotations string
		if err := scan(&m.Tenant, &m.Name, &m.Digest, &m.Blob, &m.Size, &m.MediaType, &m.ArtifactType, &m.Subject, &annotations,
			&m.Pushed, &m.PushedBy); err != nil {
			return err
		}
		err := decode(annotations, &m.Annotations)
		all = append(all, m)
		return err
	})
	return all, err
}

// ManifestByDigest finds a manifest of a repository.
func (db *DB) ManifestByDigest(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.Manifest, error) {
	return read(ctx, db, "find the manifest", func(ctx context.Context, s session) (api.Manifest, error) {
		return needManifest(ctx, s, repo, d)
	})
}

func needManifest(ctx context.Context, s session, repo api.Repository, d api.ContentDigest) (api.Manifest, error) {
	found, err := manifests(ctx, s, `SELECT `+manifestColumns+` FROM manifests WHERE tenant = ? AND repository = ? AND digest = ?`,
		repo.Tenant, repo.Name, d)
	if err != nil || len(found) == 0 {
		return api.Manifest{}, orElse(err, noManifest(repo, string(d)))
	}
	return found[0], nil
}

func noManifest(repo api.Repository, reference string) error {
	return api.Fail(api.CodeManifestNotFound, repo.Name, "the repository has no manifest %s", reference)
}

// ManifestByTag finds the manifest that a tag names: a tag that was pushed, else an alias, else a version's number, or
// latest for the newest version.
func (db *DB) ManifestByTag(ctx context.Context, repo api.Repository, tag string) (api.Manifest, error) {
	return read(ctx, db, "find the manifest", func(ctx context.Context, s session) (api.Manifest, error) {
		digest, err := tagged(ctx, s, repo, tag)
		if err != nil || digest == "" {
			return api.Manifest{}, orElse(err, noManifest(repo, tag))
		}
		return needManifest(ctx, s, repo, digest)
	})
}

// tagged gives the digest that a tag names, or nothing.
func tagged(ctx context.Context, s session, repo api.Repository, tag string) (digest api.ContentDigest, _ error) {
	found, err := s.one(ctx, `SELECT digest FROM manifest_tags WHERE tenant = ? AND repository = ? AND name = ?`,
		[]any{repo.Tenant, repo.Name, tag}, &digest)
	if err != nil || found {
		return digest, err
	}
	query, args := `SELECT v.digest FROM aliases a JOIN versions v ON v.tenant = a.tenant AND v.model = a.model AND v.number = a.version
		WHERE a.tenant = ? AND a.model = ? AND a.name = ?`, []any{repo.Tenant, repo.Name, tag}
	if number, err := strconv.ParseInt(tag, 10, 64); err == nil && strings.Trim(tag, "0123456789") == "" {
		query, args[2] = `SELECT digest FROM versions WHERE tenant = ? AND model = ? AND number = ?`, number
	} else if tag == "latest" {
		query, args = `SELECT v.digest FROM models m JOIN versions v ON v.tenant = m.tenant AND v.model = m.name AND v.number = m.latest
			WHERE m.tenant = ? AND m.name = ?`, args[:2]
	}
	_, err = s.one(ctx, query, args, &digest)
	return digest, err
}

// DeleteManifest removes a manifest with its tags. One that is a version, or part of another manifest, stays.
func (db *DB) DeleteManifest(ctx context.Context, repo api.Repository, d api.ContentDigest) error {
	return change(ctx, db, "delete the manifest", func(ctx context.Context, s session) error {
		if _, err := needManifest(ctx, s, repo, d); err != nil {
			return err
		}
		var number api.VersionNumber
		found, err := s.one(ctx, `SELECT number FROM versions WHERE tenant = ? AND model = ? AND digest = ?`,
			[]any{repo.Tenant, repo.Name, d}, &number)
		if err != nil {
			return err
		}
		if found {
			return api.Fail(api.CodeUnsupported, string(d), "the manifest is the version %s, and versions are not deleted",
				api.Ref{Model: api.ModelName(repo.Name), Version: number})
		}
		if err := needed(ctx, s, repo, d); err != nil {
			return err
		}
		for _, table := range []string{"manifest_tags", "manifest_parts", "manifests"} {
			if _, err := s.exec(ctx, `DELETE FROM `+table+` WHERE tenant = ? AND repository = ? AND digest = ?`, repo.Tenant, repo.Name, d); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteTag removes a tag, and the alias of that name. What it named stays.
func (db *DB) DeleteTag(ctx context.Context, repo api.Repository, tag, by string, at api.Time) error {
	return change(ctx, db, "delete the tag", func(ctx context.Context, s session) error {
		n, err := s.exec(ctx, `DELETE FROM manifest_tags WHERE tenant = ? AND repository = ? AND name = ?`, repo.Tenant, repo.Name, tag)
		if err != nil {
			return err
		}
		old, _, err := findAlias(ctx, s, repo.Tenant, api.ModelName(repo.Name), api.AliasName(tag))
		switch {
		case err != nil:
			return err
		case old.Version != 0:
			_, err = moveAlias(ctx, s, aliasMove{repo.Tenant, api.ModelName(repo.Name), old.Name, 0, -1, by, "the tag was deleted", at})
			return err
		case n == 0:
			return noManifest(repo, tag)
		}
		return nil
	})
}

// Referrers lists the manifests that have a subject, by their digests, from the first after the one given. With a type it
// lists those of that type.
func (db *DB) Referrers(ctx context.Context, repo api.Repository, subject api.ContentDigest, artifactType string, after api.ContentDigest, limit int) ([]api.Manifest, error) {
	return read(ctx, db, "list the referrers", func(ctx context.Context, s session) ([]api.Manifest, error) {
		query, args := `SELECT `+manifestColumns+` FROM manifests WHERE tenant = ? AND repository = ? AND subject = ? AND digest > ?`,
			[]any{repo.Tenant, repo.Name, subject, after}
		if artifactType != "" {
			query, args = query+` AND artifact_type = ?`, append(args, artifactType)
		}
		return manifests(ctx, s, query+` ORDER BY digest LIMIT ?`, append(args, page(limit))...)
	})
}

// VersionsWithoutManifest lists versions whose manifests the repositories do not know yet: those of before there were any.
func (db *DB) VersionsWithoutManifest(ctx context.Context, limit int) ([]api.Version, error) {
	return read(ctx, db, "list versions", func(ctx context.Context, s session) ([]api.Version, error) {
		return versions(ctx, s, `SELECT tenant, model, number, digest, state, reason, tags, doc FROM versions v
			WHERE NOT EXISTS (SELECT 1 FROM manifests m WHERE m.tenant = v.tenant AND m.repository = v.model AND m.digest = v.digest)
			ORDER BY tenant, model, number LIMIT ?`, page(limit))
	})
}

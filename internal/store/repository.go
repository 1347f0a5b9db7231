package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// LinkBlob makes a repository hold a blob. It may hold it already.
func (db *DB) LinkBlob(ctx context.Context, repo api.Repository, b api.RepositoryBlob, at api.Time) error {
	return change(ctx, db, "link the blob", func(ctx context.Context, s session) error {
		return linkBlob(ctx, s, repo, b, at)
	})
}

func linkBlob(ctx context.Context, s session, repo api.Repository, b api.RepositoryBlob, at api.Time) error {
	blobs := []api.RepositoryBlob{b}
	if err := hold(ctx, s, repo, blobs, at); err != nil {
		return err
	}
	return link(ctx, s, repo, blobs, at)
}

// link writes down that a repository, whose name is its own, has blobs that its tenant holds.
func link(ctx context.Context, s session, repo api.Repository, blobs []api.RepositoryBlob, at api.Time) error {
	cells := make([]any, 0, 6*len(blobs))
	linked := make(map[api.ContentDigest]bool, len(blobs))
	for _, b := range blobs {
		if !linked[b.Digest] {
			linked[b.Digest] = true
			cells = append(cells, repo.Tenant, repo.Name, b.Digest, b.Blob, b.Size, at)
		}
	}
	return insertMany(ctx, s, `INSERT INTO repository_blobs (tenant, repository, digest, blob, size, linked) VALUES `,
		` ON CONFLICT (tenant, repository, digest) DO UPDATE SET linked = excluded.linked, hidden = 0`, 6, cells)
}

// RepositoryBlob finds a blob that a repository holds.
func (db *DB) RepositoryBlob(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.RepositoryBlob, error) {
	return readRepository(ctx, db, "find the blob", repo, func(ctx context.Context, s session, repo api.Repository) (api.RepositoryBlob, error) {
		b, found, err := findBlob(ctx, s, repo, d)
		if err == nil && !found {
			err = noBlob(d)
		}
		return b, err
	})
}

func findBlob(ctx context.Context, s session, repo api.Repository, d api.ContentDigest) (b api.RepositoryBlob, found bool, _ error) {
	found, err := s.one(ctx, `SELECT digest, blob, size FROM repository_blobs WHERE tenant = ? AND repository = ? AND digest = ? AND hidden = 0`,
		[]any{repo.Tenant, repo.Name, d}, &b.Digest, &b.Blob, &b.Size)
	return b, found, err
}

// MountBlob makes a repository hold a blob that another repository of the same tenant holds; from is that repository's
// name, and any will do when it is empty. It reports false, and changes nothing, when there is none.
func (db *DB) MountBlob(ctx context.Context, repo api.Repository, from string, d api.ContentDigest, at api.Time) (bool, error) {
	return write(ctx, db, "mount the blob", func(ctx context.Context, s session) (bool, error) {
		var b api.RepositoryBlob
		query, args := `SELECT digest, blob, size FROM repository_blobs WHERE tenant = ? AND digest = ? AND hidden = 0 LIMIT 1`, []any{repo.Tenant, d}
		if from != "" {
			from, err := current(ctx, s, repo.Tenant, api.ModelName(from))
			if err != nil {
				return false, err
			}
			query, args = `SELECT digest, blob, size FROM repository_blobs WHERE tenant = ? AND digest = ? AND repository = ? AND hidden = 0`, append(args, from)
		}
		found, err := s.one(ctx, query, args, &b.Digest, &b.Blob, &b.Size)
		if err != nil || !found {
			return false, err
		}
		return true, linkBlob(ctx, s, repo, b, at)
	})
}

// UnlinkBlob makes a repository hold a blob no more, unless one of its manifests needs it. A manifest that was deleted may be
// restored, so what it is made of is only hidden. The bytes stay where they are.
func (db *DB) UnlinkBlob(ctx context.Context, repo api.Repository, d api.ContentDigest) error {
	return changeRepository(ctx, db, "unlink the blob", repo, func(ctx context.Context, s session, repo api.Repository) error {
		if err := needed(ctx, s, repo, d); err != nil {
			return err
		}
		hidden, err := s.exec(ctx, `UPDATE repository_blobs SET hidden = 1 WHERE tenant = ? AND repository = ? AND digest = ? AND hidden = 0
			AND EXISTS (SELECT 1 FROM manifest_parts p WHERE p.tenant = ? AND p.repository = ? AND p.part = ?)`,
			repo.Tenant, repo.Name, d, repo.Tenant, repo.Name, d)
		if err != nil || hidden > 0 {
			return err
		}
		n, err := s.exec(ctx, `DELETE FROM repository_blobs WHERE tenant = ? AND repository = ? AND digest = ? AND hidden = 0`, repo.Tenant, repo.Name, d)
		if err == nil && n == 0 {
			err = noBlob(d)
		}
		return err
	})
}

// needed refuses to take away what a manifest of the repository is made of.
func needed(ctx context.Context, s session, repo api.Repository, part api.ContentDigest) error {
	var by api.ContentDigest
	found, err := s.one(ctx, `SELECT p.digest FROM manifest_parts p JOIN manifests m ON m.tenant = p.tenant AND m.repository = p.repository AND m.digest = p.digest
		WHERE p.tenant = ? AND p.repository = ? AND p.part = ? AND m.deleted = 0 LIMIT 1`, []any{repo.Tenant, repo.Name, part}, &by)
	if err == nil && found {
		return api.Fail(api.CodeInUse, string(part), "it is part of the manifest %s", by).WithCure("Delete that manifest first.")
	}
	return err
}

func noBlob(d api.ContentDigest) error {
	return api.Fail(api.CodeBlobNotFound, string(d), "the repository has no such blob")
}

// RepositoryTags lists the tags of a repository by their bytes, from the first after the one given: tags of manifests and,
// where the repository is a model's, its aliases. A repository that holds nothing is not found.
func (db *DB) RepositoryTags(ctx context.Context, repo api.Repository, after string, limit int) ([]string, error) {
	return readRepository(ctx, db, "list the tags", repo, func(ctx context.Context, s session, repo api.Repository) ([]string, error) {
		tags := []string{}
		err := s.each(ctx, `SELECT name FROM manifest_tags WHERE tenant = ? AND repository = ? AND name > ?
			UNION SELECT name FROM aliases WHERE tenant = ? AND model = ? AND version > 0 AND name > ? ORDER BY name LIMIT ?`,
			[]any{repo.Tenant, repo.Name, after, repo.Tenant, repo.Name, after, page(limit)}, func(scan func(...any) error) error {
				var tag string
				err := scan(&tag)
				tags = append(tags, tag)
				return err
			})
		if err != nil || len(tags) > 0 {
			return tags, err
		}
		return tags, needRepository(ctx, s, repo)
	})
}

func needRepository(ctx context.Context, s session, repo api.Repository) error {
	var one int64
	found, err := s.one(ctx, `SELECT 1 FROM manifests WHERE tenant = ? AND repository = ? AND deleted = 0
		UNION ALL SELECT 1 FROM repository_blobs WHERE tenant = ? AND repository = ? AND hidden = 0 LIMIT 1`,
		[]any{repo.Tenant, repo.Name, repo.Tenant, repo.Name}, &one)
	if err == nil && !found {
		return api.Fail(api.CodeModelNotFound, repo.Name, "no such repository")
	}
	return err
}

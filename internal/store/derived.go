package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// PutDerived keeps how the parts of a version's image are made; the first is its manifest. Rows of versions that are gone go
// with it.
func (db *DB) PutDerived(ctx context.Context, parts []api.Derived) error {
	docs := make([]string, len(parts))
	for i, d := range parts {
		var err error
		if docs[i], err = encode(d); err != nil {
			return err
		}
	}
	return change(ctx, db, "keep the image", func(ctx context.Context, s session) error {
		for i, d := range parts {
			var err error
			if d.Repository, err = currentRepository(ctx, s, d.Repository); err != nil {
				return err
			}
			if i == 0 {
				if _, err := needManifest(ctx, s, d.Repository, api.ContentDigest(d.Version)); err != nil {
					return err
				}
				if err := s.put(ctx, `DELETE FROM derived WHERE tenant = ? AND repository = ? AND NOT EXISTS (SELECT 1 FROM manifests m
					WHERE m.tenant = derived.tenant AND m.repository = derived.repository AND m.digest = derived.version)`, d.Tenant, d.Name); err != nil {
					return err
				}
			}
			kind := ""
			if i == 0 {
				kind = "image"
			}
			if err := s.put(ctx, `INSERT INTO derived (tenant, repository, digest, version, kind, doc) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
				d.Tenant, d.Name, d.Digest, d.Version, kind, docs[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Derived finds how content is made, by its digest, while the version is there that it is made of.
func (db *DB) Derived(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.Derived, error) {
	return db.derived(ctx, repo, string(d), `d.digest = ?`)
}

// ImageOf finds how the image of a version is made.
func (db *DB) ImageOf(ctx context.Context, repo api.Repository, version api.Digest) (api.Derived, error) {
	return db.derived(ctx, repo, string(version), `d.version = ? AND d.kind = 'image'`)
}

func (db *DB) derived(ctx context.Context, repo api.Repository, value, where string) (api.Derived, error) {
	return readRepository(ctx, db, "find the image", repo, func(ctx context.Context, s session, repo api.Repository) (d api.Derived, _ error) {
		var doc string
		found, err := s.one(ctx, `SELECT d.doc FROM derived d JOIN manifests m ON m.tenant = d.tenant AND m.repository = d.repository AND m.digest = d.version AND m.deleted = 0
			WHERE d.tenant = ? AND d.repository = ? AND `+where+` LIMIT 1`, []any{repo.Tenant, repo.Name, value}, &doc)
		if err == nil && !found {
			err = noManifest(repo, value)
		}
		if err != nil {
			return d, err
		}
		err = decode(doc, &d)
		d.Repository = repo // the document has the name of when it was made
		return d, err
	})
}

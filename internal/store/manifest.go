package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/api"
)

// PutManifest keeps a manifest and all that goes with it in one transaction: the blobs that the repository holds from now
// on, the version that it is, its tags and aliases. Every part must be in the repository. A tag names one thing: one that
// is kept as a tag ends an alias of that name, and an alias that moves ends a tag. The same manifest can be put again.
// What goes along is kept with it. The version returned is zero for a push without one.
func (db *DB) PutManifest(ctx context.Context, push api.ManifestPush) (_ api.Version, created bool, _ error) {
	type outcome struct {
		version api.Version
		created bool
	}
	o, err := write(ctx, db, "keep the manifest", func(ctx context.Context, s session) (o outcome, err error) {
		asked, err := askPush(ctx, s, &push)
		if err != nil {
			return o, err
		}
		if err := putManifests(ctx, s, &push, asked); err != nil {
			return o, err
		}
		if push.Version != nil {
			if o.version, o.created, err = db.commitVersion(ctx, s, *push.Version, asked.version, asked.ground, push.Aliases); err != nil {
				return o, err
			}
		}
		if err := putLinks(ctx, s, &push, o.version.Ref()); err != nil {
			return o, err
		}
		return o, db.putTags(ctx, s, push, &o.version, asked.moves)
	})
	return o.version, o.created, err
}

// asked is what has to be known before a push is kept. On PostgreSQL it is one way there and back.
type asked struct {
	all          []api.ManifestPush // it and those that go along
	links, blobs []api.RepositoryBlob
	ground       *ground
	version      *coming
	moves        map[api.AliasName]*moving
}

// askPush asks for it, and refuses a push that may not be kept.
func askPush(ctx context.Context, s session, push *api.ManifestPush) (*asked, error) {
	a := &asked{all: append([]api.ManifestPush{*push}, push.Along...)}
	for _, m := range a.all {
		a.links, a.blobs = append(a.links, m.Links...), append(append(a.blobs, m.Links...), m.RepositoryBlob)
	}
	var err error
	if a.ground, err = askGround(ctx, s, push.Tenant, api.ModelName(push.Name), digestsOf(a.blobs), push.Pushed); err != nil {
		return nil, err
	}
	reserved := map[api.Digest]bool{}
	if err := askReserved(ctx, s, push, reserved); err != nil {
		return nil, err
	}
	if push.Version != nil {
		if a.version, err = askCommit(ctx, s, push.Version); err != nil {
			return nil, err
		}
		if a.moves, err = askMoves(ctx, s, push.Tenant, push.Version.Model, push.Aliases); err != nil {
			return nil, err
		}
	}
	if err := s.answers(ctx); err != nil {
		return nil, err
	}
	if err := a.ground.check(ctx, s); err != nil || push.Version == nil {
		return a, err
	}
	for _, b := range push.Links { // what the version is made of did not go away since it was uploaded
		if !a.ground.held[b.Blob] && !reserved[b.Blob] {
			return nil, missing(b.Blob)
		}
	}
	return a, nil
}

// askReserved asks what the push has reserved, and ends that reservation unless more of the push is to come.
func askReserved(ctx context.Context, s session, push *api.ManifestPush, reserved map[api.Digest]bool) error {
	if push.Reservation == "" {
		return nil
	}
	query := `DELETE FROM reservations WHERE id = ? RETURNING blob`
	if push.More {
		query = `SELECT blob FROM reservations WHERE id = ?`
	}
	return s.ask(ctx, query, []any{push.Reservation}, intoSet(reserved))
}

// putManifests keeps a manifest, and those that go along, with the blobs of them all.
func putManifests(ctx context.Context, s session, push *api.ManifestPush, a *asked) error {
	if err := a.ground.keep(ctx, s, a.blobs); err != nil {
		return err
	}
	if err := link(ctx, s, push.Repository, a.links, push.Pushed); err != nil {
		return err
	}
	for _, m := range a.all {
		for _, part := range m.Parts {
			if slices.ContainsFunc(a.links, func(b api.RepositoryBlob) bool { return b.Digest == part }) {
				continue
			}
			if err := needPart(ctx, s, push.Repository, part); err != nil {
				return err
			}
		}
	}
	return keepManifests(ctx, s, a.all)
}

// keepManifests writes the rows of manifests of one repository. One that was deleted is there again, without the tags that it
// had: a push names its own.
func keepManifests(ctx context.Context, s session, all []api.ManifestPush) error {
	repo := all[0].Repository
	var cells, parts []any
	kept := make(map[api.ContentDigest]bool, len(all))
	for _, m := range all {
		if kept[m.Digest] {
			continue
		}
		kept[m.Digest] = true
		annotations, err := encode(m.Annotations)
		if err != nil {
			return err
		}
		cells = append(cells, repo.Tenant, repo.Name, m.Digest, m.Blob, m.Size, clean(m.MediaType), clean(m.ArtifactType), m.Subject,
			annotations, m.Pushed, clean(m.PushedBy), m.Pushed)
		for _, part := range m.Parts {
			parts = append(parts, repo.Tenant, repo.Name, m.Digest, part)
		}
	}
	if err := insertMany(ctx, s, `INSERT INTO manifests (tenant, repository, digest, blob, size, media_type, artifact_type, subject,
		annotations, pushed, pushed_by, touched) VALUES `, ` ON CONFLICT (tenant, repository, digest) DO UPDATE SET touched = excluded.touched,
		deleted = 0, deleted_by = '', lost_tags = ''`, 12, cells); err != nil {
		return err
	}
	return insertRows(ctx, s, `INSERT INTO manifest_parts (tenant, repository, digest, part) VALUES `, 4, parts)
}

// needPart checks that a blob or a manifest is in the repository.
func needPart(ctx context.Context, s session, repo api.Repository, part api.ContentDigest) error {
	if _, found, err := findBlob(ctx, s, repo, part); err != nil || found {
		return err
	}
	var one int64
	found, err := s.one(ctx, `SELECT 1 FROM manifests WHERE tenant = ? AND repository = ? AND digest = ? AND deleted = 0`,
		[]any{repo.Tenant, repo.Name, part}, &one)
	if err == nil && !found {
		return api.Fail(api.CodeBlobNotFound, string(part), "the manifest names it, but the repository does not hold it").
			WithCure("Push it to this repository first.")
	}
	return err
}

// mover is who pushed, for the rules of aliases. A push that does not say so has a name for the history, and no scopes.
func mover(push *api.ManifestPush) *api.Principal {
	if push.Pusher != nil {
		return push.Pusher
	}
	return &api.Principal{Name: push.PushedBy}
}

func (db *DB) putTags(ctx context.Context, s session, push api.ManifestPush, version *api.Version, moves map[api.AliasName]*moving) error {
	model := api.ModelName(push.Name)
	move := api.AliasChange{Tenant: push.Tenant, Model: model, To: version.Number, Moves: -1, By: mover(&push), Why: push.Why, At: push.Pushed}
	if err := db.moveAliases(ctx, s, move, push.Aliases, version, moves); err != nil {
		return err
	}
	for _, tag := range push.Tags {
		if !slices.Contains(push.Aliases, api.AliasName(tag)) {
			old, _, err := findAlias(ctx, s, push.Tenant, model, api.AliasName(tag))
			if err != nil {
				return err
			}
			if old.Version != 0 {
				move := api.AliasChange{Tenant: push.Tenant, Model: model, Alias: old.Name, Moves: -1, By: mover(&push), Why: "the tag was pushed for another manifest", At: push.Pushed}
				if _, err := db.moveAlias(ctx, s, &move); err != nil {
					return err
				}
			}
		}
		if err := roomForTag(ctx, s, push.Repository, tag); err != nil {
			return err
		}
		if err := loseTag(ctx, s, push.Repository, tag, push.Pushed); err != nil {
			return err
		}
		if err := s.put(ctx, `INSERT INTO manifest_tags (tenant, repository, name, digest, moved, moved_by) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (tenant, repository, name) DO UPDATE SET digest = excluded.digest, moved = excluded.moved, moved_by = excluded.moved_by`,
			push.Tenant, push.Name, tag, push.Digest, push.Pushed, clean(push.PushedBy)); err != nil {
			return err
		}
		subject := push.Name + ":" + tag
		if err := db.appendEvent(ctx, s, api.Event{Tenant: push.Tenant, At: push.Pushed, Kind: "tag.pushed", Subject: subject, By: push.PushedBy,
			Text: fmt.Sprintf("Tag %s names %s.", subject, push.Digest)}); err != nil {
			return err
		}
	}
	return nil
}

// roomForTag asks for room for a tag that is not there yet.
func roomForTag(ctx context.Context, s session, repo api.Repository, tag string) error {
	var one int64
	known, err := s.one(ctx, `SELECT 1 FROM manifest_tags WHERE tenant = ? AND repository = ? AND name = ?`, []any{repo.Tenant, repo.Name, tag}, &one)
	if err != nil || known {
		return err
	}
	return roomForObjects(ctx, s, repo.Tenant, api.ModelName(repo.Name), objectTag)
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
	return readRepository(ctx, db, "find the manifest", repo, func(ctx context.Context, s session, repo api.Repository) (api.Manifest, error) {
		return needManifest(ctx, s, repo, d)
	})
}

func needManifest(ctx context.Context, s session, repo api.Repository, d api.ContentDigest) (api.Manifest, error) {
	found, err := manifests(ctx, s, `SELECT `+manifestColumns+` FROM manifests WHERE tenant = ? AND repository = ? AND digest = ? AND deleted = 0`,
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
	return readRepository(ctx, db, "find the manifest", repo, func(ctx context.Context, s session, repo api.Repository) (api.Manifest, error) {
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
		query, args[2] = `SELECT digest FROM versions WHERE tenant = ? AND model = ? AND number = ? AND deleted = 0`, number
	} else if tag == "latest" {
		query, args = `SELECT digest FROM versions WHERE tenant = ? AND model = ? AND deleted = 0 ORDER BY number DESC LIMIT 1`, args[:2]
	}
	_, err = s.one(ctx, query, args, &digest)
	return digest, err
}

// DeleteManifest hides a manifest with its tags; it can be restored for a while. One that is a version is deleted as such, and
// stays for the same reasons. One that is part of another manifest stays too.
func (db *DB) DeleteManifest(ctx context.Context, repo api.Repository, d api.ContentDigest, by string, at api.Time) error {
	return changeRepository(ctx, db, "delete the manifest", repo, func(ctx context.Context, s session, repo api.Repository) error {
		if _, err := needManifest(ctx, s, repo, d); err != nil {
			return err
		}
		var number api.VersionNumber
		found, err := s.one(ctx, `SELECT number FROM versions WHERE tenant = ? AND model = ? AND digest = ? AND deleted = 0`,
			[]any{repo.Tenant, repo.Name, d}, &number)
		if err != nil {
			return err
		}
		if err := needed(ctx, s, repo, d); err != nil {
			return err
		}
		deletion := api.Deletion{By: by, At: at}
		if !found {
			return hideManifest(ctx, s, repo, d, at, deletion)
		}
		v, err := needVersion(ctx, s, repo.Tenant, api.ModelName(repo.Name), number)
		if err != nil {
			return err
		}
		held, err := holders(ctx, s, repo.Tenant)
		if err != nil {
			return err
		}
		return db.deleteVersion(ctx, s, v, held, deletion)
	})
}

// DeleteTag removes a tag, and the alias of that name. What it named stays.
func (db *DB) DeleteTag(ctx context.Context, repo api.Repository, tag string, by *api.Principal, at api.Time) error {
	return changeRepository(ctx, db, "delete the tag", repo, func(ctx context.Context, s session, repo api.Repository) error {
		move := api.AliasChange{Tenant: repo.Tenant, Model: api.ModelName(repo.Name), Alias: api.AliasName(tag), Moves: -1, By: by, Why: "the tag was deleted", At: at}
		if err := loseTag(ctx, s, repo, tag, at); err != nil {
			return err
		}
		n, err := s.exec(ctx, `DELETE FROM manifest_tags WHERE tenant = ? AND repository = ? AND name = ?`, repo.Tenant, repo.Name, tag)
		if err != nil {
			return err
		}
		if n > 0 {
			subject := repo.Name + ":" + tag
			if err := db.appendEvent(ctx, s, api.Event{Tenant: repo.Tenant, At: at, Kind: "tag.deleted", Subject: subject, By: move.Mover(),
				Text: fmt.Sprintf("Tag %s was deleted.", subject)}); err != nil {
				return err
			}
		}
		old, _, err := findAlias(ctx, s, move.Tenant, move.Model, move.Alias)
		switch {
		case err != nil:
			return err
		case old.Version != 0:
			_, err = db.moveAlias(ctx, s, &move)
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
		// One statement, so of one moment: that nothing refers to a version must not be said because it is renamed meanwhile.
		query, args := `SELECT `+manifestColumns+` FROM manifests WHERE tenant = ? AND subject = ? AND digest > ? AND deleted = 0
			AND repository = COALESCE((SELECT model FROM model_redirects r WHERE r.tenant = ? AND r.name = ?), ?)`,
			[]any{repo.Tenant, subject, after, repo.Tenant, repo.Name, repo.Name}
		if artifactType != "" {
			query, args = query+` AND artifact_type = ?`, append(args, artifactType)
		}
		return manifests(ctx, s, query+` ORDER BY digest LIMIT ?`, append(args, page(limit))...)
	})
}

// VersionsWithoutManifest lists versions whose manifests the repositories do not know yet: those of before there were any.
func (db *DB) VersionsWithoutManifest(ctx context.Context, limit int) ([]api.Version, error) {
	return read(ctx, db, "list versions", func(ctx context.Context, s session) ([]api.Version, error) {
		return versions(ctx, s, `SELECT `+versionColumns+` FROM versions v
			WHERE NOT EXISTS (SELECT 1 FROM manifests m WHERE m.tenant = v.tenant AND m.repository = v.model AND m.digest = v.digest)
			ORDER BY tenant, model, number LIMIT ?`, page(limit))
	})
}

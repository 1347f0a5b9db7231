package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/penstock/penstock/api"
)

// The garbage collection, as far as rows go. Each step is a short transaction that finds some dead things and removes them;
// it is called until it finds none. A step decides by rows alone, and no push runs beside it, so what it finds dead is.

// Bounds of one transaction of the collection.
const (
	collectBatch  = 200    // things looked at
	rehearsalMost = 10_000 // things that a dry run looks at, in one transaction that is taken back
)

// The steps, in their order: what the later ones find dead may have been alive until an earlier one ended.
const (
	collectingVersions     = "versions"
	collectingManifests    = "manifests"
	collectingLinks        = "links"
	collectingReservations = "reservations"
	collectingHolds        = "holds"
)

// CollectSteps lists the steps of a collection in their order.
func (db *DB) CollectSteps() []string {
	return []string{collectingVersions, collectingManifests, collectingLinks, collectingReservations, collectingHolds}
}

// Collect takes a step: it removes some dead rows and tells which. next is where the step goes on; empty: it is over.
func (db *DB) Collect(ctx context.Context, step string, terms api.CollectTerms, from string) (found []api.Collected, next string, _ error) {
	type outcome struct {
		found []api.Collected
		next  string
	}
	o, err := write(ctx, db, "collect", func(ctx context.Context, s session) (o outcome, err error) {
		o.found, o.next, err = db.collect(ctx, s, step, terms, from, collectBatch)
		return o, err
	})
	return o.found, o.next, err
}

func (db *DB) collect(ctx context.Context, s session, step string, terms api.CollectTerms, from string, most int) ([]api.Collected, string, error) {
	switch step {
	case collectingVersions:
		return db.collectVersions(ctx, s, terms, most)
	case collectingManifests:
		return collectManifests(ctx, s, terms, from, most)
	case collectingLinks:
		return collectLinks(ctx, s, terms, most)
	case collectingReservations:
		return collectReservations(ctx, s, terms, most)
	case collectingHolds:
		return collectHolds(ctx, s, terms, most)
	}
	return nil, "", fmt.Errorf("no step %q", step)
}

// again says where a step goes on that removes what it finds: at its beginning, until it finds little.
func again(found []api.Collected, most int) string {
	if len(found) < most {
		return ""
	}
	return "again"
}

// collectVersions removes versions that were deleted and whose window is over. Their numbers are never given out again,
// since the model keeps the highest one. Their manifests follow in the next step.
func (db *DB) collectVersions(ctx context.Context, s session, terms api.CollectTerms, most int) ([]api.Collected, string, error) {
	var found []api.Collected
	err := s.each(ctx, `SELECT tenant, model, number FROM versions WHERE deleted > 0 AND deleted <= ? ORDER BY tenant, model, number LIMIT ?`,
		[]any{terms.Now.Before(terms.Window), most}, func(scan func(...any) error) error {
			var ref api.Ref
			err := scan(&ref.Tenant, &ref.Model, &ref.Version)
			tenant := ref.Tenant
			ref.Tenant = ""
			found = append(found, api.Collected{Kind: api.CollectedVersion, Tenant: tenant, Subject: ref.String(), Why: "it was deleted, and the time to restore it is over"})
			return err
		})
	if err != nil {
		return nil, "", err
	}
	for _, c := range found {
		ref, err := api.ParseRef(c.Subject)
		if err != nil {
			return nil, "", err
		}
		if err := dropEntry(ctx, s, c.Tenant, ref.Model, ref.Version); err != nil {
			return nil, "", err
		}
		if err := s.put(ctx, `DELETE FROM versions WHERE tenant = ? AND model = ? AND number = ?`, c.Tenant, ref.Model, ref.Version); err != nil {
			return nil, "", err
		}
		if err := db.appendEvent(ctx, s, api.Event{Tenant: c.Tenant, At: terms.Now, Kind: "version.collected", Subject: c.Subject,
			Text: fmt.Sprintf("Version %s is gone for good: the time to restore it was over.", c.Subject)}); err != nil {
			return nil, "", err
		}
	}
	return found, again(found, most), nil
}

// manifestRow is what the collection asks of a manifest.
type manifestRow struct {
	repo    api.Repository
	digest  api.ContentDigest
	size    int64
	subject api.ContentDigest
	deleted api.Time
	touched api.Time
}

// collectManifests removes manifests that no root holds up: no tag, no version, no recent push, no live index around them
// and no live subject below them.
func collectManifests(ctx context.Context, s session, terms api.CollectTerms, from string, most int) (found []api.Collected, next string, _ error) {
	cutoff := terms.Now.Before(terms.Window)
	at := strings.SplitN(from, " ", 3)
	if len(at) < 3 {
		at = []string{"", "", ""}
	}
	var candidates []manifestRow
	err := s.each(ctx, `SELECT tenant, repository, digest FROM manifests m WHERE (deleted > 0 AND deleted <= ? OR deleted = 0 AND touched <= ?)
		AND (tenant, repository, digest) > (?, ?, ?)
		AND NOT EXISTS (SELECT 1 FROM manifest_tags t WHERE t.tenant = m.tenant AND t.repository = m.repository AND t.digest = m.digest)
		AND NOT EXISTS (SELECT 1 FROM versions v WHERE v.tenant = m.tenant AND v.model = m.repository AND v.digest = m.digest)
		ORDER BY tenant, repository, digest LIMIT ?`, []any{cutoff, cutoff, at[0], at[1], at[2], most}, func(scan func(...any) error) error {
		var m manifestRow
		err := scan(&m.repo.Tenant, &m.repo.Name, &m.digest)
		candidates = append(candidates, m)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	for _, m := range candidates {
		seen := map[api.ContentDigest]bool{}
		live, err := standing(ctx, s, m.repo, m.digest, cutoff, seen)
		if err != nil {
			return nil, "", err
		}
		if live {
			continue
		}
		// All that was looked at on the way up is dead too. It goes together: an index must not outlive its parts, nor a subject
		// what refers to it, or a tag that is pushed between two steps could bring half of it back.
		for d := range seen {
			gone, err := removeManifest(ctx, s, api.Repository{Tenant: m.repo.Tenant, Name: m.repo.Name}, d)
			if err != nil {
				return nil, "", err
			}
			found = append(found, gone...)
		}
	}
	if len(candidates) == most {
		last := candidates[len(candidates)-1]
		next = string(last.repo.Tenant) + " " + last.repo.Name + " " + string(last.digest)
	}
	return found, next, nil
}

// standing reports whether a manifest is held up, looking upwards: at its own names, at indexes around it, and at what it
// refers to. seen gets every manifest that was looked at. Digests cannot form a circle, so the way ends.
func standing(ctx context.Context, s session, repo api.Repository, d api.ContentDigest, cutoff api.Time, seen map[api.ContentDigest]bool) (bool, error) {
	if seen[d] {
		return false, nil // on the way already, and nothing was found
	}
	m := manifestRow{repo: repo, digest: d}
	found, err := s.one(ctx, `SELECT subject, deleted, touched FROM manifests WHERE tenant = ? AND repository = ? AND digest = ?`,
		[]any{repo.Tenant, repo.Name, d}, &m.subject, &m.deleted, &m.touched)
	if err != nil || !found {
		return false, err
	}
	seen[d] = true
	if m.deleted > cutoff || m.deleted == 0 && m.touched > cutoff {
		return true, nil
	}
	var one int64
	if found, err = s.one(ctx, `SELECT 1 FROM versions WHERE tenant = ? AND model = ? AND digest = ?
		UNION ALL SELECT 1 FROM manifest_tags WHERE tenant = ? AND repository = ? AND digest = ? LIMIT 1`,
		[]any{repo.Tenant, repo.Name, d, repo.Tenant, repo.Name, d}, &one); err != nil || found {
		return found, err
	}
	var above []api.ContentDigest
	if err := s.each(ctx, `SELECT digest FROM manifest_parts WHERE tenant = ? AND repository = ? AND part = ?`, []any{repo.Tenant, repo.Name, d},
		func(scan func(...any) error) error {
			var up api.ContentDigest
			err := scan(&up)
			above = append(above, up)
			return err
		}); err != nil {
		return false, err
	}
	if m.subject != "" && m.deleted == 0 { // a referrer that somebody deleted does not live on by its subject
		above = append(above, m.subject)
	}
	for _, up := range above {
		live, err := standing(ctx, s, repo, up, cutoff, seen)
		if err != nil || live {
			return live, err
		}
	}
	return false, nil
}

// removeManifest removes a dead manifest, if it is one that may go for itself.
func removeManifest(ctx context.Context, s session, repo api.Repository, d api.ContentDigest) ([]api.Collected, error) {
	var m manifestRow
	found, err := s.one(ctx, `SELECT size, subject, deleted FROM manifests WHERE tenant = ? AND repository = ? AND digest = ?`,
		[]any{repo.Tenant, repo.Name, d}, &m.size, &m.subject, &m.deleted)
	if err != nil || !found {
		return nil, err
	}
	for _, table := range []string{"manifest_parts", "manifests"} {
		if err := s.put(ctx, `DELETE FROM `+table+` WHERE tenant = ? AND repository = ? AND digest = ?`, repo.Tenant, repo.Name, d); err != nil {
			return nil, err
		}
	}
	why := "no tag, version or index has named it for too long"
	switch {
	case m.deleted > 0:
		why = "it was deleted, and the time to restore it is over"
	case m.subject != "":
		why = "what it refers to is gone"
	}
	return []api.Collected{{Kind: api.CollectedManifest, Tenant: repo.Tenant, Subject: repo.Name + "@" + string(d), Bytes: m.size, Why: why}}, nil
}

// collectLinks makes repositories let go of blobs that no manifest of theirs is made of.
func collectLinks(ctx context.Context, s session, terms api.CollectTerms, most int) ([]api.Collected, string, error) {
	type link struct {
		repo   api.Repository
		digest api.ContentDigest
		size   int64
	}
	var dead []link
	err := s.each(ctx, `SELECT tenant, repository, digest, size FROM repository_blobs b WHERE linked <= ?
		AND NOT EXISTS (SELECT 1 FROM manifest_parts p WHERE p.tenant = b.tenant AND p.repository = b.repository AND p.part = b.digest)
		ORDER BY tenant, repository, digest LIMIT ?`, []any{terms.Now.Before(terms.Grace), most}, func(scan func(...any) error) error {
		var l link
		err := scan(&l.repo.Tenant, &l.repo.Name, &l.digest, &l.size)
		dead = append(dead, l)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	var found []api.Collected
	for _, l := range dead {
		if err := s.put(ctx, `DELETE FROM repository_blobs WHERE tenant = ? AND repository = ? AND digest = ?`, l.repo.Tenant, l.repo.Name, l.digest); err != nil {
			return nil, "", err
		}
		found = append(found, api.Collected{Kind: api.CollectedLink, Tenant: l.repo.Tenant, Subject: l.repo.Name + "@" + string(l.digest), Bytes: l.size,
			Why: "no manifest of the repository is made of it"})
	}
	return found, again(found, most), nil
}

// collectReservations ends reservations that nobody ended. Those of a process that starts again go at its start.
func collectReservations(ctx context.Context, s session, terms api.CollectTerms, most int) ([]api.Collected, string, error) {
	var found []api.Collected
	err := s.each(ctx, `SELECT id, tenant, bytes FROM reservations WHERE made <= ? ORDER BY id, blob LIMIT ?`,
		[]any{terms.Now.Before(terms.Pending), most}, func(scan func(...any) error) error {
			c := api.Collected{Kind: api.CollectedReservation, Why: "the upload never ended"}
			err := scan(&c.Subject, &c.Tenant, &c.Bytes)
			found = append(found, c)
			return err
		})
	if err != nil {
		return nil, "", err
	}
	for _, c := range found {
		if err := release(ctx, s, c.Subject); err != nil {
			return nil, "", err
		}
	}
	return found, again(found, most), nil
}

// collectHolds makes tenants let go of blobs that no repository of theirs needs. The bytes of one that nobody holds any more
// are dead from that moment on, and known to be: a crash cannot lose them.
func collectHolds(ctx context.Context, s session, terms api.CollectTerms, most int) ([]api.Collected, string, error) {
	var found []api.Collected
	err := s.each(ctx, `SELECT tenant, blob, size FROM tenant_blobs t WHERE touched <= ?
		AND NOT EXISTS (SELECT 1 FROM repository_blobs b WHERE b.tenant = t.tenant AND b.blob = t.blob)
		AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.tenant = t.tenant AND m.blob = t.blob)
		AND NOT EXISTS (SELECT 1 FROM reservations r WHERE r.blob = t.blob)
		ORDER BY tenant, blob LIMIT ?`, []any{terms.Now.Before(terms.Grace), most}, func(scan func(...any) error) error {
		c := api.Collected{Kind: api.CollectedHold, Why: "no manifest of the tenant is made of it"}
		err := scan(&c.Tenant, &c.Subject, &c.Bytes)
		found = append(found, c)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	for _, c := range found {
		if err := s.put(ctx, `DELETE FROM tenant_blobs WHERE tenant = ? AND blob = ?`, c.Tenant, c.Subject); err != nil {
			return nil, "", err
		}
		s.gathered.use(c.Tenant, amount{-c.Bytes, -1})
		if err := s.put(ctx, `INSERT INTO dead_blobs (blob, size, since, sweep) SELECT ?, ?, 0, ''
			WHERE NOT EXISTS (SELECT 1 FROM tenant_blobs WHERE blob = ?) ON CONFLICT (blob) DO UPDATE SET since = 0`, c.Subject, c.Bytes, c.Subject); err != nil {
			return nil, "", err
		}
	}
	return found, again(found, most), nil
}

// MarkDead notes those blobs of the store that nobody holds, for their grace to begin. It tells how many it found.
func (db *DB) MarkDead(ctx context.Context, blobs []api.BlobInfo, at api.Time) (dead int64, _ error) {
	orphans, err := read(ctx, db, "find orphans", func(ctx context.Context, s session) ([]api.BlobInfo, error) { return unheld(ctx, s, blobs) })
	if err != nil || len(orphans) == 0 {
		return 0, err
	}
	return write(ctx, db, "mark orphans", func(ctx context.Context, s session) (int64, error) { return markDead(ctx, s, orphans, at) })
}

// unheld picks the blobs that nobody holds. It may be wrong about one that is uploaded at this moment, which is then left
// alone by markDead.
func unheld(ctx context.Context, s session, blobs []api.BlobInfo) ([]api.BlobInfo, error) {
	const chunk = 256 // digests of one question; always as many, so that there is one statement
	query := `SELECT DISTINCT blob FROM tenant_blobs WHERE blob IN (` + strings.TrimSuffix(strings.Repeat("?, ", chunk), ", ") + `)`
	var dead []api.BlobInfo
	for at := 0; at < len(blobs); at += chunk {
		some := blobs[at:min(at+chunk, len(blobs))]
		args := make([]any, chunk)
		for i := range args {
			args[i] = some[min(i, len(some)-1)].Digest
		}
		held := map[api.Digest]bool{}
		if err := s.each(ctx, query, args, intoSet(held)); err != nil {
			return nil, err
		}
		for _, b := range some {
			if !held[b.Digest] {
				dead = append(dead, b)
			}
		}
	}
	return dead, nil
}

func markDead(ctx context.Context, s session, orphans []api.BlobInfo, at api.Time) (dead int64, _ error) {
	for _, b := range orphans {
		n, err := s.exec(ctx, `INSERT INTO dead_blobs (blob, size, since, sweep) SELECT ?, ?, ?, '' WHERE NOT EXISTS (SELECT 1 FROM tenant_blobs WHERE blob = ?)
			AND NOT EXISTS (SELECT 1 FROM reservations WHERE blob = ?) ON CONFLICT DO NOTHING`, b.Digest, b.Size, at, b.Digest, b.Digest)
		if err != nil {
			return dead, err
		}
		dead += n
	}
	return dead, nil
}

// ClaimDead marks dead blobs whose grace is over as being deleted by a run, and gives them. From then on nobody can hold
// them until FinishDead. They come by digest, those behind after: a run that could not delete some goes on behind them. What an
// earlier run left half done is among them. waiting is how many are not due yet.
func (db *DB) ClaimDead(ctx context.Context, run string, terms api.CollectTerms, after api.Digest) (dead []api.BlobInfo, waiting int64, _ error) {
	type outcome struct {
		dead    []api.BlobInfo
		waiting int64
	}
	o, err := write(ctx, db, "claim dead blobs", func(ctx context.Context, s session) (o outcome, err error) {
		if o.dead, err = dueBlobs(ctx, s, terms, after, collectBatch); err != nil {
			return o, err
		}
		for _, b := range o.dead {
			if err := s.put(ctx, `UPDATE dead_blobs SET sweep = ? WHERE blob = ?`, run, b.Digest); err != nil {
				return o, err
			}
		}
		_, err = s.one(ctx, `SELECT COUNT(*) FROM dead_blobs WHERE sweep = '' AND since > ?`, []any{terms.Now.Before(terms.Grace)}, &o.waiting)
		return o, err
	})
	return o.dead, o.waiting, err
}

func dueBlobs(ctx context.Context, s session, terms api.CollectTerms, after api.Digest, most int) (due []api.BlobInfo, _ error) {
	// What came to life again is no longer dead, and is forgotten here: a reservation does not do so by itself.
	if err := s.put(ctx, `DELETE FROM dead_blobs WHERE sweep = '' AND (EXISTS (SELECT 1 FROM tenant_blobs t WHERE t.blob = dead_blobs.blob)
		OR EXISTS (SELECT 1 FROM reservations r WHERE r.blob = dead_blobs.blob))`); err != nil {
		return nil, err
	}
	err := s.each(ctx, `SELECT blob, size FROM dead_blobs WHERE (sweep <> '' OR since <= ?) AND blob > ? ORDER BY blob LIMIT ?`,
		[]any{terms.Now.Before(terms.Grace), after, most}, func(scan func(...any) error) error {
			var b api.BlobInfo
			err := scan(&b.Digest, &b.Size)
			due = append(due, b)
			return err
		})
	return due, err
}

// FinishDead ends the deletion of claimed blobs: those that are gone are forgotten, the others can be held again.
func (db *DB) FinishDead(ctx context.Context, run string, gone, left []api.Digest) error {
	return change(ctx, db, "end the sweep", func(ctx context.Context, s session) error {
		for _, b := range gone {
			if err := s.put(ctx, `DELETE FROM dead_blobs WHERE blob = ? AND sweep = ?`, b, run); err != nil {
				return err
			}
		}
		for _, b := range left {
			if err := s.put(ctx, `UPDATE dead_blobs SET sweep = '' WHERE blob = ? AND sweep = ?`, b, run); err != nil {
				return err
			}
		}
		return nil
	})
}

// rehearsal carries what a dry run found out of a transaction that is taken back.
type rehearsal struct{ found []api.Collected }

func (*rehearsal) Error() string { return "only a rehearsal" }

// Rehearse takes every step in one transaction, tells what it found, and takes it all back. orphans are blobs of the store
// that nobody was known to hold. It looks at no more than some thousands of each kind.
func (db *DB) Rehearse(ctx context.Context, terms api.CollectTerms, orphans []api.BlobInfo) ([]api.Collected, error) {
	j := &job{alone: true, run: func(ctx context.Context, s session) (any, error) {
		all := &rehearsal{}
		for _, step := range db.CollectSteps() {
			found, _, err := db.collect(ctx, s, step, terms, "", rehearsalMost)
			if err != nil {
				return nil, err
			}
			all.found = append(all.found, found...)
		}
		if _, err := markDead(ctx, s, orphans[:min(len(orphans), rehearsalMost)], terms.Now); err != nil {
			return nil, err
		}
		due, err := dueBlobs(ctx, s, terms, "", rehearsalMost)
		if err != nil {
			return nil, err
		}
		for _, b := range due {
			all.found = append(all.found, deadBlob(b))
		}
		return nil, all
	}}
	_, err := submit(ctx, db, "rehearse", bulkTimeout, j, func(any) struct{} { return struct{}{} })
	if done := (*rehearsal)(nil); errors.As(err, &done) {
		return done.found, nil
	}
	return nil, err
}

// Unheld picks those of some blobs that nobody holds, without a mark.
func (db *DB) Unheld(ctx context.Context, blobs []api.BlobInfo) ([]api.BlobInfo, error) {
	return read(ctx, db, "find orphans", func(ctx context.Context, s session) ([]api.BlobInfo, error) { return unheld(ctx, s, blobs) })
}

func deadBlob(b api.BlobInfo) api.Collected {
	return api.Collected{Kind: api.CollectedBlob, Subject: string(b.Digest), Bytes: b.Size, Why: "no tenant holds it"}
}

// collectionsKept is how many runs are remembered.
const collectionsKept = 50

// SaveCollection keeps where a run stands.
func (db *DB) SaveCollection(ctx context.Context, c api.Collection) error {
	doc, err := encode(c)
	if err != nil {
		return err
	}
	return change(ctx, db, "keep the collection", func(ctx context.Context, s session) error {
		if err := s.put(ctx, `INSERT INTO collections (id, doc) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET doc = excluded.doc`, c.ID, doc); err != nil {
			return err
		}
		// Ids sort by their time.
		err := s.put(ctx, `DELETE FROM collections WHERE id NOT IN (SELECT id FROM collections ORDER BY id DESC LIMIT ?)`, collectionsKept)
		return err
	})
}

// Collections lists the last runs, newest first.
func (db *DB) Collections(ctx context.Context, limit int) ([]api.Collection, error) {
	return read(ctx, db, "list collections", func(ctx context.Context, s session) ([]api.Collection, error) {
		return documents[api.Collection](ctx, s, `SELECT doc FROM collections ORDER BY id DESC LIMIT ?`, page(limit))
	})
}

// Collection gives one run.
func (db *DB) Collection(ctx context.Context, id api.CollectionID) (api.Collection, error) {
	return read(ctx, db, "read the collection", func(ctx context.Context, s session) (api.Collection, error) {
		found, err := documents[api.Collection](ctx, s, `SELECT doc FROM collections WHERE id = ?`, id)
		if err == nil && len(found) > 0 {
			return found[0], nil
		}
		return api.Collection{}, orElse(err, api.Fail(api.CodeNotFound, string(id), "no such collection"))
	})
}

package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

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
		g, err := askGround(ctx, s, v.Tenant, v.Model, nil, v.Created)
		if err != nil {
			return o, err
		}
		asked, err := askCommit(ctx, s, &v)
		if err != nil {
			return o, err
		}
		if err := s.answers(ctx); err != nil {
			return o, err
		}
		if err := g.check(ctx, s); err != nil {
			return o, err
		}
		if o.version, o.created, err = db.commitVersion(ctx, s, v, asked, g, aliases); err != nil {
			return o, err
		}
		move := api.AliasChange{Tenant: v.Tenant, Model: v.Model, To: o.version.Number, Moves: -1, By: &api.Principal{Name: v.CreatedBy}, Why: why, At: v.Created}
		return o, db.moveAliases(ctx, s, move, aliases, &o.version, nil)
	})
	return o.version, o.created, err
}

// coming is what has to be known before a version is committed, beside its ground.
type coming struct {
	fresh    bool              // its model has no version of this content
	number   api.VersionNumber // its own, if so
	labelled int64             // versions of the model that have its label
}

// askCommit asks for it: it makes the model if there is none, and counts its latest version up if this is a new one.
func askCommit(ctx context.Context, s session, v *api.Version) (*coming, error) {
	if len(v.Tags) > tagsMax {
		return nil, tooManyTags(v.Ref())
	}
	var c coming
	return &c, s.askOne(ctx, &c.fresh, `INSERT INTO models (tenant, name, created, latest) SELECT id, ?, CAST(? AS BIGINT), 1 FROM tenants WHERE id = ?
		ON CONFLICT (tenant, name) DO UPDATE SET latest = models.latest + 1 WHERE NOT EXISTS
		(SELECT 1 FROM versions v WHERE v.tenant = models.tenant AND v.model = models.name AND v.digest = ?)
		RETURNING latest, (SELECT COUNT(*) FROM labels l WHERE l.tenant = ? AND l.model = ? AND l.label = ?)`,
		[]any{v.Model, v.Created, v.Tenant, v.Digest, v.Tenant, v.Model, v.Label}, &c.number, &c.labelled)
}

// commitVersion commits a version when what was asked is there.
func (db *DB) commitVersion(ctx context.Context, s session, v api.Version, asked *coming, g *ground, aliases []api.AliasName) (_ api.Version, created bool, _ error) {
	if !asked.fresh {
		old, err := versions(ctx, s, `SELECT `+versionColumns+` FROM versions WHERE tenant = ? AND model = ? AND digest = ?`, v.Tenant, v.Model, v.Digest)
		if err != nil || len(old) == 0 {
			return v, false, orElse(err, noVersion(ctx, s, v.Tenant, v.Ref()))
		}
		return old[0], false, db.pushedAgain(ctx, s, old[0], v)
	}
	if err := roomWithin(ctx, s, &g.quota, v.Tenant, v.Model, objectVersion); err != nil {
		return v, false, err
	}
	v.Number = asked.number
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
	notes, err := notesOf(&v)
	if err != nil {
		return v, false, err
	}
	if err = s.put(ctx, `INSERT INTO versions (`+versionColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		v.Tenant, v.Model, v.Number, v.Digest, v.State, v.Reason, tags, doc, notes); err != nil {
		return v, false, err
	}
	if v.Label != "" {
		if asked.labelled > 0 {
			return v, false, labelTaken(&v)
		}
		cells, err := labelCells(&v)
		if err != nil {
			return v, false, err
		}
		if err := insertMany(ctx, s, insertLabel, "", len(cells), cells); err != nil {
			return v, false, err
		}
	}
	if err := indexVersion(ctx, s, &v, g.entry); err != nil {
		return v, false, err
	}
	return v, true, db.appendEvent(ctx, s, pushed(&v, aliases))
}

// pushedAgain restores a version that was deleted and whose content is pushed once more: the same content is the same
// version, for as long as it is there.
func (db *DB) pushedAgain(ctx context.Context, s session, old, v api.Version) error {
	var deleted api.Time
	_, err := s.one(ctx, `SELECT deleted FROM versions WHERE tenant = ? AND model = ? AND number = ?`, []any{old.Tenant, old.Model, old.Number}, &deleted)
	if err != nil || deleted == 0 {
		return err
	}
	return db.restoreVersion(ctx, s, old, api.Deletion{By: v.CreatedBy, At: v.Created})
}

// versionColumns are what versions reads, in its order.
const versionColumns = `tenant, model, number, digest, state, reason, tags, doc, notes`

// encodeVersion writes what never changes; what has a column of its own is left out.
func encodeVersion(v api.Version) (string, error) {
	v.Tenant, v.Model, v.Number, v.Digest, v.State, v.Reason, v.Tags = "", "", 0, "", "", "", nil
	notes{}.onto(&v)
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
	return readModel(ctx, db, "read the version", t, m, func(ctx context.Context, s session, m api.ModelName) (api.Version, error) {
		return needVersion(ctx, s, t, m, n)
	})
}

// VersionByDigest gives the model's version that has the manifest digest.
func (db *DB) VersionByDigest(ctx context.Context, t api.TenantID, m api.ModelName, d api.Digest) (api.Version, error) {
	return readModel(ctx, db, "read the version", t, m, func(ctx context.Context, s session, m api.ModelName) (api.Version, error) {
		found, err := versions(ctx, s, `SELECT `+versionColumns+` FROM versions
			WHERE tenant = ? AND model = ? AND digest = ? AND deleted = 0`, t, m, d)
		if err != nil || len(found) == 0 {
			return api.Version{}, orElse(err, noVersion(ctx, s, t, api.Ref{Model: m, Digest: d}))
		}
		return found[0], nil
	})
}

// Versions lists a model's versions, newest first, from the one below the number given; 0 begins with the newest.
func (db *DB) Versions(ctx context.Context, t api.TenantID, m api.ModelName, before api.VersionNumber, limit int) ([]api.Version, error) {
	return readModel(ctx, db, "list versions", t, m, func(ctx context.Context, s session, m api.ModelName) ([]api.Version, error) {
		all, err := versions(ctx, s, `SELECT `+versionColumns+` FROM versions
			WHERE tenant = ? AND model = ? AND number < ? AND deleted = 0 ORDER BY number DESC LIMIT ?`, t, m, below(int64(before)), page(limit))
		if err == nil && len(all) == 0 { // asked last, as everywhere: a model that is renamed between must not seem empty
			_, err = needModel(ctx, s, t, m)
		}
		return all, err
	})
}

// SetTags sets and removes tags, and returns the version as it is then. A tag in both is removed. What changes something
// is recorded as version.tagged.
func (db *DB) SetTags(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber,
	set map[string]string, remove []string, by string, at api.Time) (api.Version, error) {
	set = cleanTags(set)
	return writeModel(ctx, db, "tag the version", t, m, func(ctx context.Context, s session, m api.ModelName) (api.Version, error) {
		v, err := needVersion(ctx, s, t, m, n)
		if err != nil {
			return v, err
		}
		before := maps.Clone(v.Tags)
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
		if err = s.put(ctx, `UPDATE versions SET tags = ? WHERE tenant = ? AND model = ? AND number = ?`, tags, t, m, n); err != nil {
			return v, err
		}
		if err := indexTags(ctx, s, &v); err != nil {
			return v, err
		}
		names := differing(before, v.Tags)
		if len(names) == 0 {
			return v, nil
		}
		return v, db.appendEvent(ctx, s, api.Event{Tenant: t, At: at, Kind: "version.tagged", Subject: v.Ref().String(), By: by,
			Text: fmt.Sprintf("Tags of %s changed: %s.", v.Ref(), strings.Join(names, ", "))})
	})
}

// differing names the tags that two sets do not have alike, in order.
func differing(before, after map[string]string) []string {
	names := map[string]bool{}
	for name, value := range before {
		if now, ok := after[name]; !ok || now != value {
			names[name] = true
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
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

const versionByNumber = `SELECT ` + versionColumns + ` FROM versions WHERE tenant = ? AND model = ? AND number = ? AND deleted = 0`

func needVersion(ctx context.Context, s session, t api.TenantID, m api.ModelName, n api.VersionNumber) (api.Version, error) {
	found, err := versions(ctx, s, versionByNumber, t, m, n)
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

func versions(ctx context.Context, s session, query string, args ...any) (all []api.Version, _ error) {
	err := s.each(ctx, query, args, func(scan func(...any) error) error {
		v, err := scanVersion(scan)
		all = append(all, v)
		return err
	})
	return all, err
}

// scanVersion reads versionColumns, and further columns into more.
func scanVersion(scan func(...any) error, more ...any) (v api.Version, _ error) {
	var row api.Version
	var tags, doc, changing string
	into := []any{&row.Tenant, &row.Model, &row.Number, &row.Digest, &row.State, &row.Reason, &tags, &doc, &changing}
	if err := scan(append(into, more...)...); err != nil {
		return v, err
	}
	if err := decode(doc, &v); err != nil {
		return v, err
	}
	v.Tenant, v.Model, v.Number, v.Digest, v.State, v.Reason = row.Tenant, row.Model, row.Number, row.Digest, row.State, row.Reason
	var n notes
	if err := decode(changing, &n); err != nil {
		return v, err
	}
	n.onto(&v)
	return v, decode(tags, &v.Tags)
}

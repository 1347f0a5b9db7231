package store

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock/penstock/api"
)

// retentionBy is who deletes what a policy does not keep.
const retentionBy = "retention"

// Retention gives a model's policy; one that was never set has no rules.
func (db *DB) Retention(ctx context.Context, t api.TenantID, m api.ModelName) (api.Retention, error) {
	return readModel(ctx, db, "read the retention", t, m, func(ctx context.Context, s session, m api.ModelName) (api.Retention, error) {
		r, err := retentionOf(ctx, s, t, m)
		if err == nil {
			_, err = needModel(ctx, s, t, m)
		}
		return r, err
	})
}

func retentionOf(ctx context.Context, s session, t api.TenantID, m api.ModelName) (api.Retention, error) {
	r := api.Retention{Model: m}
	var doc string
	found, err := s.one(ctx, `SELECT doc, generation FROM retention WHERE tenant = ? AND model = ?`, []any{t, m}, &doc, &r.Generation)
	if err != nil || !found {
		return r, err
	}
	return r, decode(doc, &r.RetentionRules)
}

// SetRetention sets a model's policy, if it stands at ifGeneration (-1: any; 0: none was set), and records retention.set.
func (db *DB) SetRetention(ctx context.Context, t api.TenantID, m api.ModelName, rules api.RetentionRules, ifGeneration int64, by string, at api.Time) (api.Retention, error) {
	doc, err := encode(rules)
	if err != nil {
		return api.Retention{}, err
	}
	return writeModel(ctx, db, "set the retention", t, m, func(ctx context.Context, s session, m api.ModelName) (api.Retention, error) {
		if _, err := needModel(ctx, s, t, m); err != nil {
			return api.Retention{}, err
		}
		old, err := retentionOf(ctx, s, t, m)
		if err != nil {
			return old, err
		}
		if ifGeneration >= 0 && ifGeneration != old.Generation {
			return old, api.Fail(api.CodeStale, string(m), "the retention is at generation %d, not %d", old.Generation, ifGeneration)
		}
		if err := s.put(ctx, `INSERT INTO retention (tenant, model, doc, generation) VALUES (?, ?, ?, 1)
			ON CONFLICT (tenant, model) DO UPDATE SET doc = excluded.doc, generation = retention.generation + 1`, t, m, doc); err != nil {
			return old, err
		}
		if err := db.appendEvent(ctx, s, api.Event{Tenant: t, At: at, Kind: "retention.set", Subject: string(m), Text: "The retention of " + string(m) + " was set to " + doc + ".", By: by}); err != nil {
			return old, err
		}
		return retentionOf(ctx, s, t, m)
	})
}

// Retained lists the models that have a policy, some at a time: those after the one given.
func (db *DB) Retained(ctx context.Context, after api.Repository, limit int) ([]api.Repository, error) {
	return read(ctx, db, "list policies", func(ctx context.Context, s session) ([]api.Repository, error) {
		var all []api.Repository
		err := s.each(ctx, `SELECT tenant, model FROM retention WHERE (tenant, model) > (?, ?) ORDER BY tenant, model LIMIT ?`,
			[]any{after.Tenant, after.Name, page(limit)}, func(scan func(...any) error) error {
				var r api.Repository
				err := scan(&r.Tenant, &r.Name)
				all = append(all, r)
				return err
			})
		return all, err
	})
}

// ApplyRetention judges every version of a model by its policy, and deletes those that nothing keeps. A dry run only tells.
func (db *DB) ApplyRetention(ctx context.Context, t api.TenantID, m api.ModelName, at api.Time, dry bool) ([]api.RetentionVerdict, error) {
	if dry {
		return readModel(ctx, db, "judge by the retention", t, m, func(ctx context.Context, s session, m api.ModelName) ([]api.RetentionVerdict, error) {
			verdicts, _, _, err := judge(ctx, s, t, m, at)
			return verdicts, err
		})
	}
	return writeModel(ctx, db, "apply the retention", t, m, func(ctx context.Context, s session, m api.ModelName) ([]api.RetentionVerdict, error) {
		verdicts, all, held, err := judge(ctx, s, t, m, at)
		if err != nil {
			return nil, err
		}
		for i, v := range verdicts {
			if !v.Delete {
				continue
			}
			if err := db.deleteVersion(ctx, s, all[i], held, api.Deletion{By: retentionBy, Why: v.Why, At: at}); err != nil {
				return nil, err
			}
		}
		return verdicts, nil
	})
}

// judge gives a verdict on each version, newest first.
func judge(ctx context.Context, s session, t api.TenantID, m api.ModelName, at api.Time) (verdicts []api.RetentionVerdict, all []api.Version, held map[api.Digest]string, err error) {
	if _, err = needModel(ctx, s, t, m); err != nil {
		return nil, nil, nil, err
	}
	policy, err := retentionOf(ctx, s, t, m)
	if err != nil {
		return nil, nil, nil, err
	}
	if held, err = holders(ctx, s, t); err != nil {
		return nil, nil, nil, err
	}
	served, err := lastServed(ctx, s, t, at)
	if err != nil {
		return nil, nil, nil, err
	}
	named, err := versionNames(ctx, s, t, m)
	if err != nil {
		return nil, nil, nil, err
	}
	all, err = versions(ctx, s, `SELECT `+versionColumns+` FROM versions
		WHERE tenant = ? AND model = ? AND deleted = 0 ORDER BY number DESC`, t, m)
	for i, v := range all {
		verdict := api.RetentionVerdict{Version: v.Number, Why: kept(policy.RetentionRules, v, int64(i), served[v.Digest], at)}
		if names := named[v.Digest]; verdict.Why == "" && policy.KeepTagged && (len(v.Tags) > 0 || names.tag != "") {
			verdict.Why = "it has a tag"
		}
		switch {
		case named[v.Digest].alias != "":
			verdict.Why = "the alias " + named[v.Digest].alias + " names it"
		case held[v.Digest] != "":
			verdict.Why = held[v.Digest]
		case verdict.Why == "":
			verdict.Delete, verdict.Why = true, "no rule of the model's retention keeps it"
		}
		verdicts = append(verdicts, verdict)
	}
	return verdicts, all, held, err
}

// kept names the rule that keeps a version, or nothing.
func kept(rules api.RetentionRules, v api.Version, newer int64, served, at api.Time) string {
	days := func(n int64) time.Duration { return time.Duration(n) * 24 * time.Hour }
	switch {
	case rules.None():
		return "the model has no retention"
	case newer < rules.KeepLast:
		return fmt.Sprintf("it is among the last %d", rules.KeepLast)
	case rules.KeepDays > 0 && v.Created > at.Before(days(rules.KeepDays)):
		return fmt.Sprintf("it is younger than %d days", rules.KeepDays)
	case rules.KeepServedDays > 0 && served > at.Before(days(rules.KeepServedDays)):
		return fmt.Sprintf("it served within %d days", rules.KeepServedDays)
	}
	return ""
}

// lastServed tells when each version served last on an endpoint that still exists: until the next release succeeded.
func lastServed(ctx context.Context, s session, t api.TenantID, at api.Time) (map[api.Digest]api.Time, error) {
	last := map[api.Digest]api.Time{}
	succeeded, err := documents[api.Release](ctx, s, `SELECT doc FROM releases WHERE tenant = ? AND state = ? ORDER BY endpoint, number`, t, api.ReleaseSucceeded)
	if err != nil {
		return nil, err
	}
	for i, rel := range succeeded {
		until := at
		if i+1 < len(succeeded) && succeeded[i+1].Endpoint == rel.Endpoint {
			until = succeeded[i+1].Ended
		}
		revs, err := documents[api.Revision](ctx, s, `SELECT doc FROM revisions WHERE tenant = ? AND endpoint = ? AND number = ?`, t, rel.Endpoint, rel.To)
		if err != nil {
			return nil, err
		}
		for r := range revs {
			for _, d := range revisionDigests(&revs[r]) {
				last[d] = max(last[d], until)
			}
		}
	}
	return last, nil
}

// names are what points at a version.
type names struct{ alias, tag string }

func versionNames(ctx context.Context, s session, t api.TenantID, m api.ModelName) (map[api.Digest]names, error) {
	all := map[api.Digest]names{}
	err := s.each(ctx, `SELECT v.digest, a.name, '' FROM aliases a JOIN versions v ON v.tenant = a.tenant AND v.model = a.model AND v.number = a.version
		WHERE a.tenant = ? AND a.model = ? UNION ALL SELECT digest, '', name FROM manifest_tags WHERE tenant = ? AND repository = ?`,
		[]any{t, m, t, m}, func(scan func(...any) error) error {
			var d api.Digest
			var alias, tag string
			err := scan(&d, &alias, &tag)
			n := all[d]
			if alias != "" {
				n.alias = alias
			}
			if tag != "" {
				n.tag = tag
			}
			all[d] = n
			return err
		})
	return all, err
}

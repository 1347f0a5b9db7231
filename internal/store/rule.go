package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// rulesMax is how many aliases of one model may be protected.
const rulesMax = 64

// PutAliasRule writes the rule of an alias, which need not exist, and records alias.protected. A rule that asks for nothing
// removes it.
func (db *DB) PutAliasRule(ctx context.Context, t api.TenantID, m api.ModelName, rule api.AliasRule) error {
	return changeModel(ctx, db, "write the rule", t, m, func(ctx context.Context, s session, m api.ModelName) error {
		if _, err := needModel(ctx, s, t, m); err != nil {
			return err
		}
		subject := api.Ref{Model: m, Alias: rule.Alias}.String()
		event := api.Event{Tenant: t, At: rule.Changed, Kind: "alias.protected", Subject: subject, Text: "The alias " + subject + " is protected.", By: rule.ChangedBy}
		if len(rule.Scopes)+len(rule.Keys)+len(rule.Gates) == 0 {
			event.Kind, event.Text = "alias.unprotected", "The alias "+subject+" is protected no more."
			if err := s.put(ctx, `DELETE FROM alias_rules WHERE tenant = ? AND model = ? AND alias = ?`, t, m, rule.Alias); err != nil {
				return err
			}
			return db.appendEvent(ctx, s, event)
		}
		var others int64
		if _, err := s.one(ctx, `SELECT COUNT(*) FROM alias_rules WHERE tenant = ? AND model = ? AND alias <> ?`, []any{t, m, rule.Alias}, &others); err != nil {
			return err
		}
		if others >= rulesMax {
			return api.Fail(api.CodeTooLarge, string(m), "a model has at most %d protected aliases", rulesMax)
		}
		doc, err := encode(rule)
		if err != nil {
			return err
		}
		if err := s.put(ctx, `INSERT INTO alias_rules (tenant, model, alias, doc) VALUES (?, ?, ?, ?)
			ON CONFLICT (tenant, model, alias) DO UPDATE SET doc = excluded.doc`, t, m, rule.Alias, doc); err != nil {
			return err
		}
		return db.appendEvent(ctx, s, event)
	})
}

// AliasRules lists the rules of a model by alias.
func (db *DB) AliasRules(ctx context.Context, t api.TenantID, m api.ModelName) ([]api.AliasRule, error) {
	return readModel(ctx, db, "list the rules", t, m, func(ctx context.Context, s session, m api.ModelName) ([]api.AliasRule, error) {
		all, err := aliasRules(ctx, s, `SELECT doc FROM alias_rules WHERE tenant = ? AND model = ? ORDER BY alias`, t, m)
		if err == nil {
			_, err = needModel(ctx, s, t, m)
		}
		return all, err
	})
}

func aliasRules(ctx context.Context, s session, query string, args ...any) (all []api.AliasRule, _ error) {
	err := s.each(ctx, query, args, func(scan func(...any) error) error {
		var doc string
		var rule api.AliasRule
		if err := scan(&doc); err != nil {
			return err
		}
		err := decode(doc, &rule)
		all = append(all, rule)
		return err
	})
	return all, err
}

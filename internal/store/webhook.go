package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// WebhookSecrets are the sealed secrets of a webhook. Old signs, too, until OldUntil; it is empty when there is none.
type WebhookSecrets struct {
	Now, Old string
	OldUntil api.Time
}

// PutWebhook keeps a new webhook with its sealed secret, when the tenant has fewer than most.
func (db *DB) PutWebhook(ctx context.Context, w api.Webhook, secret string, most int64) error {
	doc, err := encodeWebhook(w)
	if err != nil {
		return err
	}
	return change(ctx, db, "keep the webhook", func(ctx context.Context, s session) error {
		if err := needTenant(ctx, s, w.Tenant); err != nil {
			return err
		}
		var n int64
		if _, err := s.one(ctx, `SELECT COUNT(*) FROM webhooks WHERE tenant = ?`, []any{w.Tenant}, &n); err != nil {
			return err
		}
		if n >= most {
			return api.Fail(api.CodeTooLarge, "", "the tenant has %d webhooks, which is the limit", n).WithCure("Delete one that nobody needs.")
		}
		delete(s.gathered.silent, w.Tenant)
		made, err := s.exec(ctx, `INSERT INTO webhooks (tenant, id, doc, secret, old_secret, old_until, failing, disabled, reason, latest,
			pending, ended) VALUES (?, ?, ?, ?, '', 0, 0, 0, '', 0, 0, 0) ON CONFLICT DO NOTHING`, w.Tenant, w.ID, doc, secret)
		if err == nil && made == 0 {
			return api.Fail(api.CodeExists, string(w.ID), "the webhook exists already")
		}
		return err
	})
}

// encodeWebhook writes what the user asked for; what has a column of its own is left out.
func encodeWebhook(w api.Webhook) (string, error) {
	w.Tenant, w.ID, w.OldSecret, w.Failing, w.Disabled, w.Reason, w.Pending = "", "", 0, 0, 0, "", 0
	w.Text, w.CreatedBy = clean(w.Text), clean(w.CreatedBy)
	return encode(w)
}

// Webhooks lists a tenant's webhooks, oldest first.
func (db *DB) Webhooks(ctx context.Context, t api.TenantID) ([]api.Webhook, error) {
	return read(ctx, db, "list webhooks", func(ctx context.Context, s session) ([]api.Webhook, error) {
		return webhooks(ctx, s, `WHERE tenant = ? ORDER BY id`, t)
	})
}

// Webhook gives one webhook.
func (db *DB) Webhook(ctx context.Context, t api.TenantID, id api.WebhookID) (api.Webhook, error) {
	return read(ctx, db, "read the webhook", func(ctx context.Context, s session) (api.Webhook, error) {
		return needWebhook(ctx, s, t, id)
	})
}

// WebhookSecrets gives the sealed secrets of a webhook.
func (db *DB) WebhookSecrets(ctx context.Context, t api.TenantID, id api.WebhookID) (WebhookSecrets, error) {
	return read(ctx, db, "read the webhook's secrets", func(ctx context.Context, s session) (kept WebhookSecrets, err error) {
		found, err := s.one(ctx, `SELECT secret, old_secret, old_until FROM webhooks WHERE tenant = ? AND id = ?`, []any{t, id},
			&kept.Now, &kept.Old, &kept.OldUntil)
		if err == nil && !found {
			err = noWebhook(id)
		}
		return kept, err
	})
}

// ChangeWebhook keeps what the user asks for from now on. To enable one forgets how long it failed; to disable one
// gives up what waits.
func (db *DB) ChangeWebhook(ctx context.Context, t api.TenantID, id api.WebhookID, c api.WebhookChange, by string, at api.Time) (api.Webhook, error) {
	return write(ctx, db, "change the webhook", func(ctx context.Context, s session) (api.Webhook, error) {
		w, err := needWebhook(ctx, s, t, id)
		if err != nil {
			return w, err
		}
		setTo(&w.URL, c.URL)
		setTo(&w.Text, c.Text)
		setTo(&w.Kinds, c.Kinds)
		setTo(&w.Subjects, c.Subjects)
		doc, err := encodeWebhook(w)
		if err != nil {
			return w, err
		}
		if err := s.put(ctx, `UPDATE webhooks SET doc = ? WHERE tenant = ? AND id = ?`, doc, t, id); err != nil {
			return w, err
		}
		switch {
		case c.Enabled == nil:
		case *c.Enabled:
			delete(s.gathered.silent, t)
			err = s.put(ctx, `UPDATE webhooks SET disabled = 0, reason = '', failing = 0 WHERE tenant = ? AND id = ?`, t, id)
		case w.Disabled == 0:
			err = db.disable(ctx, s, w, "disabled by "+clean(by), at)
		}
		if err != nil {
			return w, err
		}
		return needWebhook(ctx, s, t, id)
	})
}

func setTo[T any](field, to *T) {
	if to != nil {
		*field = *to
	}
}

// RotateWebhook puts a new sealed secret in the place of the present one, which goes on signing until the time given.
func (db *DB) RotateWebhook(ctx context.Context, t api.TenantID, id api.WebhookID, secret string, oldUntil api.Time) (api.Webhook, error) {
	return write(ctx, db, "keep the webhook's secret", func(ctx context.Context, s session) (w api.Webhook, err error) {
		if err := s.put(ctx, `UPDATE webhooks SET old_secret = secret, old_until = ?, secret = ? WHERE tenant = ? AND id = ?`,
			oldUntil, secret, t, id); err != nil {
			return w, err
		}
		return needWebhook(ctx, s, t, id)
	})
}

// DeleteWebhook removes a webhook with its deliveries, also those that wait.
func (db *DB) DeleteWebhook(ctx context.Context, t api.TenantID, id api.WebhookID) error {
	return change(ctx, db, "delete the webhook", func(ctx context.Context, s session) error {
		if err := s.put(ctx, `DELETE FROM deliveries WHERE tenant = ? AND webhook = ?`, t, id); err != nil {
			return err
		}
		n, err := s.exec(ctx, `DELETE FROM webhooks WHERE tenant = ? AND id = ?`, t, id)
		if err == nil && n == 0 {
			err = noWebhook(id)
		}
		return err
	})
}

// disable stops a webhook, gives up what waits for it, and records webhook.disabled.
func (db *DB) disable(ctx context.Context, s session, w api.Webhook, reason string, at api.Time) error {
	if err := s.put(ctx, `UPDATE deliveries SET state = ?, due = 0, ended = ? WHERE tenant = ? AND webhook = ? AND state = ?`,
		api.DeliveryDead, at, w.Tenant, w.ID, api.DeliveryPending); err != nil {
		return err
	}
	if err := s.put(ctx, `UPDATE webhooks SET disabled = ?, reason = ?, ended = ended + pending, pending = 0 WHERE tenant = ? AND id = ?`,
		at, reason, w.Tenant, w.ID); err != nil {
		return err
	}
	return db.appendEvent(ctx, s, api.Event{Tenant: w.Tenant, At: at, Kind: "webhook.disabled", Subject: string(w.ID),
		Text: "Webhook " + string(w.ID) + " is disabled: " + reason + "."})
}

func noWebhook(id api.WebhookID) error {
	return api.Fail(api.CodeWebhookNotFound, string(id), "no such webhook in this tenant")
}

func needWebhook(ctx context.Context, s session, t api.TenantID, id api.WebhookID) (api.Webhook, error) {
	found, err := webhooks(ctx, s, `WHERE tenant = ? AND id = ?`, t, id)
	if err != nil || len(found) == 0 {
		return api.Webhook{}, orElse(err, noWebhook(id))
	}
	return found[0], nil
}

func webhooks(ctx context.Context, s session, where string, args ...any) ([]api.Webhook, error) {
	var all []api.Webhook
	err := s.each(ctx, `SELECT tenant, id, doc, old_until, failing, disabled, reason, pending FROM webhooks `+where, args,
		func(scan func(...any) error) error {
			var w, row api.Webhook
			var doc string
			if err := scan(&row.Tenant, &row.ID, &doc, &row.OldSecret, &row.Failing, &row.Disabled, &row.Reason, &row.Pending); err != nil {
				return err
			}
			err := decode(doc, &w)
			w.Tenant, w.ID, w.OldSecret, w.Failing, w.Disabled, w.Reason, w.Pending = row.Tenant, row.ID, row.OldSecret, row.Failing,
				row.Disabled, row.Reason, row.Pending
			all = append(all, w)
			return err
		})
	return all, err
}

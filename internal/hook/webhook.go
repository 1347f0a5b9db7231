package hook

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/penstock/penstock/api"
)

// How long an old secret goes on signing when nothing is said, and at most.
const (
	keepDefault = 24 * time.Hour
	keepMax     = 30 * 24 * time.Hour
)

// CreateWebhook makes a webhook and returns the key of its signatures, once: it cannot be read again.
func (c *Courier) CreateWebhook(ctx context.Context, by *api.Principal, in api.WebhookRequest) (api.Webhook, string, error) {
	w := api.Webhook{ID: api.WebhookID(strings.ToLower(ulid.MustNew(ulid.Timestamp(c.cfg.Now()), rand.Reader).String())), Tenant: by.Tenant,
		URL: in.URL, Text: in.Text, Kinds: whole(in.Kinds), Subjects: whole(in.Subjects), Server: in.Server, Created: c.now(), CreatedBy: by.Name}
	if err := c.check(&w); err != nil {
		return w, "", err
	}
	secret := newSecret()
	if err := c.cfg.Store.PutWebhook(ctx, w, c.seal.close(w.Tenant, w.ID, secret), c.cfg.PerTenant); err != nil {
		return w, "", err
	}
	return w, writeSecret(secret), nil
}

func whole(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// check reports what a webhook may not ask for.
func (c *Courier) check(w *api.Webhook) error {
	if err := c.door.check(w.URL); err != nil {
		return err
	}
	if err := api.CheckPatterns("$.kinds", w.Kinds); err != nil {
		return err
	}
	if err := api.CheckPatterns("$.subjects", w.Subjects); err != nil {
		return err
	}
	if w.Server && w.Tenant != api.DefaultTenant {
		return api.Fail(api.CodeForbidden, "$.server", "the server's own events are told to tenant %q only", api.DefaultTenant)
	}
	return nil
}

// Webhooks lists a tenant's webhooks, oldest first, without their secrets.
func (c *Courier) Webhooks(ctx context.Context, t api.TenantID) ([]api.Webhook, error) {
	return c.cfg.Store.Webhooks(ctx, t)
}

// Webhook gives one webhook.
func (c *Courier) Webhook(ctx context.Context, t api.TenantID, id api.WebhookID) (api.Webhook, error) {
	return c.cfg.Store.Webhook(ctx, t, id)
}

// ChangeWebhook changes what a webhook asks for, or whether it is enabled.
func (c *Courier) ChangeWebhook(ctx context.Context, by *api.Principal, id api.WebhookID, change api.WebhookChange) (api.Webhook, error) {
	w, err := c.cfg.Store.Webhook(ctx, by.Tenant, id)
	if err != nil {
		return w, err
	}
	if change.URL != nil {
		w.URL = *change.URL
	}
	if change.Kinds != nil {
		w.Kinds = *change.Kinds
	}
	if change.Subjects != nil {
		w.Subjects = *change.Subjects
	}
	if err := c.check(&w); err != nil {
		return w, err
	}
	return c.cfg.Store.ChangeWebhook(ctx, by.Tenant, id, change, by.Name, c.now())
}

// RotateWebhook makes a new key, and lets the present one go on signing for a time: receivers know both meanwhile.
func (c *Courier) RotateWebhook(ctx context.Context, by *api.Principal, id api.WebhookID, keep time.Duration) (api.Webhook, string, error) {
	if keep == 0 {
		keep = keepDefault
	}
	secret := newSecret()
	until := c.now() + api.Time(min(keep, keepMax).Microseconds())
	w, err := c.cfg.Store.RotateWebhook(ctx, by.Tenant, id, c.seal.close(by.Tenant, id, secret), until)
	if err != nil {
		return w, "", err
	}
	return w, writeSecret(secret), nil
}

// DeleteWebhook removes a webhook; what waits for it is not sent any more.
func (c *Courier) DeleteWebhook(ctx context.Context, by *api.Principal, id api.WebhookID) error {
	return c.cfg.Store.DeleteWebhook(ctx, by.Tenant, id)
}

// TestWebhook sends an event webhook.test to one webhook alone.
func (c *Courier) TestWebhook(ctx context.Context, by *api.Principal, id api.WebhookID) (api.Delivery, error) {
	d, err := c.cfg.Store.AddDelivery(ctx, id, api.Event{Tenant: by.Tenant, At: c.now(), Kind: "webhook.test", Subject: string(id),
		Text: "This is a test.", By: by.Name})
	c.Hint()
	return d, err
}

// awaitEvery is how often a delivery that is waited for is looked at.
const awaitEvery = 50 * time.Millisecond

// AwaitDelivery gives a delivery after its next attempt, or as it stands when ctx ends.
func (c *Courier) AwaitDelivery(ctx context.Context, d api.Delivery) (api.Delivery, error) {
	ticker := time.NewTicker(awaitEvery)
	defer ticker.Stop()
	for {
		now, err := c.cfg.Store.Delivery(context.WithoutCancel(ctx), d.Tenant, d.Webhook, d.Seq)
		if err != nil || now.Attempts > 0 || now.State != api.DeliveryPending {
			return now, err
		}
		select {
		case <-ctx.Done():
			return now, nil
		case <-ticker.C:
		}
	}
}

// Deliveries lists a webhook's deliveries, newest first.
func (c *Courier) Deliveries(ctx context.Context, t api.TenantID, id api.WebhookID, state api.DeliveryState, before int64, limit int) ([]api.Delivery, error) {
	return c.cfg.Store.Deliveries(ctx, t, id, state, before, limit)
}

// Redeliver sends one delivery again, or with an empty name all that are dead.
func (c *Courier) Redeliver(ctx context.Context, by *api.Principal, id api.WebhookID, delivery string) (int64, error) {
	n, err := c.cfg.Store.Redeliver(ctx, by.Tenant, id, delivery, c.now())
	c.Hint()
	return n, err
}

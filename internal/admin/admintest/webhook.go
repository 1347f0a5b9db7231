package admintest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
)

// CreateWebhook keeps a webhook whose secret is "whsec_" and its number.
func (r *Rooms) CreateWebhook(_ context.Context, by *api.Principal, in api.WebhookRequest) (api.Webhook, string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.Fail["CreateWebhook"]; err != nil {
		return api.Webhook{}, "", err
	}
	n := len(r.webhooks) + 1
	w := api.Webhook{ID: api.WebhookID(fmt.Sprintf("W%d", n)), Tenant: by.Tenant, URL: in.URL, Text: in.Text, Server: in.Server, Created: Clock, CreatedBy: by.Name,
		Kinds: append([]string{}, in.Kinds...), Subjects: append([]string{}, in.Subjects...)}
	r.webhooks = append(r.webhooks, w)
	return w, fmt.Sprintf("whsec_%d", n), nil
}

// Webhooks lists a tenant's.
func (r *Rooms) Webhooks(_ context.Context, t api.TenantID) (all []api.Webhook, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.webhooks {
		if w.Tenant == t {
			all = append(all, w)
		}
	}
	return all, nil
}

// webhook needs mu.
func (r *Rooms) webhook(t api.TenantID, id api.WebhookID) (*api.Webhook, error) {
	i := slices.IndexFunc(r.webhooks, func(w api.Webhook) bool { return w.Tenant == t && w.ID == id })
	if i < 0 {
		return nil, api.Fail(api.CodeWebhookNotFound, string(id), "no such webhook in this tenant")
	}
	return &r.webhooks[i], nil
}

// Webhook gives one.
func (r *Rooms) Webhook(_ context.Context, t api.TenantID, id api.WebhookID) (api.Webhook, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, err := r.webhook(t, id)
	if err != nil {
		return api.Webhook{}, err
	}
	return *w, nil
}

// ChangeWebhook changes one.
func (r *Rooms) ChangeWebhook(_ context.Context, by *api.Principal, id api.WebhookID, change api.WebhookChange) (api.Webhook, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, err := r.webhook(by.Tenant, id)
	if err != nil {
		return api.Webhook{}, err
	}
	if change.Subjects != nil {
		w.Subjects = *change.Subjects
	}
	if change.Enabled != nil {
		w.Disabled, w.Reason = 0, ""
		if !*change.Enabled {
			w.Disabled, w.Reason = Clock, "disabled by "+by.Name
		}
	}
	return *w, nil
}

// RotateWebhook changes the secret to "whsec_new".
func (r *Rooms) RotateWebhook(_ context.Context, by *api.Principal, id api.WebhookID, keep time.Duration) (api.Webhook, string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, err := r.webhook(by.Tenant, id)
	if err != nil {
		return api.Webhook{}, "", err
	}
	w.OldSecret = Clock + api.Time(keep.Microseconds())
	return *w, "whsec_new", nil
}

// DeleteWebhook removes one.
func (r *Rooms) DeleteWebhook(_ context.Context, by *api.Principal, id api.WebhookID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.webhook(by.Tenant, id); err != nil {
		return err
	}
	r.webhooks = slices.DeleteFunc(r.webhooks, func(w api.Webhook) bool { return w.Tenant == by.Tenant && w.ID == id })
	return nil
}

// TestWebhook makes a delivery that arrived.
func (r *Rooms) TestWebhook(_ context.Context, by *api.Principal, id api.WebhookID) (api.Delivery, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.webhook(by.Tenant, id); err != nil {
		return api.Delivery{}, err
	}
	n := int64(len(r.deliveries) + 1)
	d := api.Delivery{ID: fmt.Sprintf("msg_%d", n), Seq: n, Tenant: by.Tenant, Webhook: id, State: api.DeliveryDelivered, Attempts: 1, Created: Clock, Ended: Clock,
		Event: api.Event{Tenant: by.Tenant, At: Clock, Kind: "webhook.test", Subject: string(id)}, Tries: []api.DeliveryTry{{At: Clock, Status: 200, LatencyUS: 1500}}}
	r.deliveries = append(r.deliveries, d)
	return d, nil
}

// AwaitDelivery gives it at once.
func (r *Rooms) AwaitDelivery(_ context.Context, d api.Delivery) (api.Delivery, error) { return d, nil }

// Deliveries lists those of a webhook, newest first.
func (r *Rooms) Deliveries(_ context.Context, t api.TenantID, id api.WebhookID, state api.DeliveryState, before int64, limit int) (all []api.Delivery, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.webhook(t, id); err != nil {
		return nil, err
	}
	for _, d := range slices.Backward(r.deliveries) {
		if d.Webhook == id && d.Tenant == t && (state == "" || d.State == state) && (before == 0 || d.Seq < before) && len(all) < limit {
			all = append(all, d)
		}
	}
	return all, nil
}

// Redeliver counts what there is.
func (r *Rooms) Redeliver(_ context.Context, by *api.Principal, id api.WebhookID, delivery string) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.webhook(by.Tenant, id); err != nil {
		return 0, err
	}
	n := int64(0)
	for _, d := range r.deliveries {
		if d.Webhook == id && (d.ID == delivery || delivery == "" && d.State == api.DeliveryDead) {
			n++
		}
	}
	if n == 0 && delivery != "" {
		return 0, api.Fail(api.CodeNotFound, delivery, "the webhook has no such delivery, or it is too old to be kept")
	}
	return n, nil
}

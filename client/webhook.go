package client

import (
	"context"
	"net/http"
	"time"

	"github.com/penstock/penstock/api"
)

// CreateWebhook makes a webhook; the key of its signatures is in the answer and nowhere else.
func (c *Client) CreateWebhook(ctx context.Context, in api.WebhookRequest) (api.NewWebhook, error) {
	return send[api.NewWebhook](ctx, c, exchange{method: http.MethodPost, json: in}, "webhooks")
}

// Webhooks lists the tenant's webhooks, oldest first.
func (c *Client) Webhooks(ctx context.Context) ([]api.Webhook, error) {
	out, err := ask[api.List[api.Webhook]](ctx, c, nil, "webhooks")
	return out.Items, err
}

// Webhook shows a webhook.
func (c *Client) Webhook(ctx context.Context, id api.WebhookID) (api.Webhook, error) {
	return ask[api.Webhook](ctx, c, nil, "webhooks", string(id))
}

// ChangeWebhook changes what a webhook asks for, or whether it is enabled.
func (c *Client) ChangeWebhook(ctx context.Context, id api.WebhookID, in api.WebhookChange) (api.Webhook, error) {
	return send[api.Webhook](ctx, c, exchange{method: http.MethodPatch, json: in}, "webhooks", string(id))
}

// RotateWebhook makes a new key of the signatures. The old one signs beside it for the time given; 0 is a day.
func (c *Client) RotateWebhook(ctx context.Context, id api.WebhookID, keep time.Duration) (api.NewWebhook, error) {
	in := api.RotateRequest{KeepSeconds: int64(keep / time.Second)}
	return send[api.NewWebhook](ctx, c, exchange{method: http.MethodPost, json: in}, "webhooks", string(id), "rotate")
}

// DeleteWebhook removes a webhook with its deliveries.
func (c *Client) DeleteWebhook(ctx context.Context, id api.WebhookID) error {
	return c.do(ctx, exchange{method: http.MethodDelete}, "webhooks", string(id))
}

// TestWebhook sends a test, and gives the delivery after its first attempt, or as it stands when the wait is over.
func (c *Client) TestWebhook(ctx context.Context, id api.WebhookID, wait time.Duration) (api.Delivery, error) {
	return send[api.Delivery](ctx, c, exchange{method: http.MethodPost, query: waitQuery(wait)}, "webhooks", string(id), "test")
}

// Deliveries lists a webhook's deliveries, newest first; an empty state is all.
func (c *Client) Deliveries(ctx context.Context, id api.WebhookID, state api.DeliveryState, page Page) (api.List[api.Delivery], error) {
	query := page.query("before")
	if state != "" {
		query.Set("state", string(state))
	}
	return ask[api.List[api.Delivery]](ctx, c, query, "webhooks", string(id), "deliveries")
}

// Redeliver sends one delivery again, or all dead ones, and tells how many wait now.
func (c *Client) Redeliver(ctx context.Context, id api.WebhookID, in api.RedeliverRequest) (int64, error) {
	out, err := send[api.Redelivered](ctx, c, exchange{method: http.MethodPost, json: in}, "webhooks", string(id), "redeliver")
	return out.Count, err
}

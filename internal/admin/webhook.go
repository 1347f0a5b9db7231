package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/penstock/penstock/api"
)

// Webhooks keeps webhooks and sends to them. Their URLs and filters are the tenant's secrets: only its admins see them.
type Webhooks interface {
	CreateWebhook(ctx context.Context, by *api.Principal, in api.WebhookRequest) (_ api.Webhook, secret string, _ error)
	Webhooks(ctx context.Context, t api.TenantID) ([]api.Webhook, error)
	Webhook(ctx context.Context, t api.TenantID, id api.WebhookID) (api.Webhook, error)
	ChangeWebhook(ctx context.Context, by *api.Principal, id api.WebhookID, change api.WebhookChange) (api.Webhook, error)
	RotateWebhook(ctx context.Context, by *api.Principal, id api.WebhookID, keep time.Duration) (_ api.Webhook, secret string, _ error)
	DeleteWebhook(ctx context.Context, by *api.Principal, id api.WebhookID) error
	Deliveries(ctx context.Context, t api.TenantID, id api.WebhookID, state api.DeliveryState, before int64, limit int) ([]api.Delivery, error)
	Redeliver(ctx context.Context, by *api.Principal, id api.WebhookID, delivery string) (int64, error)
	TestWebhook(ctx context.Context, by *api.Principal, id api.WebhookID) (api.Delivery, error)
	// AwaitDelivery gives the delivery after its next attempt, or as it stands when the context ends.
	AwaitDelivery(ctx context.Context, d api.Delivery) (api.Delivery, error)
}

const (
	webhooksPath = "/tenants/{tenant}/webhooks"
	webhookPath  = webhooksPath + "/{webhook}"
	webhookIDMax = 64 // bytes of a webhook's identifier in a path
)

// webhookRoute is what all routes of webhooks have in common.
func webhookRoute(method, path, id, summary string) route {
	r := route{method: method, path: path, id: id, summary: summary, tag: "webhooks", scope: api.ScopeAdmin}
	if path != webhooksPath {
		r.errors = []api.Code{api.CodeWebhookNotFound}
	}
	return r
}

func (s *Server) webhookRoutes() []route {
	if s.cfg.Webhooks == nil {
		return nil
	}
	create := webhookRoute(http.MethodPost, webhooksPath, "createWebhook", "Make a webhook")
	create.detail, create.status = "The secret is in this answer and nowhere else.", http.StatusCreated
	create.errors = []api.Code{api.CodeAddressRefused, api.CodeTooLarge}
	rotate := webhookRoute(http.MethodPost, webhookPath+"/rotate", "rotateWebhook", "Make a new secret for a webhook")
	rotate.detail = "The secret is in this answer and nowhere else. The old one signs beside it for a time."
	change := webhookRoute(http.MethodPatch, webhookPath, "changeWebhook", "Change, disable or enable a webhook")
	change.errors, change.look = append(change.errors, api.CodeAddressRefused), lookWebhook
	remove := webhookRoute(http.MethodDelete, webhookPath, "deleteWebhook", "Delete a webhook with its deliveries")
	remove.look = lookWebhook
	again := webhookRoute(http.MethodPost, webhookPath+"/redeliver", "redeliver", "Send one delivery again, or all that were given up")
	again.errors = append(again.errors, api.CodeWebhookDisabled)
	return []route{
		call(webhookRoute(http.MethodGet, webhooksPath, "listWebhooks", "List webhooks, without their secrets"),
			func(ctx context.Context, q *request, _ *nothing) (api.List[api.Webhook], error) {
				all, err := s.cfg.Webhooks.Webhooks(ctx, q.tenant)
				return pageOf(all, len(all)+1, func(w api.Webhook) string { return string(w.ID) }), err
			}),
		call(create, func(ctx context.Context, q *request, in *api.WebhookRequest) (api.NewWebhook, error) {
			w, secret, err := s.cfg.Webhooks.CreateWebhook(ctx, q.principal, *in)
			return api.NewWebhook{Webhook: w, Secret: secret}, err
		}),
		call(webhookRoute(http.MethodGet, webhookPath, "getWebhook", "Show a webhook"),
			func(ctx context.Context, q *request, _ *nothing) (w api.Webhook, err error) {
				id, err := q.webhook()
				if err != nil {
					return w, err
				}
				return s.cfg.Webhooks.Webhook(ctx, q.tenant, id)
			}),
		call(change, func(ctx context.Context, q *request, in *api.WebhookChange) (w api.Webhook, err error) {
			id, err := q.webhook()
			if err != nil {
				return w, err
			}
			return s.cfg.Webhooks.ChangeWebhook(ctx, q.principal, id, *in)
		}),
		call(remove,
			func(ctx context.Context, q *request, _ *nothing) (nothing, error) {
				id, err := q.webhook()
				if err != nil {
					return nothing{}, err
				}
				return nothing{}, s.cfg.Webhooks.DeleteWebhook(ctx, q.principal, id)
			}),
		call(rotate, func(ctx context.Context, q *request, in *api.RotateRequest) (none api.NewWebhook, err error) {
			id, err := q.webhook()
			if err != nil {
				return none, err
			}
			w, secret, err := s.cfg.Webhooks.RotateWebhook(ctx, q.principal, id, time.Duration(in.KeepSeconds)*time.Second)
			return api.NewWebhook{Webhook: w, Secret: secret}, err
		}),
		call(again, s.redeliver), s.testRoute(), s.deliveriesRoute(),
	}
}

func lookWebhook(ctx context.Context, q *request) any {
	if id, err := q.webhook(); err == nil {
		if w, err := q.server.cfg.Webhooks.Webhook(ctx, q.tenant, id); err == nil {
			return w
		}
	}
	return nil
}

func (q *request) webhook() (api.WebhookID, error) {
	id := q.PathValue("webhook")
	if len(id) > webhookIDMax {
		return "", api.Fail(api.CodeWebhookNotFound, "", "no such webhook in this tenant")
	}
	return api.WebhookID(id), nil
}

func (s *Server) redeliver(ctx context.Context, q *request, in *api.RedeliverRequest) (none api.Redelivered, err error) {
	id, err := q.webhook()
	if err != nil {
		return none, err
	}
	if (in.Delivery != "") == in.Dead {
		return none, api.Fail(api.CodeBadRequest, "$", "name one delivery, or ask for all dead ones")
	}
	n, err := s.cfg.Webhooks.Redeliver(ctx, q.principal, id, in.Delivery)
	return api.Redelivered{Count: n}, err
}

func (s *Server) testRoute() route {
	r := webhookRoute(http.MethodPost, webhookPath+"/test", "testWebhook", "Send a test to a webhook")
	r.detail = "Answers 202 with the delivery; with wait, 200 after its first attempt, however that ended."
	r.query, r.status, r.also = []parameter{waitParameter}, http.StatusAccepted, http.StatusOK
	r.errors = append(r.errors, api.CodeWebhookDisabled, api.CodeQueueFull)
	return call(r, func(ctx context.Context, q *request, _ *nothing) (d api.Delivery, err error) {
		id, err := q.webhook()
		if err != nil {
			return d, err
		}
		if _, err = q.wait(); err != nil {
			return d, err
		}
		if d, err = s.cfg.Webhooks.TestWebhook(ctx, q.principal, id); err != nil {
			return d, err
		}
		waiting, done, ok, err := q.waiting(ctx)
		if err != nil || !ok {
			return d, nil // it is recorded, whatever becomes of the wait
		}
		defer done()
		if later, err := s.cfg.Webhooks.AwaitDelivery(waiting, d); err == nil {
			d = later
		}
		if d.Attempts > 0 {
			q.status = http.StatusOK
		}
		return d, nil
	})
}

func (s *Server) deliveriesRoute() route {
	r := webhookRoute(http.MethodGet, webhookPath+"/deliveries", "listDeliveries", "List deliveries of a webhook, newest first")
	r.query = []parameter{{name: "state", doc: "Only those that are pending, delivered or dead."}, beforeParameter, limitParameter}
	return call(r, func(ctx context.Context, q *request, _ *nothing) (page api.List[api.Delivery], err error) {
		id, err := q.webhook()
		if err != nil {
			return page, err
		}
		before, limit, err := q.page("before")
		if err != nil {
			return page, err
		}
		state := api.DeliveryState(q.param("state"))
		switch state {
		case "", api.DeliveryPending, api.DeliveryDelivered, api.DeliveryDead:
		default:
			return page, api.Fail(api.CodeBadRequest, "", "state is pending, delivered or dead")
		}
		all, err := s.cfg.Webhooks.Deliveries(ctx, q.tenant, id, state, before, limit)
		return pageOf(all, limit, func(d api.Delivery) string { return decimal(d.Seq) }), err
	})
}

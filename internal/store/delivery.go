package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// The bounds of what is kept for one webhook.
const (
	deliveriesEnded = 1_000 // deliveries that are over; older ones are removed
	deliveriesSlack = 64    // beyond deliveriesEnded before the oldest are removed together
	triesKept       = 16    // attempts in the record of one delivery
)

// deliver puts an event into the outbox of every webhook that wants it, in the event's own transaction. The event's number may
// still be on its way.
func (db *DB) deliver(ctx context.Context, s session, e *api.Event) error {
	query, tenant := `WHERE tenant = ? AND disabled = 0 ORDER BY id`, e.Tenant
	if tenant == "" {
		tenant = api.DefaultTenant
	}
	if s.gathered.silent[tenant] {
		return nil
	}
	all, err := webhooks(ctx, s, query, tenant)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		s.gathered.silent[tenant] = true // until a write makes or enables one
		return nil
	}
	former, err := formerly(ctx, s, all, e)
	if err != nil {
		return err
	}
	for i := range all {
		w := &all[i]
		if e.Tenant == "" && !w.Server || !w.Wants(e) && !slices.ContainsFunc(former, func(f api.Event) bool { return w.Wants(&f) }) {
			continue
		}
		if w.Pending >= db.outbox {
			// Growing without end would fill the disk for everybody; to drop single events would be silent.
			if err := db.disable(ctx, s, *w, fmt.Sprintf("%d deliveries waited, which is the limit", w.Pending), e.At); err != nil {
				return err
			}
			continue
		}
		if _, err := addDelivery(ctx, s, w, *e, e.At); err != nil {
			return err
		}
	}
	return nil
}

// formerly gives an event of a model as it would be under the model's earlier names: a webhook that asked for one of them goes
// on being told. Nothing is read where every webhook wants the event anyhow, or asks for all subjects.
func formerly(ctx context.Context, s session, all []api.Webhook, e *api.Event) (former []api.Event, _ error) {
	family, _, _ := strings.Cut(e.Kind, ".")
	ofModel := slices.Contains([]string{"model", "version", "alias", "tag", "retention"}, family)
	if !ofModel || !slices.ContainsFunc(all, func(w api.Webhook) bool { return len(w.Subjects) > 0 && !w.Wants(e) }) {
		return nil, nil
	}
	model, rest := e.Subject, ""
	if at := strings.IndexAny(e.Subject, "@:"); at >= 0 {
		model, rest = e.Subject[:at], e.Subject[at:]
	}
	err := s.each(ctx, `SELECT name FROM model_redirects WHERE tenant = ? AND model = ?`, []any{e.Tenant, clean(model)},
		func(scan func(...any) error) error {
			one := *e
			err := scan(&one.Subject)
			one.Subject += rest
			former = append(former, one)
			return err
		})
	return former, err
}

func addDelivery(ctx context.Context, s session, w *api.Webhook, e api.Event, due api.Time) (d api.Delivery, _ error) {
	d = api.Delivery{Tenant: w.Tenant, Webhook: w.ID, Event: e, State: api.DeliveryPending, Created: e.At, Due: due, Tries: []api.DeliveryTry{}}
	if _, err := s.one(ctx, `UPDATE webhooks SET latest = latest + 1, pending = pending + 1 WHERE tenant = ? AND id = ? RETURNING latest`,
		[]any{w.Tenant, w.ID}, &d.Seq); err != nil {
		return d, err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", w.ID, d.Seq))
	d.ID = "msg_" + hex.EncodeToString(sum[:16])
	event, err := encode(e)
	if err != nil {
		return d, err
	}
	err = s.put(ctx, `INSERT INTO deliveries (tenant, webhook, seq, id, event, state, attempts, fence, due, created, ended, tries)
		VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?, ?, 0, '[]')`, d.Tenant, d.Webhook, d.Seq, d.ID, event, d.State, d.Due, d.Created)
	return d, err
}

// AddDelivery puts an event that is not recorded, such as a test, into the outbox of one webhook.
func (db *DB) AddDelivery(ctx context.Context, id api.WebhookID, e api.Event) (api.Delivery, error) {
	return write(ctx, db, "keep the delivery", func(ctx context.Context, s session) (d api.Delivery, err error) {
		w, err := needWebhook(ctx, s, e.Tenant, id)
		if err != nil {
			return d, err
		}
		if w.Disabled != 0 {
			return d, api.Fail(api.CodeWebhookDisabled, string(id), "the webhook is disabled: %s", w.Reason)
		}
		if w.Pending >= db.outbox {
			return d, api.Fail(api.CodeQueueFull, string(id), "%d deliveries wait, which is the limit", w.Pending)
		}
		return addDelivery(ctx, s, &w, e, e.At)
	})
}

// DueWebhooks lists the webhooks with a delivery that is due, of all tenants.
func (db *DB) DueWebhooks(ctx context.Context, at api.Time, limit int) ([]api.Webhook, error) {
	return read(ctx, db, "list what is due", func(ctx context.Context, s session) ([]api.Webhook, error) {
		return webhooks(ctx, s, `WHERE pending > 0 AND EXISTS (SELECT 1 FROM deliveries d WHERE d.tenant = webhooks.tenant
			AND d.webhook = webhooks.id AND d.state = ? AND d.due <= ?) ORDER BY tenant, id LIMIT ?`, api.DeliveryPending, at, page(limit))
	})
}

// ClaimDeliveries gives deliveries that are due to the caller alone, until the time given; after it they are due again,
// so what a lost server had claimed is not lost.
func (db *DB) ClaimDeliveries(ctx context.Context, t api.TenantID, id api.WebhookID, at, until api.Time, limit int) ([]api.Delivery, error) {
	return write(ctx, db, "claim deliveries", func(ctx context.Context, s session) ([]api.Delivery, error) {
		due, err := deliveries(ctx, s, `WHERE tenant = ? AND webhook = ? AND state = ? AND due <= ? ORDER BY due, seq LIMIT ?`,
			t, id, api.DeliveryPending, at, page(limit))
		if err != nil {
			return nil, err
		}
		for i := range due {
			d := &due[i]
			d.Due = until
			d.Fence++
			if err := s.put(ctx, `UPDATE deliveries SET due = ?, fence = ? WHERE tenant = ? AND webhook = ? AND seq = ?`,
				d.Due, d.Fence, t, id, d.Seq); err != nil {
				return nil, err
			}
		}
		return due, nil
	})
}

// FinishDelivery records an attempt. State says what comes of it: delivered, dead, or pending until next. It reports
// false and changes nothing when somebody else claimed the delivery meanwhile. A failure that lasts since before
// giveUp disables the webhook, as does a reason that is given.
func (db *DB) FinishDelivery(ctx context.Context, d api.Delivery, try api.DeliveryTry, next, giveUp api.Time, disable string) (mine bool, _ error) {
	return write(ctx, db, "record the attempt", func(ctx context.Context, s session) (bool, error) {
		found, err := deliveries(ctx, s, `WHERE tenant = ? AND webhook = ? AND seq = ? AND fence = ? AND state = ?`,
			d.Tenant, d.Webhook, d.Seq, d.Fence, api.DeliveryPending)
		if err != nil || len(found) == 0 {
			return false, err
		}
		at := try.At + api.Time(try.LatencyUS)
		tries := append(found[0].Tries, try)
		text, err := encode(tries[max(0, len(tries)-triesKept):])
		if err != nil {
			return false, err
		}
		ended := at
		if d.State == api.DeliveryPending {
			ended = 0
		} else {
			next = 0
		}
		if err := s.put(ctx, `UPDATE deliveries SET state = ?, attempts = attempts + 1, due = ?, ended = ?, tries = ?
			WHERE tenant = ? AND webhook = ? AND seq = ?`, d.State, next, ended, text, d.Tenant, d.Webhook, d.Seq); err != nil {
			return false, err
		}
		return true, db.settle(ctx, s, d, at, giveUp, disable)
	})
}

// settle brings the webhook's own record up to date with a delivery's outcome.
func (db *DB) settle(ctx context.Context, s session, d api.Delivery, at, giveUp api.Time, disable string) error {
	over := 0
	if d.State != api.DeliveryPending {
		over = 1
	}
	statement := `UPDATE webhooks SET failing = CASE WHEN failing = 0 THEN ? ELSE failing END, pending = pending - ?, ended = ended + ?
		WHERE tenant = ? AND id = ? RETURNING failing, ended`
	since := at
	if d.State == api.DeliveryDelivered {
		statement = `UPDATE webhooks SET failing = ?, pending = pending - ?, ended = ended + ? WHERE tenant = ? AND id = ? RETURNING failing, ended`
		since = 0
	}
	var failing api.Time
	var ended int64
	if _, err := s.one(ctx, statement, []any{since, over, over, d.Tenant, d.Webhook}, &failing, &ended); err != nil {
		return err
	}
	if failing != 0 && failing <= giveUp && disable == "" {
		disable = "every attempt has failed since " + failing.Std().Format("2006-01-02 15:04:05")
	}
	if disable != "" {
		w, err := needWebhook(ctx, s, d.Tenant, d.Webhook)
		if err != nil {
			return err
		}
		if err := db.disable(ctx, s, w, clean(disable), at); err != nil {
			return err
		}
		ended += w.Pending
	}
	return pruneDeliveries(ctx, s, d.Tenant, d.Webhook, ended)
}

// pruneDeliveries removes the oldest of those that are over.
func pruneDeliveries(ctx context.Context, s session, t api.TenantID, id api.WebhookID, ended int64) error {
	if ended <= deliveriesEnded+deliveriesSlack {
		return nil
	}
	n, err := s.exec(ctx, `DELETE FROM deliveries WHERE tenant = ? AND webhook = ? AND seq IN (SELECT seq FROM deliveries
		WHERE tenant = ? AND webhook = ? AND state <> ? ORDER BY seq LIMIT ?)`, t, id, t, id, api.DeliveryPending, ended-deliveriesEnded)
	if err != nil {
		return err
	}
	err = s.put(ctx, `UPDATE webhooks SET ended = ended - ? WHERE tenant = ? AND id = ?`, n, t, id)
	return err
}

// Redeliver makes a delivery wait again, or with an empty name all dead ones, and tells how many there were.
func (db *DB) Redeliver(ctx context.Context, t api.TenantID, id api.WebhookID, delivery string, at api.Time) (int64, error) {
	return write(ctx, db, "send again", func(ctx context.Context, s session) (int64, error) {
		w, err := needWebhook(ctx, s, t, id)
		if err != nil {
			return 0, err
		}
		if w.Disabled != 0 {
			return 0, api.Fail(api.CodeWebhookDisabled, string(id), "the webhook is disabled: %s", w.Reason)
		}
		which, args := `state = ?`, []any{at, t, id, api.DeliveryDead}
		if delivery != "" {
			which, args = `state <> ? AND id = ?`, []any{at, t, id, api.DeliveryPending, delivery}
		}
		n, err := s.exec(ctx, `UPDATE deliveries SET state = 'pending', attempts = 0, due = ?, ended = 0
			WHERE tenant = ? AND webhook = ? AND `+which, args...)
		if err != nil {
			return 0, err
		}
		if n == 0 && delivery != "" {
			return 0, notAgain(ctx, s, t, id, delivery)
		}
		err = s.put(ctx, `UPDATE webhooks SET pending = pending + ?, ended = ended - ? WHERE tenant = ? AND id = ?`, n, n, t, id)
		return n, err
	})
}

// notAgain tells why a delivery was not made to wait again.
func notAgain(ctx context.Context, s session, t api.TenantID, id api.WebhookID, delivery string) error {
	found, err := deliveries(ctx, s, `WHERE tenant = ? AND webhook = ? AND id = ?`, t, id, delivery)
	if err == nil && len(found) == 0 {
		return api.Fail(api.CodeNotFound, delivery, "the webhook has no such delivery, or it is too old to be kept")
	}
	return err // one that waits already will be sent, which is what was asked for
}

// Deliveries lists the deliveries of a webhook, newest first, from the one below the number given; 0 begins with the
// newest. A state leaves the others out.
func (db *DB) Deliveries(ctx context.Context, t api.TenantID, id api.WebhookID, state api.DeliveryState, before int64, limit int) ([]api.Delivery, error) {
	return read(ctx, db, "list deliveries", func(ctx context.Context, s session) ([]api.Delivery, error) {
		if _, err := needWebhook(ctx, s, t, id); err != nil {
			return nil, err
		}
		if state != "" {
			return deliveries(ctx, s, `WHERE tenant = ? AND webhook = ? AND seq < ? AND state = ? ORDER BY seq DESC LIMIT ?`,
				t, id, below(before), state, page(limit))
		}
		return deliveries(ctx, s, `WHERE tenant = ? AND webhook = ? AND seq < ? ORDER BY seq DESC LIMIT ?`, t, id, below(before), page(limit))
	})
}

// Delivery gives one delivery by its number.
func (db *DB) Delivery(ctx context.Context, t api.TenantID, id api.WebhookID, seq int64) (api.Delivery, error) {
	return read(ctx, db, "read the delivery", func(ctx context.Context, s session) (api.Delivery, error) {
		found, err := deliveries(ctx, s, `WHERE tenant = ? AND webhook = ? AND seq = ?`, t, id, seq)
		if err != nil || len(found) == 0 {
			return api.Delivery{}, orElse(err, api.Fail(api.CodeNotFound, string(id), "the webhook has no such delivery"))
		}
		return found[0], nil
	})
}

func deliveries(ctx context.Context, s session, where string, args ...any) ([]api.Delivery, error) {
	var all []api.Delivery
	err := s.each(ctx, `SELECT tenant, webhook, seq, id, event, state, attempts, fence, due, created, ended, tries FROM deliveries `+where, args,
		func(scan func(...any) error) error {
			var d api.Delivery
			var event, tries string
			if err := scan(&d.Tenant, &d.Webhook, &d.Seq, &d.ID, &event, &d.State, &d.Attempts, &d.Fence, &d.Due, &d.Created, &d.Ended, &tries); err != nil {
				return err
			}
			if err := decode(event, &d.Event); err != nil {
				return err
			}
			err := decode(tries, &d.Tries)
			all = append(all, d)
			return err
		})
	return all, err
}

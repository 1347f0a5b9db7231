package storetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

func hookOf(id string, kinds ...string) api.Webhook {
	return api.Webhook{ID: api.WebhookID(id), Tenant: "acme", URL: "https://example.com/" + id, Kinds: append([]string{}, kinds...), Subjects: []string{}, Created: 5, CreatedBy: "me"}
}

func webhooks(t *testing.T, db *store.DB) {
	ctx := t.Context()
	w := hookOf("w1", "release.*")
	must(t, db.PutWebhook(ctx, w, "sealed-1", 2))
	refused(t, api.CodeExists, db.PutWebhook(ctx, w, "sealed-1", 2))
	must(t, db.PutWebhook(ctx, hookOf("w2"), "sealed-2", 2))
	refused(t, api.CodeTooLarge, db.PutWebhook(ctx, hookOf("w3"), "sealed-3", 2))
	orphan := hookOf("w4")
	orphan.Tenant = "nobody"
	refused(t, api.CodeNotFound, db.PutWebhook(ctx, orphan, "s", 2))
	same(t, "one", got(db.Webhook(ctx, "acme", "w1"))(t), w)
	same(t, "all", got(db.Webhooks(ctx, "acme"))(t), []api.Webhook{w, hookOf("w2")})

	same(t, "secrets", got(db.WebhookSecrets(ctx, "acme", "w1"))(t), store.WebhookSecrets{Now: "sealed-1"})
	w.OldSecret = 99
	same(t, "rotated", got(db.RotateWebhook(ctx, "acme", "w1", "sealed-1b", 99))(t), w)
	same(t, "secrets", got(db.WebhookSecrets(ctx, "acme", "w1"))(t), store.WebhookSecrets{Now: "sealed-1b", Old: "sealed-1", OldUntil: 99})

	url, kinds, off := "https://other.example/", []string{"k"}, false
	w.URL, w.Kinds, w.Disabled, w.Reason = url, kinds, 7, "disabled by me"
	same(t, "changed", got(db.ChangeWebhook(ctx, "acme", "w1", api.WebhookChange{URL: &url, Kinds: &kinds, Enabled: &off}, "me", 7))(t), w)
	off = true
	w.Disabled, w.Reason = 0, ""
	same(t, "enabled", got(db.ChangeWebhook(ctx, "acme", "w1", api.WebhookChange{Enabled: &off}, "me", 8))(t), w)

	for _, other := range []api.TenantID{"other", "nobody"} {
		_, err := db.Webhook(ctx, other, "w1")
		refused(t, api.CodeWebhookNotFound, err)
		_, err = db.WebhookSecrets(ctx, other, "w1")
		refused(t, api.CodeWebhookNotFound, err)
		refused(t, api.CodeWebhookNotFound, db.DeleteWebhook(ctx, other, "w1"))
		_, err = db.RotateWebhook(ctx, other, "w1", "stolen", 9)
		refused(t, api.CodeWebhookNotFound, err)
		_, err = db.Deliveries(ctx, other, "w1", "", 0, 9)
		refused(t, api.CodeWebhookNotFound, err)
	}
	must(t, db.DeleteWebhook(ctx, "acme", "w1"))
	refused(t, api.CodeWebhookNotFound, db.DeleteWebhook(ctx, "acme", "w1"))
	left := hookOf("w2")
	left.Pending = 1 // it is told that the other was disabled
	same(t, "left", got(db.Webhooks(ctx, "acme"))(t), []api.Webhook{left})
}

// outbox follows deliveries from their event to their end.
func outbox(t *testing.T, db *store.DB) {
	ctx := t.Context()
	must(t, db.PutWebhook(ctx, hookOf("w1", "k.*"), "s", 9))
	must(t, db.PutWebhook(ctx, hookOf("w2"), "s", 9))
	event := api.Event{Tenant: "acme", At: 100, Kind: "k.one", Subject: "a", Text: "text", By: "me"}
	must(t, db.AppendEvent(ctx, event))
	must(t, db.AppendEvent(ctx, api.Event{Tenant: "acme", At: 101, Kind: "other"}))
	event.Seq = 1
	all := got(db.Deliveries(ctx, "acme", "w1", "", 0, 9))(t)
	want := api.Delivery{ID: all[0].ID, Seq: 1, Tenant: "acme", Webhook: "w1", Event: event, State: api.DeliveryPending, Created: 100, Due: 100, Tries: []api.DeliveryTry{}}
	same(t, "outbox", all, []api.Delivery{want})
	if two := got(db.Deliveries(ctx, "acme", "w2", api.DeliveryPending, 0, 9))(t); len(two) != 2 || two[0].Seq != 2 || two[1].ID == all[0].ID || !strings.HasPrefix(all[0].ID, "msg_") {
		t.Errorf("the other webhook has %+v", two)
	}
	if due := got(db.DueWebhooks(ctx, 99, 9))(t); len(due) != 0 {
		t.Errorf("due too early: %+v", due)
	}
	if due := got(db.DueWebhooks(ctx, 101, 9))(t); len(due) != 2 {
		t.Errorf("due: %+v", due)
	}

	claimed := got(db.ClaimDeliveries(ctx, "acme", "w1", 200, 300, 9))(t)
	if len(claimed) != 1 || len(got(db.ClaimDeliveries(ctx, "acme", "w1", 200, 300, 9))(t)) != 0 {
		t.Fatalf("claimed %+v", claimed)
	}
	later := got(db.ClaimDeliveries(ctx, "acme", "w1", 300, 400, 9))(t) // the first claim ran out
	finish := func(d api.Delivery, state api.DeliveryState, at, next, giveUp api.Time) bool {
		d.State = state
		return got(db.FinishDelivery(ctx, d, api.DeliveryTry{At: at, Status: 500, LatencyUS: 2}, next, giveUp, ""))(t)
	}
	if finish(claimed[0], api.DeliveryDelivered, 310, 0, 0) {
		t.Error("an outcome counts although the delivery was claimed again")
	}
	if !finish(later[0], api.DeliveryPending, 310, 350, 0) || !finish(later[0], api.DeliveryDead, 311, 0, 0) {
		t.Error("the holder's outcomes do not count")
	}
	want.State, want.Attempts, want.Due, want.Ended = api.DeliveryDead, 2, 0, 313
	want.Tries = []api.DeliveryTry{{At: 310, Status: 500, LatencyUS: 2}, {At: 311, Status: 500, LatencyUS: 2}}
	same(t, "dead", got(db.Delivery(ctx, "acme", "w1", 1))(t), want)
	w := hookOf("w1", "k.*")
	w.Failing = 312
	same(t, "failing", got(db.Webhook(ctx, "acme", "w1"))(t), w)

	same(t, "again", got(db.Redeliver(ctx, "acme", "w1", "", 500))(t), int64(1))
	same(t, "again, one", got(db.Redeliver(ctx, "acme", "w1", want.ID, 500))(t), int64(0)) // waits already
	_, err := db.Redeliver(ctx, "acme", "w1", "msg_none", 500)
	refused(t, api.CodeNotFound, err)
	d := got(db.ClaimDeliveries(ctx, "acme", "w1", 500, 600, 9))(t)[0]
	finish(d, api.DeliveryDelivered, 505, 0, 0)
	w.Failing = 0
	same(t, "well again", got(db.Webhook(ctx, "acme", "w1"))(t), w)
	same(t, "again, delivered", got(db.Redeliver(ctx, "acme", "w1", want.ID, 700))(t), int64(1))

	test := got(db.AddDelivery(ctx, "w2", api.Event{Tenant: "acme", At: 800, Kind: "webhook.test"}))(t)
	if test.Seq != 3 || len(got(db.Events(ctx, "acme", 2, 9))(t)) != 0 {
		t.Errorf("a test is %+v", test)
	}
	must(t, db.DeleteWebhook(ctx, "acme", "w2"))
}

// outboxLimits: the log of one webhook has an end.
func outboxLimits(t *testing.T, db *store.DB) {
	ctx := t.Context()
	const ended, slack = 1_000, 64
	must(t, db.PutWebhook(ctx, hookOf("w1", "k"), "s", 9))
	together(func(worker int) {
		for i := worker; i < ended+slack+10; i += workers {
			if err := db.AppendEvent(ctx, api.Event{Tenant: "acme", At: 10, Kind: "k", Subject: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		}
	})
	for _, d := range got(db.ClaimDeliveries(ctx, "acme", "w1", 20, 30, 1000))(t) {
		d.State = api.DeliveryDelivered
		got(db.FinishDelivery(ctx, d, api.DeliveryTry{At: 21, Status: 200}, 0, 0, ""))(t)
	}
	for _, d := range got(db.ClaimDeliveries(ctx, "acme", "w1", 20, 30, 1000))(t) {
		d.State = api.DeliveryDead
		got(db.FinishDelivery(ctx, d, api.DeliveryTry{At: 21, Status: 500}, 0, 0, ""))(t)
	}
	if all := got(db.Deliveries(ctx, "acme", "w1", "", 0, 1000))(t); len(all) != 1000 || all[0].Seq != ended+slack+10 || all[999].Seq > slack+11 {
		t.Errorf("%d kept, from %d to %d", len(all), all[len(all)-1].Seq, all[0].Seq)
	}
}

// deliveryClaims checks that each delivery is claimed by one of many who ask.
func deliveryClaims(t *testing.T, db *store.DB) {
	ctx := context.WithoutCancel(t.Context())
	must(t, db.PutWebhook(ctx, hookOf("w1"), "s", 9))
	for i := range 60 {
		must(t, db.AppendEvent(ctx, api.Event{Tenant: "acme", At: 1, Kind: "k", Subject: fmt.Sprint(i)}))
	}
	var mu sync.Mutex // guards held
	held := map[int64]int{}
	together(func(int) {
		for {
			claimed, err := db.ClaimDeliveries(ctx, "acme", "w1", 10, 20, 3)
			if err != nil {
				t.Error(err)
			}
			if len(claimed) == 0 {
				return
			}
			mu.Lock()
			for _, d := range claimed {
				held[d.Seq]++
			}
			mu.Unlock()
		}
	})
	for seq := range int64(60) {
		if held[seq+1] != 1 {
			t.Errorf("delivery %d was claimed %d times", seq+1, held[seq+1])
		}
	}
}

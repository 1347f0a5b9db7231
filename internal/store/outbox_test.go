package store_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

// TestOutboxFull: a webhook whose receiver is away for long does not fill the disk, and says that it stopped.
func TestOutboxFull(t *testing.T) {
	db, err := store.Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "store.db"), OutboxMax: 5}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.PutTenant(t.Context(), api.Tenant{ID: "acme"}); err != nil {
		t.Fatal(err)
	}
	if err := db.PutWebhook(t.Context(), api.Webhook{Tenant: "acme", ID: "w1", Kinds: []string{"k"}}, "sealed", 1); err != nil {
		t.Fatal(err)
	}
	show := func() api.Webhook {
		w, err := db.Webhook(t.Context(), "acme", "w1")
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	for n := range 6 {
		if w := show(); w.Pending != int64(n) || w.Disabled != 0 {
			t.Errorf("after %d events: %+v", n, w)
		}
		if err := db.AppendEvent(t.Context(), api.Event{Tenant: "acme", At: 1, Kind: "k"}); err != nil {
			t.Fatal(err)
		}
	}
	if w := show(); w.Pending != 0 || w.Disabled == 0 || !strings.Contains(w.Reason, "5 deliveries waited") {
		t.Errorf("beyond the limit: %+v", w)
	}
	events, err := db.Events(t.Context(), "acme", -1, 1)
	if err != nil || len(events) != 1 || events[0].Kind != "webhook.disabled" {
		t.Errorf("nobody was told: %+v, %v", events, err)
	}
	dead, err := db.Deliveries(t.Context(), "acme", "w1", api.DeliveryDead, 0, 9)
	if err != nil || len(dead) != 5 {
		t.Errorf("%d can be sent again, %v", len(dead), err)
	}
}

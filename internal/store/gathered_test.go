package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

var errRefused = errors.New("errRefused")

func keepBlob(db *store.DB, n int) func(context.Context) error {
	return func(ctx context.Context) error {
		d := api.Digest(fmt.Sprintf("sha256:%064x", n))
		return db.KeepBlob(ctx, api.BlobKeep{Repository: api.Repository{Tenant: "acme"}, Blob: api.RepositoryBlob{Digest: api.ContentDigest(d), Blob: d, Size: 10}, At: 1})
	}
}

// fails changes something and then ends with an error, so that the group is run again.
func fails(db *store.DB) func(context.Context) error {
	return func(ctx context.Context) error {
		return db.Steps(ctx, errRefused, store.Step{Query: `INSERT INTO tenants (id, created) VALUES (?, 0)`, Args: []any{"other"}})
	}
}

func event(db *store.DB, n int) func(context.Context) error {
	return func(ctx context.Context) error {
		return db.AppendEvent(ctx, api.Event{Tenant: "acme", At: 1, Kind: "k", Subject: fmt.Sprint(n)})
	}
}

// withAndWithoutFailure runs a test on both databases, for a group in which all end well and for one that is run again.
func withAndWithoutFailure(t *testing.T, test func(t *testing.T, db *store.DB, failing bool)) {
	for name, open := range map[string]func(testing.TB) *store.DB{"sqlite": openSQLite, "postgres": openPostgres} {
		for _, failing := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, one fails %v", name, failing), func(t *testing.T) {
				db := open(t)
				if err := db.PutTenant(t.Context(), api.Tenant{ID: "acme"}); err != nil {
					t.Fatal(err)
				}
				test(t, db, failing)
			})
		}
	}
}

// TestGroupCounts: what writes of one group hold counts for each other, and once, also when the group is run twice because one
// of them failed.
func TestGroupCounts(t *testing.T) {
	withAndWithoutFailure(t, func(t *testing.T, db *store.DB, failing bool) {
		if _, err := db.SetQuota(t.Context(), "acme", api.QuotaRequest{Bytes: 35}, -1, "admin", 1); err != nil {
			t.Fatal(err)
		}
		reserve := func(ctx context.Context) error {
			return db.Reserve(ctx, api.Reservation{ID: "r", Tenant: "acme", Bytes: 10, Holder: "h", At: 1})
		}
		between := event(db, 0)
		if failing {
			between = fails(db)
		}
		errs := db.Together(t.Context(), keepBlob(db, 1), between, keepBlob(db, 2), reserve, keepBlob(db, 3), reserve)
		if failing && !errors.Is(errs[1], errRefused) {
			t.Errorf("the one that fails: %v", errs[1])
		}
		for _, i := range []int{0, 2, 3, 4} {
			if errs[i] != nil {
				t.Errorf("write %d: %v", i, errs[i])
			}
		}
		if !api.Is(errs[5], api.CodeQuotaExceeded) {
			t.Errorf("room beyond the quota: %v", errs[5])
		}
		q, err := db.Quota(t.Context(), "acme")
		if err != nil || q.Used.Bytes != 30 || q.Used.Blobs != 3 || q.Used.ReservedBytes != 10 {
			t.Errorf("%+v, %v", q.Used, err)
		}
	})
}

// TestGroupReserves: rooms of one group are answered after all of them were written, and each as if it were alone.
func TestGroupReserves(t *testing.T) {
	for name, open := range map[string]func(testing.TB) *store.DB{"sqlite": openSQLite, "postgres": openPostgres} {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			ctx := t.Context()
			if err := errors.Join(db.PutTenant(ctx, api.Tenant{ID: "acme"}), keepBlob(db, 1)(ctx), keepBlob(db, 2)(ctx)); err != nil {
				t.Fatal(err)
			}
			blob := func(n int) api.Digest { return api.Digest(fmt.Sprintf("sha256:%064x", n)) }
			room := func(id string, tenant api.TenantID, blobs ...int) func(context.Context) error {
				return func(ctx context.Context) error {
					var all []api.Reservation
					for _, n := range blobs {
						all = append(all, api.Reservation{ID: id, Tenant: tenant, Blob: blob(n), Bytes: 10, Holder: "h", At: 1})
					}
					return db.Reserve(ctx, all...)
				}
			}
			var taken map[api.Digest]int64
			take := func(ctx context.Context) (err error) {
				taken, err = db.TakeBlobs(ctx, api.Reservation{ID: "t", Tenant: "acme", Blob: blob(1), Holder: "h", At: 1},
					api.Reservation{ID: "t", Tenant: "acme", Blob: blob(9), Holder: "h", At: 1})
				return err
			}
			limit := func(ctx context.Context) error {
				_, err := db.SetQuota(ctx, "acme", api.QuotaRequest{Blobs: 7}, -1, "admin", 1)
				return err
			}
			sweep := func(id string) error {
				return db.Steps(ctx, nil, store.Step{Query: `INSERT INTO dead_blobs (blob, size, since, sweep) VALUES (?, 10, 0, ?)`, Args: []any{string(blob(8)), id}})
			}
			if err := sweep("run"); err != nil {
				t.Fatal(err)
			}
			check := func(what string, errs []error, want ...string) {
				for i, err := range errs {
					if (err != nil) != (want[i] != "") || err != nil && !strings.Contains(err.Error(), want[i]) {
						t.Errorf("%s, write %d: %v, want %q", what, i, err, want[i])
					}
				}
			}
			check("one is swept", db.Together(ctx, room("a", "acme", 2, 3), room("b", "acme", 3, 3, 4), take, room("c", "acme", 8), room("d", "nobody", 5)),
				"", "", "", "being deleted", "no such tenant")
			check("a limit comes", db.Together(ctx, room("e", "acme", 4), limit, room("e", "acme", 5), room("f", "acme", 6)),
				"", "", "", "over the tenant's quota")
			if len(taken) != 1 || taken[blob(1)] != 10 {
				t.Errorf("taken are %v", taken)
			}
			q, err := db.Quota(ctx, "acme")
			if err != nil || q.Used.ReservedBlobs != 5 || q.Used.ReservedBytes != 50 { // 3 and 4 twice, and 5; what is held takes no room
				t.Errorf("%+v, %v", q.Used, err)
			}
		})
	}
}

// TestGroupTellsWebhooks: whether a tenant has webhooks is asked once in a group, unless a write of the same group makes, enables
// or deletes one, or is taken back.
func TestGroupTellsWebhooks(t *testing.T) {
	withAndWithoutFailure(t, func(t *testing.T, db *store.DB, failing bool) {
		hook := func(id api.WebhookID) func(context.Context) error {
			return func(ctx context.Context) error {
				return db.PutWebhook(ctx, api.Webhook{Tenant: "acme", ID: id, Kinds: []string{"k"}}, "sealed", 2)
			}
		}
		enable := func(on bool) func(context.Context) error {
			return func(ctx context.Context) error {
				_, err := db.ChangeWebhook(ctx, "acme", "w1", api.WebhookChange{Enabled: &on}, "admin", 1)
				return err
			}
		}
		all := []func(context.Context) error{event(db, 1), hook("w1"), event(db, 2), enable(false), event(db, 3), enable(true), event(db, 4)}
		if failing {
			all = append(all, fails(db))
		}
		for i, err := range db.Together(t.Context(), all...) {
			if err != nil && (!failing || i < len(all)-1) {
				t.Errorf("write %d: %v", i, err)
			}
		}
		deliveries, err := db.Deliveries(t.Context(), "acme", "w1", "", 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		told := map[string]api.DeliveryState{}
		for _, d := range deliveries {
			told[d.Event.Subject] = d.State
		}
		if len(told) != 2 || told["2"] != api.DeliveryDead || told["4"] != api.DeliveryPending {
			t.Errorf("it was told of %v", told)
		}
	})
}

// TestGroupTrimsEvents: a group leaves no more events of a tenant than are kept, but for the slack.
func TestGroupTrimsEvents(t *testing.T) {
	const kept, slack, groups = 5, 256, 10
	db, err := store.Config{URL: "sqlite:" + t.TempDir() + "/store.db", EventsKept: kept, Timeout: patience}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	written := 0
	for range groups {
		var all []func(context.Context) error
		for range 60 {
			written++
			all = append(all, event(db, written))
		}
		if err := errors.Join(db.Together(t.Context(), all...)...); err != nil {
			t.Fatal(err)
		}
		events, err := db.Events(t.Context(), "acme", 0, 1000)
		if err != nil || len(events) > kept+slack || len(events) < min(written, kept) || events[len(events)-1].Subject != fmt.Sprint(written) {
			t.Fatalf("%d events of %d, %v", len(events), written, err)
		}
	}
	if events, err := db.Events(t.Context(), "acme", 0, 1000); err != nil || len(events) == written {
		t.Errorf("none was removed of %d, %v", written, err)
	}
}

package rollout_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/rollout"
)

// TestRenamed: what serves and what a rollback goes to has the new name, under the instances that are loaded already; another
// tenant's rename changes nothing.
func TestRenamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newDatabase(), t.TempDir())
		defer b.stop()
		b.deploy(t, 1)
		b.deploy(t, 2)
		name := func() (m api.ModelName, instances map[string]bool, subject string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			m = b.routes[0].Variants[0].Model
			b.fleet.mu.Lock()
			defer b.fleet.mu.Unlock()
			return m, b.fleet.want, b.fleet.claims[api.EndpointKey{Tenant: "default", Endpoint: "e"}][0].Subject
		}
		_, before, _ := name()
		b.Renamed("another", "m", "x")
		if m, _, subject := name(); m != "m" || subject != "m@2" {
			t.Errorf("another tenant's rename made it %s, %s", m, subject)
		}
		b.Renamed("default", "m", "n")
		m, after, subject := name()
		if m != "n" || subject != "n@2" || len(after) != len(before) {
			t.Errorf("serves %s, wants %s, %d instances where there were %d", m, subject, len(after), len(before))
		}
		for instance := range before {
			if !after[instance] {
				t.Errorf("instance %s would be loaded anew", instance)
			}
		}
		if _, err := b.Rollback(t.Context(), someone, "e", 0, ""); err != nil {
			t.Fatal(err)
		}
		if m, _, _ := name(); m != "n" || b.serving("e") != 1 {
			t.Errorf("the rollback serves %s@%d", m, b.serving("e"))
		}
	})
}

// renaming is a database in which a model is renamed just before a deploy is kept, as its transaction then finds.
type renaming struct {
	*database
	told func(t api.TenantID, from, to api.ModelName)
}

func (r renaming) StartRelease(ctx context.Context, spec api.EndpointSpec, ifGeneration int64, rev api.Revision, rel api.Release) (api.Endpoint, error) {
	r.told(rev.Tenant, "m", "n")
	rev, _ = rev.Renamed("m", "n")
	return r.database.StartRelease(ctx, spec, ifGeneration, rev, rel)
}

// TestRenamedWhileDeployed: a deploy whose references were resolved before a rename serves under the new name.
func TestRenamedWhileDeployed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *rollout.Controller
		store := renaming{newDatabase(), func(t api.TenantID, from, to api.ModelName) { c.Renamed(t, from, to) }}
		c = rollout.New(rollout.Config{JournalDir: t.TempDir(), Now: time.Now, Log: slog.New(slog.DiscardHandler), Store: store, Catalog: catalog{},
			Fleet: &fleet{have: map[string]bool{}}, Meter: meter{}}, func() {})
		if err := c.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		rel, err := c.Deploy(t.Context(), someone, "e", spec(1), -1, "")
		if err == nil {
			_, err = c.Await(t.Context(), "default", "e", rel.Number)
		}
		if err != nil {
			t.Fatal(err)
		}
		if routes := c.Routes(); len(routes) != 1 || len(routes[0].Variants) != 1 || routes[0].Variants[0].Model != "n" {
			t.Errorf("serves %+v", routes)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

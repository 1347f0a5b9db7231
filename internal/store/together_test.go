package store_test

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/internal/store/storetest"
)

// TestTwoStores lets two open stores write into one database, as two servers on one PostgreSQL do: numbers have no gap,
// and an event's number is never seen before a lower one.
func TestTwoStores(t *testing.T) {
	for name, url := range map[string]string{"sqlite": "sqlite:" + filepath.Join(t.TempDir(), "store.db"), "postgres": storetest.Postgres(t)} {
		t.Run(name, func(t *testing.T) {
			stores := []*store.DB{openURL(t, url), openURL(t, url)}
			if err := stores[0].PutTenant(t.Context(), api.Tenant{ID: "acme"}); err != nil {
				t.Fatal(err)
			}
			const each, all = 20, 8
			var writing sync.WaitGroup
			for writer := range all {
				writing.Go(func() {
					for i := range each {
						v := testVersion(0, api.VersionNumber(writer*each+i))
						if _, _, err := stores[writer%2].CommitVersion(t.Context(), v, []api.AliasName{"live"}, ""); err != nil {
							t.Errorf("commit: %v", err)
						}
					}
				})
			}
			for last := int64(0); last < all*each && !t.Failed(); {
				events, err := stores[0].Events(t.Context(), "", last, 1000)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range events {
					if last++; e.Seq != last {
						t.Fatalf("event %d is seen before %d", e.Seq, last)
					}
				}
			}
			writing.Wait()
			m, err := stores[1].Model(t.Context(), "acme", "m0")
			if err != nil || m.Latest != all*each || m.Aliases[0].Moves != all*each {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
}

package store_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

// each runs a benchmark on both databases.
func each(b *testing.B, run func(b *testing.B, db *store.DB)) {
	for name, open := range map[string]func(testing.TB) *store.DB{"sqlite": openSQLite, "postgres": openPostgres} {
		b.Run(name, func(b *testing.B) {
			db := open(b)
			if err := db.PutTenant(b.Context(), api.Tenant{ID: "acme"}); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			run(b, db)
		})
	}
}

func commitMany(b *testing.B, db *store.DB, next *atomic.Int64, more func() bool) {
	for more() {
		n := next.Add(1)
		v := testVersion(int(n%8), api.VersionNumber(n))
		if _, _, err := db.CommitVersion(b.Context(), v, []api.AliasName{"live"}, ""); err != nil {
			b.Error(err)
			return
		}
	}
}

// BenchmarkCommit is a push's commit: eight statements and one wait for the disk, shared when writers are many.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			each(b, func(b *testing.B, db *store.DB) {
				var next atomic.Int64
				b.SetParallelism(max(1, writers/2)) // times GOMAXPROCS, which is 2 where the figures were taken
				if writers == 1 {
					commitMany(b, db, &next, b.Loop)
				} else {
					b.RunParallel(func(p *testing.PB) { commitMany(b, db, &next, p.Next) })
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			})
		})
	}
}

// BenchmarkEvent is the smallest write.
func BenchmarkEvent(b *testing.B) {
	each(b, func(b *testing.B, db *store.DB) {
		b.SetParallelism(8)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if err := db.AppendEvent(b.Context(), api.Event{Tenant: "acme", Kind: "k", Text: "text"}); err != nil {
					b.Error(err)
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
}

// BenchmarkRead reads one version by its number, and a model with its alias, among 2,000 versions.
func BenchmarkRead(b *testing.B) {
	each(b, func(b *testing.B, db *store.DB) {
		var next atomic.Int64
		commitMany(b, db, &next, func() bool { return next.Load() < 2000 })
		b.Run("version", func(b *testing.B) {
			for b.Loop() {
				if _, err := db.Version(b.Context(), "acme", "m3", 100); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("model", func(b *testing.B) {
			for b.Loop() {
				if _, err := db.Model(b.Context(), "acme", "m3"); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

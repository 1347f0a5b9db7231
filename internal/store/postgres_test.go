package store_test

import (
	"math/rand/v2"
	"testing"

	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/internal/store/storetest"
)

func openPostgres(t testing.TB) *store.DB {
	t.Helper()
	return openURL(t, storetest.Postgres(t))
}

func TestPostgres(t *testing.T) { storetest.Run(t, openPostgres) }

// TestSameWalk takes the same steps on both databases: their dumps must be equal, and each can take the other's.
func TestSameWalk(t *testing.T) {
	seed := rand.Uint64()
	one, two := openSQLite(t), openPostgres(t)
	storetest.Walk(t, one, seed, 500)
	storetest.Walk(t, two, seed, 500)
	dump := storetest.Dump(t, one)
	if other := storetest.Dump(t, two); other != dump {
		t.Fatalf("seed %d: the dumps differ:\n%s\n%s", seed, dump, other)
	}
	for name, open := range map[string]func(testing.TB) *store.DB{"into SQLite": openSQLite, "into PostgreSQL": openPostgres} {
		copied := open(t)
		load(t, copied, dump)
		if again := storetest.Dump(t, copied); again != dump {
			t.Errorf("seed %d: the copy %s differs", seed, name)
		}
	}
}

package store_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/internal/store/storetest"
)

// openSQLite opens a store in a file of its own.
func openSQLite(t testing.TB) *store.DB {
	t.Helper()
	return openURL(t, "sqlite:"+filepath.Join(t.TempDir(), "store #1 %41?.db"))
}

// patience is how long these tests wait for the database: a busy machine, or the race detector, may make it many times
// slower. What becomes of calls that wait too long is tested in fault_test.go.
const patience = 2 * time.Minute

// openURL opens a store and closes it with the test.
func openURL(t testing.TB, url string) *store.DB {
	t.Helper()
	db, err := store.Config{URL: url, Timeout: patience}.Open(t.Context())
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

func TestSQLite(t *testing.T) { storetest.Run(t, openSQLite) }

// load imports a dump.
func load(t testing.TB, db *store.DB, dump string) {
	t.Helper()
	if err := db.Import(t.Context(), strings.NewReader(dump)); err != nil {
		t.Fatalf("import: %v", err)
	}
}

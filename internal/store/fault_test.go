package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/internal/store/storetest"
)

// runSQL runs a statement beside the store, as another program could.
func runSQL(t testing.TB, driver, name, statement string) {
	t.Helper()
	db, err := sql.Open(driver, name)
	if err == nil {
		_, err = db.ExecContext(t.Context(), statement)
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	strange := filepath.Join(dir, "strange.db")
	if err := os.WriteFile(strange, []byte(strings.Repeat("This is not a database. ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, c := range []struct {
		name, url string
		code      api.Code
		says      string
	}{
		{"no scheme", "/var/lib/store.db", api.CodeUnsupported, "neither sqlite: nor postgres:"},
		{"another scheme", "mysql://u:secret@h/d", api.CodeUnsupported, "neither sqlite: nor postgres:"},
		{"nothing", "", api.CodeUnsupported, "neither sqlite: nor postgres:"},
		{"no file", "sqlite:", api.CodeBadRequest, "names no file"},
		{"memory", "sqlite::memory:", api.CodeBadRequest, "names no file"},
		{"no folder", "sqlite:" + filepath.Join(dir, "none", "store.db"), api.CodeStorage, "cannot be made"},
		{"a folder", "sqlite:" + dir, api.CodeStorage, "cannot be opened"},
		{"not a database", "sqlite:" + strange, api.CodeStorage, "not a database"},
		{"bad URL", "postgres://u:secret@h:port/d", api.CodeBadRequest, "not a PostgreSQL URL"},
		{"no server", "postgres://u:secret@127.0.0.1:1/d", api.CodeStorage, "cannot be reached"},
		{"silent server", "postgres://u:secret@" + silent.Addr().String() + "/d?sslmode=disable", api.CodeStorage, ""},
		{"no such database", strings.Replace(storetest.Postgres(t), "test_", "never_", 1), api.CodeStorage, "refused"},
	} {
		limit := 20 * time.Second // on a busy machine a refusal may take long, too
		if c.name == "silent server" {
			limit = 300 * time.Millisecond
		}
		db, err := store.Config{URL: c.url, Timeout: limit}.Open(t.Context())
		if db != nil || !api.Is(err, c.code) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want code %s and %q", c.name, err, c.code, c.says)
		}
		if strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("%s: the password is in %v", c.name, err)
		}
	}
}

func TestNewerSchema(t *testing.T) {
	path, postgres := filepath.Join(t.TempDir(), "store.db"), storetest.Postgres(t)
	for _, c := range []struct{ driver, name, url string }{{"sqlite", path, "sqlite:" + path}, {"pgx", postgres, postgres}} {
		if err := openURL(t, c.url).Close(); err != nil {
			t.Fatal(err)
		}
		runSQL(t, c.driver, c.name, "INSERT INTO schema_version (version, name, applied) VALUES (99, 'future', 0)")
		_, err := store.Open(t.Context(), c.url)
		if !api.Is(err, api.CodeUnsupported) || !strings.Contains(err.Error(), "schema 99") {
			t.Errorf("%s: got %v, want a clear refusal", c.driver, err)
		}
	}
}

// TestOpenTogether opens one new store from many sides: one migrates, the others find it done.
func TestOpenTogether(t *testing.T) {
	for _, url := range []string{"sqlite:" + filepath.Join(t.TempDir(), "store.db"), storetest.Postgres(t)} {
		opened := make(chan error)
		for range 6 {
			go func() {
				db, err := store.Open(t.Context(), url)
				if err == nil {
					err = db.Close()
				}
				opened <- err
			}()
		}
		for range 6 {
			if err := <-opened; err != nil {
				t.Error(err)
			}
		}
	}
}

// passing are tables that no dump holds: what is in them ends with a process or a sweep.
var passing = []string{"leases", "reservations", "dead_blobs"}

// TestDumpHasAllTables fails when a migration adds a table or column that Export does not know. The index for searches is
// made again of what the dump holds.
func TestDumpHasAllTables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	dump := storetest.Dump(t, openURL(t, "sqlite:"+path))
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), `SELECT t.name, group_concat('"' || c.name || '"', ',' ORDER BY c.cid) FROM sqlite_master t, pragma_table_info(t.name) c
		WHERE t.type = 'table' AND t.name <> 'schema_version' AND t.name NOT LIKE 'catalogue%' GROUP BY t.name`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	seen := 0
	for ; rows.Next(); seen++ {
		var name, columns string
		if err := rows.Scan(&name, &columns); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%q:[%s]", name, columns); strings.Contains(dump, want) == slices.Contains(passing, name) {
			t.Errorf("the dump's header lacks %s", want)
		}
	}
	if err := rows.Err(); err != nil || seen < 13 {
		t.Errorf("saw %d tables, %v", seen, err)
	}
}

// TestLocked lets another program hold the database: calls come back in time with a clear code, nothing given up is
// written later, reads go on, and writes too once it lets go.
func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	for _, c := range []struct{ driver, url, name, lock string }{
		{"sqlite", "sqlite:" + path, path, "BEGIN IMMEDIATE"},
		{"pgx", storetest.Postgres(t), "", "BEGIN; SELECT pg_advisory_xact_lock(8099000947049456491)"},
	} {
		db, err := store.Config{URL: c.url, Timeout: 150 * time.Millisecond}.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if c.name == "" {
			c.name = c.url
		}
		other, err := sql.Open(c.driver, c.name)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := other.Conn(t.Context())
		if err == nil {
			_, err = conn.ExecContext(t.Context(), c.lock)
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := db.PutTenant(t.Context(), api.Tenant{ID: api.TenantID(fmt.Sprint("t", i))}); !api.Is(err, api.CodeStorage) {
				t.Errorf("%s: a locked store answers %v", c.driver, err)
			}
		}
		var all []api.Tenant
		eventually(t, func() (err error) { all, err = db.Tenants(t.Context()); return err }) // a busy machine may need longer once
		if len(all) != 0 {
			t.Errorf("%s: reading beside the lock: %v", c.driver, all)
		}
		if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
		eventually(t, func() error { return db.PutTenant(t.Context(), api.Tenant{ID: "acme"}) })
		if all, err := db.Tenants(t.Context()); err != nil || len(all) != 1 {
			t.Errorf("%s: after the lock: %v, %v", c.driver, all, err)
		}
		if err := errors.Join(conn.Close(), other.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	}
}

// eventually calls a function until it succeeds.
func eventually(t testing.TB, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for err := try(); err != nil; err = try() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it never succeeds: %v", err)
		}
	}
}

// TestLostConnections ends every connection at the server, as its restart does: the next calls just work.
func TestLostConnections(t *testing.T) {
	url := storetest.Postgres(t)
	db := openURL(t, url)
	for i := range 20 {
		id := api.TenantID(fmt.Sprint("t", i))
		if err := db.PutTenant(t.Context(), api.Tenant{ID: id}); err != nil {
			t.Fatalf("write %d: %v: %v", i, err, errors.Unwrap(err))
		}
		if all, err := db.Tenants(t.Context()); err != nil || len(all) != i+1 {
			t.Fatalf("read %d: %v, %v: %v", i, all, err, errors.Unwrap(err))
		}
		runSQL(t, "pgx", url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	}
}

// TestReadOnlyServer makes the server refuse writes: they fail with the storage code, reads go on.
func TestReadOnlyServer(t *testing.T) {
	url := storetest.Postgres(t)
	if err := openURL(t, url).Close(); err != nil {
		t.Fatal(err)
	}
	db := openURL(t, url+"&default_transaction_read_only=off") // the URL's own settings reach the server
	if err := db.PutTenant(t.Context(), api.Tenant{ID: "acme"}); err != nil {
		t.Fatal(err)
	}
	runSQL(t, "pgx", url, "DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' SET default_transaction_read_only = on'; END $$")
	fresh := url + "&application_name=fresh"
	if _, err := store.Open(t.Context(), fresh); !api.Is(err, api.CodeStorage) || !strings.Contains(err.Error(), "only takes reads") {
		t.Errorf("opening a read-only database: %v", err)
	}
}

// TestEventsAreBounded checks that each tenant keeps its newest events, and that one tenant's noise costs no other's.
func TestEventsAreBounded(t *testing.T) {
	for _, url := range []string{"sqlite:" + filepath.Join(t.TempDir(), "store.db"), storetest.Postgres(t)} {
		db, err := store.Config{URL: url, EventsKept: 20}.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		if err := db.AppendEvent(t.Context(), api.Event{Tenant: "quiet"}); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		for range 8 {
			go func() {
				var failed error
				for range 100 {
					failed = errors.Join(failed, db.AppendEvent(t.Context(), api.Event{Tenant: "noisy"}))
				}
				done <- failed
			}()
		}
		for range 8 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		noisy, err := db.Events(t.Context(), "noisy", -1, 1000)
		if err != nil || len(noisy) < 20 || len(noisy) > 20+256 || noisy[len(noisy)-1].Seq != 801 {
			t.Errorf("%d events are kept, %v", len(noisy), err)
		}
		if !slices.IsSortedFunc(noisy, func(a, b api.Event) int { return int(a.Seq - b.Seq) }) {
			t.Error("the events are not in order")
		}
		if quiet, err := db.Events(t.Context(), "quiet", 0, 10); err != nil || len(quiet) != 1 {
			t.Errorf("the quiet tenant has %v, %v", quiet, err)
		}
	}
}

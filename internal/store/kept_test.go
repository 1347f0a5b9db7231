package store

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	sqlitedriver "modernc.org/sqlite"
)

// TestKeptStatements runs texts again: beside themselves, after a fault, after the schema has changed, and more of them than are
// kept.
func TestKeptStatements(t *testing.T) {
	db := sql.OpenDB(keeping{driver: new(sqlitedriver.Driver), name: filepath.Join(t.TempDir(), "k.db")})
	defer db.Close()
	db.SetMaxOpenConns(1)
	ctx := t.Context()
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	do := func(query string, args ...any) error {
		_, err := conn.ExecContext(ctx, query, args...)
		return err
	}
	const insert = "INSERT INTO t (a) VALUES (?)"
	for _, err := range []error{do("CREATE TABLE t (a INTEGER PRIMARY KEY); CREATE TABLE u (b)"), do(insert, 1), do(insert, 2)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := do(insert, 2); err == nil {
		t.Error("the same key is taken twice")
	}
	if err := do(insert, 3); err != nil {
		t.Errorf("after a fault: %v", err)
	}
	const read = "SELECT a FROM t WHERE a >= ? ORDER BY a"
	all := func(ctx context.Context, from int) (got []int) {
		rows, err := conn.QueryContext(ctx, read, from)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var a int
			if err := rows.Scan(&a); err != nil {
				t.Fatal(err)
			}
			got = append(got, a)
		}
		return got
	}
	rows, err := conn.QueryContext(ctx, read, 1)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; rows.Next(); n++ { // the same text while it is being read
		var a int
		if err := rows.Scan(&a); err != nil || a != n {
			t.Errorf("row %d is %d, %v", n, a, err)
		}
		if got := all(ctx, 3); len(got) != 1 || got[0] != 3 {
			t.Errorf("beside it: %v", got)
		}
	}
	if err := rows.Close(); err != nil {
		t.Error(err)
	}
	if got := all(ctx, 2); fmt.Sprint(got) != "[2 3]" {
		t.Errorf("again: %v", got)
	}
	if err := do("ALTER TABLE t ADD COLUMN b TEXT"); err != nil {
		t.Fatal(err)
	}
	if got := all(ctx, 1); fmt.Sprint(got) != "[1 2 3]" {
		t.Errorf("after the table has changed: %v", got)
	}
	for n := range 2 * keptMax {
		if err := do(fmt.Sprintf("UPDATE t SET b = %d WHERE a = ?", n), 1); err != nil {
			t.Fatal(err)
		}
	}
	err = conn.Raw(func(c any) error {
		if n := len(c.(*keptConn).kept); n == 0 || n > keptMax {
			t.Errorf("%d statements are kept", n)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

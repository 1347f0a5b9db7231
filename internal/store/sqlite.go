package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
	sqlitedriver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"
)

// sqlite keeps everything in one file with its write-ahead log beside it. synchronous=FULL makes every COMMIT wait for
// the disk; with NORMAL, a loss of power could take back what was acknowledged.
type sqlite struct{}

func (sqlite) open(_ context.Context, c Config) (reads, writes *sql.DB, _ error) {
	path, err := sqlitePath(c.URL)
	if err != nil {
		return nil, nil, err
	}
	if err := makeFile(path); err != nil {
		return nil, nil, err
	}
	// The order counts: the wait for locks comes before the change of the journal, which takes one.
	pragmas := []string{fmt.Sprintf("busy_timeout(%d)", c.Timeout.Milliseconds()), "journal_mode(WAL)", "synchronous(FULL)",
		"foreign_keys(1)", "trusted_schema(0)", "journal_size_limit(67108864)",
		"temp_store(memory)"} // what a job changes is kept until it has ended well: in a file, that was a quarter of all writes
	// With pages that many commits change, 64 MB of them in memory and a log of 16 MB before they go to their place, most of
	// what is written twice is written once.
	query := url.Values{"_pragma": append(slices.Clone(pragmas), "cache_size(-65536)", "wal_autocheckpoint(4000)")}
	name := (&url.URL{Scheme: "file", Path: path}).String()
	writes = sql.OpenDB(keeping{driver: new(sqlitedriver.Driver), name: name + "?" + query.Encode()})
	writes.SetMaxOpenConns(1)
	query["_pragma"] = append(pragmas, "query_only(1)", "cache_size(-8192)")
	reads = sql.OpenDB(keeping{driver: new(sqlitedriver.Driver), name: name + "?" + query.Encode()})
	reads.SetMaxOpenConns(readersMax)
	reads.SetMaxIdleConns(readersMax)
	return reads, writes, nil
}

func sqlitePath(text string) (string, error) {
	path := strings.TrimPrefix(text, "sqlite:")
	if strings.HasPrefix(path, "///") {
		path = strings.TrimPrefix(path, "//")
	}
	if path == "" || strings.HasPrefix(path, "//") || strings.HasPrefix(path, ":memory:") || strings.ContainsRune(path, 0) {
		return "", api.Fail(api.CodeBadRequest, "", "the store's URL names no file").WithCure("Use sqlite:/path/file.db.")
	}
	return filepath.Abs(path)
}

// makeFile creates a missing database file readable by its owner alone (SQLite gives the log the same mode) and waits
// until the folder's entry is on disk.
func makeFile(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return api.Fail(api.CodeStorage, "", "the database file cannot be made: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return errors.Join(err, file.Close())
	}
	return errors.Join(file.Close(), dir.Sync(), dir.Close())
}

func (sqlite) begin(ctx context.Context, on querier) error {
	_, err := on.ExecContext(ctx, "BEGIN IMMEDIATE")
	return err
}

func (sqlite) bound(time.Duration) (context.Context, context.CancelFunc) {
	return context.Background(), func() {}
}

func (sqlite) pipe(*sql.Conn) *pipe { return nil }

func (sqlite) learn(context.Context, *sql.DB) error { return nil } // it is told how to search: see search

func (sqlite) bulk(context.Context, querier) error { return nil }

func (sqlite) snapshot() *sql.TxOptions { return nil }

func (sqlite) schema(portable string) string {
	return strings.NewReplacer("BIGINT", "INTEGER", "/*STRICT*/", "STRICT", "/*STRICT CLUSTERED*/", "STRICT, WITHOUT ROWID").Replace(portable)
}

func (sqlite) rebind(query string) string { return query }

// busy reports a lock that another program holds and that SQLite did not wait for.
func busy(err error) bool {
	var fault *sqlitedriver.Error
	return errors.As(err, &fault) && fault.Code()&0xff == codes.SQLITE_BUSY
}

func (sqlite) reason(err error) (text string, lost bool) {
	var fault *sqlitedriver.Error
	if !errors.As(err, &fault) {
		return "", false
	}
	switch fault.Code() & 0xff { // the low byte is the primary code
	case codes.SQLITE_FULL:
		return "the disk is full", false
	case codes.SQLITE_READONLY, codes.SQLITE_PERM:
		return "the file may not be written", false
	case codes.SQLITE_BUSY, codes.SQLITE_LOCKED:
		return "another process keeps it locked", false
	case codes.SQLITE_IOERR:
		return "the disk reported an error", false
	case codes.SQLITE_CORRUPT:
		return "the file is damaged", false
	case codes.SQLITE_NOTADB:
		return "the file is not a database", false
	case codes.SQLITE_CANTOPEN:
		return "the file cannot be opened", false
	}
	return fmt.Sprintf("SQLite error %d", fault.Code()), false
}

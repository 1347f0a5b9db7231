// Package store keeps the nouns of api in a database: SQLite in one file, or PostgreSQL by a URL, with one portable SQL
// text for both. It is not a cache and knows no rules of the rooms: it guards only what needs a transaction (numbers
// without gaps, compare-and-swap, history, one event per change). Only server opens it; rooms see the methods that they
// declare in an interface of their own. What a method has acknowledged is on disk.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
)

// The limits that no setting changes.
const (
	listMax      = 1000             // most rows that one list answers with
	listDefault  = 100              // rows of a list whose limit is 0 or less
	tagsMax      = 256              // most tags on one version
	aliasesMax   = 1000             // most live aliases of one model
	readersMax   = 8                // connections that read at the same time
	bulkTimeout  = 10 * time.Minute // for Export, Import, EachKey and migrations
	claimKept    = 24 * time.Hour   // how long an idempotency key is remembered
	claimLease   = time.Hour        // after which an unfinished claim counts as lost with its server, and may be taken again
	claimsPruned = 1000             // most expired keys removed by one claim
)

// Config says which database to open and how long to wait for it. The zero value of a field means its default.
type Config struct {
	// URL is "sqlite:/path/file.db" or "postgres://user@host/database"; required.
	URL string
	// Timeout is the longest that one call waits for the database. Default 5 seconds.
	Timeout time.Duration
	// EventsKept is how many events are kept per tenant; older ones are removed. Default 100,000.
	EventsKept int64
	// OutboxMax is how many deliveries may wait for one webhook; one more disables it, which it says with an event.
	// Default 10,000.
	OutboxMax int64
}

func (c Config) withDefaults() Config {
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	if c.EventsKept <= 0 {
		c.EventsKept = 100_000
	}
	if c.OutboxMax <= 0 {
		c.OutboxMax = 10_000
	}
	return c
}

// DB is an open store. All methods may be called from many goroutines. Errors are *api.Error: a not-found, exists or
// stale code of the noun, canceled or deadline when the caller's context ended, and storage_unavailable when the
// database failed. After an error of the last three the change may still have been kept; every method can be repeated.
type DB struct {
	dialect dialect
	reads   *sql.DB // many connections; on SQLite they cannot write
	writes  *sql.DB // one connection, used by the writer alone
	rebind  func(string) string
	writer  *writer
	timeout time.Duration
	kept    int64 // events per tenant
	outbox  int64 // deliveries that wait, per webhook
	many    many
	close   sync.Once
}

// dialect is what differs between the databases.
type dialect interface {
	open(ctx context.Context, c Config) (reads, writes *sql.DB, _ error)
	// begin starts a transaction on the connection and waits until no other process writes.
	begin(ctx context.Context, on querier) error
	// bound limits a group of writes in time. SQLite's is not bounded: an interrupt would roll back the others' work, and
	// its waits are bounded by busy_timeout.
	bound(timeout time.Duration) (context.Context, context.CancelFunc)
	// pipe sends the statements of a write together; nil where that gains nothing.
	pipe(conn *sql.Conn) *pipe
	// learn lets the planner see what the tables hold now.
	learn(ctx context.Context, db *sql.DB) error
	// bulk lifts the limits of a transaction that streams a whole database.
	bulk(ctx context.Context, on querier) error
	snapshot() *sql.TxOptions // a transaction whose reads all see one moment
	schema(portable string) string
	rebind(query string) string
	reason(err error) (text string, lost bool) // lost: the connection is gone, nothing was done
}

// Open opens the database of a URL and migrates its schema to the one that this program knows.
func Open(ctx context.Context, url string) (*DB, error) { return Config{URL: url}.Open(ctx) }

// Open opens the database and migrates its schema to the one that this program knows.
func (c Config) Open(ctx context.Context) (*DB, error) {
	c = c.withDefaults()
	d, err := dialectOf(c.URL)
	if err != nil {
		return nil, err
	}
	db := &DB{dialect: d, rebind: remembered(d.rebind), timeout: c.Timeout, kept: c.EventsKept, outbox: c.OutboxMax}
	if db.reads, db.writes, err = d.open(ctx, c); err != nil {
		return nil, db.fault(ctx, "open", err)
	}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(db.fault(ctx, "migrate", err), db.reads.Close(), db.writes.Close())
	}
	db.writer = newWriter(db)
	if err := db.indexMissing(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func dialectOf(url string) (dialect, error) {
	switch scheme, _, _ := strings.Cut(url, ":"); scheme {
	case "sqlite":
		return sqlite{}, nil
	case "postgres", "postgresql":
		return postgres{}, nil
	default: // the URL is not shown: it may hold a password
		return nil, api.Fail(api.CodeUnsupported, "", "the store's URL begins with neither sqlite: nor postgres:").
			WithCure("Use sqlite:/path/file.db or postgres://user@host/database.")
	}
}

// Close finishes the writes that have begun, refuses the others and closes the database. It can be called again.
func (db *DB) Close() error {
	var err error
	db.close.Do(func() {
		err = errors.Join(db.writer.close(2*db.timeout), db.reads.Close(), db.writes.Close())
	})
	if err != nil {
		return api.Fail(api.CodeStorage, "", "the database did not close cleanly").Because(err)
	}
	return nil
}

// Ping reports whether the database answers and holds the schema.
func (db *DB) Ping(ctx context.Context) error {
	_, err := read(ctx, db, "answer", func(ctx context.Context, s session) (int64, error) {
		var version int64
		found, err := s.one(ctx, `SELECT MAX(version) FROM schema_version`, nil, &version)
		if err == nil && !found {
			err = errors.New("no schema")
		}
		return version, err
	})
	return err
}

// page bounds the limit of a list.
func page(limit int) int {
	if limit <= 0 {
		return listDefault
	}
	return min(limit, listMax)
}

// fault turns what went wrong into the error that crosses the door. The caller's own context says whether the caller
// gave up; our own time limit is the database's fault.
func (db *DB) fault(ctx context.Context, act string, err error) error {
	var known *api.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	switch ended := ctx.Err(); {
	case errors.Is(ended, context.Canceled):
		return api.Fail(api.CodeCanceled, "", "the call was cancelled").Because(fmt.Errorf("%s: %w", act, err))
	case ended != nil:
		return api.Fail(api.CodeDeadline, "", "the deadline passed before the database could %s", act).
			Because(fmt.Errorf("%s: %w", act, err))
	}
	text := "it failed"
	switch {
	case errors.Is(err, errClosed), strings.HasPrefix(err.Error(), "sql: database is closed"):
		text = "it is closed"
	case errors.Is(err, context.DeadlineExceeded):
		text = fmt.Sprintf("it did not answer within %v", db.timeout)
	default:
		if known, _ := db.dialect.reason(err); known != "" {
			text = known
		}
	}
	return api.Fail(api.CodeStorage, "", "the database cannot %s: %s", act, text).Because(fmt.Errorf("%s: %w", act, err))
}

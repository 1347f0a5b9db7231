package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/penstock/penstock/api"
)

// postgres lets several Penstocks share one database. Writes are in groups as on SQLite: see writer.
type postgres struct{}

// writeLock is the advisory lock that a group of writes holds; the number is only ours by being unlikely.
const writeLock int64 = 0x70656e73746f636b // "penstock"

func (postgres) open(ctx context.Context, c Config) (reads, writes *sql.DB, _ error) {
	config, err := pgx.ParseConfig(c.URL)
	if err != nil { // pgx leaves the password out of this error, but not every other secret
		return nil, nil, api.Fail(api.CodeBadRequest, "", "the store's URL is not a PostgreSQL URL").
			WithCure("Use postgres://user@host/database.").Because(err)
	}
	config.ConnectTimeout = c.Timeout
	millis := strconv.FormatInt(c.Timeout.Milliseconds(), 10)
	for name, value := range map[string]string{
		"application_name":                    "penstock",
		"random_page_cost":                    "1.1", // what is asked for is a few rows by an index, and mostly in memory
		"jit":                                 "off", // translating a search took longer than its answer
		"statement_timeout":                   millis,
		"idle_in_transaction_session_timeout": strconv.FormatInt(2*c.Timeout.Milliseconds(), 10), // frees the lock of a lost server
	} {
		if _, set := config.RuntimeParams[name]; !set {
			config.RuntimeParams[name] = value
		}
	}
	durable := stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		// Acknowledged means on disk, whatever the server's default is; stronger settings stay.
		_, err := conn.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`)
		return err
	})
	// Statements are written to be answered row by row through indexes, as SQLite answers all of them. The planner, which knows
	// little right after an import, would now and then read whole tables instead.
	config.RuntimeParams["enable_hashjoin"], config.RuntimeParams["enable_mergejoin"] = "off", "off"
	writes = stdlib.OpenDB(*config, durable)
	// A search is planned once on each connection and not each time, and not shared out: to start a process for a part of it takes
	// longer than the whole.
	config = config.Copy()
	config.RuntimeParams["plan_cache_mode"], config.RuntimeParams["max_parallel_workers_per_gather"] = "force_generic_plan", "0"
	reads = stdlib.OpenDB(*config, durable)
	reads.SetMaxOpenConns(readersMax)
	reads.SetMaxIdleConns(readersMax)
	writes.SetMaxOpenConns(1)
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if err := writes.PingContext(ctx); err != nil {
		return nil, nil, errors.Join(err, reads.Close(), writes.Close())
	}
	return reads, writes, nil
}

func (postgres) begin(ctx context.Context, on querier) error {
	_, err := on.ExecContext(ctx, fmt.Sprintf("BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(%d)", writeLock))
	return err
}

func (postgres) bound(timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), timeout)
}

func (postgres) pipe(conn *sql.Conn) *pipe { return &pipe{conn: conn} }

// learn: the server looks by itself, but a minute later, and plans for empty tables until then. VACUUM, because counting and
// searching by an index alone takes a third of the time where the pages are known to hold nothing that is not for everybody.
func (postgres) learn(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, `VACUUM (ANALYZE, TRUNCATE FALSE) models, versions, labels, aliases, manifests, manifest_parts, repository_blobs, tenant_blobs,
		reservations, lineage_links, events, catalogue, catalogue_words, catalogue_amounts, catalogue_terms`)
	return err
}

func (postgres) bulk(ctx context.Context, on querier) error {
	_, err := on.ExecContext(ctx, "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
	return err
}

func (postgres) snapshot() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
}

func (postgres) schema(portable string) string {
	return strings.NewReplacer(" TEXT ", ` TEXT COLLATE "C" `, "/*POSTGRES", "", "POSTGRES*/", "").Replace(portable)
}

// folded puts LOWER around what is marked: LIKE does not tell ASCII's upper case from lower on SQLite, and does here. What
// SQLite is told of indexes is left out. What is marked EACH is answered by itself, which is what OFFSET is known for: left
// to itself the planner would join with all entries that meet a condition, or begin with another than the one that has few.
// Where those are sorted, each is next to the one before in the index that begins with the entry; the one by words, which
// SQLite uses there, is kept from the planner by what stands in the place of PLAIN.
var folded = strings.NewReplacer("/*LOWER(*/", "LOWER(", "/*)*/", ")", " INDEXED BY catalogue_by_word", "", "/*PLAIN*/", " || ''",
	"/*SORTED ASC*/", " ORDER BY entry ASC", "/*SORTED DESC*/", " ORDER BY entry DESC", "/*EACH*/", " OFFSET 0")

// rebind numbers the placeholders. The statements are our own and hold no question mark in a text.
func (postgres) rebind(query string) string {
	query = folded.Replace(query)
	var b strings.Builder
	for n := 1; ; n++ {
		before, after, found := strings.Cut(query, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n))
		query = after
	}
}

func (postgres) reason(err error) (text string, lost bool) {
	var fault *pgconn.PgError
	if errors.As(err, &fault) {
		switch {
		case fault.Code == "53100":
			return "its disk is full", false
		case fault.Code == "25006":
			return "it only takes reads", false
		case fault.Code == "55P03", fault.Code == "57014":
			return "another process keeps it locked, or it is too slow", false
		case strings.HasPrefix(fault.Code, "57P"), strings.HasPrefix(fault.Code, "08"):
			return "its server ended the connection", true
		case strings.HasPrefix(fault.Code, "28"), strings.HasPrefix(fault.Code, "3D"):
			return "its server refused the user, password or database name", false
		case strings.HasPrefix(fault.Code, "42501"):
			return "the user may not do this there", false
		}
		return "PostgreSQL error " + fault.Code, false
	}
	var connecting *pgconn.ConnectError
	if errors.As(err, &connecting) {
		return "its server cannot be reached", false
	}
	var network net.Error
	if errors.Is(err, driver.ErrBadConn) || errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		strings.Contains(err.Error(), "conn closed") {
		return "the connection to its server broke", true
	}
	return "", false
}

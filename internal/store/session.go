package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/penstock/penstock/api"
)

// querier is a pool, a connection or a transaction.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// session runs portable statements on one of them.
type session struct {
	on       querier
	rebind   func(string) string
	pipe     *pipe     // where writes are sent together; nil: each statement is sent alone
	gathered *gathered // the writer's; nil for others
	wrote    *bool     // set by statements that may have changed something; nil where nobody asks
}

func (s session) writes(query string) {
	if s.wrote != nil && !strings.HasPrefix(query, "SELECT ") {
		*s.wrote = true
	}
}

// put runs a statement of which only its success matters. It may be sent later, together with the next one that is asked for
// something or with the end of the write; whichever that is reports its error.
func (s session) put(ctx context.Context, query string, args ...any) error {
	s.writes(query)
	plain, err := plainArgs(args)
	if err != nil {
		return err
	}
	if s.pipe != nil {
		return s.pipe.put(ctx, s.rebind(query), plain, wellDone)
	}
	_, err = s.on.ExecContext(ctx, s.rebind(query), plain...)
	return err
}

// mark begins what undo undoes.
func (s session) mark(ctx context.Context) error {
	if s.pipe != nil {
		s.pipe.sent = false
	}
	return s.put(ctx, "SAVEPOINT job")
}

// keep ends what mark began; an error is that of a statement that was put.
func (s session) keep(ctx context.Context) error {
	if err := s.put(ctx, "RELEASE SAVEPOINT job"); err != nil {
		return err
	}
	return s.answers(ctx)
}

// commit ends the transaction. PostgreSQL answers the COMMIT of one that a fault has ended with a ROLLBACK, and no error.
func (s session) commit(ctx context.Context) error {
	if s.pipe != nil {
		return s.pipe.commit(ctx)
	}
	_, err := s.on.ExecContext(ctx, "COMMIT")
	return err
}

// undo takes back everything since mark. On an error the transaction is lost.
func (s session) undo(ctx context.Context) error {
	if s.pipe != nil && !s.pipe.drop() {
		return nil
	}
	for _, query := range []string{"ROLLBACK TO SAVEPOINT job", "RELEASE SAVEPOINT job"} {
		if _, err := s.on.ExecContext(ctx, query); err != nil {
			return err
		}
	}
	return nil
}

// exec runs a statement and tells how many rows it changed.
func (s session) exec(ctx context.Context, query string, args ...any) (rows int64, _ error) {
	plain, err := plainArgs(args)
	if err != nil {
		return 0, err
	}
	if s.pipe != nil {
		if err = s.pipe.put(ctx, s.rebind(query), plain, counted(&rows)); err == nil {
			err = s.pipe.flush(ctx)
		}
	} else {
		var result sql.Result
		if result, err = s.on.ExecContext(ctx, s.rebind(query), plain...); err == nil {
			rows, err = result.RowsAffected()
		}
	}
	if rows > 0 {
		s.writes(query)
	}
	return rows, err
}

// each calls row once per row, with the function that scans it.
func (s session) each(ctx context.Context, query string, args []any, row func(scan func(...any) error) error) error {
	if err := s.ask(ctx, query, args, row); err != nil {
		return err
	}
	return s.answers(ctx)
}

// answers waits for what was asked, and for what was put.
func (s session) answers(ctx context.Context) error {
	if s.pipe == nil {
		return nil
	}
	return s.pipe.flush(ctx)
}

// ask is each for a query that others follow at once: its rows are there after answers at the latest. row must not use the
// session.
func (s session) ask(ctx context.Context, query string, args []any, row func(scan func(...any) error) error) error {
	s.writes(query)
	plain, err := plainArgs(args)
	if err != nil {
		return err
	}
	if s.pipe != nil {
		return s.pipe.put(ctx, s.rebind(query), plain, listed(row))
	}
	rows, err := s.on.QueryContext(ctx, s.rebind(query), plain...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// intoSet is a row function that gathers the rows of a query with one column.
func intoSet[T comparable](set map[T]bool) func(scan func(...any) error) error {
	return func(scan func(...any) error) error {
		var one T
		err := scan(&one)
		set[one] = true
		return err
	}
}

// one scans the first row, and tells whether there was one.
func (s session) one(ctx context.Context, query string, args []any, into ...any) (found bool, err error) {
	if err = s.askOne(ctx, &found, query, args, into...); err == nil {
		err = s.answers(ctx)
	}
	return found, err
}

// askOne is one for a query that others follow at once, as ask is each.
func (s session) askOne(ctx context.Context, found *bool, query string, args []any, into ...any) error {
	return s.ask(ctx, query, args, func(scan func(...any) error) error {
		if *found {
			return nil
		}
		*found = true
		return scan(into...)
	})
}

// read runs a function that only reads. It is called again when a connection turns out to be gone, as all idle ones are
// after a restart of the server.
func read[T any](ctx context.Context, db *DB, act string, run func(context.Context, session) (T, error)) (T, error) {
	bounded, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	value, err := run(bounded, session{on: db.reads, rebind: db.rebind})
	for again := 0; again < readersMax && err != nil && bounded.Err() == nil && !isOurs(err); again++ {
		if _, lost := db.dialect.reason(err); !lost {
			break
		}
		value, err = run(bounded, session{on: db.reads, rebind: db.rebind})
	}
	if err != nil {
		var none T
		return none, db.fault(ctx, act, err)
	}
	return value, nil
}

func isOurs(err error) bool {
	var known *api.Error
	return errors.As(err, &known)
}

// plainArgs turns the named types into what both drivers take, and refuses text that only one of them would keep.
func plainArgs(args []any) ([]any, error) {
	plain := make([]any, len(args))
	for i, arg := range args {
		switch v := reflect.ValueOf(arg); v.Kind() {
		case reflect.String:
			text := v.String()
			if !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0 {
				return nil, api.Fail(api.CodeBadRequest, "", "a text is not UTF-8 or holds a NUL byte")
			}
			plain[i] = text
		case reflect.Int, reflect.Int64:
			plain[i] = v.Int()
		default:
			return nil, fmt.Errorf("argument %d has type %T, which is neither text nor a whole number", i, arg)
		}
	}
	return plain, nil
}

// marks are the places of so many arguments.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }

func anys[T any](all []T) []any {
	args := make([]any, len(all))
	for i := range all {
		args[i] = all[i]
	}
	return args
}

// remembered keeps each statement's rebound text. The statements are constants of this package, so there are few.
func remembered(rebind func(string) string) func(string) string {
	var texts sync.Map
	return func(query string) string {
		if text, ok := texts.Load(query); ok {
			return text.(string)
		}
		text := rebind(query)
		texts.Store(query, text)
		return text
	}
}

// encode writes a value for a column of JSON. Text that is not UTF-8 becomes U+FFFD and NUL is escaped, so that what
// people wrote is kept the same way in both databases.
func encode(value any) (string, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return "", api.Fail(api.CodeBadRequest, "", "a value cannot be written as JSON").Because(err)
	}
	return string(text), nil
}

func decode(text string, into any) error {
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("read a stored document: %w", err)
	}
	return nil
}

// clean makes free text of a caller fit a column.
func clean(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

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
	on     querier
	rebind func(string) string
}

// exec runs a statement and tells how many rows it changed.
func (s session) exec(ctx context.Context, query string, args ...any) (int64, error) {
	plain, err := plainArgs(args)
	if err != nil {
		return 0, err
	}
	result, err := s.on.ExecContext(ctx, s.rebind(query), plain...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// each calls row once per row, with the function that scans it.
func (s session) each(ctx context.Context, query string, args []any, row func(scan func(...any) error) error) error {
	plain, err := plainArgs(args)
	if err != nil {
		return err
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

// one scans the first row, and tells whether there was one.
func (s session) one(ctx context.Context, query string, args []any, into ...any) (found bool, err error) {
	err = s.each(ctx, query, args, func(scan func(...any) error) error {
		if found {
			return nil
		}
		found = true
		return scan(into...)
	})
	return found, err
}

// read runs a function that only reads. It is called again when a connection turns out to be gone, as all idle ones are
// after a restart of the server.
func read[T any](ctx context.Context, db *DB, act string, run func(context.Context, session) (T, error)) (T, error) {
	bounded, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	value, err := run(bounded, session{db.reads, db.rebind})
	for again := 0; again < readersMax && err != nil && bounded.Err() == nil && !isOurs(err); again++ {
		if _, lost := db.dialect.reason(err); !lost {
			break
		}
		value, err = run(bounded, session{db.reads, db.rebind})
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

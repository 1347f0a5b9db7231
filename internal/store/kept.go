package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"strings"
)

const (
	// keptMax is the most statements that a connection to SQLite keeps.
	keptMax = 256
	// keptText is the longest text of one; longer ones hardly come twice.
	keptText = 4 << 10
)

// keeping opens connections to SQLite that keep their statements: to parse them took a fifth of the processor time of a
// write, and more of a short read.
type keeping struct {
	driver driver.Driver
	name   string
}

// Connect opens one connection.
func (k keeping) Connect(context.Context) (driver.Conn, error) {
	conn, err := k.driver.Open(k.name)
	if err != nil {
		return nil, err
	}
	inner, ok := conn.(sqliteConn)
	if !ok {
		return nil, errors.Join(errors.New("store: the driver of SQLite lacks what statements are kept with"), conn.Close())
	}
	return &keptConn{sqliteConn: inner, kept: map[string]driver.Stmt{}}, nil
}

// Driver is what opens them.
func (k keeping) Driver() driver.Driver { return k.driver }

// sqliteConn is what the driver's connections can do.
type sqliteConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// keptConn is one connection, which one goroutine uses at a time.
type keptConn struct {
	sqliteConn
	kept map[string]driver.Stmt // those that nobody uses
}

// take gives a statement that is ready, and whether it is worth keeping; nil is for the connection itself to run.
func (c *keptConn) take(ctx context.Context, query string) (driver.Stmt, error) {
	if len(query) > keptText || strings.Contains(query, ";") { // several statements are parsed one after the other
		return nil, nil
	}
	if s, ok := c.kept[query]; ok {
		delete(c.kept, query) // rows may be read of it while the same text is run again
		return s, nil
	}
	return c.PrepareContext(ctx, query)
}

// give takes a statement back. Where there are too many, any other goes.
func (c *keptConn) give(query string, s driver.Stmt) error {
	if _, double := c.kept[query]; double {
		return s.Close()
	}
	c.kept[query] = s
	if len(c.kept) <= keptMax {
		return nil
	}
	for other, s := range c.kept {
		if other != query {
			delete(c.kept, other)
			return s.Close()
		}
	}
	return nil
}

// ExecContext runs a statement without rows.
func (c *keptConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.sqliteConn.ExecContext(ctx, query, args)
	}
	result, err := s.(driver.StmtExecContext).ExecContext(ctx, args)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return result, c.give(query, s)
}

// QueryContext runs a statement; it is taken back when its rows are closed.
func (c *keptConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.sqliteConn.QueryContext(ctx, query, args)
	}
	rows, err := s.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &keptRows{Rows: rows, conn: c, query: query, stmt: s}, nil
}

// Close ends the connection and its statements.
func (c *keptConn) Close() error {
	var faults []error
	for _, s := range c.kept {
		faults = append(faults, s.Close())
	}
	clear(c.kept)
	return errors.Join(append(faults, c.sqliteConn.Close())...)
}

// keptRows are rows of a statement that is kept.
type keptRows struct {
	driver.Rows
	conn  *keptConn
	query string
	stmt  driver.Stmt
}

// Close ends the reading. It may be called again.
func (r *keptRows) Close() error {
	if r.stmt == nil {
		return nil
	}
	s := r.stmt
	r.stmt = nil
	if err := r.Rows.Close(); err != nil {
		return errors.Join(err, s.Close())
	}
	return r.conn.give(r.query, s)
}

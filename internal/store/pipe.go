package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// pipeMax bounds the statements that wait in a pipe.
const pipeMax = 64

// pipe sends statements of one PostgreSQL connection together. A way there and back costs more than most statements do, so
// those whose answer is not needed yet wait for one whose answer is. The connection is its alone, and in a transaction: a
// statement that fails takes those behind it along.
type pipe struct {
	conn    interface{ Raw(func(any) error) error }
	waiting pgx.Batch
	reads   []func(pgx.BatchResults) error // the answer of each
	sent    bool                           // something was, since mark
}

// put lets a statement wait. An error is that of another one that was sent now.
func (p *pipe) put(ctx context.Context, query string, args []any, read func(pgx.BatchResults) error) error {
	p.waiting.Queue(query, args...)
	p.reads = append(p.reads, read)
	if len(p.reads) < pipeMax {
		return nil
	}
	return p.flush(ctx)
}

// wellDone reads the answer of a statement of which only its success matters.
func wellDone(results pgx.BatchResults) error {
	_, err := results.Exec()
	return err
}

// counted reads how many rows a statement changed.
func counted(into *int64) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		tag, err := results.Exec()
		*into = tag.RowsAffected()
		return err
	}
}

// listed reads the rows of a query.
func listed(row func(scan func(...any) error) error) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		rows, err := results.Query()
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
}

// commit ends the transaction, behind what waits.
func (p *pipe) commit(ctx context.Context) error {
	p.waiting.Queue("COMMIT")
	p.reads = append(p.reads, func(results pgx.BatchResults) error {
		tag, err := results.Exec()
		if err == nil && tag.String() != "COMMIT" {
			err = fmt.Errorf("the server answered %s", tag)
		}
		return err
	})
	return p.flush(ctx)
}

// drop forgets what waits, and tells whether something was sent since mark.
func (p *pipe) drop() (sent bool) {
	p.waiting, p.reads = pgx.Batch{}, nil
	return p.sent
}

// flush sends what waits and reads the answers in order. The first error is reported.
func (p *pipe) flush(ctx context.Context) error {
	if len(p.reads) == 0 {
		return nil
	}
	batch, reads := p.waiting, p.reads
	p.waiting, p.reads, p.sent = pgx.Batch{}, nil, true
	return p.conn.Raw(func(driver any) (err error) {
		results := driver.(*stdlib.Conn).Conn().SendBatch(ctx, &batch)
		defer func() {
			if closing := results.Close(); err == nil {
				err = closing
			}
		}()
		for _, read := range reads {
			if err := read(results); err != nil {
				return err
			}
		}
		return nil
	})
}

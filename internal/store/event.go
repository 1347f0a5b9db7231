package store

import (
	"context"
	"slices"

	"github.com/penstock/penstock/api"
)

// eventSlack is how many events beyond the limit a tenant may have before the oldest are removed together.
const eventSlack = 256

// AppendEvent records an event; its Seq is chosen here. Each tenant keeps a bounded number, the newest.
func (db *DB) AppendEvent(ctx context.Context, e api.Event) error {
	return change(ctx, db, "record the event", func(ctx context.Context, s session) error {
		return db.appendEvent(ctx, s, e)
	})
}

// appendEvent numbers events in the order in which they become visible, because one group writes at a time: a reader
// that continues after the last Seq it saw never misses one. Webhooks get it from the outbox, in the same transaction.
func (db *DB) appendEvent(ctx context.Context, s session, e api.Event) error {
	e.Kind, e.Subject, e.Text, e.By = clean(e.Kind), clean(e.Subject), clean(e.Text), clean(e.By)
	var numbered bool
	if err := s.askOne(ctx, &numbered, `INSERT INTO events (seq, tenant, happened, kind, subject, message, actor)
		VALUES ((SELECT COALESCE(MAX(seq), 0) + 1 FROM events), ?, ?, ?, ?, ?, ?) RETURNING seq`,
		[]any{e.Tenant, e.At, e.Kind, e.Subject, e.Text, e.By}, &e.Seq); err != nil {
		return err
	}
	s.gathered.event(e.Tenant)
	return db.deliver(ctx, s, &e)
}

// Events lists the events of a tenant (all tenants and the server's own when t is empty) after a Seq, oldest first. A
// negative Seq asks for the newest ones, still oldest first.
func (db *DB) Events(ctx context.Context, t api.TenantID, after int64, limit int) ([]api.Event, error) {
	const columns = `SELECT seq, tenant, happened, kind, subject, message, actor FROM events `
	query, args := columns+`WHERE seq > ? ORDER BY seq LIMIT ?`, []any{after, page(limit)}
	switch {
	case t != "" && after >= 0:
		query, args = columns+`WHERE tenant = ? AND seq > ? ORDER BY seq LIMIT ?`, []any{t, after, page(limit)}
	case t != "":
		query, args = columns+`WHERE tenant = ? ORDER BY seq DESC LIMIT ?`, []any{t, page(limit)}
	case after < 0:
		query, args = columns+`ORDER BY seq DESC LIMIT ?`, []any{page(limit)}
	}
	return read(ctx, db, "list events", func(ctx context.Context, s session) ([]api.Event, error) {
		var all []api.Event
		err := s.each(ctx, query, args, func(scan func(...any) error) error {
			var e api.Event
			err := scan(&e.Seq, &e.Tenant, &e.At, &e.Kind, &e.Subject, &e.Text, &e.By)
			all = append(all, e)
			return err
		})
		if after < 0 {
			slices.Reverse(all)
		}
		return all, err
	})
}

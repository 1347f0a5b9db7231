package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// The bounds of transfers.
const (
	transfersOpen = 256  // of one tenant that have not ended
	transfersKept = 1000 // of one tenant that have ended; the oldest go first
)

// PutTransfer keeps a new transfer, with what its other side knows us by, sealed.
func (db *DB) PutTransfer(ctx context.Context, t api.Transfer, sealed string) error {
	doc, err := encode(t)
	if err != nil {
		return err
	}
	return change(ctx, db, "keep the transfer", func(ctx context.Context, s session) error {
		if err := needTenant(ctx, s, t.Tenant); err != nil {
			return err
		}
		var open int64
		if _, err := s.one(ctx, `SELECT COUNT(*) FROM transfers WHERE tenant = ? AND state IN ('waiting', 'running')`, []any{t.Tenant}, &open); err != nil {
			return err
		}
		if open >= transfersOpen {
			return api.Fail(api.CodeQueueFull, "", "%d transfers of this tenant have not ended, which is the limit", open).
				WithCure("Wait for some to end, or cancel them with `penstock transfer cancel`.")
		}
		if err := s.put(ctx, `DELETE FROM transfers WHERE tenant = ? AND id IN (SELECT id FROM transfers
			WHERE tenant = ? AND state NOT IN ('waiting', 'running') ORDER BY id DESC LIMIT ? OFFSET ?)`, t.Tenant, t.Tenant, listMax, transfersKept-1); err != nil {
			return err
		}
		made, err := s.exec(ctx, `INSERT INTO transfers (tenant, id, state, doc, sealed) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			t.Tenant, t.ID, t.State, doc, sealed)
		if err == nil && made == 0 {
			return api.Fail(api.CodeExists, string(t.ID), "the transfer exists already")
		}
		return err
	})
}

// SaveTransfer writes a transfer down as it stands. One that has ended stays as it ended: it is told in the answer. Its end
// is an event, and what was sealed for it goes.
func (db *DB) SaveTransfer(ctx context.Context, t api.Transfer) (api.Transfer, error) {
	doc, err := encode(t)
	if err != nil {
		return t, err
	}
	return write(ctx, db, "write the transfer down", func(ctx context.Context, s session) (api.Transfer, error) {
		now, _, err := needTransfer(ctx, s, t.Tenant, t.ID)
		if err != nil || now.State.Final() {
			return now, err
		}
		if !t.State.Final() {
			err := s.put(ctx, `UPDATE transfers SET state = ?, doc = ? WHERE tenant = ? AND id = ?`, t.State, doc, t.Tenant, t.ID)
			return t, err
		}
		if err := s.put(ctx, `UPDATE transfers SET state = ?, doc = ?, sealed = '' WHERE tenant = ? AND id = ?`, t.State, doc, t.Tenant, t.ID); err != nil {
			return t, err
		}
		return t, db.appendEvent(ctx, s, transferEvent(&t))
	})
}

func transferEvent(t *api.Transfer) api.Event {
	text := "The import of " + t.Remote + " to " + t.Local
	if t.Direction == api.DirectionPush {
		text = "The push of " + t.Local + " to " + t.Remote
	}
	switch t.State {
	case api.TransferFailed:
		text += " failed: " + t.Error
	case api.TransferCanceled:
		text += " was canceled."
	default:
		text += " is done."
	}
	return api.Event{Tenant: t.Tenant, At: t.Changed, Kind: "transfer." + string(t.State), Subject: string(t.ID), Text: text, By: t.CreatedBy}
}

// Transfer finds a transfer, and what was sealed for it.
func (db *DB) Transfer(ctx context.Context, tenant api.TenantID, id api.TransferID) (_ api.Transfer, sealed string, _ error) {
	type both struct {
		transfer api.Transfer
		sealed   string
	}
	b, err := read(ctx, db, "read the transfer", func(ctx context.Context, s session) (b both, err error) {
		b.transfer, b.sealed, err = needTransfer(ctx, s, tenant, id)
		return b, err
	})
	return b.transfer, b.sealed, err
}

func needTransfer(ctx context.Context, s session, tenant api.TenantID, id api.TransferID) (t api.Transfer, sealed string, _ error) {
	var doc string
	found, err := s.one(ctx, `SELECT doc, sealed FROM transfers WHERE tenant = ? AND id = ?`, []any{tenant, id}, &doc, &sealed)
	if err == nil && !found {
		err = api.Fail(api.CodeNotFound, string(id), "no such transfer")
	}
	if err != nil {
		return t, "", err
	}
	return t, sealed, decode(doc, &t)
}

// Transfers lists a tenant's transfers, newest first, those before an id; an empty one begins with the newest.
func (db *DB) Transfers(ctx context.Context, tenant api.TenantID, before api.TransferID, limit int) ([]api.Transfer, error) {
	return read(ctx, db, "list the transfers", func(ctx context.Context, s session) ([]api.Transfer, error) {
		if before == "" {
			before = "~" // after every id
		}
		return transfers(ctx, s, `SELECT doc FROM transfers WHERE tenant = ? AND id < ? ORDER BY id DESC LIMIT ?`, tenant, before, page(limit))
	})
}

// OpenTransfers lists the transfers of all tenants that have not ended, oldest first, those after an id.
func (db *DB) OpenTransfers(ctx context.Context, after api.TransferID, limit int) ([]api.Transfer, error) {
	return read(ctx, db, "list the transfers", func(ctx context.Context, s session) ([]api.Transfer, error) {
		return transfers(ctx, s, `SELECT doc FROM transfers WHERE state IN ('waiting', 'running') AND id > ? ORDER BY id LIMIT ?`, after, page(limit))
	})
}

func transfers(ctx context.Context, s session, query string, args ...any) (all []api.Transfer, _ error) {
	err := s.each(ctx, query, args, func(scan func(...any) error) error {
		var doc string
		var t api.Transfer
		if err := scan(&doc); err != nil {
			return err
		}
		err := decode(doc, &t)
		all = append(all, t)
		return err
	})
	return all, err
}

package store

import (
	"context"

	"github.com/penstock/penstock/api"
)

// auditHeadsKept is how many heads are kept of one ledger, the newest.
const auditHeadsKept = 4096

// PutAuditHead keeps what the chain of a ledger has come to. A head that is there is never changed: it may be what
// shows that somebody changed the files.
func (db *DB) PutAuditHead(ctx context.Context, h api.AuditHead) error {
	return change(ctx, db, "keep the audit's head", func(ctx context.Context, s session) error {
		if err := s.put(ctx, `INSERT INTO audit_heads (ledger, seq, hash, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			h.Ledger, h.Seq, h.Hash, h.At); err != nil {
			return err
		}
		err := s.put(ctx, `DELETE FROM audit_heads WHERE ledger = ? AND seq < (SELECT MIN(seq) FROM
			(SELECT seq FROM audit_heads WHERE ledger = ? ORDER BY seq DESC LIMIT ?) newest)`, h.Ledger, h.Ledger, auditHeadsKept)
		return err
	})
}

// AuditHeads lists the heads of a ledger by number.
func (db *DB) AuditHeads(ctx context.Context, ledger string) ([]api.AuditHead, error) {
	return read(ctx, db, "read the audit's heads", func(ctx context.Context, s session) ([]api.AuditHead, error) {
		var all []api.AuditHead
		err := s.each(ctx, `SELECT ledger, seq, hash, at FROM audit_heads WHERE ledger = ? ORDER BY seq`, []any{ledger}, func(scan func(...any) error) error {
			var h api.AuditHead
			err := scan(&h.Ledger, &h.Seq, &h.Hash, &h.At)
			all = append(all, h)
			return err
		})
		return all, err
	})
}

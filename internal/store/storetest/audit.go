package storetest

import (
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

func auditHeads(t *testing.T, db *store.DB) {
	ctx := t.Context()
	one, two := api.AuditHead{Ledger: "l", Seq: 3, Hash: "aa", At: 5}, api.AuditHead{Ledger: "l", Seq: 9, Hash: "bb", At: 6}
	must(t, db.PutAuditHead(ctx, two))
	must(t, db.PutAuditHead(ctx, one))
	must(t, db.PutAuditHead(ctx, api.AuditHead{Ledger: "other", Seq: 1, Hash: "cc"}))
	forged := one
	forged.Hash = "ff"
	must(t, db.PutAuditHead(ctx, forged)) // what is there stays: it may be the evidence
	same(t, "heads", got(db.AuditHeads(ctx, "l"))(t), []api.AuditHead{one, two})
	same(t, "of nobody", len(got(db.AuditHeads(ctx, "none"))(t)), 0)
}

package storetest

import (
	"fmt"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

func transfers(t *testing.T, db *store.DB) {
	ctx := t.Context()
	must(t, db.PutTenant(ctx, api.Tenant{ID: "zeta", Created: 1}))
	one := api.Transfer{ID: "a", Tenant: "acme", Direction: api.DirectionImport, Remote: "oci://h/r:t", Local: "m", State: api.TransferWaiting, Created: 5, Changed: 5, CreatedBy: "ci"}
	other := one
	other.ID, other.Tenant = "b", "zeta"
	must(t, db.PutTransfer(ctx, one, "sealed"))
	must(t, db.PutTransfer(ctx, other, ""))
	refused(t, api.CodeExists, db.PutTransfer(ctx, one, ""))
	nobody := one
	nobody.Tenant = "nobody"
	refused(t, api.CodeNotFound, db.PutTransfer(ctx, nobody, ""))
	got, sealed, err := db.Transfer(ctx, "acme", "a")
	must(t, err)
	same(t, "transfer", got, one)
	same(t, "sealed", sealed, "sealed")
	_, _, err = db.Transfer(ctx, "zeta", "a")
	refused(t, api.CodeNotFound, err)

	one.State, one.Tries, one.Changed = api.TransferRunning, 1, 6
	got, err = db.SaveTransfer(ctx, one)
	must(t, err)
	same(t, "running", got, one)
	open, err := db.OpenTransfers(ctx, "", 10)
	must(t, err)
	same(t, "open", open, []api.Transfer{one, other})
	one.State, one.Bytes, one.Changed = api.TransferDone, 7, 8
	_, err = db.SaveTransfer(ctx, one)
	must(t, err)
	late := one
	late.State = api.TransferCanceled
	got, err = db.SaveTransfer(ctx, late)
	must(t, err)
	same(t, "ended", got, one)
	_, sealed, err = db.Transfer(ctx, "acme", "a")
	must(t, err)
	same(t, "sealed at the end", sealed, "")
	events, err := db.Events(ctx, "acme", -1, 1)
	must(t, err)
	if len(events) != 1 || events[0].Kind != "transfer.done" || events[0].Subject != "a" || events[0].At != 8 {
		t.Errorf("events %+v", events)
	}

	// The open ones have a limit of their own, and those that ended go, oldest first.
	for i := range 256 {
		more := one
		more.ID, more.State = api.TransferID(fmt.Sprintf("c%04d", i)), api.TransferWaiting
		must(t, db.PutTransfer(ctx, more, ""))
	}
	full := one
	full.ID, full.State = "d", api.TransferWaiting
	refused(t, api.CodeQueueFull, db.PutTransfer(ctx, full, ""))
	page, err := db.Transfers(ctx, "acme", "", 2)
	must(t, err)
	if len(page) != 2 || page[0].ID != "c0255" || page[1].ID != "c0254" {
		t.Errorf("page %+v", page)
	}
	page, err = db.Transfers(ctx, "acme", "c0000", 10)
	must(t, err)
	same(t, "the last page", page, []api.Transfer{one})
}

package admintest

import (
	"context"
	"slices"

	"github.com/penstock/penstock/api"
)

// Begin keeps the record.
func (r *Rooms) Begin(_ context.Context, record api.AuditRecord) (int64, error) {
	record.Phase = api.AuditBegun
	return r.keep(record, r.Fail["Begin"])
}

// End keeps the record.
func (r *Rooms) End(_ context.Context, record api.AuditRecord) error {
	record.Phase = api.AuditEnded
	_, err := r.keep(record, r.Fail["End"])
	return err
}

// RefusedKey keeps the record.
func (r *Rooms) RefusedKey(record api.AuditRecord) {
	record.Phase, record.Action = api.AuditNoted, api.AuditRefusedKey
	_, _ = r.keep(record, nil)
}

func (r *Rooms) keep(record api.AuditRecord, fail error) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if fail != nil {
		return 0, fail
	}
	record.Seq, record.At = int64(len(r.audit)+1), Clock
	r.audit = append(r.audit, record)
	return record.Seq, nil
}

// Records lists ended and noted records, newest first.
func (r *Rooms) Records(_ context.Context, q api.AuditQuery) (found []api.AuditRecord, next int64, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, record := range slices.Backward(r.audit) {
		if record.Phase == api.AuditBegun || !q.Takes(&record) || q.Before > 0 && record.Seq >= q.Before {
			continue
		}
		if found = append(found, record); len(found) == q.Limit {
			return found, record.Seq, nil
		}
	}
	return found, 0, nil
}

// Verify finds everything in order.
func (r *Rooms) Verify(context.Context) (api.AuditReport, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := int64(len(r.audit))
	return api.AuditReport{OK: true, Ledger: "L", First: 1, Last: n, Records: n, Segments: 1, Head: "00"}, nil
}

// Audited gives every record so far.
func (r *Rooms) Audited() []api.AuditRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.audit)
}

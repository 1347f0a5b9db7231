package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/audit"
	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/internal/tenancy"
)

const (
	auditFolder = "audit"    // of the data directory
	auditID     = "audit.id" // in secrets
)

// openAudit opens the ledger beside the database that keeps its head.
func (s *System) openAudit(ctx context.Context) error {
	id, err := audit.LoadID(s.secret(auditID))
	if err != nil {
		return fmt.Errorf("read the audit's identifier: %w", err)
	}
	s.audit, err = audit.Open(ctx, audit.Config{Dir: filepath.Join(s.cfg.Data, auditFolder), ID: id, Heads: s.store, Log: s.log,
		KeepBytes: s.cfg.AuditKeepMB << 20, KeepAge: s.cfg.AuditKeep, Fault: s.cfg.auditFault})
	if err != nil {
		return err
	}
	s.closing(s.audit.Close)
	s.began = api.TimeOf(time.Now())
	return nil
}

// runAudit first records what an earlier process did without being able to say so.
func (s *System) runAudit(ctx context.Context) error {
	if err := s.recordRollbacks(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("rollbacks of before are not in the audit yet; the next start tries again", "error", err)
	}
	return s.audit.Run(ctx)
}

// Rollbacks that are looked for at a start.
const (
	rollbackAge  = 7 * 24 * time.Hour
	rollbackMost = 20 // of one endpoint
)

// recordRollbacks compares the rollbacks that happened, as the database or the journal have them, with the audit. A
// rollback takes effect before anything is written, and goes on when the disk is full; when the server then ends before
// the audit can be written, this is where it is made up for.
func (s *System) recordRollbacks(ctx context.Context) error {
	begun, err := s.audit.Began(ctx)
	if err != nil {
		return err
	}
	since := max(begun, api.TimeOf(time.Now().Add(-rollbackAge)))
	known, err := s.recordedRollbacks(ctx, since)
	if err != nil {
		return err
	}
	endpoints, err := s.store.AllEndpoints(ctx)
	if err != nil {
		return err
	}
	var faults []error
	for _, e := range endpoints {
		releases, err := s.rollout.Releases(ctx, e.Tenant, e.Name, 0, rollbackMost)
		faults = append(faults, err)
		for _, rel := range releases {
			if rel.Kind != api.ReleaseRollback || rel.Started < since || rel.Started >= s.began || known[rollbackOf(rel.Tenant, string(rel.Endpoint), rel.Number)] {
				continue
			}
			faults = append(faults, s.audit.RecordLate(ctx, api.AuditRecord{At: rel.Started, Tenant: rel.Tenant, Actor: rel.By, Door: "server", Action: "rollback",
				Subject: string(rel.Endpoint), After: audit.Release(rel), Reason: rel.Why, Outcome: "ok"}))
		}
	}
	return errors.Join(faults...)
}

func rollbackOf(t api.TenantID, endpoint string, number int64) string {
	return fmt.Sprintf("%s/%s#%d", t, endpoint, number)
}

func (s *System) recordedRollbacks(ctx context.Context, since api.Time) (map[string]bool, error) {
	known := map[string]bool{}
	query := api.AuditQuery{Action: "rollback", Since: since, Limit: 1000}
	for {
		page, next, err := s.audit.Records(ctx, query)
		if err != nil {
			return nil, err
		}
		for _, r := range page {
			if number := audit.ReleaseNumber(r.After); number > 0 {
				known[rollbackOf(r.Tenant, r.Subject, number)] = true
			}
		}
		if query.Before = next; next == 0 {
			return known, nil
		}
	}
}

// watched is the guard of a door that has no better place to note who was turned away.
type watched struct {
	*tenancy.Guard
	audit *audit.Ledger
	door  string
}

// Authenticate notes refusals. It never waits for the disk.
func (w watched) Authenticate(authorization []string) (*api.Principal, error) {
	p, err := w.Guard.Authenticate(authorization)
	if err != nil {
		w.audit.RefusedKey(api.AuditRecord{Door: w.door, Outcome: string(api.AsError(err).Code)})
	}
	return p, err
}

// VerifyAudit looks at the audit of a data directory without a server on it.
func VerifyAudit(ctx context.Context, cfg Config) (none api.AuditReport, err error) {
	cfg.orDefault()
	path := filepath.Join(cfg.Data, "secrets", auditID)
	if _, err := os.Stat(path); err != nil { // reading must not make one
		return none, fmt.Errorf("read the audit's identifier: %w", err)
	}
	id, err := audit.LoadID(path)
	if err != nil {
		return none, fmt.Errorf("read the audit's identifier: %w", err)
	}
	db, err := store.Open(ctx, cfg.storeURL())
	if err != nil {
		return none, fmt.Errorf("open the store: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	heads, err := db.AuditHeads(ctx, id)
	if err != nil {
		return none, err
	}
	return audit.VerifyFiles(ctx, filepath.Join(cfg.Data, auditFolder), id, heads)
}

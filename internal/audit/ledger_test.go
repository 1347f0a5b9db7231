package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/audit"
	"github.com/penstock/penstock/internal/store"
)

const ledgerID = "000102030405060708090a0b0c0d0e0f"

// desk is a ledger in a folder with a real database beside it.
type desk struct {
	*audit.Ledger
	t   testing.TB
	dir string
	db  *store.DB
	cfg audit.Config
}

func sit(t testing.TB, change func(*audit.Config)) *desk {
	t.Helper()
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	d := &desk{t: t, dir: filepath.Join(t.TempDir(), "audit"), db: db}
	d.cfg = audit.Config{Dir: d.dir, ID: ledgerID, Heads: db, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&d.cfg)
	}
	d.open()
	t.Cleanup(func() { d.Close() })
	return d
}

func (d *desk) open() {
	d.t.Helper()
	var err error
	if d.Ledger, err = audit.Open(context.WithoutCancel(d.t.Context()), d.cfg); err != nil {
		d.t.Fatal(err)
	}
}

// again closes the ledger and opens it anew.
func (d *desk) again() {
	d.t.Helper()
	if err := d.Close(); err != nil {
		d.t.Fatal(err)
	}
	d.open()
}

func (d *desk) do(action, subject string) {
	d.t.Helper()
	r := api.AuditRecord{Tenant: "acme", Actor: "ops", Key: "k1", Door: "api", Action: action, Subject: subject, RequestID: "R-" + subject}
	if err := d.Record(d.t.Context(), r, func() (string, error) { return "{}", nil }); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) all(q api.AuditQuery) (all []api.AuditRecord) {
	d.t.Helper()
	for {
		page, next, err := d.Records(d.t.Context(), q)
		if err != nil {
			d.t.Fatal(err)
		}
		all = append(all, page...)
		if q.Before = next; next == 0 {
			return all
		}
	}
}

func (d *desk) verify() api.AuditReport {
	d.t.Helper()
	report, err := d.Verify(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return report
}

// offline verifies the files as the command line does on a data directory.
func (d *desk) offline() api.AuditReport {
	d.t.Helper()
	heads, err := d.db.AuditHeads(d.t.Context(), ledgerID)
	if err != nil {
		d.t.Fatal(err)
	}
	report, err := audit.VerifyFiles(d.t.Context(), d.dir, ledgerID, heads)
	if err != nil {
		d.t.Fatal(err)
	}
	return report
}

func TestRecords(t *testing.T) {
	d := sit(t, func(c *audit.Config) { c.SegmentBytes = 2000 })
	for i := range 30 {
		d.do([]string{"moveAlias", "deploy"}[i%2], fmt.Sprintf("m%d:live", i))
	}
	failed := d.Record(t.Context(), api.AuditRecord{Tenant: "beta", Actor: "bob", Action: "deploy", Subject: "x"},
		func() (string, error) { return "", api.Fail(api.CodeBusy, "x", "busy") })
	if !api.Is(failed, api.CodeBusy) {
		t.Errorf("the change's own error is %v", failed)
	}
	if err := d.Record(t.Context(), api.AuditRecord{Tenant: "beta", Action: "deploy", Subject: "y"}, func() (string, error) { return "", errors.New("odd") }); err == nil {
		t.Error("an error is lost")
	}
	begun, err := d.Begin(t.Context(), api.AuditRecord{Tenant: "beta", Actor: "bob", Action: "lost"})
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		if all := d.all(api.AuditQuery{Tenant: "acme", Limit: 7}); len(all) != 30 || all[0].Subject != "m29:live" || all[0].Phase != api.AuditEnded || all[0].Outcome != "ok" {
			t.Errorf("%s: %d of acme's: %+v", when, len(all), all[0])
		}
		if some := d.all(api.AuditQuery{Action: "deploy", Subject: "m1*", Actor: "k1"}); len(some) != 6 {
			t.Errorf("%s: %d chosen", when, len(some))
		}
		lost := d.all(api.AuditQuery{Tenant: "beta"})
		if len(lost) != 3 || lost[0].Seq != begun || lost[0].Phase != api.AuditBegun || lost[2].Outcome != "release_in_progress" || lost[1].Outcome != "internal" {
			t.Errorf("%s: beta's are %+v", when, lost)
		}
		if none := d.all(api.AuditQuery{Since: api.TimeOf(time.Now().Add(time.Hour))}); len(none) != 0 {
			t.Errorf("%s: %d from the future", when, len(none))
		}
	}
	check("live")
	d.again()
	check("after a restart")
	if r := d.verify(); !r.OK || r.Last < 64 || r.Segments < 5 || r.Heads == 0 {
		t.Errorf("%+v %+v", r, r.Fault)
	}
}

// TestGroups: many at once share an fsync, and each is on disk when it is told so.
func TestGroups(t *testing.T) {
	var syncs atomic.Int64
	d := sit(t, func(c *audit.Config) {
		c.Fault = func(operation string) error {
			if operation == "sync" {
				syncs.Add(1)
			}
			return nil
		}
	})
	const each, workers = 20, 16
	var all sync.WaitGroup
	for worker := range workers {
		all.Go(func() {
			for i := range each {
				d.do("deploy", fmt.Sprintf("w%d-%d", worker, i))
			}
		})
	}
	all.Wait()
	records := d.all(api.AuditQuery{Action: "deploy", Limit: 1000})
	seen := map[string]bool{}
	for _, r := range records {
		seen[r.Subject] = true
	}
	t.Logf("%d records with %d fsyncs", 2*each*workers, syncs.Load())
	if len(seen) != each*workers || syncs.Load() >= 2*each*workers {
		t.Errorf("%d subjects, %d fsyncs for %d records", len(seen), syncs.Load(), 2*each*workers)
	}
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.audit"))
	if err != nil || len(all) == 0 {
		t.Fatalf("segments: %v, %v", all, err)
	}
	slices.Sort(all)
	return all
}

func TestTornTail(t *testing.T) {
	for _, cutOff := range []int{1, 7, 8, 9, 40, 200} {
		d := sit(t, nil)
		d.do("deploy", "a")
		if err := d.Anchor(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.cfg.Heads = still{d.db} // as a crash: the last record is not in the database
		begun, err := d.Begin(t.Context(), api.AuditRecord{Action: "torn", Subject: strings.Repeat("x", 300)})
		if err != nil {
			t.Fatal(err)
		}
		path := segments(t, d.dir)[0]
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		d.Ledger = nil // it is not closed: its process was killed
		if err := os.WriteFile(path, data[:len(data)-cutOff], 0o600); err != nil {
			t.Fatal(err)
		}
		if r := d.offline(); r.OK || r.Fault.Seq != begun {
			t.Errorf("cut by %d: %+v", cutOff, r.Fault)
		}
		d.cfg.Heads = d.db
		d.open()
		if repaired := d.all(api.AuditQuery{Action: api.AuditRepaired}); len(repaired) != 1 || repaired[0].Seq != begun {
			t.Errorf("cut by %d: %+v", cutOff, repaired)
		}
		if r := d.verify(); !r.OK {
			t.Errorf("cut by %d: %+v", cutOff, r.Fault)
		}
	}
}

// still is a database that takes no head: the ledger was killed before it could tell it.
type still struct{ audit.Heads }

func (still) PutAuditHead(context.Context, api.AuditHead) error { return errors.New("away") }

// TestDamageStays: what the database has seen is not taken for torn, is reported at the start, and never stops being found.
func TestDamageStays(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"the end cut off": func(t *testing.T, dir string) {
			all := segments(t, dir)
			last := all[len(all)-1]
			data, err := os.ReadFile(last)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(last, data[:len(data)-30], 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"all gone": func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		},
		"the last segment gone": func(t *testing.T, dir string) {
			all := segments(t, dir)
			if err := os.Remove(all[len(all)-1]); err != nil {
				t.Fatal(err)
			}
		},
		"a bit in the last segment's header": func(t *testing.T, dir string) {
			all := segments(t, dir)
			flip(t, all[len(all)-1], 60)
		},
		"a bit in its first record": func(t *testing.T, dir string) {
			all := segments(t, dir)
			flip(t, all[len(all)-1], 320)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := sit(t, func(c *audit.Config) { c.SegmentBytes = 3000 })
			for i := range 20 {
				d.do("deploy", fmt.Sprint(i))
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			spoil(t, d.dir)
			if r := d.offline(); r.OK {
				t.Fatal("not found")
			}
			d.open()
			if told := d.all(api.AuditQuery{Action: api.AuditDamaged}); len(told) != 1 {
				t.Errorf("told %+v", told)
			}
			d.do("deploy", "after")
			for range 2 {
				d.again()
				if r := d.verify(); r.OK {
					t.Error("not found any more")
				}
				if after := d.all(api.AuditQuery{Subject: "after"}); len(after) != 1 {
					t.Errorf("what came after is %+v", after)
				}
			}
		})
	}
}

func flip(t *testing.T, path string, offset int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[offset] ^= 4
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFull: while the files cannot be written no change begins; what was under way ends, late or in the room kept for
// it; and everything goes on when there is room again.
func TestFull(t *testing.T) {
	full := errors.New("no space left on device")
	for _, operation := range []string{"reserve", "write", "sync", "truncate", "create"} {
		t.Run(operation, func(t *testing.T) {
			var failing atomic.Bool
			d := sit(t, func(c *audit.Config) {
				c.Fault = func(op string) error {
					bad := op == operation || operation == "truncate" && op == "sync" || operation == "create" && op == "sync"
					if failing.Load() && bad {
						return full
					}
					return nil
				}
				c.SegmentBytes = 100 << 10
			})
			long := strings.Repeat("x", 2000)
			for i := range 20 { // until the room that was promised is nearly used up
				d.do("before", fmt.Sprint(long, i))
			}
			begun, err := d.Begin(t.Context(), api.AuditRecord{Action: "between"})
			if err != nil {
				t.Fatal(err)
			}
			failing.Store(true)
			refused := 0
			for i := range 600 {
				if _, err := d.Begin(t.Context(), api.AuditRecord{Action: "refused", Subject: fmt.Sprint(long, i)}); api.Is(err, api.CodeAuditUnavailable) {
					refused++
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if refused == 0 {
				t.Fatal("nothing is refused")
			}
			late := d.End(t.Context(), api.AuditRecord{Action: "between", Begun: begun, Outcome: "ok"})
			if operation == "reserve" && late != nil {
				t.Errorf("the end had no room: %v", late)
			}
			if operation != "reserve" && (!api.Is(late, api.CodeAuditUnavailable) || d.Waiting() != 1) {
				t.Errorf("the end was written: %v, %d wait", late, d.Waiting())
			}
			failing.Store(false)
			d.do("after", "a")
			between := d.all(api.AuditQuery{Action: "between"})
			if len(between) != 1 || between[0].Phase != api.AuditEnded || between[0].Late != (operation != "reserve") || d.Waiting() != 0 {
				t.Errorf("%+v", between)
			}
			if r := d.verify(); !r.OK {
				t.Errorf("%+v", r.Fault)
			}
			d.again()
			if r := d.verify(); !r.OK || len(d.all(api.AuditQuery{Action: "after"})) != 1 {
				t.Errorf("after a restart: %+v", r.Fault)
			}
		})
	}
}

func TestBacklogIsBounded(t *testing.T) {
	var failing atomic.Bool
	d := sit(t, func(c *audit.Config) {
		c.Backlog = 3
		c.Fault = func(op string) error {
			if failing.Load() && op == "write" {
				return errors.New("full")
			}
			return nil
		}
	})
	failing.Store(true)
	for range 5 {
		if d.End(t.Context(), api.AuditRecord{Action: "rollback"}) == nil {
			t.Error("written")
		}
	}
	if d.Waiting() != 3 {
		t.Errorf("%d wait", d.Waiting())
	}
	failing.Store(false)
	d.do("after", "a")
	if all := d.all(api.AuditQuery{Action: "rollback"}); len(all) != 3 || !all[0].Late {
		t.Errorf("%+v", all)
	}
}

// TestTidy: old segments go, each behind a checkpoint, and the chain stays whole; without the checkpoint it is not.
func TestTidy(t *testing.T) {
	now := time.Now()
	var mu sync.Mutex // guards now
	d := sit(t, func(c *audit.Config) {
		c.SegmentBytes, c.KeepBytes, c.KeepAge = 3000, 10_000, time.Hour
		c.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return now
		}
	})
	for i := range 60 {
		d.do("deploy", fmt.Sprint(i))
	}
	if err := d.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := d.verify()
	if !r.OK || r.First < 20 || r.Bytes > 14_000 || r.Last < 120 {
		t.Fatalf("%+v %+v", r, r.Fault)
	}
	if n := len(d.all(api.AuditQuery{Action: api.AuditCheckpoint, Limit: 1000})); n < 5 {
		t.Errorf("%d checkpoints", n)
	}
	mu.Lock()
	now = now.Add(2 * time.Hour)
	mu.Unlock()
	if err := d.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.do("deploy", "last")
	if r := d.verify(); !r.OK || r.Segments > 2 {
		t.Errorf("%+v %+v", r, r.Fault)
	}
	d.again()
	if r := d.offline(); !r.OK {
		t.Errorf("%+v", r.Fault)
	}
	for range 40 {
		d.do("deploy", "more")
	}
	if err := os.Remove(segments(t, d.dir)[0]); err != nil {
		t.Fatal(err)
	}
	if r := d.offline(); r.OK || r.Fault.Seq != 1 || !strings.Contains(r.Fault.Text, "no checkpoint") {
		t.Errorf("the oldest segment was removed by hand: %+v", r.Fault)
	}
}

func TestRefusedKeysAreCounted(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var mu sync.Mutex // guards now
	d := sit(t, func(c *audit.Config) {
		c.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return now
		}
	})
	for range 10_000 {
		d.RefusedKey(api.AuditRecord{Door: "api", Outcome: "unauthenticated"})
	}
	mu.Lock()
	now = now.Add(5 * time.Second)
	mu.Unlock()
	d.RefusedKey(api.AuditRecord{Door: "api", Outcome: "unauthenticated"})
	d.do("deploy", "behind") // the queue is in order
	all, sum := d.all(api.AuditQuery{Action: api.AuditRefusedKey}), int64(0)
	for _, r := range all {
		sum += r.Count
	}
	if len(all) != 21 || sum != 10_001 {
		t.Errorf("%d records for %d refusals", len(all), sum)
	}
}

// TestHostileTexts: whatever callers send, a record keeps its bound and is read back.
func TestHostileTexts(t *testing.T) {
	d := sit(t, nil)
	for _, text := range []string{strings.Repeat("\x00", 100_000), strings.Repeat("<", 100_000), "\xff\xfe", strings.Repeat("é", 5000), "\"}\n{\"seq\":1"} {
		r := api.AuditRecord{Tenant: api.TenantID(text), Actor: text, Key: api.KeyID(text), Remote: text, Action: text, Subject: text, Before: text, After: text, Reason: text, RequestID: text}
		if err := d.Record(t.Context(), r, func() (string, error) { return text, nil }); err != nil {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	if r := d.verify(); !r.OK {
		t.Errorf("%+v", r.Fault)
	}
	if all := d.all(api.AuditQuery{}); len(all) != 6 { // with the record of the start
		t.Errorf("%d records", len(all))
	}
	if text, err := json.Marshal(d.all(api.AuditQuery{})); err != nil || len(text) > 6*64<<10 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

func TestLedgerID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.id")
	one, err := audit.LoadID(path)
	if err != nil || len(one) != 32 {
		t.Fatal(one, err)
	}
	if two, err := audit.LoadID(path); err != nil || two != one {
		t.Errorf("%s, %v", two, err)
	}
	if err := os.WriteFile(path, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.LoadID(path); err == nil {
		t.Error("junk is taken for an identifier")
	}
}

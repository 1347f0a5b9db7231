package audit

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
)

// endMax is the longest that an answer waits for the record of what was done; after it the record is late.
const endMax = 5 * time.Second

// Begin records that somebody is about to change something, and returns when that is on disk. The number it gives is
// for End. An error means that the change must not be made.
func (l *Ledger) Begin(ctx context.Context, r api.AuditRecord) (int64, error) {
	if n := l.Waiting(); n > 0 {
		l.nudge(ctx)
		if n = l.Waiting(); n > 0 {
			l.mu.Lock()
			cause := l.broken
			l.mu.Unlock()
			return 0, errUnavailable(cause)
		}
	}
	r.At, r.Phase, r.Begun, r.Outcome = l.now(), api.AuditBegun, 0, ""
	return l.submit(ctx, r, false)
}

// End records what came of a change, and returns when that is on disk. An error means that the record is in memory and
// will be written as soon as it can be; the change was made all the same.
func (l *Ledger) End(ctx context.Context, r api.AuditRecord) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endMax)
	defer cancel()
	r.At, r.Phase = l.now(), api.AuditEnded
	_, err := l.submit(ctx, r, true)
	return err
}

// Record makes a change between its two records. Do tells what it made of things.
func (l *Ledger) Record(ctx context.Context, r api.AuditRecord, do func() (after string, err error)) error {
	begun, err := l.Begin(ctx, r)
	if err != nil {
		return err
	}
	after, changed := do()
	r.Begun, r.After, r.Outcome = begun, after, "ok"
	if changed != nil {
		r.Outcome = string(api.AsError(changed).Code)
	}
	if err := l.End(ctx, r); err != nil {
		l.cfg.Log.WarnContext(ctx, "the record of a change is late", "action", r.Action, "subject", r.Subject, "error", err)
	}
	return changed
}

// RecordLate writes the end of a change that was made without its record being kept.
func (l *Ledger) RecordLate(ctx context.Context, r api.AuditRecord) error {
	r.Phase, r.Late = api.AuditEnded, true
	_, err := l.submit(ctx, r, false)
	return err
}

// release is what is kept of a release, in the form that admin's records have, too.
type release struct {
	Number int64              `json:"release"`
	Kind   api.ReleaseKind    `json:"kind"`
	From   api.RevisionNumber `json:"from"`
	To     api.RevisionNumber `json:"to"`
	State  api.ReleaseState   `json:"state"`
}

// Release writes what a record keeps of a release.
func Release(r api.Release) string {
	text, _ := json.Marshal(release{r.Number, r.Kind, r.From, r.To, r.State}) // texts and numbers can be written
	return string(text)
}

// ReleaseNumber reads the number of the release out of what a record keeps of one; 0 when it is none.
func ReleaseNumber(after string) int64 {
	var r release
	if json.Unmarshal([]byte(after), &r) != nil {
		return 0
	}
	return r.Number
}

// Began tells when the oldest record that is kept was made.
func (l *Ledger) Began(context.Context) (api.Time, error) {
	l.files.RLock()
	defer l.files.RUnlock()
	l.mu.Lock()
	segments := slices.Clone(l.segments)
	l.mu.Unlock()
	if len(segments) == 0 {
		return l.now(), nil
	}
	data, err := readSegment(segments[0], frameHead+payloadMax+sha256.Size)
	if err != nil {
		return 0, err
	}
	h, _, _, err := readHeader(data)
	return h.Made, err
}

// RefusedKey notes a caller who had no valid key, or none at all. It does not wait. Too many are counted together: a
// stranger must not fill the disk.
func (l *Ledger) RefusedKey(r api.AuditRecord) {
	count, ok := l.refused.take()
	if !ok {
		return
	}
	r.At, r.Phase, r.Action, r.Count = l.now(), api.AuditNoted, api.AuditRefusedKey, count
	fit(&r)
	select {
	case l.queue <- &job{record: r, done: make(chan struct{})}:
	default: // the writer is behind: this one is not worth the others' wait
		l.refused.giveBack(count)
	}
}

// Refused keys that are recorded one by one: refusedBurst at once, then one every refusedEvery.
const (
	refusedBurst = 20
	refusedEvery = time.Second
)

// limiter is a bucket of refusals; those that find it empty are counted for the next.
type limiter struct {
	now func() time.Time

	mu      sync.Mutex // guards the fields below
	full    time.Time  // when the bucket will be full again
	skipped int64
}

// take tells whether a refusal is recorded, and for how many it stands.
func (b *limiter) take() (count int64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if b.full.Before(now) {
		b.full = now
	}
	if b.full.Sub(now) > (refusedBurst-1)*refusedEvery {
		b.skipped++
		return 0, false
	}
	b.full = b.full.Add(refusedEvery)
	count, b.skipped = b.skipped+1, 0
	return count, true
}

func (b *limiter) giveBack(count int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.skipped += count
}

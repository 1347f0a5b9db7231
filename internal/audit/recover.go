package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/penstock/penstock/api"
)

// tornMax is how much a crash can leave unfinished: one group of records.
const tornMax = groupMax * (frameHead + payloadMax + 32)

// recover finds the end of the chain and opens its last file, and says in notes what was found beside it. What the last
// write of a crash left unfinished was never acknowledged; it is taken off. Anything else that is not as it was written
// is left as it is, for Verify to name, and a new segment begins behind it: an audit that is damaged must go on.
func (l *Ledger) recover(ctx context.Context) (notes []api.AuditRecord, err error) {
	if l.segments, err = segmentsOf(l.cfg.Dir); err != nil {
		return nil, err
	}
	heads, err := l.cfg.Heads.AuditHeads(ctx, l.cfg.ID)
	if err != nil {
		l.cfg.Log.Warn("the audit cannot be compared with what the database knows of it", "error", err)
	}
	var newest api.AuditHead
	if len(heads) > 0 {
		newest = heads[len(heads)-1]
	}
	damage := ""
	if len(l.segments) > 0 {
		if damage, err = l.readLast(newest.Seq); err != nil {
			return nil, err
		}
		if l.tornBytes > 0 {
			notes = append(notes, l.note(api.AuditRepaired, fmt.Sprintf("%d bytes behind record %d were not a whole record and were taken off", l.tornBytes, l.at.seq)))
		}
	}
	l.anchored = min(newest.Seq, l.at.seq)
	if damage == "" && newest.Seq > l.at.seq {
		damage = fmt.Sprintf("records %d to %d are missing", l.at.seq+1, newest.Seq)
	}
	if damage != "" {
		l.cfg.Log.Error("the audit is damaged; see `penstock audit verify`", "damage", damage)
		notes = append(notes, l.note(api.AuditDamaged, damage))
		l.spoilt = true
		// Numbers that the database has seen are not given out again: its hashes of them stay as evidence.
		l.at.seq = max(l.at.seq+1, newest.Seq)
	}
	if len(l.segments) == 0 && damage == "" {
		notes = append(notes, l.note(api.AuditStarted, "ledger "+l.cfg.ID))
	}
	return notes, nil
}

func (l *Ledger) note(action, text string) api.AuditRecord {
	return api.AuditRecord{At: l.now(), Door: "server", Action: action, After: text, Phase: api.AuditNoted, Outcome: "ok"}
}

// readLast reads the last segment. Up to record known everything was on disk once, so a fault there is damage.
func (l *Ledger) readLast(known int64) (damage string, _ error) {
	last := l.segments[len(l.segments)-1]
	data, err := os.ReadFile(last.path)
	if err != nil {
		return "", err
	}
	h, hash, rest, err := readHeader(data)
	if err != nil && last.first > known && len(data) <= frameHead+payloadMax+len(hash) {
		// A segment whose very header was not finished: nothing in it was acknowledged.
		return l.dropLast(known, int64(len(data)))
	}
	if err != nil || h.Ledger != l.cfg.ID || h.First != last.first {
		l.at.seq = last.first
		return fmt.Sprintf("segment %s has no header of this ledger", last.name()), nil
	}
	for _, seq := range h.Open {
		l.open[seq] = true
	}
	base, _ := parseLink(h.Prev) // readHeader has parsed it
	l.at = position{seq: h.First - 1, hash: hash, size: int64(len(data) - len(rest)), base: base}
	for len(rest) > 0 {
		var r api.AuditRecord
		next, text, more, err := cut(rest)
		if err == nil {
			err = json.Unmarshal(text, &r)
		}
		if err == nil && (next != l.at.hash.next(text) || r.Seq != l.at.seq+1) {
			return fmt.Sprintf("record %d was changed", l.at.seq+1), nil
		}
		if err != nil {
			if l.at.seq < known || len(rest) > tornMax {
				return fmt.Sprintf("record %d cannot be read: %v", l.at.seq+1, err), nil
			}
			l.tornBytes = int64(len(rest))
			break
		}
		l.track(&r)
		l.at = position{seq: r.Seq, hash: next, size: l.at.size + int64(len(rest)-len(more)), base: base}
		rest = more
	}
	if l.file, err = os.OpenFile(last.path, os.O_RDWR, 0o600); err != nil {
		return "", err
	}
	if l.tornBytes > 0 {
		l.cfg.Log.Warn("the audit ended in an unfinished record, as after a crash; it was taken off", "bytes", l.tornBytes, "last", l.at.seq)
		if err := errors.Join(l.file.Truncate(l.at.size), l.file.Sync()); err != nil {
			return "", err
		}
	}
	_, err = l.file.Seek(l.at.size, 0)
	return "", err
}

// dropLast removes a segment that holds nothing, and reads the one before it.
func (l *Ledger) dropLast(known, size int64) (damage string, _ error) {
	last := l.segments[len(l.segments)-1]
	if err := errors.Join(os.Remove(last.path), syncDir(l.cfg.Dir)); err != nil {
		return "", err
	}
	l.segments = l.segments[:len(l.segments)-1]
	if len(l.segments) > 0 {
		if damage, err := l.readLast(known); damage != "" || err != nil {
			return damage, err
		}
	}
	l.tornBytes += size
	return "", nil
}

// track keeps the set of changes that began and did not end.
func (l *Ledger) track(r *api.AuditRecord) {
	switch {
	case r.Phase == api.AuditBegun:
		l.open[r.Seq] = true
	case r.Begun != 0:
		delete(l.open, r.Begun)
	}
}

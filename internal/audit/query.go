package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"slices"

	"github.com/penstock/penstock/api"
)

// The bounds of one answer.
const (
	recordsDefault = 100
	recordsMax     = 1000
	scanMax        = 128 << 20 // bytes of segments that are read for one page; the next goes on from there
)

// Records lists records, newest first. next is where the next page goes on, 0 after the last. The record that announced
// a change is left out when its end is there, which tells the same and more.
func (l *Ledger) Records(ctx context.Context, q api.AuditQuery) (found []api.AuditRecord, next int64, err error) {
	if q.Limit <= 0 {
		q.Limit = recordsDefault
	}
	q.Limit = min(q.Limit, recordsMax)
	l.files.RLock()
	defer l.files.RUnlock()
	l.mu.Lock()
	segments, end := slices.Clone(l.segments), l.at
	l.mu.Unlock()
	scanned := int64(0)
	for i, s := range slices.Backward(segments) {
		if q.Before > 0 && s.first >= q.Before {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, 0, api.Fail(api.CodeCanceled, "", "the caller went away").Because(err)
		}
		size := int64(-1)
		if i == len(segments)-1 {
			size = end.size
		}
		data, err := readSegment(s, size)
		if err != nil {
			return nil, 0, api.Fail(api.CodeStorage, s.name(), "the audit cannot be read").Because(err)
		}
		part := l.pick(data, &q)
		room := q.Limit - len(found)
		if scanned += int64(len(data)); len(part) >= room {
			part = part[len(part)-room:]
		}
		slices.Reverse(part)
		found = append(found, part...)
		switch {
		case len(found) == q.Limit:
			return found, found[len(found)-1].Seq, nil
		case scanned >= scanMax && i > 0:
			return found, s.first, nil
		}
	}
	return found, 0, nil
}

// readSegment reads a segment up to what is on disk; size -1 is all.
func readSegment(s segment, size int64) ([]byte, error) {
	if size < 0 {
		return os.ReadFile(s.path)
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, size))
}

// pick gives the records of a segment that are asked for, oldest first. What cannot be read ends it: Verify names it.
func (l *Ledger) pick(data []byte, q *api.AuditQuery) (found []api.AuditRecord) {
	_, _, rest, err := readHeader(data)
	for err == nil && len(rest) > 0 {
		var text []byte
		var r api.AuditRecord
		if _, text, rest, err = cut(rest); err != nil || json.Unmarshal(text, &r) != nil {
			break
		}
		if q.Before > 0 && r.Seq >= q.Before {
			break
		}
		if q.Takes(&r) && (r.Phase != api.AuditBegun || l.unended(r.Seq)) {
			found = append(found, r)
		}
	}
	return found
}

func (l *Ledger) unended(seq int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open[seq]
}

// Copy hands out every segment as far as it is on disk, oldest first, for a backup. None is removed meanwhile.
func (l *Ledger) Copy(each func(name string, size int64, r io.Reader) error) error {
	l.files.RLock()
	defer l.files.RUnlock()
	l.mu.Lock()
	segments, end := slices.Clone(l.segments), l.at
	l.mu.Unlock()
	for i, s := range segments {
		size := int64(-1)
		if i == len(segments)-1 {
			size = end.size
		}
		data, err := readSegment(s, size)
		if err != nil {
			return err
		}
		if err := each(s.name(), int64(len(data)), bytes.NewReader(data)); err != nil {
			return err
		}
	}
	return nil
}

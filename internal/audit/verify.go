package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/penstock/penstock/api"
)

// Verify looks at every record that is kept: its checksum, its place in the chain, its number, and the hashes that the
// database has of the chain. The report names the first that is not as it was written.
func (l *Ledger) Verify(ctx context.Context) (api.AuditReport, error) {
	l.files.RLock()
	defer l.files.RUnlock()
	heads, err := l.cfg.Heads.AuditHeads(ctx, l.cfg.ID)
	if err != nil {
		return api.AuditReport{}, err
	}
	l.mu.Lock()
	segments, size := slices.Clone(l.segments), l.at.size
	l.mu.Unlock()
	return verify(ctx, l.cfg.ID, segments, size, heads)
}

// VerifyFiles is Verify for the files of a ledger that is not open.
func VerifyFiles(ctx context.Context, dir, id string, heads []api.AuditHead) (api.AuditReport, error) {
	segments, err := segmentsOf(dir)
	if err != nil && !os.IsNotExist(err) {
		return api.AuditReport{}, err
	}
	return verify(ctx, id, segments, -1, heads)
}

// inspection is one walk over all segments.
type inspection struct {
	report api.AuditReport
	heads  map[int64]string // by number: what the database knows
	at     position
	bridge link // hash before the oldest segment that is kept
	sealed bool // a checkpoint tells of that hash
}

func verify(ctx context.Context, id string, segments []segment, lastSize int64, heads []api.AuditHead) (api.AuditReport, error) {
	v := &inspection{report: api.AuditReport{OK: true, Ledger: id, Segments: int64(len(segments))}, heads: map[int64]string{}}
	newest := int64(0)
	for _, h := range heads {
		v.heads[h.Seq], newest = h.Hash, max(newest, h.Seq)
	}
	for i, s := range segments {
		if err := ctx.Err(); err != nil {
			return v.report, api.Fail(api.CodeCanceled, "", "the check was given up").Because(err)
		}
		size := int64(-1)
		if i == len(segments)-1 {
			size = lastSize
		}
		data, err := readSegment(s, size)
		if err != nil {
			v.fault(s.first, s, 0, "the segment cannot be read: "+err.Error())
			return v.report, nil
		}
		v.report.Bytes += int64(len(data))
		if !v.segment(s, data, i == 0) {
			return v.report, nil
		}
	}
	v.report.Last, v.report.Head = v.at.seq, v.at.hash.String()
	switch {
	case newest > v.at.seq:
		v.fault(v.at.seq+1, segment{}, 0, fmt.Sprintf("records %d to %d are missing: the database knows a later one", v.at.seq+1, newest))
	case v.report.First > 1 && !v.sealed:
		v.fault(1, segment{}, 0, fmt.Sprintf("records 1 to %d are missing, and no checkpoint says that they were removed for their age", v.report.First-1))
	}
	return v.report, nil
}

func (v *inspection) fault(seq int64, s segment, offset int64, text string) {
	f := &api.AuditFault{Seq: seq, Offset: offset, Text: text}
	if s.path != "" {
		f.Segment = s.name()
	}
	v.report.OK, v.report.Fault = false, f
}

// segment looks at one file, and reports whether to go on.
func (v *inspection) segment(s segment, data []byte, oldest bool) bool {
	h, hash, rest, err := readHeader(data)
	expected := v.at.seq + 1
	if oldest {
		expected = s.first
	}
	prev, _ := parseLink(h.Prev) // readHeader has parsed it
	switch {
	case err != nil:
		v.fault(expected, s, 0, "the segment's header: "+err.Error())
	case h.Ledger != v.report.Ledger:
		v.fault(expected, s, 0, "the segment is of another ledger")
	case h.First != s.first:
		v.fault(expected, s, 0, fmt.Sprintf("the segment begins with record %d, and its name says %d", h.First, s.first))
	case oldest:
		v.report.First, v.bridge, v.at.seq = h.First, prev, h.First-1
		if want, known := v.heads[h.First-1]; known && want != prev.String() {
			v.fault(h.First-1, s, 0, "the chain before the oldest segment is not the one that the database knows")
		} else if h.First == 1 && prev != (link{}) {
			v.fault(1, s, 0, "the chain does not begin with record 1")
		}
	case h.First != v.at.seq+1:
		v.fault(v.at.seq+1, s, 0, fmt.Sprintf("record %d is expected here, and the segment begins with %d", v.at.seq+1, h.First))
	case prev != v.at.hash:
		v.fault(v.at.seq+1, s, 0, "the segment does not follow the one before it")
	}
	if !v.report.OK {
		return false
	}
	v.at.hash = hash
	offset := int64(len(data) - len(rest))
	for len(rest) > 0 {
		more, text := v.record(rest)
		if text != "" {
			v.fault(v.at.seq+1, s, offset, text)
			return false
		}
		offset += int64(len(rest) - len(more))
		rest = more
	}
	return true
}

// record looks at the next frame, and gives what follows it or what is wrong.
func (v *inspection) record(data []byte) (rest []byte, wrong string) {
	hash, text, rest, err := cut(data)
	if err != nil {
		return nil, err.Error()
	}
	if hash != v.at.hash.next(text) {
		return nil, "its hash does not follow from its content and the record before it"
	}
	var r api.AuditRecord
	if err := json.Unmarshal(text, &r); err != nil || r.Seq != v.at.seq+1 {
		return nil, fmt.Sprintf("its number is %d, and %d is expected", r.Seq, v.at.seq+1)
	}
	if want, known := v.heads[r.Seq]; known {
		if want != hash.String() {
			return nil, "its hash is not the one that the database knows: it or one before it was written anew"
		}
		v.report.Heads++
	}
	v.at.seq, v.at.hash = r.Seq, hash
	v.report.Records++
	if r.Action == api.AuditCheckpoint {
		var c checkpoint
		if json.Unmarshal([]byte(r.After), &c) == nil && c.Through == v.report.First-1 && c.Hash == v.bridge.String() {
			v.sealed = true
		}
	}
	return rest, ""
}

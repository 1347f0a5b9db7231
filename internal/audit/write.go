package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/api"
)

// The bounds of the writer.
const (
	queueMax  = 1024      // records that wait for the writer
	groupMax  = 256       // records that share one fsync
	openMax   = 4096      // changes under way or lost with a server; the oldest are forgotten
	reserveAt = 256 << 10 // bytes that must be promised by the file system before a change may begin, so that its end has room
	reserveBy = 1 << 20   // bytes that are asked for at once
)

// job is one record on its way to the disk.
type job struct {
	record api.AuditRecord
	must   bool // goes to the backlog when it cannot be written: what it tells of was done
	empty  bool // only makes the writer look at the backlog
	seq    int64
	err    error
	done   chan struct{}
}

// errUnavailable is what a change is refused with while the audit cannot be written.
func errUnavailable(cause error) error {
	return api.Fail(api.CodeAuditUnavailable, "", "the change was not made, because its record cannot be kept").Because(cause)
}

// submit hands a record to the writer and waits until it is on disk.
func (l *Ledger) submit(ctx context.Context, r api.AuditRecord, must bool) (int64, error) {
	fit(&r)
	j := &job{record: r, must: must, done: make(chan struct{})}
	return l.hand(ctx, j)
}

func (l *Ledger) hand(ctx context.Context, j *job) (int64, error) {
	select {
	case <-l.stop:
		return 0, errUnavailable(errors.New("the audit is closed"))
	default:
	}
	select {
	case l.queue <- j:
	case <-l.stop:
		return 0, errUnavailable(errors.New("the audit is closed"))
	case <-ctx.Done():
		return 0, errUnavailable(ctx.Err())
	}
	select {
	case <-j.done:
		return j.seq, j.err
	case <-l.ended:
		select {
		case <-j.done:
			return j.seq, j.err
		default:
			return 0, errUnavailable(errors.New("the audit is closed"))
		}
	case <-ctx.Done(): // it may still be written, which does no harm
		return 0, errUnavailable(ctx.Err())
	}
}

// nudge makes the writer try its backlog.
func (l *Ledger) nudge(ctx context.Context) {
	_, _ = l.hand(ctx, &job{empty: true, done: make(chan struct{})}) // what it could not do it does the next time
}

// write is the writer: it takes what waits, at most groupMax, and writes it with one fsync. While that goes on the next
// group gathers, so nobody waits for others without need, and many share when there are many.
func (l *Ledger) write() {
	defer close(l.ended)
	for {
		select {
		case first := <-l.queue:
			l.group(l.gather(first))
		case <-l.stop:
			for { // what already waits was promised nothing; but it can still be written
				select {
				case first := <-l.queue:
					l.group(l.gather(first))
				default:
					l.group(nil)
					return
				}
			}
		}
	}
}

func (l *Ledger) gather(first *job) []*job {
	jobs := []*job{first}
	for len(jobs) < groupMax {
		select {
		case j := <-l.queue:
			jobs = append(jobs, j)
		default:
			return jobs
		}
	}
	return jobs
}

// group writes the backlog and a group of records, and acknowledges them.
func (l *Ledger) group(jobs []*job) {
	defer func() {
		for _, j := range jobs {
			close(j.done)
		}
	}()
	late := l.backlog[:min(len(l.backlog), groupMax)]
	if len(jobs) == 0 && len(late) == 0 {
		return
	}
	err := l.prepare()
	room := err
	if err == nil {
		room = l.reserve()
	}
	records, taken := slices.Clone(late), make([]*job, 0, len(jobs))
	for _, j := range jobs {
		switch {
		case j.empty:
		case !j.must && room != nil: // what only begins may not use the room that is left for what ends
			j.err = errUnavailable(room)
		default:
			records, taken = append(records, j.record), append(taken, j)
		}
	}
	if err == nil && len(records) > 0 {
		err = l.append(records)
	}
	if err == nil {
		l.backlog = slices.Clone(l.backlog[len(late):])
		for i, j := range taken {
			j.seq = records[len(late)+i].Seq
		}
	} else {
		l.keep(taken, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting, l.broken = len(l.backlog), cmp.Or(err, room)
}

// keep puts what must not be lost into the backlog, and refuses the rest.
func (l *Ledger) keep(jobs []*job, err error) {
	for _, j := range jobs {
		j.err = errUnavailable(err)
		switch {
		case !j.must:
		case len(l.backlog) < l.cfg.Backlog:
			j.record.Late = true
			l.backlog = append(l.backlog, j.record)
		default:
			l.cfg.Log.Error("a record of the audit is lost: too many wait already", "record", j.record)
		}
	}
}

// prepare sees to it that there is a segment that can be written.
func (l *Ledger) prepare() error {
	if l.file == nil || l.spoilt || l.at.size >= l.cfg.SegmentBytes {
		return l.roll()
	}
	return nil
}

// reserve asks the file system for room, so that what begins now can end on a disk that is full by then.
func (l *Ledger) reserve() error {
	if l.room-l.at.size >= reserveAt {
		return nil
	}
	err := l.cfg.Fault("reserve")
	if err == nil {
		err = unix.Fallocate(int(l.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, l.at.size, reserveBy)
	}
	// A file system that promises nothing is no reason to refuse: then an end may have to wait in memory.
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("there is no room for the ends of changes: %w", err)
	}
	l.room = l.at.size + reserveBy
	return nil
}

// append writes records at the end of the chain. It changes nothing of the ledger's state unless all are on disk.
func (l *Ledger) append(records []api.AuditRecord) error {
	end := l.at
	var out []byte
	for i := range records {
		end.seq++
		records[i].Seq = end.seq
		text, err := json.Marshal(records[i])
		if err != nil || len(text) > payloadMax {
			return fmt.Errorf("write record %d as JSON: %d bytes, %w", end.seq, len(text), err)
		}
		out, end.hash = frame(out, end.hash, text)
	}
	end.size += int64(len(out))
	err := l.cfg.Fault("write")
	if err == nil {
		_, err = l.file.WriteAt(out, l.at.size)
	}
	if err != nil {
		// Taken off at once, or else no more is written to this file: a half record in the middle would look like damage.
		if truncateErr := errors.Join(l.cfg.Fault("truncate"), l.file.Truncate(l.at.size)); truncateErr != nil {
			l.spoilt = true
		}
		l.room = 0 // a truncation gives the promise back
		return fmt.Errorf("write: %w", err)
	}
	if err = l.cfg.Fault("sync"); err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		// After a failed fsync nobody knows what of the file is on disk, and a second one may lie. What was synced
		// before is; the rest goes, and the chain goes on in a new file.
		l.spoilt = true
		return fmt.Errorf("fsync: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = end
	for i := range records {
		l.track(&records[i])
	}
	for len(l.open) > openMax {
		delete(l.open, slices.Min(slices.Collect(maps.Keys(l.open))))
	}
	return nil
}

// roll begins a new segment, after the present one was made to end where the chain does.
func (l *Ledger) roll() error {
	if l.file != nil && l.spoilt {
		if err := errors.Join(l.cfg.Fault("truncate"), l.file.Truncate(l.at.size), l.file.Sync()); err != nil {
			return fmt.Errorf("end a segment: %w", err)
		}
	}
	l.mu.Lock()
	pending, base := slices.Sorted(maps.Keys(l.open)), l.at.hash
	again := len(l.segments) > 0 && l.segments[len(l.segments)-1].first == l.at.seq+1
	l.mu.Unlock()
	if again { // the last segment holds no record: another takes its place, and its header was never part of the chain
		base = l.at.base
	}
	h := header{Format: format, Ledger: l.cfg.ID, First: l.at.seq + 1, Prev: base.String(), Made: l.now(), Open: pending[max(0, len(pending)-openMax/2):]}
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	out, hash := frame(nil, base, text)
	path := segmentPath(l.cfg.Dir, h.First)
	if err := l.cfg.Fault("create"); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("begin a segment: %w", err)
	}
	_, err = f.Write(out)
	if err = errors.Join(err, f.Sync(), syncDir(l.cfg.Dir)); err != nil {
		return errors.Join(fmt.Errorf("begin a segment: %w", err), f.Close(), os.Remove(path))
	}
	if l.file != nil {
		_ = l.file.Close() // everything in it was synced
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if again {
		l.segments = l.segments[:len(l.segments)-1]
	}
	l.segments = append(l.segments, segment{path, h.First})
	l.file, l.room, l.spoilt = f, 0, false
	l.at.hash, l.at.size, l.at.base = hash, int64(len(out)), base
	return nil
}

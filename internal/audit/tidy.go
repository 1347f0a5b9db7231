package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/penstock/penstock/api"
)

// checkpoint is what stays of records that were removed: the number of the last, and the hash of the chain up to it.
// It is itself a record, so whatever comes after it seals it.
type checkpoint struct {
	Through int64  `json:"through"`
	Hash    string `json:"hash"`
	Segment string `json:"segment"`
	Bytes   int64  `json:"bytes"`
}

// Tidy removes the oldest segments while there are too many bytes or they are too old, each after its checkpoint is on
// disk: a kill in between leaves a segment too many, never one too few. The last segment stays.
func (l *Ledger) Tidy(ctx context.Context) error {
	for {
		s, c, ok, err := l.oldest()
		if err != nil || !ok {
			return err
		}
		text, err := json.Marshal(c)
		if err != nil {
			return err
		}
		note := l.note(api.AuditCheckpoint, string(text))
		note.Subject = c.Segment
		if _, err := l.submit(ctx, note, false); err != nil {
			return err
		}
		if err := l.Anchor(ctx); err != nil {
			return err // the files must not be the only witness of why records are gone
		}
		l.files.Lock()
		err = os.Remove(s.path)
		if err == nil {
			err = syncDir(l.cfg.Dir)
		}
		l.mu.Lock()
		if len(l.segments) > 1 && l.segments[0] == s {
			l.segments = append([]segment{}, l.segments[1:]...)
		}
		l.mu.Unlock()
		l.files.Unlock()
		if err != nil {
			return fmt.Errorf("remove %s: %w", s.name(), err)
		}
	}
}

// oldest gives the oldest segment when it is to go, with the checkpoint that tells of it.
func (l *Ledger) oldest() (s segment, c checkpoint, ok bool, _ error) {
	l.mu.Lock()
	segments := append([]segment{}, l.segments...)
	l.mu.Unlock()
	if len(segments) < 2 {
		return s, c, false, nil
	}
	total, first := int64(0), int64(0)
	for i, one := range segments {
		info, err := os.Stat(one.path)
		if err != nil {
			return s, c, false, err
		}
		if total += info.Size(); i == 0 {
			first = info.Size()
		}
	}
	data, err := os.ReadFile(segments[1].path)
	if err != nil {
		return s, c, false, err
	}
	h, _, _, err := readHeader(data)
	if err != nil {
		return s, c, false, err // damage is not tidied away
	}
	// The next segment was made when the last record of this one was there already.
	tooOld := l.cfg.Now().Sub(h.Made.Std()) > l.cfg.KeepAge
	if total <= l.cfg.KeepBytes && !tooOld {
		return s, c, false, nil
	}
	return segments[0], checkpoint{Through: h.First - 1, Hash: h.Prev, Segment: segments[0].name(), Bytes: first}, true, nil
}

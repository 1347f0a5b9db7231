// Package audit keeps the record of who did what: a hash-chained, append-only ledger of segment files, with its head
// written to the database now and then, so that what is changed, missing or cut off is found. It decides nothing about
// callers and reads nothing of the rooms. Callers: the doors, through interfaces of their own; server runs it.
package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
)

// Heads is where the chain's hashes are kept beside the files. What it acknowledged is durable, and what is there is
// never changed.
type Heads interface {
	PutAuditHead(ctx context.Context, h api.AuditHead) error
	AuditHeads(ctx context.Context, ledger string) ([]api.AuditHead, error)
}

// Config is what a Ledger is made of. Zero fields take the defaults named.
type Config struct {
	Dir   string // of the segments; made when it is missing
	ID    string // of the ledger, from LoadID
	Heads Heads
	Now   func() time.Time // default time.Now
	Log   *slog.Logger     // default slog.Default()

	SegmentBytes int64         // after which a new segment begins; 8 MiB
	KeepBytes    int64         // of all segments; older ones are removed; 1 GiB
	KeepAge      time.Duration // of records; older segments are removed; 400 days
	AnchorEvery  time.Duration // how often the head is written to the database, when it moved; 10 s
	Backlog      int           // ends of changes that wait in memory while the files cannot be written; 1024

	// Fault makes an operation (write, sync, create, truncate, reserve) fail; for tests.
	Fault func(operation string) error
}

func (c *Config) orDefault() {
	for field, otherwise := range map[*int64]int64{&c.SegmentBytes: 8 << 20, &c.KeepBytes: 1 << 30} {
		if *field <= 0 {
			*field = otherwise
		}
	}
	if c.KeepAge <= 0 {
		c.KeepAge = 400 * 24 * time.Hour
	}
	if c.AnchorEvery <= 0 {
		c.AnchorEvery = 10 * time.Second
	}
	if c.Backlog <= 0 {
		c.Backlog = 1024
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Fault == nil {
		c.Fault = func(string) error { return nil }
	}
}

// LoadID reads the ledger's identifier, or makes one. It lies apart from the segments: when those are gone as a whole,
// what the database knows of them still finds it.
func LoadID(path string) (string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		fresh := make([]byte, 16)
		rand.Read(fresh)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return "", err
		}
		id := hex.EncodeToString(fresh)
		_, err = f.WriteString(id + "\n")
		return id, errors.Join(err, f.Sync(), f.Close(), syncDir(filepath.Dir(path)))
	}
	if err != nil {
		return "", err
	}
	id := strings.TrimSpace(string(data))
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 {
		return "", fmt.Errorf("%s holds no identifier of an audit; restore it from a backup", path)
	}
	return id, nil
}

// Ledger is an open audit. Methods may be called from many goroutines.
type Ledger struct {
	cfg   Config
	queue chan *job
	stop  chan struct{}
	ended chan struct{}
	close sync.Once

	files sync.RWMutex // held for reading by whoever reads segments, for writing by whoever removes one

	mu       sync.Mutex // guards the fields below; only the writer changes them
	segments []segment
	at       position
	open     map[int64]bool // begun records without their end
	anchored int64          // number of the newest record whose hash the database has
	broken   error          // why nothing can be written, until something can
	waiting  int            // ends in the backlog

	file    *os.File          // the last segment; the writer's alone
	room    int64             // bytes that the file system has promised beyond the end; the writer's alone
	spoilt  bool              // the file may not be written any more; the writer's alone
	backlog []api.AuditRecord // the writer's alone
	refused limiter

	tornBytes int64 // what was taken off at the start
}

// position is the end of the chain: what is on disk.
type position struct {
	seq  int64
	hash link
	size int64 // of the last segment
	base link  // hash before the last segment's header
}

// Open reads where the chain ends, and takes off what a crash left unfinished. It begins the writer; Close ends it.
func Open(ctx context.Context, cfg Config) (*Ledger, error) {
	cfg.orDefault()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the audit's directory: %w", err)
	}
	l := &Ledger{cfg: cfg, queue: make(chan *job, queueMax), stop: make(chan struct{}), ended: make(chan struct{}), open: map[int64]bool{}}
	l.refused = limiter{now: cfg.Now}
	notes, err := l.recover(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the audit: %w", err)
	}
	go l.write()
	for _, note := range notes {
		if _, err := l.submit(ctx, note, false); err != nil {
			cfg.Log.Warn("the audit cannot be written", "error", err)
		}
	}
	return l, nil
}

// Close writes what waits, tells the database where the chain ends, and closes the files.
func (l *Ledger) Close() error {
	var err error
	l.close.Do(func() {
		close(l.stop)
		<-l.ended
		ctx, cancel := context.WithTimeout(context.Background(), anchorMax)
		defer cancel()
		if anchorErr := l.Anchor(ctx); anchorErr != nil {
			l.cfg.Log.Warn("the audit's head is not in the database", "error", anchorErr)
		}
		if l.file != nil {
			err = l.file.Close()
		}
	})
	return err
}

const anchorMax = 5 * time.Second // longest for writing a head

// Run writes the head to the database, removes what is too old, and writes what could not be written at its time, until
// ctx ends. The ledger takes records without it, too.
func (l *Ledger) Run(ctx context.Context) error {
	ticker := time.NewTicker(min(l.cfg.AnchorEvery, time.Second))
	defer ticker.Stop()
	anchor, tidy := l.cfg.Now(), l.cfg.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := l.cfg.Now()
		if l.Waiting() > 0 {
			l.nudge(ctx)
		}
		if now.Sub(anchor) >= l.cfg.AnchorEvery {
			anchor = now
			if err := l.Anchor(ctx); err != nil && ctx.Err() == nil {
				l.cfg.Log.Warn("the audit's head is not in the database", "error", err)
			}
		}
		if now.Sub(tidy) >= time.Minute {
			tidy = now
			if err := l.Tidy(ctx); err != nil && ctx.Err() == nil {
				l.cfg.Log.Warn("old records of the audit stay", "error", err)
			}
		}
	}
}

// Waiting tells how many ends of changes are in memory because the files cannot be written.
func (l *Ledger) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting
}

// Anchor writes the present head to the database, when it moved since the last time.
func (l *Ledger) Anchor(ctx context.Context) error {
	l.mu.Lock()
	at, anchored := l.at, l.anchored
	l.mu.Unlock()
	if at.seq == anchored {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, anchorMax)
	defer cancel()
	if err := l.cfg.Heads.PutAuditHead(ctx, api.AuditHead{Ledger: l.cfg.ID, Seq: at.seq, Hash: at.hash.String(), At: l.now()}); err != nil {
		return err
	}
	l.mu.Lock()
	l.anchored = max(l.anchored, at.seq)
	l.mu.Unlock()
	return nil
}

func (l *Ledger) now() api.Time { return api.TimeOf(l.cfg.Now()) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

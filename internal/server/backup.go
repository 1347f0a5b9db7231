package server

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/store"
)

// A backup is a tar stream: the header, the store's portable dump, the secrets, the grants, the audit, the blobs wherever they lie
// (unless it was asked for without), and a trailer with the digest of every name, size and content before it. The dump is taken first and blobs are never changed, so the blobs that it
// names are all among those that follow. It can be restored onto either database.
const (
	backupHeader  = "penstock-backup.json"
	backupStore   = "store.jsonl"
	backupTrailer = "penstock-backup.sha256"
	backupFormat  = 1
)

// Limits of what restore takes from one entry.
const (
	entryBytesMax = 1 << 40
	smallBytesMax = 1 << 20 // header, trailer, secrets, grants
	auditBytesMax = 1 << 30 // a file of the audit
)

type backupInfo struct {
	Format  int      `json:"format"`
	Version string   `json:"version"`
	Created api.Time `json:"created"`
}

// Backup writes the whole data directory while the server serves. Without blobs it is for those whose blob store keeps
// copies of its own. With them no collection runs meanwhile: the blobs that the dump names must still be there when their
// turn comes.
func (s *System) Backup(ctx context.Context, w io.Writer, withoutBlobs bool) error {
	write := func(ctx context.Context) error { return s.backup(ctx, w, withoutBlobs) }
	if withoutBlobs {
		return write(ctx)
	}
	return s.collect.Exclusively(ctx, write)
}

func (s *System) backup(ctx context.Context, w io.Writer, withoutBlobs bool) error {
	t := &archive{tar: tar.NewWriter(w), sum: sha256.New()}
	info, err := json.Marshal(backupInfo{Format: backupFormat, Version: s.cfg.Version, Created: api.TimeOf(time.Now())})
	if err != nil {
		return err
	}
	if err := t.addBytes(backupHeader, info); err != nil {
		return err
	}
	if err := s.addStore(ctx, t); err != nil {
		return fmt.Errorf("back up the store: %w", err)
	}
	for _, dir := range []string{"secrets", "grants", "journal"} {
		if err := t.addTree(s.cfg.Data, dir); err != nil {
			return fmt.Errorf("back up %s: %w", dir, err)
		}
	}
	// After the store, whose head of the audit must be one that the files lead to.
	if err := s.audit.Copy(func(name string, size int64, r io.Reader) error { return t.add(auditFolder+"/"+name, size, r) }); err != nil {
		return fmt.Errorf("back up the audit: %w", err)
	}
	if !withoutBlobs {
		if err := s.addBlobs(ctx, t); err != nil {
			return fmt.Errorf("back up the blobs: %w", err)
		}
	}
	if err := t.addBytes(backupTrailer, []byte(hex.EncodeToString(t.sum.Sum(nil)))); err != nil {
		return err
	}
	return t.tar.Close()
}

func (s *System) addBlobs(ctx context.Context, t *archive) error {
	return s.blobs.List(ctx, func(b blob.Info) error {
		r, err := s.blobs.Open(ctx, b.Digest)
		if err != nil {
			return err
		}
		defer r.Close()
		return t.add("blobs/sha256/"+b.Digest.Hex(), b.Size, r)
	})
}

// addStore dumps into a file first, since tar wants to know the size.
func (s *System) addStore(ctx context.Context, t *archive) error {
	f, err := os.CreateTemp(filepath.Join(s.cfg.Data, "run"), ".backup-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // a leftover is removed with the run directory
	defer f.Close()
	if err := s.store.Export(ctx, f); err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return t.add(backupStore, size, f)
}

// archive is a backup being written.
type archive struct {
	tar *tar.Writer
	sum hash.Hash
}

// mark puts an entry's name and size into the digest; its content follows.
func mark(sum io.Writer, name string, size int64) { fmt.Fprintf(sum, "%q %d\n", name, size) }

func (t *archive) addTree(root, dir string) error {
	base, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer base.Close()
	err = fs.WalkDir(base.FS(), dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.HasPrefix(entry.Name(), ".") {
			return err
		}
		data, err := base.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // went away meanwhile
		}
		if err != nil {
			return err
		}
		return t.addBytes(name, data)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (t *archive) addBytes(name string, data []byte) error {
	return t.add(name, int64(len(data)), strings.NewReader(string(data)))
}

func (t *archive) add(name string, size int64, r io.Reader) error {
	mark(t.sum, name, size)
	if err := t.tar.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o600, Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
		return err
	}
	n, err := io.Copy(io.MultiWriter(t.tar, t.sum), r)
	if err == nil && n != size {
		err = fmt.Errorf("%s: %d bytes, expected %d", name, n, size)
	}
	return err
}

// Restore makes a data directory from a backup. dir must not exist or be empty, and a PostgreSQL store must be empty;
// otherwise nothing is touched. The directory appears whole, after every digest was checked, or not at all. Blobs go where
// cfg.Blobs names; in an object store they stay also when the backup turns out to be damaged, which harms nothing.
func Restore(ctx context.Context, r io.Reader, cfg Config, log *slog.Logger) error {
	dir := cfg.Data
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty; restore into a new directory", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir = filepath.Clean(dir)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".restoring-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }() // nothing is left of it when it was renamed
	cfg.Data = scratch
	x := &restorer{dir: scratch, sum: sha256.New()}
	defer x.close()
	if x.blobs, err = openBlobs(ctx, &cfg, log); err != nil {
		return err
	}
	if err := x.unpack(ctx, r); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := x.importStore(ctx, cfg.storeURL()); err != nil {
		return fmt.Errorf("restore the store: %w", err)
	}
	if err := os.RemoveAll(filepath.Join(scratch, spoolFolder)); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(scratch, backupStore)); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(scratch, dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// restorer takes a backup apart, checking it on the way.
type restorer struct {
	dir     string
	root    *os.Root
	blobs   blobs
	sum     hash.Hash
	started bool
	stored  bool
}

func (x *restorer) close() {
	if x.root != nil {
		x.root.Close()
	}
	if x.blobs != nil {
		_ = x.blobs.Close() // everything was synced when it was put
	}
}

func (x *restorer) unpack(ctx context.Context, r io.Reader) (err error) {
	if x.root, err = os.OpenRoot(x.dir); err != nil {
		return err
	}
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return errors.New("the backup is cut short: it has no trailer")
		}
		if err != nil {
			return fmt.Errorf("read the backup: %w", err)
		}
		if h.Typeflag != tar.TypeReg || h.Size < 0 || h.Size > entryBytesMax || !fs.ValidPath(h.Name) {
			return fmt.Errorf("entry %.80q is not one of a backup's", h.Name)
		}
		if h.Name == backupTrailer {
			return x.trailer(t)
		}
		mark(x.sum, h.Name, h.Size)
		if err := x.entry(ctx, h, io.TeeReader(t, x.sum)); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func (x *restorer) trailer(t io.Reader) error {
	want, err := io.ReadAll(io.LimitReader(t, smallBytesMax))
	switch {
	case err != nil:
		return err
	case string(want) != hex.EncodeToString(x.sum.Sum(nil)):
		return errors.New("the backup was damaged or changed: its digest does not match")
	case !x.started || !x.stored:
		return errors.New("the backup holds no store")
	}
	return nil
}

func (x *restorer) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	top, _, _ := strings.Cut(h.Name, "/")
	switch {
	case h.Name == backupHeader:
		var info backupInfo
		data, err := io.ReadAll(io.LimitReader(r, smallBytesMax))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, &info); err != nil {
			return err
		}
		if info.Format != backupFormat {
			return fmt.Errorf("format %d; this version reads format %d", info.Format, backupFormat)
		}
		x.started = true
		return nil
	case !x.started:
		return errors.New("not a Penstock backup")
	case h.Name == backupStore:
		x.stored = true
		return x.write(h.Name, r)
	case top == "blobs":
		_, err := x.blobs.Put(ctx, r, api.Digest("sha256:"+path.Base(h.Name)), h.Size)
		return err
	case top == auditFolder && h.Size <= auditBytesMax:
		return x.write(h.Name, r)
	case (top == "secrets" || top == "grants" || top == "journal") && h.Size <= smallBytesMax:
		return x.write(h.Name, r)
	}
	return errors.New("not an entry of a backup")
}

func (x *restorer) write(name string, r io.Reader) error {
	if err := x.root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := x.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}

func (x *restorer) importStore(ctx context.Context, url string) error {
	f, err := x.root.Open(backupStore)
	if err != nil {
		return err
	}
	defer f.Close()
	db, err := store.Open(ctx, url)
	if err != nil {
		return err
	}
	return errors.Join(db.Import(ctx, f), db.Close())
}

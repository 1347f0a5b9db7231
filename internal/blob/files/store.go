// Package files keeps blobs as plain files in one directory: DIR/sha256/ab/abcdef… for what is stored, DIR/uploads/ for
// what is still being received. It knows digests and bytes, nothing of models, tenants or what is still needed. It is
// the blob driver of a single machine; several processes may share the directory. Callers: server.
package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/crash"
)

const (
	stored  = "sha256"  // holds the finished blobs, in 256 folders by the first byte of the digest
	uploads = "uploads" // holds what is being received; in the same filesystem, so that a rename finishes it

	// DefaultStale is how old an unfinished upload must be before Open removes it. A younger one may belong to another
	// process that shares the directory.
	DefaultStale = 24 * time.Hour

	// listBatch bounds how many directory entries List holds at once.
	listBatch = 1024
)

// Step names one act of Put or Delete on the disk, for Config.Fault.
type Step string

// The steps of Put, in their order. SyncFolder comes after the rename: a blob is whole by then, but not acknowledged. Delete has
// two, Remove and SyncFolder.
const (
	StepCreate     Step = "create"
	StepWrite      Step = "write"
	StepSync       Step = "sync"
	StepRename     Step = "rename"
	StepSyncFolder Step = "sync-folder"
	StepRemove     Step = "remove"
)

// Config says where the store lives.
type Config struct {
	Dir   string           // the store's own directory; made with mode 0700 when missing
	Stale time.Duration    // age at which unfinished uploads are removed by Open; 0: DefaultStale
	Now   func() time.Time // clock for Stale; nil: time.Now

	// Fault, when set, runs before each step of Put and Delete and makes it fail with the error returned. It is there so that tests
	// can fill the disk and break its fsync at every place.
	Fault func(Step) error
}

// Store is a blob.Store on a directory, a blob.Local and a blob.Keeper.
type Store struct {
	dir   string
	root  *os.Root // every path goes through it, so that no link leads out of the directory
	fault func(Step) error

	// broken is set when a folder's fsync failed for another reason than want of space. The kernel may report such a
	// fault only once and then forget it, to whoever asks first, so nothing more is acknowledged until the store is opened again.
	broken atomic.Bool
}

var (
	_ blob.Store  = (*Store)(nil)
	_ blob.Local  = (*Store)(nil)
	_ blob.Keeper = (*Store)(nil)
)

// Open makes the directory ready and removes leftovers of uploads that were never finished.
func Open(cfg Config) (*Store, error) {
	if cfg.Stale <= 0 {
		cfg.Stale = DefaultStale
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("find blob directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, storage("make the blob directory", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, storage("open the blob directory", err)
	}
	s := &Store{dir: dir, root: root, fault: cfg.Fault}
	if err := s.prepare(cfg.Now().Add(-cfg.Stale)); err != nil {
		root.Close()
		return nil, err
	}
	return s, nil
}

// Close gives the directory's descriptor back. Blobs that are open stay readable.
func (s *Store) Close() error { return s.root.Close() }

// prepare makes all folders at once, so that Put never has to make one durable.
func (s *Store) prepare(stale time.Time) error {
	names := []string{uploads, stored}
	for i := range 256 {
		names = append(names, fmt.Sprintf("%s/%02x", stored, i))
	}
	for _, name := range names {
		if err := s.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return storage("make the blob folders", err)
		}
	}
	for _, name := range []string{stored, "."} {
		if err := s.syncFolder(name); err != nil {
			return storage("sync the blob folders", err)
		}
	}
	return s.each(uploads, func(left fs.FileInfo) error {
		if left.ModTime().After(stale) {
			return nil
		}
		if err := s.root.RemoveAll(uploads + "/" + left.Name()); err != nil {
			return storage("remove an unfinished upload", err)
		}
		return nil
	})
}

// Stat says how long a blob is.
func (s *Store) Stat(_ context.Context, digest api.Digest) (blob.Info, error) {
	name, err := place(digest)
	if err != nil {
		return blob.Info{}, err
	}
	info, err := s.regular(name, digest)
	if err != nil {
		return blob.Info{}, err
	}
	return blob.Info{Digest: digest, Size: info.Size()}, nil
}

// Open opens a blob for reading. What it returns is an *os.File, so it can also be read at any offset.
func (s *Store) Open(_ context.Context, digest api.Digest) (io.ReadSeekCloser, error) {
	name, err := place(digest)
	if err != nil {
		return nil, err
	}
	before, err := s.regular(name, digest)
	if err != nil {
		return nil, err
	}
	f, err := s.root.Open(name)
	if err != nil {
		return nil, absentOr(err, digest)
	}
	// The name was looked at without following a link; what was opened must be that very file.
	if after, err := f.Stat(); err != nil || !os.SameFile(before, after) {
		f.Close()
		return nil, storage("open a blob", fmt.Errorf("%s changed while it was opened", name))
	}
	return f, nil
}

// Path names the file of a blob.
func (s *Store) Path(ctx context.Context, digest api.Digest) (string, error) {
	if _, err := s.Stat(ctx, digest); err != nil {
		return "", err
	}
	name, err := place(digest)
	return filepath.Join(s.dir, filepath.FromSlash(name)), err
}

// Delete removes a blob; an absent one is no error.
func (s *Store) Delete(_ context.Context, digest api.Digest) error {
	name, err := place(digest)
	if err != nil {
		return err
	}
	crash.Point("files: before delete")
	if err := s.check(StepRemove); err != nil {
		return storage("delete a blob", err)
	}
	if err := s.root.Remove(name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return storage("delete a blob", err)
	}
	crash.Point("files: after delete")
	// A removal that is not durable harms nobody. But this fsync may be the one that is told of another's lost name.
	if err := s.settle(folder(name)); err != nil {
		return storage("delete a blob", err)
	}
	return nil
}

// settle makes the names in a folder durable, or remembers that it could not.
func (s *Store) settle(name string) error {
	err := errors.Join(s.check(StepSyncFolder), s.syncFolder(name))
	if err != nil && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		s.broken.Store(true)
	}
	return err
}

// List calls each for every blob, folder by folder. Files that are not blobs are passed over.
func (s *Store) List(ctx context.Context, each func(blob.Info) error) error {
	for i := range 256 {
		prefix := fmt.Sprintf("%02x", i)
		err := s.each(stored+"/"+prefix, func(f fs.FileInfo) error {
			if err := ctx.Err(); err != nil {
				return api.Fail(api.CodeCanceled, "", "listing blobs was broken off").Because(err)
			}
			digest := api.Digest("sha256:" + f.Name())
			if !f.Mode().IsRegular() || !digest.Valid() || !strings.HasPrefix(f.Name(), prefix) {
				return nil
			}
			return each(blob.Info{Digest: digest, Size: f.Size()})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// each visits a folder's entries, a bounded number at a time; one that vanishes meanwhile is passed over.
func (s *Store) each(name string, visit func(fs.FileInfo) error) error {
	f, err := s.root.Open(name)
	if err != nil {
		return storage("list blobs", err)
	}
	defer f.Close()
	for {
		batch, readErr := f.ReadDir(listBatch)
		for _, entry := range batch {
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return storage("list blobs", err)
			}
			if err := visit(info); err != nil {
				return err
			}
		}
		if errors.Is(readErr, io.EOF) {
			return nil
		}
		if readErr != nil {
			return storage("list blobs", readErr)
		}
	}
}

// regular looks at a name without following a link and refuses everything but a regular file.
func (s *Store) regular(name string, digest api.Digest) (fs.FileInfo, error) {
	info, err := s.root.Lstat(name)
	if err != nil {
		return nil, absentOr(err, digest)
	}
	if !info.Mode().IsRegular() {
		return nil, storage("read a blob", fmt.Errorf("%s is not a regular file", name))
	}
	return info, nil
}

// syncFolder makes the names in a folder durable.
func (s *Store) syncFolder(name string) error {
	f, err := s.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return syncFile(f)
}

// place is the path of a blob below the root. Only a well-formed digest ever becomes part of a path.
func place(digest api.Digest) (string, error) {
	if !digest.Valid() {
		return "", api.Fail(api.CodeBadName, "", "this is not a digest; one is sha256: and 64 lower-case hex digits").
			WithCure("Give the whole digest as `penstock show` prints it.")
	}
	hex := digest.Hex()
	return stored + "/" + hex[:2] + "/" + hex, nil
}

func folder(name string) string { return name[:strings.LastIndexByte(name, '/')] }

func absentOr(err error, digest api.Digest) error {
	if errors.Is(err, fs.ErrNotExist) {
		return api.Fail(api.CodeBlobNotFound, string(digest), "no such blob")
	}
	return storage("read a blob", err)
}

// storage hides the machine's paths from callers and keeps them for the log.
func storage(act string, err error) error {
	return api.Fail(api.CodeStorage, "", "the blob store could not %s", act).Because(err)
}

package files

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/crash"
	"github.com/penstock/penstock/internal/relay"
)

// Put receives a blob: into a new file under uploads/, hashed on the way, synced, then renamed to its digest, and the
// folder synced. Until the rename nothing is visible; after it the blob is whole.
func (s *Store) Put(ctx context.Context, r io.Reader, want api.Digest, limit int64) (blob.Info, error) {
	if want != "" {
		if _, err := place(want); err != nil {
			return blob.Info{}, err
		}
	}
	if s.broken.Load() {
		return blob.Info{}, storage("keep a blob", errors.New("an earlier fsync failed; open the store again"))
	}
	temp := uploads + "/" + rand.Text()
	if err := s.check(StepCreate); err != nil {
		return blob.Info{}, storage("begin a blob", err)
	}
	f, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return blob.Info{}, storage("begin a blob", err)
	}
	info, err := s.receive(ctx, f, r, want, limit)
	if closeErr := f.Close(); err == nil && closeErr != nil {
		err = storage("write a blob", closeErr)
	}
	if err == nil {
		err = s.finish(temp, info)
	}
	if err != nil {
		// Best effort: what cannot be removed now is removed by a later Open.
		_ = s.root.Remove(temp)
		return blob.Info{}, err
	}
	return info, nil
}

// receive fills the temporary file and makes its bytes durable.
func (s *Store) receive(ctx context.Context, f *os.File, r io.Reader, want api.Digest, limit int64) (blob.Info, error) {
	sum := sha256.New()
	size, err := s.stream(ctx, f, sum, r, limit)
	if err != nil {
		return blob.Info{}, err
	}
	got := api.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))
	if want != "" && got != want {
		return blob.Info{}, api.Fail(api.CodeDigestMismatch, string(want), "the %d bytes received hash to %s", size, got)
	}
	if err := f.Chmod(0o400); err != nil {
		return blob.Info{}, storage("write a blob", err)
	}
	if err := errors.Join(s.check(StepSync), syncFile(f)); err != nil {
		return blob.Info{}, storage("sync a blob", err)
	}
	return blob.Info{Digest: got, Size: size}, nil
}

// stream copies in buffers: the next is read while one is hashed and written, which go on beside one another too. It tells the
// two sides apart: a reader that fails is the caller's trouble, a file that fails is ours.
func (s *Store) stream(ctx context.Context, f *os.File, sum hash.Hash, r io.Reader, limit int64) (int64, error) {
	var size, written int64
	early := relay.Early{File: f}
	err := relay.Copy(func(buffer []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, api.Fail(api.CodeCanceled, "", "the upload was broken off").Because(err)
		}
		n, err := fill(r, buffer)
		if size += int64(n); size > limit {
			return 0, api.Fail(api.CodeTooLarge, "", "the blob is larger than the limit of %d bytes for one blob", limit)
		}
		return n, err
	}, func(b []byte) error {
		if err := s.check(StepWrite); err != nil {
			return storage("write a blob", err)
		}
		err := relay.Beside(func() error {
			_, err := f.Write(b)
			return err
		}, func() { sum.Write(b) }) // a hash never fails
		if err != nil {
			return storage("write a blob", err)
		}
		written += int64(len(b))
		early.Wrote(written)
		return nil
	})
	if errors.Is(err, io.EOF) && !isOurs(err) { // and only that: a request body that was cut short says io.ErrUnexpectedEOF
		return size, nil
	}
	return 0, broken(ctx, err, size)
}

// isOurs reports an error that has a code already, whatever its cause.
func isOurs(err error) bool {
	var ours *api.Error
	return errors.As(err, &ours)
}

// fill reads until the buffer is full or the reader ends. Unlike io.ReadFull it hands the reader's own error on.
func fill(r io.Reader, buffer []byte) (n int, err error) {
	const idle = 100 // reads in a row that may bring nothing
	for empty := 0; n < len(buffer) && err == nil; {
		var more int
		more, err = r.Read(buffer[n:])
		if n += more; more > 0 {
			empty = 0
		} else if empty++; empty == idle && err == nil {
			err = io.ErrNoProgress
		}
	}
	return n, err
}

// broken names the end of an upload that the sender did not finish.
func broken(ctx context.Context, err error, size int64) error {
	var ours *api.Error
	if errors.As(err, &ours) {
		return err
	}
	if ctx.Err() != nil {
		return api.Fail(api.CodeCanceled, "", "the upload was broken off").Because(err)
	}
	return api.Fail(api.CodeBadRequest, "", "the upload broke off after %d bytes", size).Because(err)
}

// finish gives the temporary file its name, or drops it when the blob is here already.
func (s *Store) finish(temp string, info blob.Info) error {
	name, err := place(info.Digest)
	if err != nil {
		return err
	}
	if err := s.check(StepRename); err != nil {
		return storage("name a blob", err)
	}
	// A blob of the wrong length was damaged on the disk; the good bytes take its place.
	present, err := s.root.Lstat(name)
	if err == nil && present.Mode().IsRegular() && present.Size() == info.Size {
		err = s.root.Remove(temp)
	} else if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = s.root.Rename(temp, name)
	}
	if err != nil {
		return storage("name a blob", err)
	}
	// Also when it was here already: whoever put it first may not have synced the folder yet.
	if err := s.settle(folder(name)); err != nil {
		return storage("sync a blob", fmt.Errorf("%s: %w", name, err))
	}
	if s.broken.Load() { // another's fsync, a moment ago, may have been told of the fault that hit this name
		return storage("sync a blob", errors.New("another fsync failed meanwhile; open the store again"))
	}
	return nil
}

// Keep makes a file of the same filesystem a blob, by a rename.
func (s *Store) Keep(_ context.Context, path string, info blob.Info) error {
	if _, err := place(info.Digest); err != nil {
		return err
	}
	if s.broken.Load() {
		return storage("keep a blob", errors.New("an earlier fsync failed; open the store again"))
	}
	if present, err := os.Lstat(path); err != nil || !present.Mode().IsRegular() || present.Size() != info.Size {
		return storage("keep a blob", fmt.Errorf("the file to keep is not as it was said to be: %w", err))
	}
	if err := os.Chmod(path, 0o400); err != nil {
		return storage("keep a blob", err)
	}
	// Through a second name below the root: the store's own paths all go through it.
	temp := uploads + "/" + rand.Text()
	if err := os.Rename(path, filepath.Join(s.dir, filepath.FromSlash(temp))); err != nil {
		if errors.Is(err, syscall.EXDEV) {
			return fmt.Errorf("keep a blob: %w", errors.ErrUnsupported)
		}
		return storage("keep a blob", err)
	}
	if err := s.finish(temp, info); err != nil {
		// Back to its owner, who can try again. What cannot go back is removed by a later Open.
		if os.Rename(filepath.Join(s.dir, filepath.FromSlash(temp)), path) == nil {
			_ = os.Chmod(path, 0o600)
		}
		return err
	}
	return nil
}

func (s *Store) check(step Step) error {
	crash.Point("files: before " + string(step))
	if s.fault == nil {
		return nil
	}
	return s.fault(step)
}

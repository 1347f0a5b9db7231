package cloud

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	cloudblob "gocloud.dev/blob"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
)

// Put receives a blob. An object store has no rename, so nothing may lie under a blob's key before its digest is known:
// a small blob is hashed in memory and sent in one request. A large one goes to the spool, and to the store from there;
// if its digest was named and there is memory, its parts go to the store while it arrives, and become an object only
// after the digest was found right. What is there already is hashed and not sent again.
func (s *Store) Put(ctx context.Context, r io.Reader, want api.Digest, limit int64) (blob.Info, error) {
	if want != "" {
		if _, err := s.key(want); err != nil {
			return blob.Info{}, err
		}
	}
	small, _ := s.smalls.Get().(*[smallBytes]byte)
	if small == nil {
		small = new([smallBytes]byte)
	}
	defer s.smalls.Put(small)
	in := &incoming{ctx: ctx, r: r, want: want, limit: limit, sum: sha256.New()}
	n, err := in.fill(small[:])
	if err != nil {
		return blob.Info{}, err
	}
	if in.ended {
		info, err := in.info()
		if err != nil {
			return blob.Info{}, err
		}
		return info, s.place(ctx, info, func(key string) error {
			return s.write(ctx, key, bytes.NewReader(small[:n]))
		})
	}
	if want != "" {
		return s.putNamed(ctx, in, small)
	}
	return s.putSpooled(ctx, in, small)
}

// putNamed takes a large blob whose digest the sender named.
func (s *Store) putNamed(ctx context.Context, in *incoming, head *[smallBytes]byte) (blob.Info, error) {
	if _, err := s.Stat(ctx, in.want); err == nil {
		return s.compare(ctx, in, head)
	} else if !api.Is(err, api.CodeBlobNotFound) {
		return blob.Info{}, err
	}
	if s.parts == nil {
		return s.putSpooled(ctx, in, head)
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
		return s.putStreamed(ctx, in, head)
	default: // a slow sender must not keep others waiting for memory
		return s.putSpooled(ctx, in, head)
	}
}

// compare hashes what is here already: only who sends a blob's bytes has shown to have them.
func (s *Store) compare(ctx context.Context, in *incoming, buffer *[smallBytes]byte) (blob.Info, error) {
	for !in.ended {
		if _, err := in.fill(buffer[:]); err != nil {
			return blob.Info{}, err
		}
	}
	info, err := in.info()
	if err != nil {
		return blob.Info{}, err
	}
	present, err := s.Stat(ctx, info.Digest)
	if api.Is(err, api.CodeBlobNotFound) || err == nil && present.Size != info.Size {
		return blob.Info{}, api.Fail(api.CodeUnavailable, string(info.Digest), "the blob was removed while it was sent again").
			WithCure("Send it once more.")
	}
	return info, err
}

// putSpooled writes to a file without a name first: it goes with the process, however that ends.
func (s *Store) putSpooled(ctx context.Context, in *incoming, buffer *[smallBytes]byte) (blob.Info, error) {
	f, err := os.CreateTemp(s.cfg.Spool, ".blob-*")
	if err == nil {
		defer f.Close()
		err = os.Remove(f.Name())
	}
	if err == nil {
		_, err = f.Write(buffer[:])
	}
	if err != nil {
		return blob.Info{}, spool(err)
	}
	for !in.ended {
		n, err := in.fill(buffer[:])
		if err != nil {
			return blob.Info{}, err
		}
		if _, err := f.Write(buffer[:n]); err != nil {
			return blob.Info{}, spool(err)
		}
	}
	info, err := in.info()
	if err != nil {
		return blob.Info{}, err
	}
	return info, s.place(ctx, info, func(key string) error { return s.send(ctx, key, f, info.Size) })
}

// Keep uploads a file of this machine and removes it. After a fault it is still there, and can be kept again.
func (s *Store) Keep(ctx context.Context, path string, info blob.Info) error {
	if _, err := s.key(info.Digest); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return spool(err)
	}
	defer f.Close()
	if present, err := f.Stat(); err != nil || !present.Mode().IsRegular() || present.Size() != info.Size {
		return spool(fmt.Errorf("the file to keep is not as it was said to be: %w", err))
	}
	if err := s.place(ctx, info, func(key string) error { return s.send(ctx, key, f, info.Size) }); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return spool(err)
	}
	return nil
}

// place puts bytes of a known digest under their key, unless they are there, and makes sure that they are: an answer of
// the store that was lost, or one that was wrong, is settled by asking for the blob.
func (s *Store) place(ctx context.Context, info blob.Info, write func(key string) error) error {
	key, err := s.key(info.Digest)
	if err != nil {
		return err
	}
	present, err := s.Stat(ctx, info.Digest)
	if err == nil && present.Size == info.Size {
		return nil
	}
	if err != nil && !api.Is(err, api.CodeBlobNotFound) {
		return err
	}
	return s.confirm(ctx, info, write(key))
}

// confirm asks for a blob that was written, with err or without.
func (s *Store) confirm(ctx context.Context, info blob.Info, err error) error {
	present, absent := s.Stat(ctx, info.Digest)
	switch {
	case absent == nil && present.Size == info.Size:
		return nil
	case err != nil:
		return s.fail("keep a blob", info.Digest, err)
	case absent != nil && !api.Is(absent, api.CodeBlobNotFound):
		return absent
	}
	return api.Fail(api.CodeStorage, string(info.Digest), "the blob store took the blob, but does not have it").
		WithCure("Send it again; if that happens again, the store loses what it acknowledges.").Because(absent)
}

// write sends a small blob in one request.
func (s *Store) write(ctx context.Context, key string, r io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.bucket.NewWriter(ctx, key, &cloudblob.WriterOptions{BufferSize: partBytes, MaxConcurrency: partsAtOnce,
		ContentType: "application/octet-stream"})
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		cancel() // before Close: it makes the driver drop what it has
		return errors.Join(err, w.Close())
	}
	return w.Close()
}

// send uploads a file. So many at a time: the rest waits, since the store is no faster for being asked by more.
func (s *Store) send(ctx context.Context, key string, f *os.File, size int64) error {
	select {
	case s.sending <- struct{}{}:
		defer func() { <-s.sending }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.parts == nil || size <= partBytes {
		return s.write(ctx, key, io.NewSectionReader(f, 0, size))
	}
	up, err := s.parts.begin(ctx, key)
	if err != nil {
		return err
	}
	part := max(partBytes, (size+partsMax-1)/partsMax)
	for at := int64(0); at < size; at += part {
		n := min(part, size-at)
		if !up.add(io.NewSectionReader(f, at, n), n, func() {}) {
			break
		}
	}
	return up.finish()
}

// putStreamed sends parts while the blob arrives. They become an object only by up.finish, so what breaks off or turns out
// to be something else leaves nothing.
func (s *Store) putStreamed(ctx context.Context, in *incoming, head *[smallBytes]byte) (blob.Info, error) {
	key, err := s.key(in.want)
	if err != nil {
		return blob.Info{}, err
	}
	up, err := s.parts.begin(ctx, key)
	if err != nil {
		return blob.Info{}, s.fail("begin a blob", in.want, err)
	}
	// One buffer fills while others are on their way. They are this upload's own: a pool, which every collection empties,
	// would have them made anew all the time.
	spare := make(chan []byte, partsAtOnce+1)
	for range cap(spare) {
		spare <- nil
	}
	for sent, rest := true, head[:]; sent && !in.ended; rest = nil {
		buffer := <-spare
		switch {
		case buffer == nil:
			buffer = make([]byte, partBytes)
		case in.size > earlyParts*partBytes && len(buffer) < lateBytes:
			buffer = make([]byte, lateBytes)
		}
		back := func() { spare <- buffer }
		n := copy(buffer, rest)
		more, err := in.fill(buffer[n:])
		if err != nil {
			back()
			up.abort()
			return blob.Info{}, err
		}
		if n += more; n == 0 { // it ended with the part before
			back()
			break
		}
		sent = up.add(bytes.NewReader(buffer[:n]), int64(n), back)
	}
	if !in.ended { // a part could not be sent
		return blob.Info{}, s.fail("keep a blob", in.want, up.finish())
	}
	info, err := in.info()
	if err != nil {
		up.abort()
		return blob.Info{}, err
	}
	return info, s.confirm(ctx, info, up.finish())
}

// incoming is a blob that arrives: it hashes, counts and tells the sender's faults from ours.
type incoming struct {
	ctx   context.Context // of the one Put that it lives in
	r     io.Reader
	want  api.Digest
	limit int64
	sum   hash.Hash
	size  int64
	ended bool
}

// fill reads until the buffer is full or the blob ends. Its errors are the sender's, and ready to be returned.
func (in *incoming) fill(buffer []byte) (n int, err error) {
	const idle = 100 // reads in a row that may bring nothing
	for empty := 0; n < len(buffer) && err == nil; {
		if err := in.ctx.Err(); err != nil {
			return 0, api.Fail(api.CodeCanceled, "", "the upload was broken off").Because(err)
		}
		var more int
		more, err = in.r.Read(buffer[n:])
		if n += more; more > 0 {
			empty = 0
		} else if empty++; empty == idle && err == nil {
			err = io.ErrNoProgress
		}
	}
	in.sum.Write(buffer[:n]) // a hash never fails
	if in.size += int64(n); in.size > in.limit {
		return 0, api.Fail(api.CodeTooLarge, "", "the blob is larger than the limit of %d bytes for one blob", in.limit)
	}
	if errors.Is(err, io.EOF) { // and only that: a request body that was cut short says io.ErrUnexpectedEOF
		in.ended, err = true, nil
	}
	if err == nil {
		return n, nil
	}
	if ours := (*api.Error)(nil); errors.As(err, &ours) {
		return 0, err
	}
	if in.ctx.Err() != nil {
		return 0, api.Fail(api.CodeCanceled, "", "the upload was broken off").Because(err)
	}
	return 0, api.Fail(api.CodeBadRequest, "", "the upload broke off after %d bytes", in.size).Because(err)
}

// info is what arrived, once all of it did.
func (in *incoming) info() (blob.Info, error) {
	got := api.Digest("sha256:" + hex.EncodeToString(in.sum.Sum(nil)))
	if in.want != "" && got != in.want {
		return blob.Info{}, api.Fail(api.CodeDigestMismatch, string(in.want), "the %d bytes received hash to %s", in.size, got)
	}
	return blob.Info{Digest: got, Size: in.size}, nil
}

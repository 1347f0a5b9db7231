package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/penstock/penstock/api"
)

// Windows are the pieces that a reader asks for. They grow while it is read in sequence: few requests for a large blob,
// and little that was sent for nothing where a caller reads a part and goes away.
const (
	windowFirst = 1 << 20
	windowMax   = 64 << 20
)

// emptyBlob is the digest of no bytes. A store has no range of an empty object to give.
const emptyBlob = api.Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

// Open reads a blob. The reader can seek, and can be read at any offset. A connection that breaks is taken up where it
// broke. A blob that is deleted while it is read ends with CodeBlobNotFound, unless it is small.
func (s *Store) Open(ctx context.Context, digest api.Digest) (io.ReadSeekCloser, error) {
	key, err := s.key(digest)
	if err != nil {
		return nil, err
	}
	r := &reader{s: s, ctx: ctx, key: key, digest: digest}
	if digest == emptyBlob {
		_, err := s.Stat(ctx, digest)
		return r, err
	}
	head := make([]byte, headBytes)
	n, err := r.fetch(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	r.page = head[:n]
	return r, nil
}

// reader is an open blob. Read and Seek are for one goroutine, ReadAt for many.
type reader struct {
	s      *Store
	ctx    context.Context // of the call that opened it, which it lives no longer than
	key    string
	digest api.Digest
	size   int64

	at     int64         // next byte of Read
	body   io.ReadCloser // of the window under way; nil between windows
	left   int64         // bytes of it
	window int64

	mu   sync.Mutex // guards page
	page []byte     // what was read last at an offset
	from int64      // where page begins
}

// Read gives the next bytes, from memory or from the window under way.
func (r *reader) Read(p []byte) (int, error) {
	if r.at >= r.size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if r.body == nil {
		if n := r.remembered(p, r.at); n > 0 {
			r.at += int64(n)
			return n, nil
		}
	}
	for attempt := 0; ; attempt++ {
		n, again, err := r.stream(p)
		r.at += int64(n)
		if n > 0 {
			return n, nil
		}
		if err == nil {
			continue
		}
		if !again || attempt+1 >= r.s.cfg.Attempts {
			return 0, r.s.fail("give a blob", r.digest, err)
		}
		if err := pause(r.ctx, attempt, r.s.cfg.Backoff); err != nil {
			return 0, r.s.fail("give a blob", r.digest, err)
		}
	}
}

// stream reads from the window under way, and opens the next one where there is none. again says whether asking once more
// may help: a request that fails was repeated by the driver already, an answer that was cut off was not.
func (r *reader) stream(p []byte) (n int, again bool, _ error) {
	if r.body == nil {
		r.window = min(max(4*r.window, windowFirst), windowMax)
		length := min(r.window, r.size-r.at)
		body, err := r.s.bucket.NewRangeReader(r.ctx, r.key, r.at, length, nil)
		if err != nil {
			return 0, false, err
		}
		if body.Size() != r.size {
			return 0, false, errors.Join(fmt.Errorf("the blob is %d bytes long and was %d", body.Size(), r.size), body.Close())
		}
		r.body, r.left = body, length
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	if r.left -= int64(n); r.left == 0 {
		_ = r.drop() // every byte is here
		return n, false, nil
	}
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // the window is not full
		}
		return n, true, errors.Join(err, r.drop())
	}
	return n, false, nil
}

// drop ends the window under way.
func (r *reader) drop() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}

// Seek moves the next Read. The window under way goes on where it can.
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 || whence < io.SeekStart || whence > io.SeekEnd {
		return 0, errors.New("seek in a blob: no such place")
	}
	if offset != r.at {
		r.at, r.window = offset, 0
		return offset, r.drop()
	}
	return offset, nil
}

// ReadAt reads at an offset. Parsers that hop through a file find a page of it in memory.
func (r *reader) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 {
		return 0, errors.New("read a blob: no such place")
	}
	done := 0
	for done < len(p) && at+int64(done) < r.size {
		if n := r.remembered(p[done:], at+int64(done)); n > 0 {
			done += n
			continue
		}
		if err := r.turn(at+int64(done), len(p)-done); err != nil {
			return done, err
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// remembered copies what the page holds from an offset on.
func (r *reader) remembered(p []byte, at int64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at < r.from || at >= r.from+int64(len(r.page)) {
		return 0
	}
	return copy(p, r.page[at-r.from:])
}

// turn fills the page from an offset on.
func (r *reader) turn(at int64, wanted int) error {
	page := make([]byte, min(int64(max(headBytes, min(wanted, windowFirst))), r.size-at))
	n, err := r.fetch(page, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.page, r.from = page[:n], at
	return nil
}

// fetch reads a range into p, with all patience, and learns the size when it is the first. io.EOF: the blob ends before p.
func (r *reader) fetch(p []byte, at int64) (int, error) {
	for attempt := 0; ; attempt++ {
		n, again, err := r.fetchOnce(p, at)
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		if !again || attempt+1 >= r.s.cfg.Attempts {
			return 0, r.s.fail("give a blob", r.digest, err)
		}
		if err := pause(r.ctx, attempt, r.s.cfg.Backoff); err != nil {
			return 0, r.s.fail("give a blob", r.digest, err)
		}
	}
}

func (r *reader) fetchOnce(p []byte, at int64) (n int, again bool, _ error) {
	body, err := r.s.bucket.NewRangeReader(r.ctx, r.key, at, int64(len(p)), nil)
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = body.Close() }() // what was read is read
	if r.size == 0 {
		r.size = body.Size()
	}
	there := max(0, min(int64(len(p)), body.Size()-at))
	n, err = io.ReadFull(body, p[:there])
	if errors.Is(err, io.EOF) { // which would mean the blob's end
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, true, fmt.Errorf("a blob was cut off after %d bytes of %d: %w", n, there, err)
	}
	if n < len(p) {
		return n, false, io.EOF
	}
	return n, false, nil
}

// Close gives the connection back.
func (r *reader) Close() error { return r.drop() }

package mirror

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/relay"
)

// arrivalAge is how long a file is kept of which more never came.
const arrivalAge = 7 * 24 * time.Hour

// wanted is a blob of another registry for a repository of ours.
type wanted struct {
	far    *far
	repo   api.Repository
	digest api.ContentDigest
	size   int64
}

// arrivals are the blobs on their way here. Each is a file that only grows, by the name of who it is for and where it comes
// from: after a cut or a restart the rest of it is asked for. Nothing of it counts before all of it has the right digest,
// so its bytes need no note beside them, and are hashed anew when more is added.
type arrivals struct {
	dir  string
	mu   sync.Mutex // guards ways
	ways map[string]*arrival
}

// arrival is one of them while somebody wants it. One at a time brings it; the others read along.
type arrival struct {
	path string
	size int64

	mu      sync.Mutex // guards the fields below
	users   int
	leading bool
	have    int64 // bytes written
	turn    int   // how often it began anew
	whole   bool  // verified, and kept
	fault   error // why the last leader gave up, until there is another
	changed chan struct{}
}

func openArrivals(dir string, now time.Time) (*arrivals, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, storage("make the directory for copies", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, storage("list unfinished copies", err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && now.Sub(info.ModTime()) > arrivalAge {
			_ = os.Remove(filepath.Join(dir, e.Name())) // what cannot be removed now is tried at the next start
		}
	}
	return &arrivals{dir: dir, ways: map[string]*arrival{}}, nil
}

// name is of the tenant too: bytes that one tenant could fetch prove nothing for another.
func (w wanted) name() string {
	sum := sha256.Sum256([]byte(string(w.repo.Tenant) + "\n" + w.far.ref.Host + "\n" + string(w.digest)))
	return hex.EncodeToString(sum[:])
}

// use finds the arrival, or begins one; leave gives it back.
func (a *arrivals) use(w wanted) *arrival {
	name := w.name()
	a.mu.Lock()
	defer a.mu.Unlock()
	one := a.ways[name]
	if one == nil {
		one = &arrival{path: filepath.Join(a.dir, name), size: w.size, changed: make(chan struct{})}
		a.ways[name] = one
	}
	one.users++
	return one
}

func (a *arrivals) leave(w wanted, one *arrival) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if one.users--; one.users == 0 {
		delete(a.ways, w.name())
	}
}

// tell changes the arrival's state and wakes who waits for it.
func (a *arrival) tell(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.changed)
	a.changed = make(chan struct{})
}

// lead makes the caller the one who brings it. Else it gives what to wait for.
func (a *arrival) lead() (leading, whole bool, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.whole || a.leading {
		return false, a.whole, a.changed
	}
	a.leading, a.fault = true, nil
	return true, false, nil
}

// keeper takes a file whose bytes are right.
type keeper func(ctx context.Context, b api.RepositoryBlob, path string) error

// fetch brings a blob whole, or waits until another has. The meter is told how many bytes came.
func (a *arrivals) fetch(ctx context.Context, w wanted, keep keeper, meter *progress) error {
	one := a.use(w)
	defer a.leave(w, one)
	for {
		leading, whole, changed := one.lead()
		if whole {
			return keepLinked(ctx, w, keep)
		}
		if leading {
			return one.bring(ctx, w, keep, meter)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return api.Fail(api.CodeCanceled, "", "the copy was broken off").Because(ctx.Err())
		}
	}
}

// keepLinked is for who waited: the bytes are here, but were kept for another repository perhaps. With no file to give, the
// keeper mounts.
func keepLinked(ctx context.Context, w wanted, keep keeper) error {
	return keep(ctx, api.RepositoryBlob{Digest: w.digest, Size: w.size}, "")
}

// bring is the leader's: it makes the file whole, and gives it away.
func (a *arrival) bring(ctx context.Context, w wanted, keep keeper, meter *progress) (err error) {
	defer func() {
		a.tell(func() { a.leading, a.whole, a.fault = false, err == nil, err })
	}()
	f, err := os.OpenFile(a.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return storage("begin a copy", err)
	}
	defer f.Close()
	l := &landing{arrival: a, file: f, meter: meter, sum: sha256.New()}
	if w.digest.Algorithm() == "sha512" {
		l.long = sha512.New()
	}
	if err := l.takeUp(); err != nil {
		return err
	}
	resumed := l.at > 0
	if err := l.receive(ctx, w); err != nil {
		return err
	}
	b, got := l.digests(w)
	if got != w.digest {
		// What an earlier process left may have been torn; the other side is asked once more, for all of it.
		if err := l.restart(); err != nil {
			return err
		}
		if resumed {
			if err := l.receive(ctx, w); err != nil {
				return err
			}
			b, got = l.digests(w)
		}
		if got != w.digest {
			_ = os.Remove(a.path)
			return api.Fail(api.CodeDigestMismatch, string(w.digest), "the other registry's bytes hash to %s", got)
		}
	}
	if err := f.Sync(); err != nil {
		return storage("sync a copy", err)
	}
	if err := keep(ctx, b, a.path); err != nil {
		return err
	}
	_ = os.Remove(a.path) // where it was copied and not moved
	return nil
}

// landing is a file that grows.
type landing struct {
	*arrival
	file  *os.File
	at    int64
	sum   hash.Hash
	long  hash.Hash // nil unless the digest is of sha512
	meter *progress
	early relay.Early
}

// takeUp hashes what is there already.
func (l *landing) takeUp() error {
	n, err := io.Copy(l, io.LimitReader(struct{ io.Reader }{l.file}, l.size))
	if err != nil {
		return storage("take a copy up again", err)
	}
	if err := l.file.Truncate(n); err != nil {
		return storage("take a copy up again", err)
	}
	l.grow(n)
	l.meter.had(n)
	return nil
}

// Write hashes only.
func (l *landing) Write(b []byte) (int, error) {
	l.sum.Write(b) // a hash never fails
	if l.long != nil {
		l.long.Write(b)
	}
	return len(b), nil
}

func (l *landing) grow(n int64) {
	l.at += n
	l.tell(func() { l.have = l.at })
}

// restart begins from nothing. Who reads along keeps what it has, and waits until as much is there again.
func (l *landing) restart() error {
	l.meter.had(-l.at)
	l.at = 0
	l.sum.Reset()
	if l.long != nil {
		l.long.Reset()
	}
	_, err := l.file.Seek(0, io.SeekStart)
	if err = errors.Join(err, l.file.Truncate(0)); err != nil {
		return storage("begin a copy anew", err)
	}
	l.tell(func() { l.have, l.turn = 0, l.turn+1 })
	return nil
}

// receive asks for the rest and takes it, hashing and writing beside one another.
func (l *landing) receive(ctx context.Context, w wanted) error {
	if l.at == l.size {
		return nil
	}
	pace := w.far.pace(ctx)
	defer pace.end()
	body, from, err := w.far.blob(pace.ctx, w.digest, l.at)
	if err != nil {
		return err
	}
	defer body.Close()
	if from != l.at {
		if err := l.restart(); err != nil {
			return err
		}
	}
	paced := pace.reader(body)
	l.early = relay.Early{File: l.file, From: l.at}
	expected := l.at
	err = relay.Copy(func(buffer []byte) (int, error) {
		n, err := io.ReadFull(paced, buffer)
		if expected += int64(n); expected > l.size {
			return 0, api.Fail(api.CodeRemoteRefused, string(w.digest), "the other registry sends more than the %d bytes that the manifest says", l.size)
		}
		return n, err
	}, l.add)
	var ours *api.Error
	switch ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF); {
	case errors.As(err, &ours):
		return ours
	case ended && l.at == l.size:
		return nil
	case ended:
		return api.Fail(api.CodeRemoteAway, w.far.ref.Host, "the body broke off after %d of %d bytes", l.at, l.size)
	}
	return w.far.fault(pace.ctx, "give a blob", err)
}

func (l *landing) add(b []byte) error {
	err := relay.Beside(func() error {
		_, err := l.file.Write(b)
		return err
	}, func() { _, _ = l.Write(b) })
	if err != nil {
		return storage("write a copy", err)
	}
	l.grow(int64(len(b)))
	l.meter.moved(int64(len(b)))
	l.early.Wrote(l.at)
	return nil
}

func (l *landing) digests(w wanted) (b api.RepositoryBlob, got api.ContentDigest) {
	b = api.RepositoryBlob{Digest: w.digest, Blob: api.Digest("sha256:" + hex.EncodeToString(l.sum.Sum(nil))), Size: l.at}
	if l.long != nil {
		return b, api.ContentDigest("sha512:" + hex.EncodeToString(l.long.Sum(nil)))
	}
	return b, api.ContentDigest(b.Blob)
}

// storage hides the machine's paths from callers and keeps them for the log.
func storage(act string, err error) error {
	return api.Fail(api.CodeStorage, "", "the copy could not %s", act).Because(err)
}

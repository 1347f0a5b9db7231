package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/crash"
)

// HoldStore is what the catalog needs of the database to hold bytes: for a tenant, which may then make versions of them,
// and while they are on their way.
type HoldStore interface {
	// Reserve sets room aside, all of it or none. See api.Reservation.
	Reserve(ctx context.Context, room ...api.Reservation) error
	ReleaseRoom(ctx context.Context, id string) error
	KeepRoom(ctx context.Context, holder string, but []api.Reservation) error
	KeepBlob(ctx context.Context, k api.BlobKeep) error
	TakeBlobs(ctx context.Context, room ...api.Reservation) (map[api.Digest]int64, error)
	HeldBlob(ctx context.Context, t api.TenantID, b api.Digest, at api.Time) (size int64, err error)
}

// The patience with a sweep that deletes the very blob that is pushed, and the growth of a reservation whose end is unknown.
const (
	sweptPause = 20 * time.Millisecond
	sweptMost  = 10 * time.Second
	growth     = 64 << 20
	owedMost   = 10_000          // reservations remembered that could not be ended
	letGo      = 5 * time.Second // for ending a reservation after the call that made it was broken off
)

// PutBlob streams one file into the blob store and remembers that this tenant has it. Both are durable when it returns.
// length is how long the file says it is, and -1 when it says nothing.
func (c *Catalog) PutBlob(ctx context.Context, p *api.Principal, r io.Reader, want api.Digest, length int64) (api.Digest, int64, error) {
	if err := mayWrite(p); err != nil {
		return "", 0, err
	}
	if err := api.CheckName("tenant", string(p.Tenant)); err != nil {
		return "", 0, err
	}
	b, err := c.takeIn(ctx, api.Repository{Tenant: p.Tenant}, r, want, length)
	return b.Blob, b.Size, err
}

// takeIn streams a blob into the store for a tenant, and for a repository that is named. Room is reserved before the first
// byte; where the digest is known the reservation keeps the sweep away from the blob as well.
func (c *Catalog) takeIn(ctx context.Context, repo api.Repository, r io.Reader, want api.Digest, length int64) (b api.RepositoryBlob, err error) {
	if length > c.limits.BlobBytes {
		return b, api.Fail(api.CodeTooLarge, "", "the blob is larger than the limit of %d bytes for one blob", c.limits.BlobBytes)
	}
	room := api.Reservation{ID: rand.Text(), Holder: c.holder, Tenant: repo.Tenant, Blob: want, Bytes: max(length, 0)}
	if err := c.reserve(ctx, room); err != nil {
		return b, err
	}
	defer func() {
		if err != nil {
			c.release(ctx, room.ID)
		}
	}()
	info, err := c.blobs.Put(ctx, &metered{ctx: ctx, catalog: c, room: room, from: r}, want, c.limits.BlobBytes)
	if err != nil {
		return b, err
	}
	crash.Point("registry: blob kept, not yet held")
	b = api.RepositoryBlob{Digest: api.ContentDigest(info.Digest), Blob: info.Digest, Size: info.Size}
	if err := c.store.KeepBlob(ctx, api.BlobKeep{Repository: repo, Blob: b, Reservation: room.ID, At: api.TimeOf(c.now())}); err != nil {
		return b, err
	}
	if want != "" {
		return b, nil
	}
	// Nobody held the blob while it arrived: a sweep that began before may have deleted what was here already. From now on
	// none can.
	if _, err := c.blobs.Stat(ctx, b.Blob); api.Is(err, api.CodeBlobNotFound) {
		return b, api.Fail(api.CodeUnavailable, string(b.Blob), "the blob was dead, and was deleted while it was sent again").WithCure("Send it once more.")
	} else if err != nil {
		return b, err
	}
	return b, nil
}

// metered counts what arrives, and reserves more room when it is more than was said.
type metered struct {
	ctx     context.Context // of the one call that it lives in
	catalog *Catalog
	room    api.Reservation
	from    io.Reader
	got     int64
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.from.Read(p)
	if m.got += int64(n); m.got > m.room.Bytes {
		if err := m.grow(); err != nil {
			return 0, err
		}
	}
	return n, err
}

// grow takes some more at once, so that it seldom asks, and only what is needed where there is no more.
func (m *metered) grow() error {
	more := m.room
	more.Bytes = m.got + growth
	err := m.catalog.reserve(m.ctx, more)
	if api.Is(err, api.CodeQuotaExceeded) {
		more.Bytes = m.got
		err = m.catalog.reserve(m.ctx, more)
	}
	if err == nil {
		m.room = more
	}
	return err
}

// reserve sets room aside. It waits for a sweep that is deleting one of the blobs: that takes no longer than a file's
// deletion, unless the store hangs.
func (c *Catalog) reserve(ctx context.Context, room ...api.Reservation) error {
	for waited := time.Duration(0); ; waited += sweptPause {
		for i := range room {
			room[i].At = api.TimeOf(c.now())
		}
		err := c.store.Reserve(ctx, room...)
		if !errors.Is(err, api.ErrSwept) || waited >= sweptMost {
			if mayBeKept(err) {
				for _, id := range ids(room) {
					c.release(ctx, id)
				}
			}
			return err
		}
		timer := time.NewTimer(sweptPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// mayBeKept reports a failure of the database after which the change may have been made all the same.
func mayBeKept(err error) bool {
	if err == nil {
		return false
	}
	switch api.KindOf(err) {
	case api.Storage, api.Deadline, api.Canceled, api.Internal:
		return true
	}
	return false
}

func ids(room []api.Reservation) (all []string) {
	for _, r := range room {
		if !slices.Contains(all, r.ID) {
			all = append(all, r.ID)
		}
	}
	return all
}

// release ends a reservation after a failure, also when the caller is gone. One that cannot be ended now is remembered, since
// it would keep its blob from the collection and its room from the tenant: the next release that succeeds ends it too.
func (c *Catalog) release(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), letGo)
	defer cancel()
	if err := c.store.ReleaseRoom(ctx, id); err != nil {
		c.owe(id)
		return
	}
	_ = c.Settle(ctx) // what fails is still remembered
}

// owe remembers a reservation to end. One too many ends with the next start, or by its age.
func (c *Catalog) owe(id string) {
	c.owedMu.Lock()
	defer c.owedMu.Unlock()
	if len(c.owed) < owedMost {
		c.owed = append(c.owed, id)
	}
}

// Settle ends the reservations that failed calls could not end, as far as the database takes it.
func (c *Catalog) Settle(ctx context.Context) error {
	for {
		c.owedMu.Lock()
		if len(c.owed) == 0 {
			c.owedMu.Unlock()
			return nil
		}
		id := c.owed[len(c.owed)-1]
		c.owed = c.owed[:len(c.owed)-1]
		c.owedMu.Unlock()
		if err := c.store.ReleaseRoom(ctx, id); err != nil {
			c.owe(id)
			return err
		}
	}
}

// releaseUnless ends a reservation, unless the manifest was kept that was to end it.
func (c *Catalog) releaseUnless(ctx context.Context, kept *bool, id string) {
	if !*kept {
		c.release(ctx, id)
	}
}

// paper is a small body of ours that becomes a blob.
type paper struct {
	api.RepositoryBlob
	body []byte
}

func newPaper(body []byte) paper {
	sum := sha256.Sum256(body)
	digest := api.Digest("sha256:" + hex.EncodeToString(sum[:]))
	return paper{RepositoryBlob: api.RepositoryBlob{Digest: api.ContentDigest(digest), Blob: digest, Size: int64(len(body))}, body: body}
}

func (p *paper) describe(mediaType string) descriptor {
	return descriptor{MediaType: mediaType, Digest: p.Blob, Size: p.Size}
}

// write puts papers into the store, a few at the same time, under a reservation that the caller ends. They are reserved
// together: a change of the database for each would cost more than the bytes do.
func (c *Catalog) write(ctx context.Context, t api.TenantID, limit int64, reservation string, papers ...paper) error {
	room := make([]api.Reservation, len(papers))
	for i, p := range papers {
		room[i] = api.Reservation{ID: reservation, Holder: c.holder, Tenant: t, Blob: p.Blob, Bytes: p.Size}
	}
	if err := c.reserve(ctx, room...); err != nil {
		return err
	}
	faults := make([]error, len(papers))
	var all sync.WaitGroup
	for i, p := range papers[1:] {
		all.Go(func() { faults[i+1] = c.put(ctx, limit, p) })
	}
	faults[0] = c.put(ctx, limit, papers[0])
	all.Wait()
	for _, err := range faults {
		if err != nil {
			return err
		}
	}
	return nil
}

// put makes a reserved paper durable. Versions of one file have one config: one that this process made durable is not
// written again while it is there, and the reservation keeps the collection away from it, so it stays.
func (c *Catalog) put(ctx context.Context, limit int64, p paper) error {
	if c.written.has(p.Blob) {
		if _, err := c.blobs.Stat(ctx, p.Blob); err == nil {
			return nil
		}
	}
	_, err := c.blobs.Put(ctx, bytes.NewReader(p.body), p.Blob, limit)
	return err
}

// StatBlob says how long a blob is that this tenant uploaded. One that only others have is as absent as one that nobody has.
func (c *Catalog) StatBlob(ctx context.Context, p *api.Principal, d api.Digest) (int64, error) {
	if !p.Allows(api.ScopeWrite) && !p.Allows(api.ScopeRead) {
		return 0, api.Fail(api.CodeForbidden, "", "this needs a key with the scope %q or %q", api.ScopeRead, api.ScopeWrite)
	}
	if err := checkDigest(d); err != nil {
		return 0, err
	}
	if _, err := c.store.HeldBlob(ctx, p.Tenant, d, api.TimeOf(c.now())); err != nil {
		return 0, err
	}
	info, err := c.blobs.Stat(ctx, d)
	return info.Size, err
}

func checkDigest(d api.Digest) error {
	if d.Valid() {
		return nil
	}
	return api.Fail(api.CodeBadName, "", "this is not a digest; one is sha256: and 64 lower-case hex digits").
		WithCure("Use the digest that the upload of the file answered.")
}

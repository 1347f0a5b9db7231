package mirror

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/penstock/penstock/api"
)

// The bounds of pull-through.
const (
	throughPatience = 20 * time.Second // for the other side's word on a manifest, while a client waits
	throughAgain    = time.Minute      // before a miss of the same manifest begins another copy
	throughMax      = 4096             // misses that are remembered for that
)

type throughKey struct {
	repo      api.Repository
	reference string
}

// throughOf finds the mirror that a miss in a repository is asked of.
func (c *Controller) throughOf(repo api.Repository) (m api.Mirror, found bool) {
	for _, m := range *c.policies.Load() {
		if m.PullThrough && m.Tenant == repo.Tenant && api.Matches(m.Match, repo.Name) {
			return m, true
		}
	}
	return m, false
}

func (c *Controller) reachThrough(ctx context.Context, m *api.Mirror, repo api.Repository) (*far, string, error) {
	_, sealed, err := c.cfg.Store.Mirror(ctx, m.Tenant, m.Name)
	if err != nil {
		return nil, "", err
	}
	login, err := c.seal.open(sealed, mirrorOwner(m))
	if err != nil {
		return nil, "", err
	}
	login.PlainHTTP = m.PlainHTTP
	prefix, err := api.ParseRemotePrefix(m.Remote)
	if err != nil {
		return nil, "", err
	}
	other, err := c.reach(prefix.Under(repo.Name), login)
	return other, sealed, err
}

// ThroughManifest fetches a manifest that is not here from where a mirror says, and begins to copy all of it. It is
// CodeManifestNotFound where no mirror says so, or where there is none either.
func (c *Controller) ThroughManifest(ctx context.Context, repo api.Repository, reference string) (body []byte, mediaType string, d api.ContentDigest, _ error) {
	absent := api.Fail(api.CodeManifestNotFound, repo.Name, "the repository has no manifest %s", reference)
	m, found := c.throughOf(repo)
	if !found || !strings.Contains(reference, ":") && !api.Matches(m.Tags, reference) {
		return nil, "", "", absent
	}
	ctx, cancel := context.WithTimeout(ctx, throughPatience)
	defer cancel()
	other, _, err := c.reachThrough(ctx, &m, repo)
	if err != nil {
		return nil, "", "", err
	}
	got, err := other.manifest(ctx, reference)
	if api.Is(err, api.CodeRemoteRefused) {
		return nil, "", "", absent.Because(err)
	}
	if err != nil {
		return nil, "", "", err
	}
	if err := c.copyThrough(ctx, &m, other, repo, reference, got.digest); err != nil {
		c.cfg.Log.WarnContext(ctx, "what was pulled through is not kept", "tenant", repo.Tenant, "repository", repo.Name, "reference", reference, "error", err)
	}
	return got.body, got.mediaType, got.digest, nil
}

// copyThrough begins a copy, unless one began a moment ago.
func (c *Controller) copyThrough(ctx context.Context, m *api.Mirror, other *far, repo api.Repository, reference string, d api.ContentDigest) error {
	key, now := throughKey{repo, reference}, c.cfg.Now()
	c.mu.Lock()
	if began, ok := c.through[key]; ok && now.Sub(began) < throughAgain {
		c.mu.Unlock()
		return nil
	}
	if len(c.through) >= throughMax {
		clear(c.through)
	}
	c.through[key] = now
	c.mu.Unlock()
	ref := other.ref
	ref.Digest = d
	t := api.Transfer{ID: api.TransferID(ulid.MustNewDefault(now).String()), Tenant: repo.Tenant, Direction: api.DirectionImport, Remote: ref.String(), Local: repo.Name,
		Referrers: m.Referrers, PlainHTTP: m.PlainHTTP, Username: m.Username, Mirror: string(m.Name), State: api.TransferWaiting,
		Created: api.TimeOf(now), Changed: api.TimeOf(now), CreatedBy: "mirror " + string(m.Name)}
	if !strings.Contains(reference, ":") && strings.Trim(reference, "0123456789") != "" && reference != "latest" {
		t.Tags = []string{reference}
	}
	// The login is looked up at the mirror when the copy runs: it is sealed for that one.
	if err := c.cfg.Store.PutTransfer(context.WithoutCancel(ctx), t, ""); err != nil {
		return err
	}
	c.loop.Hint(transferKey{t.Tenant, t.ID})
	return nil
}

// login opens what a transfer goes by: its own, or its mirror's.
func (c *Controller) login(ctx context.Context, t *api.Transfer, sealed string) (login api.RemoteLogin, err error) {
	if t.Mirror != "" && sealed == "" {
		var m api.Mirror
		if m, sealed, err = c.cfg.Store.Mirror(ctx, t.Tenant, api.MirrorName(t.Mirror)); err != nil {
			return login, err
		}
		login, err = c.seal.open(sealed, mirrorOwner(&m))
	} else {
		login, err = c.seal.open(sealed, owner(t))
	}
	login.PlainHTTP = t.PlainHTTP
	return login, err
}

// ThroughBlob streams a blob that is not here from where a mirror says, while it comes and is kept. Its last byte is given only
// when all of it has the digest. It is CodeBlobNotFound where no mirror says so, or where there is none either.
func (c *Controller) ThroughBlob(ctx context.Context, repo api.Repository, d api.ContentDigest) (_ io.ReadCloser, size int64, _ error) {
	absent := api.Fail(api.CodeBlobNotFound, string(d), "the repository has no such blob")
	m, found := c.throughOf(repo)
	if !found {
		return nil, 0, absent
	}
	other, _, err := c.reachThrough(ctx, &m, repo)
	if err != nil {
		return nil, 0, err
	}
	size, err = other.blobSize(ctx, d)
	if api.Is(err, api.CodeRemoteRefused) {
		return nil, 0, absent.Because(err)
	}
	if err != nil {
		return nil, 0, err
	}
	w := wanted{other, repo, d, size}
	t := &tail{c: c, w: w, one: c.arrivals.use(w), result: make(chan error, 1)}
	t.ctx, t.cancel = context.WithCancel(ctx)
	go func() { t.result <- c.arrivals.fetch(t.ctx, w, c.keeper(mirrorPrincipal(&m), repo), newProgress()) }()
	return t, size, nil
}

// blobSize asks how long a blob is.
func (f *far) blobSize(ctx context.Context, d api.ContentDigest) (int64, error) {
	found, err := f.repo.Blobs().Resolve(ctx, string(d))
	if err != nil {
		return 0, f.fault(ctx, "give a blob", err)
	}
	return found.Size, nil
}

// tail reads a blob along while it comes. Closing it ends its own share in bringing it: who else wants it goes on. It lives no
// longer than one call, so it may hold the context.
type tail struct {
	c      *Controller
	w      wanted
	one    *arrival
	ctx    context.Context
	cancel context.CancelFunc
	result chan error // of the fetch
	ended  bool       // its result was read
	kept   bool       // it is whole, and kept
	file   io.ReadSeekCloser
	turn   int // which beginning of the file is read
	at     int64
}

// Read gives what is there, and waits where nothing more is.
func (t *tail) Read(b []byte) (int, error) {
	for {
		t.one.mu.Lock()
		have, turn, changed := t.one.have, t.one.turn, t.one.changed
		t.one.mu.Unlock()
		if !t.kept {
			have = min(have, t.w.size-1)
		} else {
			have = t.w.size
		}
		if t.at > 0 && turn != t.turn && !t.kept {
			return 0, api.Fail(api.CodeRemoteAway, t.w.far.ref.Host, "the copy had to begin anew")
		}
		if t.at == t.w.size && t.kept {
			return 0, io.EOF
		}
		if t.at < have {
			t.turn = turn
			n, err := t.readUpTo(b, have)
			if n > 0 || err != nil {
				return n, err
			}
		}
		select {
		case err := <-t.result:
			t.ended = true
			if err != nil {
				return 0, err
			}
			t.kept = true
		case <-changed:
		case <-t.ctx.Done():
			return 0, api.Fail(api.CodeCanceled, "", "the caller went away").Because(t.ctx.Err())
		}
	}
}

func (t *tail) readUpTo(b []byte, have int64) (int, error) {
	if t.file == nil {
		f, err := os.Open(t.one.path)
		switch {
		case err == nil:
			t.file = f
		case errors.Is(err, os.ErrNotExist) && t.kept: // it came so fast that it was kept before it was opened
			found, err := t.c.cfg.Local.RepositoryBlob(t.ctx, t.w.repo, t.w.digest)
			if err != nil {
				return 0, err
			}
			if t.file, err = t.c.cfg.Local.OpenBlob(t.ctx, found.Blob); err != nil {
				t.file = nil
				return 0, err
			}
		case errors.Is(err, os.ErrNotExist):
			return 0, nil // it is being kept; the result comes
		default:
			return 0, storage("be read along", err)
		}
		if _, err := t.file.Seek(t.at, io.SeekStart); err != nil {
			return 0, storage("be read along", err)
		}
	}
	n, err := t.file.Read(b[:min(int64(len(b)), have-t.at)])
	t.at += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, storage("be read along", err)
	}
	return n, nil
}

// Close ends the reading.
func (t *tail) Close() error {
	t.cancel()
	if !t.ended {
		if err := <-t.result; err != nil { // nobody waits for it any more
			t.c.cfg.Log.Debug("a blob that was asked for did not come whole", "error", err)
		}
	}
	t.c.arrivals.leave(t.w, t.one)
	if t.file != nil {
		return t.file.Close()
	}
	return nil
}

package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/penstock/penstock/api"
)

// smallBlob is up to where a blob goes in one request: to go on in the middle is worth nothing.
const smallBlob = 4 << 20

// push copies from this registry to another. It asks the other side what it has, so that it can be run again at any time.
type push struct {
	c         *Controller
	far       *far
	repo      api.Repository
	referrers bool
	progress  *progress

	seen  map[api.ContentDigest]bool
	order []manifest
	room  int
}

// run copies a manifest, and names it by a tag there.
func (p *push) run(ctx context.Context, d api.ContentDigest, tag string) error {
	p.seen = map[api.ContentDigest]bool{}
	if err := p.walk(ctx, d, 0); err != nil {
		return err
	}
	if err := p.blobs(ctx); err != nil {
		return err
	}
	for _, m := range p.order {
		named := ""
		if m.digest == d {
			named = tag
		}
		if named == "" {
			there, err := p.far.holds(ctx, described(m.mediaType, m.digest, int64(len(m.body))), true)
			if err != nil {
				return err
			}
			if there {
				continue
			}
		}
		if err := p.far.putManifest(ctx, m, named); err != nil {
			return err
		}
		p.progress.put()
	}
	return nil
}

func described(mediaType string, d api.ContentDigest, size int64) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(d), Size: size}
}

func (p *push) walk(ctx context.Context, d api.ContentDigest, depth int) error {
	if p.seen[d] {
		return nil
	}
	p.seen[d] = true
	m, err := p.read(ctx, d)
	if err != nil {
		return err
	}
	if p.room += len(m.body); p.room > manifestsRoom || len(p.seen) > manifestsMax || depth > depthMax {
		return api.Fail(api.CodeTooLarge, string(d), "the copy has more than %d manifests, more than %d bytes of them, or they are nested more than %d times",
			manifestsMax, manifestsRoom, depthMax)
	}
	_, children, err := m.parts()
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := p.walk(ctx, child.Digest, depth+1); err != nil {
			return err
		}
	}
	p.order = append(p.order, m)
	if !p.referrers {
		return nil
	}
	for after := api.ContentDigest(""); ; {
		const some = 100
		found, err := p.c.cfg.Local.Referrers(ctx, p.repo, d, "", after, some)
		if err != nil {
			return err
		}
		for _, r := range found {
			if err := p.walk(ctx, r.Digest, depth+1); err != nil {
				return err
			}
		}
		if len(found) < some {
			return nil
		}
		after = found[len(found)-1].Digest
	}
}

// read reads a manifest of ours.
func (p *push) read(ctx context.Context, d api.ContentDigest) (m manifest, _ error) {
	row, err := p.c.cfg.Local.ManifestByDigest(ctx, p.repo, d)
	if err != nil {
		return m, err
	}
	f, err := p.c.cfg.Local.OpenBlob(ctx, row.Blob)
	if err != nil {
		return m, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, manifestBytes+1))
	if err == nil && int64(len(body)) != row.Size {
		err = errors.New("the manifest has another size than its row says")
	}
	if err != nil {
		return m, storage("read a manifest", err)
	}
	return manifest{body: body, mediaType: row.MediaType, digest: d}, nil
}

func (p *push) blobs(ctx context.Context) error {
	var missing []part
	seen := map[api.ContentDigest]bool{}
	var total int64
	for _, m := range p.order {
		parts, _, err := m.parts()
		if err != nil {
			return err
		}
		for _, b := range parts {
			if seen[b.Digest] {
				continue
			}
			seen[b.Digest] = true
			there, err := p.far.holds(ctx, described(b.MediaType, b.Digest, b.Size), false)
			if err != nil {
				return err
			}
			if !there {
				missing = append(missing, b)
				total += b.Size
			}
		}
	}
	p.progress.total(total)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(blobsAtOnce)
	for _, b := range missing {
		group.Go(func() error { return p.blob(ctx, b) })
	}
	return group.Wait()
}

// blob sends one blob: a small one at once, a large one as an upload that is taken up where it broke off.
func (p *push) blob(ctx context.Context, b part) error {
	row, err := p.c.cfg.Local.RepositoryBlob(ctx, p.repo, b.Digest)
	if err != nil {
		return err
	}
	f, err := p.c.cfg.Local.OpenBlob(ctx, row.Blob)
	if err != nil {
		return err
	}
	defer f.Close()
	if row.Size <= smallBlob {
		if err := p.far.repo.Blobs().Push(ctx, described(b.MediaType, b.Digest, row.Size), struct{ io.Reader }{f}); err != nil {
			return p.far.fault(ctx, "take a blob", err)
		}
		p.progress.moved(row.Size)
		return nil
	}
	u := &sending{push: p, ctx: auth.AppendRepositoryScope(ctx, p.far.asReference(), auth.ActionPull, auth.ActionPush), digest: b.Digest, size: row.Size,
		file: f, note: p.c.sendingNote(p.repo.Tenant, p.far.ref, b.Digest)}
	return u.run()
}

// sendingNote is the file that remembers where an upload to another registry goes on, and how far it was at the last look.
func (c *Controller) sendingNote(t api.TenantID, ref api.RemoteRef, d api.ContentDigest) string {
	sum := sha256.Sum256([]byte(string(t) + "\n" + ref.Host + "/" + ref.Repository + "\n" + string(d)))
	return filepath.Join(c.arrivals.dir, hex.EncodeToString(sum[:])+".upload")
}

// sending is an upload to another registry. It lives as long as one call, so it may hold the context.
type sending struct {
	*push
	ctx      context.Context
	digest   api.ContentDigest
	size     int64
	file     io.ReadSeeker
	note     string
	location *url.URL
	at       int64 // bytes that the other side has
}

func (u *sending) run() error {
	if err := u.takeUp(); err != nil {
		return err
	}
	if u.location == nil {
		if err := u.begin(); err != nil {
			return err
		}
	}
	u.progress.had(u.at)
	if u.at < u.size {
		if err := u.patch(); err != nil {
			return err
		}
	}
	finish := *u.location
	query := finish.Query()
	query.Set("digest", string(u.digest))
	finish.RawQuery = query.Encode()
	answer, err := u.ask(http.MethodPut, &finish, nil, 0)
	if err != nil {
		return err
	}
	// Whatever it said: an upload that was ended is not gone on with.
	_ = os.Remove(u.note)
	return u.expect(answer, http.StatusCreated, "take a blob")
}

// takeUp asks how far an earlier try came. One that the other side forgot is begun anew.
func (u *sending) takeUp() error {
	text, err := os.ReadFile(u.note)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return storage("go on with an upload", err)
	}
	place, noted, _ := strings.Cut(string(text), "\n")
	at, err := url.Parse(place)
	if err != nil || u.elsewhere(at) {
		return nil
	}
	answer, err := u.ask(http.MethodGet, at, nil, 0)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		return nil
	}
	has, ok := rangeEnd(answer.Header.Get("Range"))
	if !ok || has > u.size {
		return nil
	}
	if u.at = has; has == 1 {
		u.at = 0 // 0-0 means one byte or none: the first is sent again, from the start
		return nil
	}
	if before, err := strconv.ParseInt(noted, 10, 64); err == nil && u.at > before {
		u.progress.further()
	}
	return u.moveTo(answer, at)
}

// rangeRule is what an upload's Range header looks like: the bytes that are there, from 0.
var rangeRule = regexp.MustCompile(`^(?:bytes=)?0-([0-9]{1,18})$`)

func rangeEnd(text string) (int64, bool) {
	match := rangeRule.FindStringSubmatch(text)
	if match == nil {
		return 0, false
	}
	last, err := strconv.ParseInt(match[1], 10, 64)
	return last + 1, err == nil
}

func (u *sending) begin() error {
	at, err := url.Parse(u.far.url("/blobs/uploads/"))
	if err != nil {
		return err
	}
	answer, err := u.ask(http.MethodPost, at, nil, 0)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusAccepted {
		return u.expect(answer, http.StatusAccepted, "begin an upload")
	}
	defer answer.Body.Close()
	return u.moveTo(answer, at)
}

// moveTo goes on at the place that an answer names. It must be on the registry's own host: the credentials go there.
func (u *sending) moveTo(answer *http.Response, from *url.URL) error {
	u.location = from
	if told := answer.Header.Get("Location"); told != "" {
		to, err := answer.Location()
		if err != nil || u.elsewhere(to) {
			return api.Fail(api.CodeRemoteRefused, u.far.ref.Host, "it sends uploads to another host")
		}
		u.location = to
	}
	if err := os.WriteFile(u.note, []byte(u.location.String()+"\n"+strconv.FormatInt(u.at, 10)), 0o600); err != nil {
		return storage("remember an upload", err)
	}
	return nil
}

func (u *sending) elsewhere(at *url.URL) bool {
	own, err := url.Parse(u.far.url("/"))
	return err != nil || at.Scheme != own.Scheme || at.Host != own.Host || at.User != nil
}

// patch sends the rest in one stream. What arrived of a stream that breaks off counts, and is asked for the next time.
func (u *sending) patch() error {
	answer, err := u.ask(http.MethodPatch, u.location, func() (io.Reader, error) {
		_, err := u.file.Seek(u.at, io.SeekStart)
		return &counted{from: u.file, moved: u.progress.had}, err
	}, u.size-u.at)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusAccepted && answer.StatusCode != http.StatusNoContent {
		err := u.expect(answer, http.StatusAccepted, "take a blob")
		switch answer.StatusCode {
		case http.StatusBadRequest, http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
			_ = os.Remove(u.note) // it is there no more, or will not go on: the next try begins anew
			return api.Fail(api.CodeRemoteAway, u.far.ref.Host, "%s", api.AsError(err).Message)
		}
		return err
	}
	defer answer.Body.Close()
	return u.moveTo(answer, u.location)
}

// ask sends a request of the upload. The body is opened anew when a token has to be had first.
func (u *sending) ask(method string, at *url.URL, body func() (io.Reader, error), length int64) (*http.Response, error) {
	ctx := u.ctx
	var open func() (io.ReadCloser, error)
	if body != nil {
		pace := u.far.pace(ctx)
		defer pace.end()
		ctx = pace.ctx
		open = func() (io.ReadCloser, error) {
			from, err := body()
			return io.NopCloser(pace.reader(from)), err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, at.String(), nil)
	if err != nil {
		return nil, err
	}
	if open != nil {
		if r.Body, err = open(); err != nil {
			return nil, err
		}
		r.GetBody, r.ContentLength = open, length
		r.Header.Set("Content-Type", "application/octet-stream")
		r.Header.Set("Content-Range", fmt.Sprintf("%d-%d", u.at, u.at+length-1))
	}
	answer, err := u.far.client.Do(r)
	if err != nil {
		return nil, u.far.fault(ctx, "take a blob", err)
	}
	return answer, nil
}

// expect makes an error of an answer that has another status.
func (u *sending) expect(answer *http.Response, status int, act string) error {
	defer answer.Body.Close()
	if answer.StatusCode == status {
		return nil
	}
	return u.far.fault(u.ctx, act, statusError(answer))
}

// counted tells how many bytes went.
type counted struct {
	from  io.Reader
	moved func(int64)
}

// Read reads on.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.from.Read(b)
	c.moved(int64(n))
	return n, err
}

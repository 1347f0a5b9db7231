package mirror

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/api"
)

// The bounds of one copy.
const (
	manifestsMax  = 1024     // manifests of one copy: an index's, and what refers to them
	manifestsRoom = 64 << 20 // bytes of them all, which are held
	partsMax      = 1024     // of one manifest
	depthMax      = 8        // of an index in an index, or a referrer of a referrer
	blobsAtOnce   = 3        // of one copy
)

// part is a descriptor, as far as a copy looks at it.
type part struct {
	MediaType string            `json:"mediaType"`
	Digest    api.ContentDigest `json:"digest"`
	Size      int64             `json:"size"`
	URLs      []string          `json:"urls"`
}

// foreign parts are fetched from elsewhere, and registries do not hold them.
func (p part) foreign() bool {
	return len(p.URLs) > 0 || strings.Contains(p.MediaType, ".nondistributable.") || strings.Contains(p.MediaType, ".foreign.")
}

// parts reads what a manifest is made of. Whether it is a good manifest is the registry's business, which is given its bytes.
func (m manifest) parts() (blobs, manifests []part, _ error) {
	var body struct {
		Config    *part  `json:"config"`
		Layers    []part `json:"layers"`
		Blobs     []part `json:"blobs"` // of an earlier draft
		Manifests []part `json:"manifests"`
	}
	if err := json.Unmarshal(m.body, &body); err != nil {
		return nil, nil, api.Fail(api.CodeRemoteRefused, string(m.digest), "the manifest is not JSON of the form that the specification gives").Because(err)
	}
	if body.Config != nil {
		blobs = append(blobs, *body.Config)
	}
	for _, l := range append(body.Layers, body.Blobs...) {
		if !l.foreign() {
			blobs = append(blobs, l)
		}
	}
	if len(blobs)+len(body.Manifests) > partsMax {
		return nil, nil, api.Fail(api.CodeTooLarge, string(m.digest), "the manifest has more than %d parts, which is the limit", partsMax)
	}
	for _, p := range append(blobs, body.Manifests...) {
		if !p.Digest.Valid() || p.Size < 0 {
			return nil, nil, api.Fail(api.CodeRemoteRefused, string(m.digest), "the manifest names something by no digest of sha256 or sha512")
		}
	}
	return blobs, body.Manifests, nil
}

// pull copies from another registry to this one. It looks at what is here first, so that it can be run again at any time.
type pull struct {
	c         *Controller
	far       *far
	repo      api.Repository
	by        *api.Principal
	referrers bool
	progress  *progress

	seen  map[api.ContentDigest]bool
	order []manifest // children first, and referrers after what they refer to
	room  int
}

// run copies what a tag or a digest names, and gives the receipt of its manifest.
func (p *pull) run(ctx context.Context, reference string, tags []string) (receipt api.ManifestReceipt, _ error) {
	root, err := p.far.manifest(ctx, reference)
	if err != nil {
		return receipt, err
	}
	p.progress.named(root.digest)
	return p.take(ctx, root, tags)
}

// take copies a manifest that was fetched.
func (p *pull) take(ctx context.Context, root manifest, tags []string) (receipt api.ManifestReceipt, _ error) {
	p.seen = map[api.ContentDigest]bool{}
	if err := p.walk(ctx, root, 0); err != nil {
		return receipt, err
	}
	if err := p.blobs(ctx); err != nil {
		return receipt, err
	}
	for _, m := range p.order {
		up := api.ManifestUpload{Digest: m.digest, MediaType: m.mediaType, Body: m.body}
		if m.digest == root.digest {
			up.Tags = tags
		}
		if done, err := p.standing(ctx, m.digest, up.Tags); err != nil || done {
			if err != nil {
				return receipt, err
			}
			if m.digest == root.digest {
				receipt.Digest = m.digest
			}
			continue
		}
		got, err := p.c.cfg.Local.PutManifest(ctx, p.by, p.repo, up)
		if err != nil {
			return receipt, err
		}
		p.progress.put()
		if m.digest == root.digest {
			receipt = got
		}
	}
	return receipt, nil
}

// standing reports whether a manifest is here, with its tags.
func (p *pull) standing(ctx context.Context, d api.ContentDigest, tags []string) (bool, error) {
	if _, err := p.c.cfg.Local.ManifestByDigest(ctx, p.repo, d); err != nil {
		return false, unless(err, api.CodeManifestNotFound)
	}
	for _, tag := range tags {
		m, err := p.c.cfg.Local.ManifestByTag(ctx, p.repo, tag)
		if err != nil || m.Digest != d {
			return false, unless(err, api.CodeManifestNotFound)
		}
	}
	return true, nil
}

// unless lets an error of that code pass as none.
func unless(err error, code api.Code) error {
	if api.Is(err, code) {
		return nil
	}
	return err
}

// walk collects manifests. Each is fetched once by its own digest, so that a list that leads to itself ends: no bytes can
// hold their own digest.
func (p *pull) walk(ctx context.Context, m manifest, depth int) error {
	if p.seen[m.digest] {
		return nil
	}
	p.seen[m.digest] = true
	if depth > depthMax {
		return api.Fail(api.CodeTooLarge, string(m.digest), "the manifests lead to one another more than %d times, which is the limit", depthMax)
	}
	if p.room += len(m.body); p.room > manifestsRoom || len(p.seen) > manifestsMax {
		return api.Fail(api.CodeTooLarge, string(m.digest), "the copy has more than %d manifests, or more than %d bytes of them", manifestsMax, manifestsRoom)
	}
	_, children, err := m.parts()
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := p.descend(ctx, child.Digest, child.Size, depth); err != nil {
			return err
		}
	}
	p.order = append(p.order, m)
	if !p.referrers {
		return nil
	}
	found, err := p.far.referrers(ctx, m)
	if err != nil {
		return err
	}
	for _, d := range found {
		if !d.Valid() {
			return api.Fail(api.CodeRemoteRefused, p.far.ref.Host, "it lists a referrer by no digest of sha256 or sha512")
		}
		if err := p.descend(ctx, d, -1, depth); err != nil {
			return err
		}
	}
	return nil
}

func (p *pull) descend(ctx context.Context, d api.ContentDigest, size int64, depth int) error {
	if p.seen[d] {
		return nil
	}
	m, err := p.far.manifest(ctx, string(d))
	if err != nil {
		return err
	}
	if size >= 0 && int64(len(m.body)) != size {
		return api.Fail(api.CodeRemoteRefused, string(d), "the other registry says that it has %d bytes; it has %d", size, len(m.body))
	}
	return p.walk(ctx, m, depth+1)
}

// blobs brings what is not here. A blob that another repository of the tenant holds is not sent again.
func (p *pull) blobs(ctx context.Context) error {
	var missing []wanted
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
			// Held from before the look: what another brings meanwhile is either seen here, or waited for.
			w := wanted{p.far, p.repo, b.Digest, b.Size}
			one := p.c.arrivals.use(w)
			here, err := p.here(ctx, b)
			if err != nil || here {
				p.c.arrivals.leave(w, one)
			} else {
				defer p.c.arrivals.leave(w, one)
				missing = append(missing, w)
				total += b.Size
			}
			if err != nil {
				return err
			}
		}
	}
	p.progress.total(total)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(blobsAtOnce)
	for _, w := range missing {
		group.Go(func() error { return p.c.arrivals.fetch(ctx, w, p.c.keeper(p.by, p.repo), p.progress) })
	}
	return group.Wait()
}

func (p *pull) here(ctx context.Context, b part) (bool, error) {
	have, err := p.c.cfg.Local.RepositoryBlob(ctx, p.repo, b.Digest)
	if api.Is(err, api.CodeBlobNotFound) {
		var mounted bool
		if mounted, err = p.c.cfg.Local.MountBlob(ctx, p.by, p.repo, "", b.Digest); err != nil || !mounted {
			return false, err
		}
		have, err = p.c.cfg.Local.RepositoryBlob(ctx, p.repo, b.Digest)
	}
	if err != nil {
		return false, err
	}
	if have.Size != b.Size {
		return false, api.Fail(api.CodeRemoteRefused, string(b.Digest), "the manifest says that it has %d bytes; it has %d", b.Size, have.Size)
	}
	return true, nil
}

// keeper gives files to a repository.
func (c *Controller) keeper(by *api.Principal, repo api.Repository) keeper {
	return func(ctx context.Context, b api.RepositoryBlob, path string) error {
		if path != "" {
			upload := rand.Text() // names the room that is reserved for it
			err := c.cfg.Local.KeepFile(ctx, by, repo, b, path, upload)
			if err != nil {
				c.cfg.Local.ReleaseUpload(context.WithoutCancel(ctx), upload)
			}
			return err
		}
		mounted, err := c.cfg.Local.MountBlob(ctx, by, repo, "", b.Digest)
		if err == nil && !mounted {
			err = api.Fail(api.CodeBlobNotFound, string(b.Digest), "it went away right after it came")
		}
		return err
	}
}

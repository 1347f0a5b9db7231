package registry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/crash"
)

// What follows is for OCI clients: blobs, manifests and tags of repositories. Whether the caller may is asked here once more,
// since a repository names its tenant itself.

// RepositoryBlob finds a blob that a repository holds.
func (c *Catalog) RepositoryBlob(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.RepositoryBlob, error) {
	return c.store.RepositoryBlob(ctx, repo, d)
}

// OpenBlob opens the bytes of what RepositoryBlob, ManifestByDigest or ManifestByTag found.
func (c *Catalog) OpenBlob(ctx context.Context, d api.Digest) (io.ReadSeekCloser, error) {
	return c.blobs.Open(ctx, d)
}

// KeepBlob streams a blob into a repository. It is durable on return. length is how long it says it is, or -1.
func (c *Catalog) KeepBlob(ctx context.Context, p *api.Principal, repo api.Repository, want api.Digest, r io.Reader, length int64) (api.RepositoryBlob, error) {
	if err := mayPush(p, repo); err != nil {
		return api.RepositoryBlob{}, err
	}
	return c.takeIn(ctx, repo, r, want, length)
}

// ReserveUpload sets room aside for an upload that comes in pieces: so many bytes in all.
func (c *Catalog) ReserveUpload(ctx context.Context, repo api.Repository, id string, bytes int64) error {
	return c.reserve(ctx, api.Reservation{ID: id, Holder: c.holder, Tenant: repo.Tenant, Bytes: bytes})
}

// ReleaseUpload ends the reservation of an upload that nothing became of.
func (c *Catalog) ReleaseUpload(ctx context.Context, id string) { c.release(ctx, id) }

// KeepUploads ends all reservations of this process's earlier life but those of uploads that go on. Call it before anything
// is uploaded.
func (c *Catalog) KeepUploads(ctx context.Context, uploads []api.Reservation) error {
	return c.store.KeepRoom(ctx, c.holder, uploads)
}

// KeepFile takes a file over whose digests the caller computed and whose bytes are synced. upload is the id that its room
// was reserved by, which ends with success.
func (c *Catalog) KeepFile(ctx context.Context, p *api.Principal, repo api.Repository, b api.RepositoryBlob, path, room string) error {
	if err := mayPush(p, repo); err != nil {
		return err
	}
	if err := c.reserve(ctx, api.Reservation{ID: room, Holder: c.holder, Tenant: repo.Tenant, Blob: b.Blob, Bytes: b.Size}); err != nil {
		return err
	}
	crash.Point("registry: room held, file not yet taken")
	err := errors.ErrUnsupported
	if keeper, is := c.blobs.(blob.Keeper); is {
		err = keeper.Keep(ctx, path, blob.Info{Digest: b.Blob, Size: b.Size})
	}
	if errors.Is(err, errors.ErrUnsupported) {
		err = c.copyFile(ctx, b, path)
	}
	if err != nil {
		return err
	}
	crash.Point("registry: file taken, not yet linked")
	return c.link(ctx, repo, b, room)
}

// LinkKept makes a repository hold a blob that KeepFile took for it without coming to its end; CodeBlobNotFound when it did
// not even come so far.
func (c *Catalog) LinkKept(ctx context.Context, repo api.Repository, b api.RepositoryBlob) error {
	room := rand.Text()
	if err := c.reserve(ctx, api.Reservation{ID: room, Holder: c.holder, Tenant: repo.Tenant, Blob: b.Blob, Bytes: b.Size}); err != nil {
		return err
	}
	info, err := c.blobs.Stat(ctx, b.Blob)
	if err != nil {
		c.release(ctx, room)
		return err
	}
	if info.Size != b.Size {
		c.release(ctx, room)
		return api.Fail(api.CodeBlobNotFound, string(b.Digest), "the blob kept has %d bytes, the upload had %d", info.Size, b.Size)
	}
	if err = c.link(ctx, repo, b, room); err != nil {
		c.release(ctx, room)
	}
	return err
}

func (c *Catalog) copyFile(ctx context.Context, b api.RepositoryBlob, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return storage("read an upload", err)
	}
	defer f.Close()
	_, err = c.blobs.Put(ctx, f, b.Blob, c.limits.BlobBytes)
	return err
}

// link writes down who holds a blob: the tenant, which may make versions of it, and the repository, whose clients may pull it.
func (c *Catalog) link(ctx context.Context, repo api.Repository, b api.RepositoryBlob, room string) error {
	return c.store.KeepBlob(ctx, api.BlobKeep{Repository: repo, Blob: b, Reservation: room, At: api.TimeOf(c.now())})
}

// MountBlob makes a repository hold a blob of another one of the same tenant, or of any when from is empty. It reports false
// when there is none.
func (c *Catalog) MountBlob(ctx context.Context, p *api.Principal, repo api.Repository, from string, d api.ContentDigest) (bool, error) {
	if err := mayPush(p, repo); err != nil {
		return false, err
	}
	return c.store.MountBlob(ctx, repo, from, d, api.TimeOf(c.now()))
}

// UnlinkBlob makes a repository hold a blob no more, unless one of its manifests needs it.
func (c *Catalog) UnlinkBlob(ctx context.Context, p *api.Principal, repo api.Repository, d api.ContentDigest) error {
	if err := mayPush(p, repo); err != nil {
		return err
	}
	return c.store.UnlinkBlob(ctx, repo, d)
}

// ManifestByDigest finds a manifest of a repository.
func (c *Catalog) ManifestByDigest(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.Manifest, error) {
	return c.store.ManifestByDigest(ctx, repo, d)
}

// ManifestByTag finds the manifest that a tag, an alias, a version's number or latest names.
func (c *Catalog) ManifestByTag(ctx context.Context, repo api.Repository, tag string) (api.Manifest, error) {
	return c.store.ManifestByTag(ctx, repo, tag)
}

// DeleteManifest deletes a manifest with its tags; it can be restored for a while. One that is a version goes as such.
func (c *Catalog) DeleteManifest(ctx context.Context, p *api.Principal, repo api.Repository, d api.ContentDigest) error {
	if err := mayPush(p, repo); err != nil {
		return err
	}
	return c.store.DeleteManifest(ctx, repo, d, p.Name, api.TimeOf(c.now()))
}

// DeleteTag removes a tag or the alias of that name.
func (c *Catalog) DeleteTag(ctx context.Context, p *api.Principal, repo api.Repository, tag string) error {
	if err := mayPush(p, repo); err != nil {
		return err
	}
	return c.store.DeleteTag(ctx, repo, tag, p, api.TimeOf(c.now()))
}

// RepositoryTags lists the tags and aliases of a repository by their bytes.
func (c *Catalog) RepositoryTags(ctx context.Context, repo api.Repository, after string, limit int) ([]string, error) {
	return c.store.RepositoryTags(ctx, repo, after, limit)
}

// Repositories lists a tenant's repositories by their bytes.
func (c *Catalog) Repositories(ctx context.Context, t api.TenantID, after string, limit int) ([]string, error) {
	return c.store.Repositories(ctx, t, after, limit)
}

// Referrers lists the manifests that refer to a digest.
func (c *Catalog) Referrers(ctx context.Context, repo api.Repository, subject api.ContentDigest, artifactType string, after api.ContentDigest, limit int) ([]api.Manifest, error) {
	return c.store.Referrers(ctx, repo, subject, artifactType, after, limit)
}

func mayPush(p *api.Principal, repo api.Repository) error {
	if err := mayWrite(p); err != nil {
		return err
	}
	if p.Tenant != repo.Tenant {
		return api.Fail(api.CodeModelNotFound, "", "no such repository")
	}
	return nil
}

// PutManifest takes a manifest that was pushed to a repository. One that is a model's becomes a version, after the checks
// that every push passes; what does not pass is not kept. Any other is kept as it is.
func (c *Catalog) PutManifest(ctx context.Context, p *api.Principal, repo api.Repository, up api.ManifestUpload) (api.ManifestReceipt, error) {
	if err := mayPush(p, repo); err != nil {
		return api.ManifestReceipt{}, err
	}
	if int64(len(up.Body)) > c.limits.ManifestBytes {
		return api.ManifestReceipt{}, api.Fail(api.CodeTooLarge, "", "the manifest is over the limit of %d bytes", c.limits.ManifestBytes)
	}
	body, err := nameBody(up)
	if err != nil {
		return api.ManifestReceipt{}, err
	}
	m, err := readManifest(up.Body, up.MediaType)
	if err != nil {
		return api.ManifestReceipt{}, err
	}
	parts, err := c.findParts(ctx, repo, &m)
	if err != nil {
		return api.ManifestReceipt{}, err
	}
	push := api.ManifestPush{Tags: up.Tags, Why: "pushed by an OCI client", Pusher: p, Manifest: api.Manifest{Repository: repo, RepositoryBlob: body,
		MediaType: m.MediaType, ArtifactType: m.artifactType(), Pushed: api.TimeOf(c.now()), PushedBy: p.Name}}
	for digest := range parts {
		push.Parts = append(push.Parts, digest)
	}
	slices.Sort(push.Parts)
	if m.Subject != nil {
		push.Subject, push.Annotations = m.Subject.Digest, m.Annotations
	}
	// Parts and manifest are held for as long as this takes, which is long when a version is tried out.
	kept := false
	push.Reservation = rand.Text()
	defer c.releaseUnless(ctx, &kept, push.Reservation)
	if err := c.reserve(ctx, c.partHolds(&push, parts)...); err != nil {
		return api.ManifestReceipt{}, err
	}
	if err := c.write(ctx, repo.Tenant, c.limits.ManifestBytes, push.Reservation, newPaper(up.Body)); err != nil {
		return api.ManifestReceipt{}, err
	}
	crash.Point("registry: manifest kept, not yet known")
	receipt := api.ManifestReceipt{Digest: body.Digest, Subject: push.Subject}
	if m.isModel() {
		if err := c.receive(ctx, &push, &m, parts); err != nil {
			return api.ManifestReceipt{}, err
		}
		receipt.Warnings = pushedAliases(&push)
		if err := c.mayMove(ctx, push.Version, push.Aliases); err != nil {
			return api.ManifestReceipt{}, err
		}
	}
	v, _, err := c.store.PutManifest(ctx, push)
	if kept = err == nil; kept && push.Version != nil {
		receipt.Version = &v
		c.report(ctx, &v)
	}
	return receipt, err
}

// partHolds are the reservations that keep a manifest's parts where they are.
func (c *Catalog) partHolds(push *api.ManifestPush, parts map[api.ContentDigest]api.RepositoryBlob) []api.Reservation {
	holds := make([]api.Reservation, 0, len(parts))
	for _, digest := range push.Parts {
		holds = append(holds, api.Reservation{ID: push.Reservation, Holder: c.holder, Tenant: push.Tenant, Blob: parts[digest].Blob, Bytes: parts[digest].Size})
	}
	return holds
}

// nameBody computes the digests of a manifest and holds them against the one that the sender gave.
func nameBody(up api.ManifestUpload) (api.RepositoryBlob, error) {
	sum := sha256.Sum256(up.Body)
	b := api.RepositoryBlob{Blob: api.Digest("sha256:" + hex.EncodeToString(sum[:])), Size: int64(len(up.Body))}
	b.Digest = api.ContentDigest(b.Blob)
	if up.Digest.Algorithm() == "sha512" {
		long := sha512.Sum512(up.Body)
		b.Digest = api.ContentDigest("sha512:" + hex.EncodeToString(long[:]))
	}
	if up.Digest != "" && up.Digest != b.Digest {
		return b, api.Fail(api.CodeDigestMismatch, string(up.Digest), "the %d bytes received hash to %s", len(up.Body), b.Digest)
	}
	return b, nil
}

// findParts looks up what a manifest is made of. Layers that are fetched from elsewhere need not be here.
func (c *Catalog) findParts(ctx context.Context, repo api.Repository, m *received) (map[api.ContentDigest]api.RepositoryBlob, error) {
	parts := map[api.ContentDigest]api.RepositoryBlob{}
	find := func(d receivedPart, index bool) error {
		if _, seen := parts[d.Digest]; seen {
			return nil
		}
		var b api.RepositoryBlob
		var err error
		if index {
			var child api.Manifest
			child, err = c.store.ManifestByDigest(ctx, repo, d.Digest)
			b = child.RepositoryBlob
		} else {
			b, err = c.store.RepositoryBlob(ctx, repo, d.Digest)
		}
		if api.Is(err, api.CodeBlobNotFound) || api.Is(err, api.CodeManifestNotFound) {
			return api.Fail(api.CodeBlobNotFound, string(d.Digest), "the manifest names it, but the repository does not hold it").
				WithCure("Push it to this repository first.")
		}
		if err != nil {
			return err
		}
		if b.Size != d.Size {
			return invalid("it says that %s has %d bytes; it has %d", d.Digest, d.Size, b.Size)
		}
		parts[d.Digest] = b
		return nil
	}
	for _, d := range m.Layers {
		if _, err := c.store.RepositoryBlob(ctx, repo, d.Digest); d.foreign() && api.Is(err, api.CodeBlobNotFound) {
			continue
		}
		if err := find(d, false); err != nil {
			return nil, err
		}
	}
	for _, d := range m.Manifests {
		if err := find(d, true); err != nil {
			return nil, err
		}
	}
	if m.Config != nil {
		if err := find(*m.Config, false); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

// receive makes a version of a model's manifest: the manifest itself where its layers are plain files, or else one of ours
// with what its archives hold.
func (c *Catalog) receive(ctx context.Context, push *api.ManifestPush, m *received, parts map[api.ContentDigest]api.RepositoryBlob) error {
	model, ok := push.Model()
	if !ok {
		return api.Fail(api.CodeBadName, push.Name, "a model is pushed to TENANT/MODEL, without further parts")
	}
	layers, err := m.layers()
	if err != nil {
		return err
	}
	v := api.Version{Tenant: push.Tenant, Model: model, State: api.VersionReady, Format: "onnx", CreatedBy: push.PushedBy, Metrics: c.metrics(m), Origin: c.origin(m)}
	if plainFiles(layers) && push.Digest == api.ContentDigest(push.Blob) {
		v.Digest = push.Blob
		if err := c.receivePlain(ctx, &v, layers); err != nil {
			return err
		}
		push.Version = &v
		return nil
	}
	files, err := c.unpack(ctx, push.Tenant, layers, parts)
	if err != nil {
		return err
	}
	if err := c.limits.checkFiles(files); err != nil {
		return err
	}
	if err := c.reserve(ctx, c.holds(push.Reservation, push.Tenant, files)...); err != nil {
		return err
	}
	made, err := c.prepare(ctx, &v, files, push.Reservation)
	if err != nil {
		return err
	}
	made.Version, made.More = &v, true
	if _, _, err := c.store.PutManifest(ctx, made); err != nil {
		return err
	}
	push.Version = &v
	return nil
}

// receivePlain checks a version whose manifest somebody else wrote. What the manifest says of its files must be what reading
// them says: the engine is given the files by the manifest alone.
func (c *Catalog) receivePlain(ctx context.Context, v *api.Version, layers []layer) error {
	said, err := artifactsOf(layers)
	if err != nil {
		return api.Fail(api.CodeFormatRefused, "", "a version holds exactly one ONNX model file: the %w", err).
			WithCure("Push one .onnx file, with its external data and papers beside it.")
	}
	files := uploadFiles(said)
	own := c.limits
	own.Files++ // the card is a file too
	if err := own.checkFiles(files); err != nil {
		return err
	}
	if err := c.readFiles(ctx, v, files); err != nil {
		return err
	}
	for i := range v.Artifacts {
		a := &v.Artifacts[i]
		at := slices.IndexFunc(said, func(s api.Artifact) bool { return s.Path == a.Path })
		if at < 0 || said[at].Role != a.Role {
			return api.Fail(api.CodeFormatRefused, a.Path, "the file is %s, and the manifest's annotation says otherwise", a.Role)
		}
		a.MediaType = said[at].MediaType
	}
	if len(said) != len(v.Artifacts) {
		return api.Fail(api.CodeFormatRefused, "", "the manifest names %d files, of which %d belong to a model", len(said), len(v.Artifacts))
	}
	if err := c.findCard(ctx, v); err != nil {
		return err
	}
	if err := c.learn(v, false); err != nil {
		return err
	}
	return c.finish(ctx, v)
}

// metrics takes the measured figures over that a Penstock wrote into a manifest. Others' words under that name are left alone.
func (c *Catalog) metrics(m *received) map[string]float64 {
	var metrics map[string]float64
	text := m.Annotations[noteMetrics]
	if text == "" || json.Unmarshal([]byte(text), &metrics) != nil || c.limits.checkMetrics(metrics) != nil {
		return nil
	}
	return metrics
}

// origin takes over what a Penstock wrote into a manifest about where the version came from, as metrics does.
func (c *Catalog) origin(m *received) (o api.Origin) {
	if text := m.Annotations[noteOrigin]; text == "" || json.Unmarshal([]byte(text), &o) != nil || c.limits.checkOrigin(o) != nil {
		return api.Origin{}
	}
	return o
}

// pushedAliases makes aliases of the tags that can be, and says of the others that they are tags alone.
func pushedAliases(push *api.ManifestPush) (warnings []string) {
	tags := push.Tags
	push.Tags = nil
	for _, tag := range tags {
		if err := checkAlias(api.AliasName(tag)); err != nil {
			push.Tags = append(push.Tags, tag)
			if tag != "latest" {
				warnings = append(warnings, fmt.Sprintf("the tag %s is kept, but cannot be an alias; aliases are of a-z, 0-9, '.', '_' and '-' and no number", tag))
			}
			continue
		}
		push.Aliases = append(push.Aliases, api.AliasName(tag))
		if push.Version.Digest != api.Digest(push.Digest) {
			// OCI clients get back what they pushed; the alias names the version that was made of it.
			push.Tags = append(push.Tags, tag)
		}
	}
	return warnings
}

// Shelve makes the versions of before there were repositories known to OCI clients. Call it at start. A version whose
// manifest cannot be read stays unknown to them, and is tried again at the next start.
func (c *Catalog) Shelve(ctx context.Context) error {
	if err := c.adoptGrants(ctx); err != nil {
		return err
	}
	for {
		const some = 100
		versions, err := c.store.VersionsWithoutManifest(ctx, some)
		if err != nil {
			return err
		}
		shelved := 0
		for _, v := range versions {
			switch err := c.shelve(ctx, v); {
			case err == nil:
				shelved++
			case ctx.Err() != nil:
				return err
			default:
				slog.WarnContext(ctx, "a version is not known to OCI clients", "tenant", v.Tenant, "version", v.Ref().String(), "error", err)
			}
		}
		if shelved == 0 {
			return nil
		}
	}
}

func (c *Catalog) shelve(ctx context.Context, v api.Version) error {
	body, err := c.readSmall(ctx, v.Digest)
	if err != nil {
		return err
	}
	m, err := readManifest(body, "")
	if err != nil {
		return err
	}
	push := api.ManifestPush{Manifest: api.Manifest{Repository: api.Repository{Tenant: v.Tenant, Name: string(v.Model)},
		RepositoryBlob: api.RepositoryBlob{Digest: api.ContentDigest(v.Digest), Blob: v.Digest, Size: int64(len(body))},
		MediaType:      m.MediaType, ArtifactType: m.artifactType(), Pushed: v.Created, PushedBy: v.CreatedBy}}
	for _, d := range append(m.Layers, *m.Config) {
		push.Parts = append(push.Parts, d.Digest)
		push.Links = append(push.Links, api.RepositoryBlob{Digest: d.Digest, Blob: api.Digest(d.Digest), Size: d.Size})
	}
	_, _, err = c.store.PutManifest(ctx, push)
	return err
}

package registry

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/dsse"
)

// The bounds of what is attached to versions.
const (
	noteValueBytes  = 1024 // bytes of one annotation
	notesMax        = 32   // annotations of one referrer
	signatureName   = "signature.dsse.json"
	attachmentBytes = 64 << 20 // bytes of one attached paper
)

// emptyConfig is the config of all referrers.
var emptyConfig = newPaper([]byte("{}"))

var (
	mediaTypeRule = regexp.MustCompile(`^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$`)
	noteKeyRule   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,126}$`)
)

// attached is the manifest of a referrer. Like a version's it tells no time, so that the same paper attached twice is one.
type attached struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Subject       descriptor        `json:"subject"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// Attach makes an uploaded blob a referrer of a version. The same blob again is the same referrer. A signature must be an
// envelope that is about this version and all its files; by whose key it is made is for those to judge who ask for one.
func (c *Catalog) Attach(ctx context.Context, p *api.Principal, ref api.Ref, in api.ReferrerRequest) (api.Referrer, error) {
	if err := mayWrite(p); err != nil {
		return api.Referrer{}, err
	}
	if err := checkReferrer(&in); err != nil {
		return api.Referrer{}, err
	}
	v, err := c.Resolve(ctx, p.Tenant, ref)
	if err != nil {
		return api.Referrer{}, err
	}
	room, kept := rand.Text(), false
	defer c.releaseUnless(ctx, &kept, room)
	if err := c.takeUploaded(ctx, room, p.Tenant, []api.UploadFile{{Path: in.Name, Digest: in.Digest, Size: in.Size}}); err != nil {
		return api.Referrer{}, err
	}
	if in.Type == api.ReferrerSignature {
		statement, err := c.readSignature(ctx, in.Digest, in.Size)
		if err != nil {
			return api.Referrer{}, err
		}
		if err := statement.Covers(v.Digest, filesOf(&v)); err != nil {
			return api.Referrer{}, api.Fail(api.CodeSignatureInvalid, v.Ref().String(), "the signature is not of this version: %w", err)
		}
	}
	digest, err := c.attach(ctx, &v, p.Name, in, room)
	if err != nil {
		return api.Referrer{}, err
	}
	kept = true
	m, err := c.store.ManifestByDigest(ctx, repositoryOf(&v), digest) // the first one's time and name, when it was there before
	return referrer(&m), err
}

func repositoryOf(v *api.Version) api.Repository {
	return api.Repository{Tenant: v.Tenant, Name: string(v.Model)}
}

// checkReferrer checks all that needs neither blobs nor store, and fills the default name.
func checkReferrer(in *api.ReferrerRequest) error {
	switch {
	case !mediaTypeRule.MatchString(in.Type):
		return api.Fail(api.CodeBadRequest, "$.type", "%q is not a media type such as %s", shown(in.Type), api.ReferrerSBOM)
	case in.Type == typeModel || in.Type == mediaConfig:
		return api.Fail(api.CodeBadRequest, "$.type", "%q is the type of versions, not of what is attached to them", in.Type)
	case in.Size < 1 || in.Size > attachmentBytes:
		return api.Fail(api.CodeTooLarge, "$.size", "%d bytes are outside of the limit of %d for one paper", in.Size, attachmentBytes)
	case len(in.Annotations) > notesMax:
		return api.Fail(api.CodeTooLarge, "$.annotations", "%d annotations are over the limit of %d", len(in.Annotations), notesMax)
	}
	for key, value := range in.Annotations {
		if !noteKeyRule.MatchString(key) || len(value) > noteValueBytes || !isLine(value) {
			return api.Fail(api.CodeBadRequest, "$.annotations", "the annotation %q is not a plain name with one line of at most %d bytes", shown(key), noteValueBytes)
		}
	}
	if in.Name == "" {
		in.Name = "attachment"
		if in.Type == api.ReferrerSignature {
			in.Name = signatureName
		}
	}
	if strings.Contains(in.Name, "/") {
		return api.Fail(api.CodeBadName, "$.name", "the name %q holds '/'", shown(in.Name))
	}
	return Limits{}.withDefaults().checkPath(in.Name)
}

// attach writes the manifest of a referrer, with papers that go along, and keeps it. room is the reservation that holds its
// parts until the manifest does; the caller ends it when that fails.
func (c *Catalog) attach(ctx context.Context, v *api.Version, by string, in api.ReferrerRequest, room string, along ...paper) (api.ContentDigest, error) {
	subject, err := c.store.ManifestByDigest(ctx, repositoryOf(v), api.ContentDigest(v.Digest))
	if err != nil {
		return "", err
	}
	push, papers, err := c.refer(v, descriptor{MediaType: subject.MediaType, Digest: v.Digest, Size: subject.Size}, by, in)
	if err != nil {
		return "", err
	}
	if err := c.write(ctx, v.Tenant, attachmentBytes, room, append(along, papers...)...); err != nil {
		return "", err
	}
	c.written.add(emptyConfig.Blob)
	push.Reservation = room
	if _, _, err := c.store.PutManifest(ctx, push); err != nil {
		return "", fmt.Errorf("attach to %s: %w", v.Ref(), err)
	}
	return push.Digest, nil
}

// refer makes the manifest of a referrer, and the papers that it takes beside what is attached.
func (c *Catalog) refer(v *api.Version, subject descriptor, by string, in api.ReferrerRequest) (push api.ManifestPush, papers []paper, _ error) {
	m := attached{SchemaVersion: 2, MediaType: mediaManifest, ArtifactType: in.Type, Annotations: in.Annotations,
		Config:  emptyConfig.describe(api.ReferrerEmpty),
		Layers:  []descriptor{{MediaType: in.Type, Digest: in.Digest, Size: in.Size, Annotations: map[string]string{noteTitle: in.Name}}},
		Subject: subject}
	written, err := c.encode(mediaManifest, m)
	if err != nil {
		return push, nil, err
	}
	push.Manifest = api.Manifest{Repository: repositoryOf(v), RepositoryBlob: written.RepositoryBlob, MediaType: mediaManifest,
		ArtifactType: in.Type, Subject: api.ContentDigest(subject.Digest), Annotations: in.Annotations, Pushed: api.TimeOf(c.now()), PushedBy: by}
	for _, d := range append(m.Layers, m.Config) {
		push.Parts = append(push.Parts, api.ContentDigest(d.Digest))
		push.Links = append(push.Links, known(d))
	}
	return push, []paper{emptyConfig, written}, nil
}

func referrer(m *api.Manifest) api.Referrer {
	return api.Referrer{Digest: m.Blob, Type: m.ArtifactType, Annotations: m.Annotations, Pushed: m.Pushed, PushedBy: m.PushedBy}
}

// VersionReferrers lists what is attached to a version, by digest, those after the cursor; of one type when it is given.
func (c *Catalog) VersionReferrers(ctx context.Context, t api.TenantID, ref api.Ref, kind string, after api.Digest, limit int) ([]api.Referrer, error) {
	v, err := c.Resolve(ctx, t, ref)
	if err != nil {
		return nil, err
	}
	found, err := c.store.Referrers(ctx, api.Repository{Tenant: t, Name: string(v.Model)}, api.ContentDigest(v.Digest), kind, api.ContentDigest(after), clampList(limit))
	all := make([]api.Referrer, 0, len(found))
	for i := range found {
		all = append(all, referrer(&found[i]))
	}
	return all, err
}

// OpenReferrer opens the paper itself: the first layer of a manifest that refers to the version. The caller closes it.
func (c *Catalog) OpenReferrer(ctx context.Context, t api.TenantID, ref api.Ref, d api.Digest) (api.Artifact, io.ReadSeekCloser, error) {
	v, err := c.Resolve(ctx, t, ref)
	if err != nil {
		return api.Artifact{}, nil, err
	}
	repo := api.Repository{Tenant: t, Name: string(v.Model)}
	m, err := c.store.ManifestByDigest(ctx, repo, api.ContentDigest(d))
	if err != nil {
		return api.Artifact{}, nil, err
	}
	if m.Subject != api.ContentDigest(v.Digest) {
		return api.Artifact{}, nil, api.Fail(api.CodeManifestNotFound, v.Ref().String(), "nothing with the digest %s is attached to the version", d.Short()).
			WithCure("List what is with `penstock show %s`.", v.Ref())
	}
	part, err := c.firstLayer(ctx, repo, &m)
	if err != nil {
		return api.Artifact{}, nil, err
	}
	f, err := c.blobs.Open(ctx, part.Digest)
	return part, f, err
}

// firstLayer finds the paper of a referrer's manifest, which anybody may have written.
func (c *Catalog) firstLayer(ctx context.Context, repo api.Repository, m *api.Manifest) (api.Artifact, error) {
	body, err := c.readSmall(ctx, m.Blob)
	if err != nil {
		return api.Artifact{}, err
	}
	read, err := readManifest(body, m.MediaType)
	if err != nil {
		return api.Artifact{}, err
	}
	if len(read.Layers) == 0 {
		return api.Artifact{}, api.Fail(api.CodeBlobNotFound, string(m.Digest), "the referrer has no layer")
	}
	layer := read.Layers[0]
	b, err := c.store.RepositoryBlob(ctx, repo, layer.Digest)
	return api.Artifact{Path: layer.Annotations[noteTitle], Digest: b.Blob, Size: b.Size, MediaType: layer.MediaType}, err
}

// readSignature reads an uploaded envelope and what it says.
func (c *Catalog) readSignature(ctx context.Context, d api.Digest, size int64) (dsse.Statement, error) {
	_, statement, err := c.readEnvelope(ctx, d, size)
	return statement, err
}

func (c *Catalog) readEnvelope(ctx context.Context, d api.Digest, size int64) (*dsse.Envelope, dsse.Statement, error) {
	if size > dsse.EnvelopeBytesMax {
		return nil, dsse.Statement{}, api.Fail(api.CodeTooLarge, "", "the signature has %d bytes, over the limit of %d", size, dsse.EnvelopeBytesMax)
	}
	text, err := c.readSmall(ctx, d)
	if err != nil {
		return nil, dsse.Statement{}, err
	}
	envelope, err := dsse.Parse(text)
	if err != nil {
		return nil, dsse.Statement{}, api.Fail(api.CodeSignatureInvalid, "", "%s", err.Error())
	}
	statement, err := envelope.Statement()
	if err != nil {
		return nil, dsse.Statement{}, api.Fail(api.CodeSignatureInvalid, "", "%s", err.Error())
	}
	return envelope, statement, nil
}

// filesOf gives a version's files by path, as statements name them.
func filesOf(v *api.Version) map[string]api.Digest {
	files := make(map[string]api.Digest, len(v.Artifacts))
	for _, a := range v.Artifacts {
		files[a.Path] = a.Digest
	}
	return files
}

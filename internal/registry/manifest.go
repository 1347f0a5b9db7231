package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strconv"

	"github.com/penstock/penstock/api"
)

// The media types and annotations of ModelPack and OCI, and our own below dev.penstock.
const (
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	typeModel     = "application/vnd.cncf.model.manifest.v1+json"
	mediaConfig   = "application/vnd.cncf.model.config.v1+json"
	mediaLayer    = "application/vnd.cncf.model.%s.v1.raw"

	notePath  = "org.cncf.model.filepath"
	noteFile  = "org.cncf.model.file.metadata+json"
	noteTitle = "org.opencontainers.image.title" // what OCI clients name the file after

	noteRole      = "dev.penstock.role"      // of a layer: model, data or doc
	noteSignature = "dev.penstock.signature" // of the manifest: api.Signature as JSON
	noteMetrics   = "dev.penstock.metrics"   // of the manifest: name to number, as JSON
	noteOrigin    = "dev.penstock.origin"    // of the manifest: api.Origin as JSON, as it was given at the push
)

// manifest is an OCI image manifest. Field order is byte order: the digest is the version's identity, so the same files
// with the same metadata must give the same bytes on every machine, always. Nothing in it tells the time, the tenant, the
// model's name or the pusher.
type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      api.Digest        `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// modelConfig is ModelPack's config object, as far as we know it to be true.
type modelConfig struct {
	Descriptor struct{} `json:"descriptor"`
	Config     struct {
		Format    string `json:"format"`
		ParamSize string `json:"paramSize,omitempty"`
	} `json:"config"`
	ModelFS struct {
		Type    string       `json:"type"`
		DiffIDs []api.Digest `json:"diffIds"`
	} `json:"modelfs"`
}

// fileNote is ModelPack's record of a file, as tar has it. Owner, mode and time say nothing about a model and are fixed.
type fileNote struct {
	Name     string `json:"name"`
	Mode     uint32 `json:"mode"`
	UID      uint32 `json:"uid"`
	GID      uint32 `json:"gid"`
	Size     int64  `json:"size"`
	ModTime  string `json:"mtime"`
	TypeFlag byte   `json:"typeflag"`
}

// writeManifest stores a version's config and manifest as blobs, with its scan report, and returns what the repository is
// told of them. The artifacts must be in their final order.
func (c *Catalog) writeManifest(ctx context.Context, v api.Version, room string) (push api.ManifestPush, err error) {
	var config modelConfig
	config.Config.Format = v.Format
	config.Config.ParamSize = paramSize(v.Info.Parameters)
	config.ModelFS.Type = "layers"
	m := manifest{SchemaVersion: 2, MediaType: mediaManifest, ArtifactType: typeModel, Annotations: map[string]string{}}
	for _, a := range v.Artifacts {
		config.ModelFS.DiffIDs = append(config.ModelFS.DiffIDs, a.Digest)
		note, err := json.Marshal(fileNote{Name: a.Path, Mode: 0o644, Size: a.Size, ModTime: "1970-01-01T00:00:00Z", TypeFlag: '0'})
		if err != nil {
			return push, fmt.Errorf("describe %s: %w", a.Path, err)
		}
		m.Layers = append(m.Layers, descriptor{MediaType: a.MediaType, Digest: a.Digest, Size: a.Size,
			Annotations: map[string]string{notePath: a.Path, noteTitle: a.Path, noteFile: string(note), noteRole: string(a.Role)}})
	}
	configured, err := c.encode(mediaConfig, config)
	if err != nil {
		return push, err
	}
	m.Config = configured.describe(mediaConfig)
	signature, err := json.Marshal(v.Signature)
	if err != nil {
		return push, fmt.Errorf("describe the signature: %w", err)
	}
	m.Annotations[noteSignature] = string(signature)
	if len(v.Metrics) > 0 {
		metrics, err := json.Marshal(v.Metrics)
		if err != nil {
			return push, fmt.Errorf("describe the metrics: %w", err)
		}
		m.Annotations[noteMetrics] = string(metrics)
	}
	if !v.Origin.IsZero() {
		origin, err := json.Marshal(v.Origin)
		if err != nil {
			return push, fmt.Errorf("describe the origin: %w", err)
		}
		m.Annotations[noteOrigin] = string(origin)
	}
	written, err := c.encode(mediaManifest, m)
	if err != nil {
		return push, err
	}
	v.Digest = written.Blob
	along, papers, err := c.reportAlong(ctx, &v, written)
	if err != nil {
		return push, err
	}
	if err := c.write(ctx, v.Tenant, max(c.limits.ManifestBytes, attachmentBytes), room, append(papers, configured, written)...); err != nil {
		return push, err
	}
	c.written.add(configured.Blob)
	c.written.add(emptyConfig.Blob)
	push.Along = along
	push.Manifest = api.Manifest{Repository: api.Repository{Tenant: v.Tenant, Name: string(v.Model)}, RepositoryBlob: written.RepositoryBlob,
		MediaType: mediaManifest, ArtifactType: typeModel, PushedBy: v.CreatedBy}
	push.Reservation = room
	for _, d := range append(m.Layers, m.Config) {
		push.Parts = append(push.Parts, api.ContentDigest(d.Digest))
		push.Links = append(push.Links, known(d))
	}
	return push, nil
}

// known is a blob as a repository names it that goes by sha256 like the store.
func known(d descriptor) api.RepositoryBlob {
	return api.RepositoryBlob{Digest: api.ContentDigest(d.Digest), Blob: d.Digest, Size: d.Size}
}

// encode makes a paper of JSON.
func (c *Catalog) encode(mediaType string, value any) (paper, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return paper{}, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	body := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if int64(len(body)) > c.limits.ManifestBytes {
		return paper{}, api.Fail(api.CodeTooLarge, "", "the version's description has %d bytes, over the limit of %d",
			len(body), c.limits.ManifestBytes)
	}
	return newPaper(body), nil
}

// parseManifest reads the files of a version's manifest back and trusts nothing in it: it may have been written by another
// release, or by another program that pushed it.
func (l Limits) parseManifest(body []byte) ([]api.Artifact, error) {
	m, err := readManifest(body, "")
	if err != nil {
		return nil, err
	}
	layers, err := m.layers()
	if err != nil {
		return nil, err
	}
	if !plainFiles(layers) {
		return nil, fmt.Errorf("manifest of type %q holds no plain files", shown(m.ArtifactType))
	}
	artifacts, err := artifactsOf(layers)
	if err != nil {
		return nil, err
	}
	own := l
	own.Files++ // the card is a file too
	if err := own.checkFiles(uploadFiles(artifacts)); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return artifacts, nil
}

func uploadFiles(artifacts []api.Artifact) []api.UploadFile {
	files := make([]api.UploadFile, len(artifacts))
	for i, a := range artifacts {
		files[i] = api.UploadFile{Path: a.Path, Digest: a.Digest, Size: a.Size}
	}
	return files
}

// readSmall reads a whole small blob, within the limit.
func (c *Catalog) readSmall(ctx context.Context, d api.Digest) ([]byte, error) {
	f, err := c.blobs.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, c.limits.ManifestBytes+1))
	if err != nil {
		return nil, storage("read a manifest", err)
	}
	if int64(len(body)) > c.limits.ManifestBytes {
		return nil, api.Fail(api.CodeTooLarge, "", "the manifest is over the limit of %d bytes", c.limits.ManifestBytes)
	}
	return body, nil
}

// layerType is the media type of a file's layer.
func layerType(role api.Role, p string) string {
	kind := "weight"
	if role == api.RoleDoc {
		kind = "doc"
		if k, is := textKind(path.Base(p)); is {
			kind = k
		}
	}
	return fmt.Sprintf(mediaLayer, kind)
}

// paramSize writes a count the way ModelPack's examples do: 8b, 124.4m, 650.
func paramSize(n int64) string {
	if n <= 0 {
		return ""
	}
	for _, unit := range []struct {
		size int64
		name string
	}{{1e9, "b"}, {1e6, "m"}, {1e3, "k"}} {
		if n >= unit.size {
			tenths := n / (unit.size / 10)
			if tenths%10 == 0 {
				return strconv.FormatInt(tenths/10, 10) + unit.name
			}
			return fmt.Sprintf("%d.%d%s", tenths/10, tenths%10, unit.name)
		}
	}
	return strconv.FormatInt(n, 10)
}

package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/penstock/penstock/api"
)

// An image is a version in the form that container runtimes unpack: its files in tar layers under a config of an image, for
// Kubernetes image volumes. Its bytes follow from the version alone, so its digest is always the same. Nothing of it is
// stored: a layer is a tar header, the file's own blob, and zeros.
const (
	mediaImageConfig = "application/vnd.oci.image.config.v1+json"
	mediaImageLayer  = "application/vnd.oci.image.layer.v1.tar"
	noteVersion      = "dev.penstock.version" // of an image: the digest of the version's manifest

	imageLayersMax = 64  // runtimes stack no more than about a hundred; what is over that shares the last layer
	tarBlock       = 512 // bytes
)

// imagePlatforms are those that an image is offered for. Files of models are the same on all, but runtimes choose by name.
var imagePlatforms = []string{"amd64", "arm64"}

// DerivedStore is what the catalog needs of the database for content that is made when it is asked for.
type DerivedStore interface {
	PutDerived(ctx context.Context, parts []api.Derived) error
	Derived(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.Derived, error)
	ImageOf(ctx context.Context, repo api.Repository, version api.Digest) (api.Derived, error)
}

// Image gives the image of the version that a tag, an alias, a number or a digest names. The first time the files are read
// once, for the digests of their layers.
func (c *Catalog) Image(ctx context.Context, repo api.Repository, reference string) (d api.Derived, _ error) {
	model, ok := repo.Model()
	if !ok {
		return d, api.Fail(api.CodeManifestNotFound, repo.Name, "only versions of models have an image")
	}
	ref, err := api.ParseRef(string(model) + "@" + reference) // a number or a digest
	if err != nil {
		ref = api.Ref{Model: model, Alias: api.AliasName(reference)}
		if reference == "latest" {
			ref.Alias = ""
		}
	}
	v, err := c.Resolve(ctx, repo.Tenant, ref)
	if api.KindOf(err) == api.NotFound && err != nil {
		return d, api.Fail(api.CodeManifestNotFound, repo.Name, "%s names no version, and only versions have an image", shown(reference))
	}
	if err != nil {
		return d, err
	}
	if v.State != api.VersionReady {
		return d, api.Fail(api.CodeModelRefused, v.Ref().String(), "the version is %s: %s", v.State, v.Reason)
	}
	for {
		if d, err = c.store.ImageOf(ctx, repo, v.Digest); !api.Is(err, api.CodeManifestNotFound) {
			return d, err
		}
		wait, mine := c.imaging(v.Digest)
		if !mine {
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return d, api.Fail(api.CodeCanceled, "", "the caller went away").Because(ctx.Err())
			}
		}
		err = c.makeImage(ctx, repo, v)
		c.imaged(v.Digest)
		if err != nil {
			return d, err
		}
	}
}

// imaging makes the caller the one who reads a version's files for its image; else it gives what to wait for.
func (c *Catalog) imaging(d api.Digest) (wait <-chan struct{}, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if other := c.making[d]; other != nil {
		return other, false
	}
	c.making[d] = make(chan struct{})
	return nil, true
}

func (c *Catalog) imaged(d api.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.making[d])
	delete(c.making, d)
}

// imageConfig is what runtimes read of an image: for whom it is, and what its layers unpack to.
type imageConfig struct {
	Created      string   `json:"created"`
	Architecture string   `json:"architecture"`
	OS           string   `json:"os"`
	Config       struct{} `json:"config"`
	RootFS       struct {
		Type    string              `json:"type"`
		DiffIDs []api.ContentDigest `json:"diff_ids"`
	} `json:"rootfs"`
}

type imagePart struct {
	MediaType string            `json:"mediaType"`
	Digest    api.ContentDigest `json:"digest"`
	Size      int64             `json:"size"`
	Platform  *imagePlatform    `json:"platform,omitempty"`
}

type imagePlatform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type imageManifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Config        imagePart         `json:"config"`
	Layers        []imagePart       `json:"layers"`
	Annotations   map[string]string `json:"annotations"`
}

type imageIndex struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []imagePart       `json:"manifests"`
	Annotations   map[string]string `json:"annotations"`
}

// makeImage computes the parts of a version's image and keeps how they are made.
func (c *Catalog) makeImage(ctx context.Context, repo api.Repository, v api.Version) error {
	notes := map[string]string{noteVersion: string(v.Digest)}
	var parts []api.Derived
	add := func(mediaType string, pieces ...api.Piece) (imagePart, error) {
		d := api.Derived{Repository: repo, Version: v.Digest, Pieces: pieces}
		if mediaType == mediaManifest || mediaType == mediaIndex {
			d.MediaType = mediaType
		}
		for _, p := range pieces {
			d.Size += p.Size
		}
		sum := sha256.New()
		if err := c.copyDerived(ctx, sum, d); err != nil {
			return imagePart{}, err
		}
		d.Digest = api.ContentDigest("sha256:" + hex.EncodeToString(sum.Sum(nil)))
		parts = append(parts, d)
		return imagePart{MediaType: mediaType, Digest: d.Digest, Size: d.Size}, nil
	}
	text := func(mediaType string, value any) (imagePart, error) {
		body, err := json.Marshal(value)
		if err != nil {
			return imagePart{}, err
		}
		return add(mediaType, api.Piece{Text: body, Size: int64(len(body))})
	}
	m := imageManifest{SchemaVersion: 2, MediaType: mediaManifest, Annotations: notes}
	var config imageConfig
	config.Created, config.OS, config.RootFS.Type = "1970-01-01T00:00:00Z", "linux", "layers"
	for _, files := range imageLayers(v.Artifacts) {
		pieces, err := tarPieces(files)
		if err != nil {
			return err
		}
		layer, err := add(mediaImageLayer, pieces...)
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.Digest) // plain tar: the layer is what it unpacks to
	}
	index := imageIndex{SchemaVersion: 2, MediaType: mediaIndex, Annotations: notes}
	for _, architecture := range imagePlatforms {
		config.Architecture = architecture
		var err error
		if m.Config, err = text(mediaImageConfig, config); err != nil {
			return err
		}
		one, err := text(mediaManifest, m)
		if err != nil {
			return err
		}
		one.Platform = &imagePlatform{architecture, config.OS}
		index.Manifests = append(index.Manifests, one)
	}
	if _, err := text(mediaIndex, index); err != nil {
		return err
	}
	last := len(parts) - 1
	parts[0], parts[last] = parts[last], parts[0]
	return c.store.PutDerived(ctx, parts)
}

// imageLayers puts each file into a layer of its own, so that versions share those of files that they share.
func imageLayers(files []api.Artifact) (layers [][]api.Artifact) {
	for i := range files {
		if len(layers) == imageLayersMax-1 {
			return append(layers, files[i:])
		}
		layers = append(layers, files[i:i+1])
	}
	return layers
}

// tarPieces writes an archive of files without their bytes.
func tarPieces(files []api.Artifact) (pieces []api.Piece, _ error) {
	for _, f := range files {
		var header bytes.Buffer
		err := tar.NewWriter(&header).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Size: f.Size, Mode: 0o644, ModTime: time.Unix(0, 0)})
		if err != nil {
			return nil, fmt.Errorf("write a layer's header: %w", err)
		}
		pieces = append(pieces, api.Piece{Text: header.Bytes(), Size: int64(header.Len())})
		if f.Size > 0 {
			pieces = append(pieces, api.Piece{Blob: f.Digest, Size: f.Size})
		}
		if rest := f.Size % tarBlock; rest > 0 {
			pieces = append(pieces, api.Piece{Size: tarBlock - rest})
		}
	}
	return append(pieces, api.Piece{Size: 2 * tarBlock}), nil
}

// Derived finds content that is made when it is asked for.
func (c *Catalog) Derived(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.Derived, error) {
	return c.store.Derived(ctx, repo, d)
}

// OpenDerived opens it; the caller closes it.
func (c *Catalog) OpenDerived(ctx context.Context, d api.Derived) (io.ReadSeekCloser, error) {
	r := &derivedReader{ctx: ctx, open: c.blobs.Open, pieces: d.Pieces, size: d.Size}
	return r, r.check()
}

func (c *Catalog) copyDerived(ctx context.Context, w io.Writer, d api.Derived) error {
	r, err := c.OpenDerived(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, 1<<20))
	return err
}

// derivedReader reads pieces one after the other, from any place. It lives no longer than one call, so it may hold the
// context.
type derivedReader struct {
	ctx    context.Context
	open   func(context.Context, api.Digest) (io.ReadSeekCloser, error)
	pieces []api.Piece
	size   int64
	at     int64

	file io.ReadSeekCloser // of the piece that is being read; nil for none
	of   int               // which piece
	next int64             // place in the whole where file stands
}

// check opens the first blob, so that one that is gone is an error and no answer cut short.
func (r *derivedReader) check() error {
	for i, p := range r.pieces {
		if p.Blob != "" {
			var err error
			r.file, err = r.open(r.ctx, p.Blob)
			r.of, r.next = i, -1
			return err
		}
	}
	return nil
}

// Read reads on, within one piece.
func (r *derivedReader) Read(b []byte) (int, error) {
	start := int64(0)
	for i, p := range r.pieces {
		if r.at >= start+p.Size {
			start += p.Size
			continue
		}
		b = b[:min(int64(len(b)), start+p.Size-r.at)]
		var n int
		var err error
		switch {
		case p.Text != nil:
			n = copy(b, p.Text[r.at-start:])
		case p.Blob != "":
			n, err = r.readBlob(i, start, b)
		default:
			n = len(b)
			clear(b)
		}
		r.at += int64(n)
		return n, err
	}
	return 0, io.EOF
}

func (r *derivedReader) readBlob(i int, start int64, b []byte) (int, error) {
	if r.file == nil || r.of != i {
		if err := r.Close(); err != nil {
			return 0, storage("read a file", err)
		}
		var err error
		if r.file, err = r.open(r.ctx, r.pieces[i].Blob); err != nil {
			r.file = nil
			return 0, err
		}
		r.of, r.next = i, -1
	}
	if r.next != r.at {
		if _, err := r.file.Seek(r.at-start, io.SeekStart); err != nil {
			return 0, storage("read a file", err)
		}
	}
	n, err := r.file.Read(b)
	r.next = r.at + int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
		if n == 0 {
			err = storage("read a file", errors.New("it is shorter than its version says"))
		}
	}
	return n, err
}

// Seek moves to a place.
func (r *derivedReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("registry: seek before the start")
	}
	r.at = offset
	return offset, nil
}

// Close gives the open file back.
func (r *derivedReader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

package oci

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/penstock/penstock/api"
)

// tagParametersMax is how many tags one push by digest may carry.
const tagParametersMax = 16

// findManifest looks the reference up: a digest, or else a tag.
func (q *request) findManifest() (api.Manifest, error) {
	if strings.Contains(q.reference, ":") {
		digest, err := parseDigest(q.reference)
		if err != nil {
			return api.Manifest{}, err
		}
		return q.server.cfg.Manifests.ManifestByDigest(q.Context(), q.repo, digest)
	}
	if !api.ValidTag(q.reference) {
		return api.Manifest{}, refused(http.StatusNotFound, codeManifestUnknown, "this cannot be a tag")
	}
	return q.server.cfg.Manifests.ManifestByTag(q.Context(), q.repo, q.reference)
}

// getManifest answers GET and HEAD. It is served as it was pushed, whatever the Accept header asks for: another form would
// have another digest.
func (q *request) getManifest() error {
	as, err := q.one("as")
	if err != nil {
		return err
	}
	if as == "image" && q.server.cfg.Images != nil {
		d, err := q.server.cfg.Images.Image(q.Context(), q.repo, q.reference)
		return q.sendImage(d, err)
	}
	m, err := q.findManifest()
	if api.Is(err, api.CodeManifestNotFound) && q.server.cfg.Images != nil {
		if strings.Contains(q.reference, ":") {
			if d, other := q.server.cfg.Images.Derived(q.Context(), q.repo, api.ContentDigest(q.reference)); other == nil && d.MediaType != "" {
				return q.sendImage(d, nil)
			}
		} else if version, ok := strings.CutSuffix(q.reference, imageSuffix); ok {
			d, err := q.server.cfg.Images.Image(q.Context(), q.repo, version)
			if !api.Is(err, api.CodeManifestNotFound) || q.server.cfg.Upstream == nil {
				return q.sendImage(d, err)
			}
		}
	}
	if api.Is(err, api.CodeManifestNotFound) && q.server.cfg.Upstream != nil {
		body, mediaType, digest, err := q.server.cfg.Upstream.ThroughManifest(q.Context(), q.repo, q.reference)
		if err != nil {
			return err
		}
		q.w.Header().Set("Docker-Content-Digest", string(digest))
		return q.json(http.StatusOK, mediaType, body)
	}
	if err != nil {
		return err
	}
	q.w.Header().Set("Content-Type", m.MediaType)
	if err := q.send(m.RepositoryBlob); err != nil {
		return err
	}
	return nil
}

// imageSuffix ends tags that ask for the image of the version before it. A tag that was pushed with that end goes first.
const imageSuffix = "-image"

func (q *request) sendImage(d api.Derived, err error) error {
	if err != nil {
		return err
	}
	q.w.Header().Set("Content-Type", d.MediaType)
	return q.sendDerived(d)
}

// putManifest answers PUT.
func (q *request) putManifest() error {
	up := api.ManifestUpload{MediaType: q.Header.Get("Content-Type")}
	if media, _, err := mime.ParseMediaType(up.MediaType); err == nil {
		up.MediaType = media
	}
	var err error
	tags := q.URL.Query()["tag"]
	switch {
	case strings.Contains(q.reference, ":"):
		if up.Digest, err = parseDigest(q.reference); err != nil {
			return err
		}
		if len(tags) > tagParametersMax {
			return refused(http.StatusRequestURITooLong, codeUnsupported, "a push by digest carries at most 16 tags")
		}
		up.Tags = tags
	default:
		up.Tags = []string{q.reference}
	}
	for _, tag := range up.Tags {
		if !api.ValidTag(tag) {
			return refused(http.StatusBadRequest, codeManifestInvalid, "a tag has up to 128 letters, digits, '.', '_' and '-', and begins with none of the last two but '_'")
		}
	}
	if up.Body, err = q.readManifest(); err != nil {
		return err
	}
	receipt, err := q.server.cfg.Manifests.PutManifest(q.Context(), q.principal, q.repo, up)
	if err != nil {
		return err
	}
	h := q.w.Header()
	h.Set("Location", q.path("/manifests/"+string(receipt.Digest)))
	h.Set("Docker-Content-Digest", string(receipt.Digest))
	if receipt.Subject != "" {
		h.Set("OCI-Subject", string(receipt.Subject))
	}
	if up.Digest != "" {
		for _, tag := range up.Tags {
			h.Add("OCI-Tag", tag)
		}
	}
	if v := receipt.Version; v != nil {
		h.Set("Penstock-Version", v.Ref().String())
	}
	q.warn(receipt.Warnings)
	return q.empty(http.StatusCreated)
}

// readManifest reads the whole body, within its limit.
func (q *request) readManifest() ([]byte, error) {
	limit := q.server.cfg.Limits.ManifestBytes
	large := refused(http.StatusRequestEntityTooLarge, codeManifestInvalid, "the manifest is over the limit of 4 MiB")
	if q.ContentLength > limit {
		return nil, large
	}
	if q.Header.Get("Content-Encoding") != "" {
		return nil, refused(http.StatusBadRequest, codeManifestInvalid, "a body with Content-Encoding is not taken; send it plain")
	}
	text, err := io.ReadAll(io.LimitReader(q.body(), limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, large
	}
	if q.ContentLength >= 0 && int64(len(text)) != q.ContentLength {
		return nil, errors.Join(refused(http.StatusBadRequest, codeManifestInvalid, "the body was cut short"))
	}
	return text, nil
}

// deleteManifest answers DELETE: a tag goes alone, a manifest with all its tags.
func (q *request) deleteManifest() error {
	var err error
	if strings.Contains(q.reference, ":") {
		digest, bad := parseDigest(q.reference)
		if bad != nil {
			return bad
		}
		err = q.server.cfg.Manifests.DeleteManifest(q.Context(), q.principal, q.repo, digest)
	} else if !api.ValidTag(q.reference) {
		err = refused(http.StatusNotFound, codeManifestUnknown, "this cannot be a tag")
	} else {
		err = q.server.cfg.Manifests.DeleteTag(q.Context(), q.principal, q.repo, q.reference)
	}
	if err != nil {
		return err
	}
	return q.empty(http.StatusAccepted)
}

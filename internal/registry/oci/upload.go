package oci

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"

	"github.com/penstock/penstock/api"
)

// chunkRule is the form of a chunk's range: unlike that of HTTP it has no unit and no total.
var chunkRule = regexp.MustCompile(`^([0-9]{1,18})-([0-9]{1,18})$`)

// beginUpload answers POST: a mount from another repository, a whole blob in one request, or a new upload.
func (q *request) beginUpload() error {
	mount, err := q.one("mount")
	if err != nil {
		return err
	}
	if mount != "" {
		if done, err := q.mount(mount); done || err != nil {
			return err
		}
	}
	text, err := q.one("digest")
	if err != nil {
		return err
	}
	if mount == "" && text != "" {
		digest, err := parseDigest(text)
		if err != nil {
			return err
		}
		if digest.Algorithm() == "sha256" {
			return q.keepWhole(digest)
		}
		return q.stageWhole(digest)
	}
	if algorithm, err := q.one("digest-algorithm"); err != nil || algorithm != "" && algorithm != "sha256" && algorithm != "sha512" {
		return errors.Join(err, refused(http.StatusBadRequest, codeDigestInvalid, "digests are of sha256 or sha512"))
	}
	u, err := q.server.stage.begin(q.repo)
	if err != nil {
		return err
	}
	return q.progress(u, http.StatusAccepted)
}

// mount makes the repository hold a blob that another of the tenant's holds already. When there is none the client gets an
// upload instead, as the specification asks; that is also the answer for another tenant's, whether it is there or not.
func (q *request) mount(text string) (done bool, _ error) {
	digest, err := parseDigest(text)
	if err != nil {
		return false, err
	}
	from, err := q.one("from")
	if err != nil {
		return false, err
	}
	name := ""
	if from != "" {
		source, err := api.ParseRepository(from)
		if err != nil || source.Tenant != q.repo.Tenant {
			return false, nil
		}
		name = source.Name
	}
	if !mayScope(q.principal, actionPull) {
		return false, nil
	}
	ok, err := q.server.cfg.Blobs.MountBlob(q.Context(), q.principal, q.repo, name, digest)
	if err != nil || !ok {
		return false, err
	}
	return true, q.created(digest)
}

// keepWhole streams a blob straight into the store: it needs no file of ours in between.
func (q *request) keepWhole(digest api.ContentDigest) error {
	if err := q.checkLength(); err != nil {
		return err
	}
	if _, err := q.server.cfg.Blobs.KeepBlob(q.Context(), q.principal, q.repo, api.Digest(digest), q.body(), q.ContentLength); err != nil {
		return err
	}
	return q.created(digest)
}

// stageWhole takes a blob whose digest the store does not go by: it is kept only once that is found right.
func (q *request) stageWhole(digest api.ContentDigest) error {
	if err := q.checkLength(); err != nil {
		return err
	}
	u, err := q.server.stage.begin(q.repo)
	if err != nil {
		return err
	}
	if u, err = q.server.stage.take(q.repo, u.id); err != nil {
		return err
	}
	defer q.server.stage.release(u)
	defer q.server.stage.forget(u)
	if err := q.server.stage.room(q.Context(), u, q.ContentLength); err != nil {
		return err
	}
	if err := q.server.stage.append(q.Context(), u, q.body()); err != nil {
		return err
	}
	return q.keep(u, digest)
}

// checkLength refuses what is announced to be over the limit before a byte of it is read.
func (q *request) checkLength() error {
	if limit := q.server.cfg.Limits.BlobBytes; q.ContentLength > limit {
		return api.Fail(api.CodeTooLarge, "", "the blob is over the limit of %d bytes", limit)
	}
	if q.Header.Get("Content-Encoding") != "" {
		return refused(http.StatusBadRequest, codeBlobUploadInvalid, "a body with Content-Encoding is not taken; send it plain")
	}
	return nil
}

// uploadStatus answers GET: how much of an upload has come.
func (q *request) uploadStatus() error {
	u, err := q.server.stage.take(q.repo, q.reference)
	if err != nil {
		return err
	}
	defer q.server.stage.release(u)
	return q.progress(u, http.StatusNoContent)
}

// progress says where an upload is, and how much of it has come. The end of the range is its last byte; the specification
// has no words for none, and clients read 0-0.
func (q *request) progress(u *upload, status int) error {
	h := q.w.Header()
	h.Set("Location", q.path("/blobs/uploads/"+u.id))
	h.Set("Range", "0-"+strconv.FormatInt(max(0, u.note.Size-1), 10))
	h.Set("Docker-Upload-UUID", u.id)
	if status == http.StatusNoContent {
		q.w.WriteHeader(status)
		return nil
	}
	return q.empty(status)
}

// appendUpload answers PATCH: a chunk at its place, or a stream that goes on where the upload is.
func (q *request) appendUpload() error {
	u, err := q.server.stage.take(q.repo, q.reference)
	if err != nil {
		return err
	}
	defer q.server.stage.release(u)
	if err := q.append(u); err != nil {
		return err
	}
	return q.progress(u, http.StatusAccepted)
}

func (q *request) append(u *upload) error {
	if err := q.checkLength(); err != nil {
		return err
	}
	if err := q.checkChunk(u); err != nil {
		return err
	}
	if err := q.server.stage.room(q.Context(), u, q.ContentLength); err != nil {
		return err
	}
	return q.server.stage.append(q.Context(), u, q.body())
}

// checkChunk makes sure that a chunk follows what has come, and is as long as it says.
func (q *request) checkChunk(u *upload) error {
	text := q.Header.Get("Content-Range")
	if text == "" {
		return nil
	}
	match := chunkRule.FindStringSubmatch(text)
	if match == nil {
		return refused(http.StatusRequestedRangeNotSatisfiable, codeBlobUploadInvalid, "the Content-Range is not of the form FIRST-LAST")
	}
	first, firstErr := strconv.ParseInt(match[1], 10, 64)
	last, lastErr := strconv.ParseInt(match[2], 10, 64)
	if firstErr != nil || lastErr != nil || last < first {
		return refused(http.StatusRequestedRangeNotSatisfiable, codeBlobUploadInvalid, "the Content-Range is not of the form FIRST-LAST")
	}
	if first != u.note.Size {
		q.w.Header().Set("Location", q.path("/blobs/uploads/"+u.id))
		q.w.Header().Set("Range", "0-"+strconv.FormatInt(max(0, u.note.Size-1), 10))
		return refused(http.StatusRequestedRangeNotSatisfiable, codeBlobUploadInvalid,
			fmt.Sprintf("the chunk begins at %d, and the upload goes on at %d", first, u.note.Size))
	}
	if q.ContentLength != last-first+1 {
		return refused(http.StatusBadRequest, codeSizeInvalid, "the chunk is not as long as its Content-Range says")
	}
	return nil
}

// finishUpload answers PUT: the end of an upload, with the last bytes or without.
func (q *request) finishUpload() error {
	text, err := q.one("digest")
	if err != nil {
		return err
	}
	digest, err := parseDigest(text)
	if err != nil {
		return err
	}
	u, err := q.server.stage.take(q.repo, q.reference)
	if err != nil {
		return err
	}
	defer q.server.stage.release(u)
	if kept := u.note.Keeping; kept != nil && kept.Digest == digest && q.server.stage.taken(u) {
		// The store has the file, and then something failed.
		if err = q.server.cfg.Blobs.LinkKept(q.Context(), q.repo, *kept); err == nil {
			err = q.created(digest)
		}
	} else if u.note.Size == 0 && digest.Algorithm() == "sha256" {
		if err := q.checkChunk(u); err != nil {
			return err
		}
		// Nothing has come before: the body is the whole blob.
		err = q.keepWhole(digest)
	} else if err = q.append(u); err == nil {
		err = q.keep(u, digest)
	}
	if err == nil || api.Is(err, api.CodeDigestMismatch) { // no further byte can make a wrong one right
		q.server.stage.forget(u)
	}
	return err
}

// keep hands a finished upload to the store, if its bytes have the digest.
func (q *request) keep(u *upload, digest api.ContentDigest) error {
	blob, got, err := q.server.stage.digests(u, digest.Algorithm())
	if err != nil {
		return err
	}
	if got != digest {
		return api.Fail(api.CodeDigestMismatch, "", "the %d bytes received hash to %s", u.note.Size, got)
	}
	kept := api.RepositoryBlob{Digest: digest, Blob: blob, Size: u.note.Size}
	if err := q.server.stage.keeping(u, kept); err != nil {
		return err
	}
	if err := q.server.cfg.Blobs.KeepFile(q.Context(), q.principal, q.repo, kept, q.server.stage.path(u), u.id); err != nil {
		return err
	}
	return q.created(digest)
}

// created says where a blob is from now on.
func (q *request) created(digest api.ContentDigest) error {
	h := q.w.Header()
	h.Set("Location", q.path("/blobs/"+string(digest)))
	h.Set("Docker-Content-Digest", string(digest))
	return q.empty(http.StatusCreated)
}

// cancelUpload answers DELETE.
func (q *request) cancelUpload() error {
	u, err := q.server.stage.take(q.repo, q.reference)
	if err != nil {
		return err
	}
	q.server.stage.forget(u)
	q.server.stage.release(u)
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

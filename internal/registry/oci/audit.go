package oci

import (
	"net/http"
	"strconv"

	"github.com/penstock/penstock/api"
)

// audit writes that the caller is about to change something, and sees to it that what came of it is written before the
// first byte of the answer. The pieces of an upload are not recorded one by one: its begin and its end are.
func (q *request) audit(tail string) error {
	if q.server.cfg.Audit == nil || !pushes(q.Method) || q.Method == http.MethodPatch {
		return nil
	}
	subject := q.repo.Name
	if q.reference != "" && tail != "/blobs/uploads/" {
		subject += "@" + q.reference
	} else if digest := q.URL.Query().Get("digest"); digest != "" {
		subject += "@" + digest
	}
	r := api.AuditRecord{Tenant: q.principal.Tenant, Actor: q.principal.Name, Key: q.principal.Key, Remote: q.RemoteAddr, Door: "oci",
		Action: actionOf(q.Method, tail), Subject: subject, RequestID: q.id}
	begun, err := q.server.cfg.Audit.Begin(q.Context(), r)
	if err != nil {
		return err
	}
	q.noted.first = func(status int) {
		r.Begun, r.Outcome = begun, "ok"
		if status >= http.StatusBadRequest {
			r.Outcome = strconv.Itoa(status)
		}
		r.After = q.noted.Header().Get("Docker-Content-Digest")
		if err := q.server.cfg.Audit.End(q.Context(), r); err != nil {
			q.noted.Header().Set("Penstock-Audit", "late")
			q.server.cfg.Log.WarnContext(q.Context(), "the record of a change is late", "request_id", q.id, "error", err)
		}
	}
	return nil
}

// actionOf names what a method does on a kind of path.
func actionOf(method, tail string) string {
	switch tail + method {
	case "/blobs/uploads/" + http.MethodPost:
		return "ociBeginUpload"
	case "/blobs/uploads/" + http.MethodPut:
		return "ociFinishUpload"
	case "/blobs/uploads/" + http.MethodDelete:
		return "ociCancelUpload"
	case "/blobs/" + http.MethodDelete:
		return "ociDeleteBlob"
	case "/manifests/" + http.MethodPut:
		return "ociPutManifest"
	}
	return "ociDeleteManifest"
}

package oci

import (
	"net/http"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/penstock/penstock/api"
)

// request is one call on its way: whose repository, which thing in it, who calls.
type request struct {
	*http.Request
	w         http.ResponseWriter
	server    *Server
	repo      api.Repository
	name      string // the repository's, as the path has it
	reference string // the last part of the path: digest, tag or upload
	principal *api.Principal
	id        string
	noted     *notedWriter // w, as it was made
}

// handler does what one method on one kind of path asks for.
type handler func(q *request) error

// route is one kind of path below a repository.
type route struct {
	tail    string // what stands between the name and the reference
	methods map[string]handler
}

// routes lists the paths; the longer tail comes first, since a reference has no slash.
func routes() []route {
	return []route{
		{"/blobs/uploads/", map[string]handler{http.MethodPost: (*request).beginUpload, http.MethodGet: (*request).uploadStatus,
			http.MethodPatch: (*request).appendUpload, http.MethodPut: (*request).finishUpload, http.MethodDelete: (*request).cancelUpload}},
		{"/blobs/", map[string]handler{http.MethodGet: (*request).getBlob, http.MethodHead: (*request).getBlob, http.MethodDelete: (*request).deleteBlob}},
		{"/manifests/", map[string]handler{http.MethodGet: (*request).getManifest, http.MethodHead: (*request).getManifest,
			http.MethodPut: (*request).putManifest, http.MethodDelete: (*request).deleteManifest}},
		{"/referrers/", map[string]handler{http.MethodGet: (*request).listReferrers}},
		{"/tags/", map[string]handler{http.MethodGet: (*request).listTags}},
	}
}

// serve routes by hand: a name has any number of parts, and the parts after it are found from the path's end.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	id, began := ulid.Make().String(), s.cfg.Now()
	w.Header().Set("Penstock-Request-Id", id)
	noted := &notedWriter{ResponseWriter: w}
	q := &request{Request: r, w: noted, server: s, id: id, noted: noted}
	defer func() { q.log(id, noted, began) }()
	err := q.checkBrowser()
	switch path := r.URL.Path; {
	case err != nil:
	case path == tokenPath:
		err = q.token()
	case path == "/v2/" || path == "/v2":
		err = q.ping()
	case path == catalogPath:
		err = q.listRepositories()
	case strings.HasPrefix(path, "/v2/"):
		err = q.dispatch(strings.TrimPrefix(path, "/v2/"))
	case path == "/":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("Penstock's OCI registry; its API is under /v2/\n")) // the caller may be gone
	default:
		err = refused(http.StatusNotFound, codeUnsupported, "there is nothing here; the distribution API is under /v2/")
	}
	if err != nil {
		q.fail(err)
	}
}

// ping tells a client that this is a registry, and whether its key is good.
func (q *request) ping() error {
	if q.Method != http.MethodGet && q.Method != http.MethodHead {
		return notAllowed(http.MethodGet, http.MethodHead)
	}
	if _, _, err := q.caller(); err != nil {
		return q.challenge(err)
	}
	return q.json(http.StatusOK, "application/json", []byte("{}"))
}

// dispatch finds the kind of path, checks name and caller, and hands over.
func (q *request) dispatch(path string) error {
	for _, r := range routes() {
		// From the end: a name may have a part such as "blobs" itself, a reference has no slash.
		at := strings.LastIndex(path, "/")
		if r.tail == "/blobs/uploads/" && strings.HasSuffix(path, "/blobs/uploads") {
			path, at = path+"/", len(path) // clients that leave the last slash out mean the same
		}
		name, ok := strings.CutSuffix(path[:at+1], r.tail)
		if at < 0 || !ok {
			continue
		}
		q.reference = path[at+1:]
		do, ok := r.methods[q.Method]
		if !ok || r.tail == "/tags/" && q.reference != "list" || r.tail == "/blobs/uploads/" && (q.reference == "") != (q.Method == http.MethodPost) {
			allow := make([]string, 0, len(r.methods))
			for method := range r.methods {
				allow = append(allow, method)
			}
			slices.Sort(allow)
			return notAllowed(allow...)
		}
		var err error
		if q.repo, err = api.ParseRepository(name); err != nil {
			return err
		}
		q.name = name
		if err := q.authorize(); err != nil {
			return err
		}
		if err := q.audit(r.tail); err != nil {
			return err
		}
		return do(q)
	}
	return refused(http.StatusNotFound, codeNameUnknown, "this is not a path of the distribution API")
}

// pushes reports whether the method changes something.
func pushes(method string) bool {
	return method != http.MethodGet && method != http.MethodHead
}

package oci

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
)

// The specification's error codes.
const (
	codeBlobUnknown         = "BLOB_UNKNOWN"
	codeBlobUploadInvalid   = "BLOB_UPLOAD_INVALID"
	codeBlobUploadUnknown   = "BLOB_UPLOAD_UNKNOWN"
	codeDigestInvalid       = "DIGEST_INVALID"
	codeManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	codeManifestInvalid     = "MANIFEST_INVALID"
	codeManifestUnknown     = "MANIFEST_UNKNOWN"
	codeNameInvalid         = "NAME_INVALID"
	codeNameUnknown         = "NAME_UNKNOWN"
	codeSizeInvalid         = "SIZE_INVALID"
	codeUnauthorized        = "UNAUTHORIZED"
	codeDenied              = "DENIED"
	codeUnsupported         = "UNSUPPORTED"
	codeTooMany             = "TOOMANYREQUESTS"
	codeUnknown             = "UNKNOWN" // of the Docker API, for faults of ours
)

// refusal is an error with the specification's words for it.
type refusal struct {
	status  int
	code    string
	message string
	detail  *detail
}

// detail is what the specification leaves open: our own code and cure.
type detail struct {
	Code    api.Code `json:"code"`
	Subject string   `json:"subject,omitempty"`
	Cure    string   `json:"cure,omitempty"`
}

func (r *refusal) Error() string { return r.code + ": " + r.message }

func refused(status int, code, message string) *refusal {
	return &refusal{status: status, code: code, message: message}
}

func notAllowed(methods ...string) *refusal {
	return refused(http.StatusMethodNotAllowed, codeUnsupported, "the path takes "+strings.Join(methods, ", "))
}

// refusalOf puts one of our errors into the specification's words.
func (q *request) refusalOf(err error) *refusal {
	var known *refusal
	if errors.As(err, &known) {
		return known
	}
	e := api.AsError(err)
	r := &refusal{status: e.Kind().HTTPStatus(), code: codeUnknown, message: e.Error(), detail: &detail{Code: e.Code, Subject: e.Subject, Cure: e.Cure}}
	manifest := q.Method == http.MethodPut && strings.Contains(q.URL.Path, "/manifests/")
	switch e.Code {
	case api.CodeBlobNotFound:
		r.code = codeBlobUnknown
		if manifest {
			r.code = codeManifestBlobUnknown
		}
	case api.CodeManifestNotFound:
		r.code = codeManifestUnknown
	case api.CodeModelNotFound, api.CodeNotFound:
		r.code = codeNameUnknown
	case api.CodeBadName:
		r.code = codeNameInvalid
		if manifest {
			r.code = codeManifestInvalid
		}
	case api.CodeDigestMismatch:
		r.code = codeDigestInvalid
	case api.CodeUnsupported:
		r.status, r.code = http.StatusMethodNotAllowed, codeUnsupported
	}
	if r.code != codeUnknown {
		return r
	}
	switch e.Kind() {
	case api.Unauthenticated:
		r.code = codeUnauthorized
	case api.Forbidden, api.Conflict:
		r.code = codeDenied
	case api.Exhausted:
		r.code = codeTooMany
	case api.TooLarge:
		r.code = codeSizeInvalid
	case api.Invalid, api.Refused:
		r.code = codeBlobUploadInvalid
		if manifest { // the one answer that the specification has for a manifest that is refused
			r.status, r.code = http.StatusBadRequest, codeManifestInvalid
		}
	}
	return r
}

// fail answers with an error. What the answer cannot say any more, because its body is under way, is only logged.
func (q *request) fail(err error) {
	r := q.refusalOf(err)
	if kind := api.KindOf(err); (kind == api.Internal || kind == api.Storage) && r.status >= http.StatusInternalServerError {
		cause := err
		if e := api.AsError(err); e.Err != nil {
			cause = e.Err
		}
		q.server.cfg.Log.LogAttrs(q.Context(), slog.LevelError, "registry request failed", slog.String("method", q.Method),
			slog.String("path", q.URL.Path), slog.String("error", err.Error()), slog.Any("cause", cause))
	}
	type entry struct {
		Code    string  `json:"code"`
		Message string  `json:"message"`
		Detail  *detail `json:"detail,omitempty"`
	}
	body, marshalErr := json.Marshal(struct {
		Errors []entry `json:"errors"`
	}{[]entry{{r.code, r.message, r.detail}}})
	if marshalErr != nil {
		body = []byte(`{"errors":[{"code":"UNKNOWN"}]}`) // cannot happen with texts
	}
	if r.status == http.StatusMethodNotAllowed {
		q.w.Header().Set("Allow", strings.TrimPrefix(r.message, "the path takes "))
	}
	_ = q.json(r.status, "application/json", body)
}

// json sends a whole body.
func (q *request) json(status int, media string, body []byte) error {
	h := q.w.Header()
	h.Set("Content-Type", media)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	q.w.WriteHeader(status)
	if q.Method != http.MethodHead {
		_, _ = q.w.Write(body) // the caller may be gone
	}
	return nil
}

// empty answers without a body.
func (q *request) empty(status int) error {
	q.w.Header().Set("Content-Length", "0")
	q.w.WriteHeader(status)
	return nil
}

// path is where the repository's things are, as this caller named it.
func (q *request) path(tail string) string { return "/v2/" + q.name + tail }

// warn adds a sentence that clients show to their users.
func (q *request) warn(sentences []string) {
	for _, s := range sentences {
		q.w.Header().Add("Warning", `299 - "`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)+`"`)
	}
}

// digest reads the reference as a digest.
func parseDigest(text string) (api.ContentDigest, error) {
	if d := api.ContentDigest(text); d.Valid() {
		return d, nil
	}
	return "", refused(http.StatusBadRequest, codeDigestInvalid, "this is not a digest of sha256 or sha512 in lower case")
}

// notedWriter remembers what was answered, for the log.
type notedWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
	first  func(status int) // called before the first byte of the answer
}

// WriteHeader notes the status.
func (n *notedWriter) WriteHeader(status int) {
	n.status = status
	if first := n.first; first != nil {
		n.first = nil
		first(status)
	}
	n.ResponseWriter.WriteHeader(status)
}

// Write notes the bytes.
func (n *notedWriter) Write(b []byte) (int, error) {
	if n.first != nil {
		n.WriteHeader(http.StatusOK)
	}
	written, err := n.ResponseWriter.Write(b)
	n.bytes += int64(written)
	return written, err
}

// ReadFrom leaves files to the connection, which the system can copy them to.
func (n *notedWriter) ReadFrom(r io.Reader) (int64, error) {
	to, ok := n.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{n}, r)
	}
	written, err := to.ReadFrom(r)
	n.bytes += written
	return written, err
}

// Unwrap lets http.ResponseController find the connection.
func (n *notedWriter) Unwrap() http.ResponseWriter { return n.ResponseWriter }

// log writes one line for each request: what changes something for everybody to see, what only reads when asked for.
func (q *request) log(id string, answer *notedWriter, began time.Time) {
	level := slog.LevelDebug
	if pushes(q.Method) {
		level = slog.LevelInfo
	}
	if !q.server.cfg.Log.Enabled(q.Context(), level) {
		return
	}
	attrs := []slog.Attr{slog.String("request_id", id), slog.String("door", "oci"), slog.String("method", q.Method), slog.String("path", q.URL.Path),
		slog.Int("status", answer.status), slog.Int64("bytes", answer.bytes), slog.Duration("took", q.server.cfg.Now().Sub(began))}
	if q.principal != nil {
		attrs = append(attrs, slog.String("tenant", string(q.principal.Tenant)), slog.String("key", string(q.principal.Key)))
	}
	q.server.cfg.Log.LogAttrs(q.Context(), level, "access", attrs...)
}

// sender renews the write deadline for each piece of an answer, so that a slow reader is fine and a dead one is not. It
// hands files on in pieces, which the system copies without this process's memory. Callers on this machine get theirs through
// a buffer: the copy costs this process no more than the system's way in small steps, and they find the bytes in the
// processor's cache, which makes a pull a quarter faster. So does what is no file, such as a blob that comes from a bucket.
type sender struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	buffers *buffers
	local   bool
}

// sendPiece is how much of a file goes out under one deadline.
const sendPiece = 1 << 20

// buffersMost is how many answers use a buffer at once; others do without.
const buffersMost = 8

// buffers are lent to answers, so many at once.
type buffers struct {
	lent chan struct{}
	pool sync.Pool // of *[sendPiece]byte
}

func newBuffers() *buffers {
	return &buffers{lent: make(chan struct{}, buffersMost), pool: sync.Pool{New: func() any { return new([sendPiece]byte) }}}
}

// take lends a buffer until give; nil: all are lent.
func (b *buffers) take() *[sendPiece]byte {
	select {
	case b.lent <- struct{}{}:
		return b.pool.Get().(*[sendPiece]byte)
	default:
		return nil
	}
}

func (b *buffers) give(buffer *[sendPiece]byte) {
	b.pool.Put(buffer)
	<-b.lent
}

func (q *request) sender() *sender {
	s := &sender{ResponseWriter: q.w, control: http.NewResponseController(q.w), timeout: q.server.cfg.Limits.WriteTimeout, buffers: q.server.buffers}
	at, err := netip.ParseAddrPort(q.RemoteAddr)
	s.local = err == nil && at.Addr().Unmap().IsLoopback()
	return s
}

// Write sends bytes under a fresh deadline.
func (s *sender) Write(b []byte) (int, error) {
	_ = s.control.SetWriteDeadline(time.Now().Add(s.timeout)) // connections without deadlines have the server's own limits
	return s.ResponseWriter.Write(b)
}

// ReadFrom sends what a reader has, piece by piece.
func (s *sender) ReadFrom(r io.Reader) (total int64, _ error) {
	whole, limited := r.(*io.LimitedReader)
	from := r
	if limited {
		from = whole.R
	}
	if _, file := from.(*os.File); s.local || !file {
		if buffer := s.buffers.take(); buffer != nil {
			defer s.buffers.give(buffer)
			return io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{r}, buffer[:])
		}
	}
	to, ok := s.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{s}, r)
	}
	// What http.ServeContent hands over is a limited file; nested limits would hide the file from the system.
	for {
		_ = s.control.SetWriteDeadline(time.Now().Add(s.timeout))
		piece := &io.LimitedReader{R: r, N: sendPiece}
		if limited {
			piece = &io.LimitedReader{R: whole.R, N: min(sendPiece, whole.N)}
		}
		n, err := to.ReadFrom(piece)
		total += n
		if limited {
			whole.N -= n
		}
		if err != nil || n < sendPiece {
			return total, err
		}
	}
}

// body reads the request's body under a deadline for each window, and cuts off one that brings too little.
type body struct {
	from    io.Reader
	control *http.ResponseController
	window  time.Duration
	least   int64
	until   time.Time
	gotten  int64
}

func (q *request) body() *body {
	return &body{from: q.Body, control: http.NewResponseController(q.w), window: q.server.cfg.Limits.BodyWindow, least: q.server.cfg.Limits.BodyLeast}
}

// Read reads on, and tells a sender's faults from ours.
func (b *body) Read(p []byte) (int, error) {
	now := time.Now()
	if now.After(b.until) {
		if !b.until.IsZero() && b.gotten < b.least {
			return 0, b.slow()
		}
		b.until, b.gotten = now.Add(b.window), 0
	}
	_ = b.control.SetReadDeadline(now.Add(b.window)) // connections without deadlines are still held against the least
	n, err := b.from.Read(p)
	b.gotten += int64(n)
	switch {
	case err == io.EOF:
		_ = b.control.SetReadDeadline(time.Time{})
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, b.slow()
	case err != nil:
		return n, api.Fail(api.CodeBadRequest, "", "the body broke off").Because(err)
	}
	return n, err
}

func (b *body) slow() error {
	return api.Fail(api.CodeDeadline, "", "the body brought fewer than %d bytes in %s", b.least, b.window)
}

// one gives the one value of a query parameter; several that differ are refused.
func (q *request) one(name string) (string, error) {
	values := q.URL.Query()[name]
	if len(slices.Compact(slices.Clone(values))) > 1 {
		return "", refused(http.StatusBadRequest, codeUnsupported, "the parameter "+name+" stands twice")
	}
	if len(values) == 0 {
		return "", nil
	}
	return values[0], nil
}

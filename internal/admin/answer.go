package admin

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/penstock/penstock/api"
)

// serveHTTP refuses paths that are not in their one plain form, before a router could redirect or read them another
// way, and leaves the rest to the mux.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if p := r.URL.Path; path.Clean(p) != p || strings.ContainsAny(p, ";\\\x00") {
		s.refuse(func(*request) error { return noSuchPath() }).ServeHTTP(w, r)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// endpoint is the walk of every request to a route.
func (s *Server) endpoint(r *route) http.Handler {
	return s.walk(r, func(q *request) error {
		if err := q.admit(); err != nil {
			q.refusedKey(err)
			return err
		}
		if err := q.checkPath(); err != nil {
			return err
		}
		if err := q.checkQuery(); err != nil {
			return err
		}
		if err := q.begin(); err != nil {
			return err
		}
		return r.serve(q)
	})
}

// refuse answers what has no route; a key is not looked at.
func (s *Server) refuse(why func(*request) error) http.Handler {
	return s.walk(&route{id: "none"}, why)
}

// walk gives the request its id, turns errors and panics into problems, and logs the access.
func (s *Server) walk(r *route, next func(*request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, plain *http.Request) {
		q := &request{Request: plain, w: &answerWriter{ResponseWriter: w}, server: s, route: r,
			id: ulid.MustNew(ulid.Now(), rand.Reader).String()}
		start := time.Now()
		h := q.w.Header()
		h.Set("Penstock-Request-Id", q.id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		defer func() {
			failure := recover()
			if failure != nil && failure != any(http.ErrAbortHandler) {
				s.log.ErrorContext(plain.Context(), "panic in the control API", "request_id", q.id, "panic", failure, "stack", string(debug.Stack()))
				q.fail(api.Fail(api.CodeInternal, "", "internal error"))
			}
			s.logAccess(q, time.Since(start))
			if failure == any(http.ErrAbortHandler) {
				panic(failure) // the answer is half written: only a cut connection can tell the caller
			}
		}()
		if err := next(q); err != nil {
			q.fail(err)
		}
	})
}

// fail writes an error as a problem. When the answer has begun already, the connection is cut instead.
func (q *request) fail(err error) {
	if errors.Is(err, context.Canceled) && q.Context().Err() != nil {
		err = api.Fail(api.CodeCanceled, "", "the caller went away").Because(err)
	}
	e := api.AsError(err)
	q.w.code = e.Code
	if e.Kind() == api.Internal || e.Kind() == api.Storage {
		q.server.log.ErrorContext(q.Context(), "control API failed", "request_id", q.id, "route", q.route.id, "code", e.Code, "err", err, "cause", e.Err)
	}
	if q.w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	problem := api.ProblemOf(err, q.id)
	if q.w.override != 0 {
		problem.Status = q.w.override
	}
	h := q.w.Header()
	h.Del("Content-Length")
	h.Del("ETag")
	h.Set("Content-Type", "application/problem+json")
	h.Set("Penstock-Code", string(e.Code)) // also for HEAD, whose answer has no body
	if problem.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="penstock"`)
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(e.RetryAfter.Seconds())), 10))
	}
	text, encodeErr := encodeJSON(problem)
	if encodeErr != nil {
		text = []byte(`{"status":500,"code":"internal"}`)
	}
	q.w.WriteHeader(problem.Status)
	q.w.write(text)
}

// logAccess writes the access line. The query is left out: a caller may have put a key there.
func (s *Server) logAccess(q *request, took time.Duration) {
	level := slog.LevelInfo
	if q.Method == http.MethodGet || q.Method == http.MethodHead {
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{slog.String("request_id", q.id), slog.String("method", clipped(q.Method)), slog.String("route", q.route.id),
		slog.String("path", clipped((&url.URL{Path: q.URL.Path}).EscapedPath())), slog.Int("status", q.w.status),
		slog.Int64("bytes", q.w.bytes), slog.Duration("took", took)}
	if q.principal != nil {
		attrs = append(attrs, slog.String("tenant", string(q.principal.Tenant)), slog.String("key", string(q.principal.Key)))
	}
	if q.w.code != "" {
		attrs = append(attrs, slog.String("code", string(q.w.code)))
	}
	s.log.LogAttrs(q.Context(), level, "access", attrs...)
}

// answerWriter remembers what was answered.
type answerWriter struct {
	http.ResponseWriter
	status   int
	override int // status in place of the one that the error's kind has
	bytes    int64
	code     api.Code
	first    func() // called before the first byte of the answer
}

// Unwrap lets http.ResponseController reach the connection.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader keeps the status.
func (w *answerWriter) WriteHeader(status int) {
	w.begin()
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *answerWriter) begin() {
	if first := w.first; first != nil {
		w.first = nil
		first()
	}
}

// Write counts the bytes.
func (w *answerWriter) Write(b []byte) (int, error) {
	w.begin()
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// write sends the last bytes of an answer. A caller that has gone cannot be told, so the error ends here.
func (w *answerWriter) write(b []byte) {
	_, _ = w.Write(b)
}

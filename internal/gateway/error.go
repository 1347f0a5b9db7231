package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway/rpc"
)

// retryAfter is told to callers of a full queue when the error names no time of its own.
const retryAfter = time.Second

// HTTPStatus maps an error to the status of a data-plane answer. A full queue is 503, as inference clients expect; the
// rest is the kind's own.
func HTTPStatus(e *api.Error) int {
	if e.Code == api.CodeQueueFull {
		return http.StatusServiceUnavailable
	}
	return e.Kind().HTTPStatus()
}

// Code maps an error to its gRPC code.
func Code(e *api.Error) codes.Code {
	if e.Code == api.CodeQueueFull {
		return codes.Unavailable
	}
	switch e.Kind() {
	case api.Invalid:
		return codes.InvalidArgument
	case api.Unauthenticated:
		return codes.Unauthenticated
	case api.Forbidden:
		return codes.PermissionDenied
	case api.NotFound:
		return codes.NotFound
	case api.Conflict, api.Stale:
		return codes.Aborted
	case api.TooLarge, api.Exhausted:
		return codes.ResourceExhausted
	case api.Refused:
		return codes.FailedPrecondition
	case api.Unavailable:
		return codes.Unavailable
	case api.Deadline:
		return codes.DeadlineExceeded
	case api.Canceled:
		return codes.Canceled
	case api.Unsupported:
		return codes.Unimplemented
	default:
		return codes.Internal
	}
}

// fault finds the api.Error of any error; a context's end that nobody translated becomes one, too.
func fault(err error) *api.Error {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return api.Fail(api.CodeDeadline, "", "the deadline passed").Because(err)
	case errors.Is(err, context.Canceled):
		return api.Fail(api.CodeCanceled, "", "the caller went away").Because(err)
	}
	return api.AsError(err)
}

// text is what a caller reads: cause and cure. Inside faults keep their cause to the log.
func text(e *api.Error) string {
	if e.Kind() == api.NotFound || e.Cure == "" {
		return e.Error()
	}
	return e.Error() + " (" + e.Cure + ")"
}

// Fail answers an HTTP request with an error.
func (s *Server) Fail(w http.ResponseWriter, r *http.Request, requestID string, err error) {
	e := fault(err)
	s.note(r.Context(), e, r.URL.Path, requestID)
	if e.Kind() == api.Unauthenticated {
		w.Header().Set("Www-Authenticate", "Bearer")
	}
	if wait := retryIn(e); wait > 0 {
		w.Header().Set("Retry-After", retrySeconds(wait))
	}
	writeError(w, HTTPStatus(e), text(e))
}

// retryIn is when a caller may try again; 0 where trying again does not help.
func retryIn(e *api.Error) time.Duration {
	switch k := e.Kind(); {
	case k != api.Exhausted && k != api.Unavailable:
		return 0
	case e.RetryAfter <= 0:
		return retryAfter
	}
	return e.RetryAfter
}

// retrySeconds writes a wait as HTTP does, in whole seconds.
func retrySeconds(wait time.Duration) string { return strconv.Itoa(int(math.Ceil(wait.Seconds()))) }

// status makes the gRPC status of an error.
func (s *Server) status(ctx context.Context, method string, err error) error {
	if err == nil {
		return nil
	}
	if _, ours := status.FromError(err); ours {
		return err
	}
	e := fault(err)
	s.note(ctx, e, method, "")
	said := text(e)
	if e.RetryAfter > 0 {
		said += "; retry after " + e.RetryAfter.Round(time.Millisecond).String()
	}
	st := status.New(Code(e), said)
	if wait := retryIn(e); wait > 0 {
		return refusal(st, wait)
	}
	return st.Err()
}

// refusal says when to try again in each way that clients understand: gRPC's own, which a client with a retry policy keeps
// to by itself, Google's detail of a status, and HTTP's name.
func refusal(st *status.Status, wait time.Duration) error {
	if detailed, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)}); err == nil {
		st = detailed
	}
	millis := (wait + time.Millisecond - 1) / time.Millisecond
	return rpc.Failure(st, "retry-after", retrySeconds(wait), "grpc-retry-pushback-ms", strconv.FormatInt(int64(millis), 10))
}

// Explain gives the text of a gRPC error for answers that carry it inside a message.
func (s *Server) Explain(ctx context.Context, method string, err error) string {
	return status.Convert(s.status(ctx, method, err)).Message()
}

// note logs the faults that are ours.
func (s *Server) note(ctx context.Context, e *api.Error, what, requestID string) {
	if e.Kind() == api.Internal {
		s.log.LogAttrs(ctx, slog.LevelError, "request failed", slog.String("path", what), slog.String("request_id", requestID),
			slog.String("error", e.Error()), slog.Any("cause", e.Err))
	}
}

// NotFound answers a path that is nobody's.
func NotFound(w http.ResponseWriter) { writeError(w, http.StatusNotFound, "Not Found") }

// MethodNotAllowed answers a method that a path does not take.
func MethodNotAllowed(w http.ResponseWriter, allow string) {
	w.Header().Set("Allow", allow)
	writeError(w, http.StatusMethodNotAllowed, "Method Not Allowed")
}

// writeError writes the error body of the protocol: an object with the one field error.
func writeError(w http.ResponseWriter, code int, text string) {
	body, err := json.Marshal(map[string]string{"error": text})
	if err != nil {
		body = []byte(`{"error":"internal error"}`) // cannot happen with strings
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, _ = w.Write(body) // the caller may be gone; there is nobody else to tell
}

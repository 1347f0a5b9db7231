package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Kind says what sort of failure an error is. Kinds map to an HTTP status here, to a gRPC code in the gateway and to an
// exit code in the CLI, each in one place.
type Kind uint8

// The kinds, with the HTTP status that each maps to.
const (
	Internal        Kind = iota // 500: a fault of ours
	Invalid                     // 400: the caller sent something wrong
	Unauthenticated             // 401: no key, or a key that is not valid
	Forbidden                   // 403: the key may not do this
	NotFound                    // 404: no such thing in the caller's tenant
	Conflict                    // 409: it exists already, or another change is under way
	Stale                       // 412: the If-Match did not hold
	TooLarge                    // 413: over a named limit
	Refused                     // 422: well-formed, but refused by a rule (unsafe file, quarantined model)
	Exhausted                   // 429: a rate, quota or queue is full; retry later
	Unavailable                 // 503: not ready, shutting down, or a dependency is away
	Deadline                    // 504: the deadline passed
	Canceled                    // 499: the caller went away
	Unsupported                 // 501: known, but not done by this server
	Storage                     // 507: the disk or the database cannot take the write
)

var kindNames = [...]string{"internal", "invalid", "unauthenticated", "forbidden", "not_found", "conflict", "stale",
	"too_large", "refused", "exhausted", "unavailable", "deadline", "canceled", "unsupported", "storage"}

// String names the kind as it appears in JSON, logs and metric labels.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "internal"
}

// StatusClientClosed is the status logged when the caller went away (nginx's 499); nobody reads the answer.
const StatusClientClosed = 499

var kindStatus = [...]int{http.StatusInternalServerError, http.StatusBadRequest, http.StatusUnauthorized,
	http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed,
	http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusTooManyRequests,
	http.StatusServiceUnavailable, http.StatusGatewayTimeout, StatusClientClosed, http.StatusNotImplemented,
	http.StatusInsufficientStorage}

// HTTPStatus maps the kind to the status of an HTTP answer.
func (k Kind) HTTPStatus() int {
	if int(k) < len(kindStatus) {
		return kindStatus[k]
	}
	return http.StatusInternalServerError
}

// Error is the one error type that crosses a room's door. Code comes from Catalogue and fixes Kind. Subject names what
// it is about ("fraud@3"), Message is a whole sentence for a person without secrets or other tenants' names, Cure says
// what to do about it. Err is the cause for logs; it is never sent to a caller.
type Error struct {
	Code       Code
	Subject    string
	Message    string
	Cure       string
	RetryAfter time.Duration
	Err        error
}

// Fail makes an Error of a code from the catalogue. An Err among the arguments that is wrapped with %w is kept as cause.
func Fail(code Code, subject, format string, args ...any) *Error {
	full := fmt.Errorf(format, args...)
	return &Error{Code: code, Subject: subject, Message: full.Error(), Cure: code.info().Cure, Err: errors.Unwrap(full)}
}

// WithCure returns the error with a cure of its own in place of the catalogue's.
func (e *Error) WithCure(format string, args ...any) *Error {
	e.Cure = fmt.Sprintf(format, args...)
	return e
}

// Because returns the error with a cause that is logged and unwrapped, but never shown to the caller.
func (e *Error) Because(err error) *Error {
	e.Err = err
	return e
}

// Kind is the kind that the catalogue gives the error's code.
func (e *Error) Kind() Kind { return e.Code.info().Kind }

// Error gives subject, message and cause in one line.
func (e *Error) Error() string {
	if e.Subject == "" {
		return e.Message
	}
	return e.Subject + ": " + e.Message
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// AsError finds the Error in a chain; anything else becomes an internal one, whose text is not shown to callers.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeInternal, Message: "internal error", Cure: CodeInternal.info().Cure, Err: err}
}

// KindOf gives the kind of an error; errors that are not ours are Internal.
func KindOf(err error) Kind { return AsError(err).Kind() }

// Is reports whether err carries the code.
func Is(err error, code Code) bool {
	if err == nil {
		return false // without the memory that what follows takes
	}
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

package gateway

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/penstock/penstock/api"
)

// guardPath refuses requests that parts of the way might read differently, before anything routes them: a path with
// empty or dot segments or escaped separators, a parameter after ';', the absolute form, a body with two lengths, and methods
// that nothing here answers.
func (c Config) guardPath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		default:
			refuse(w, r, http.StatusMethodNotAllowed, "Method Not Allowed")
			return
		}
		if smuggled(r) {
			refuse(w, r, http.StatusBadRequest, "the length of the request is in doubt: it has both Content-Length and Transfer-Encoding, or a folded header")
			return
		}
		if fault := oddPath(r.RequestURI); fault != "" {
			refuse(w, r, http.StatusBadRequest, fault)
			return
		}
		if r.ContentLength != 0 {
			// What a handler left unread is read away by net/http without a limit of time; now it has one.
			defer func() { _ = SetReadDeadline(w, time.Now().Add(c.BodyGrace)) }()
		}
		next.ServeHTTP(w, r)
	})
}

// SetReadDeadline bounds the reading of a request's body, as http.ResponseController does. It makes one only where the writer
// does not do it itself.
func SetReadDeadline(w http.ResponseWriter, by time.Time) error {
	if own, ok := w.(interface{ SetReadDeadline(by time.Time) error }); ok {
		return own.SetReadDeadline(by)
	}
	return http.NewResponseController(w).SetReadDeadline(by)
}

// SetWriteDeadline is the same for the writing of the answer.
func SetWriteDeadline(w http.ResponseWriter, by time.Time) error {
	if own, ok := w.(interface{ SetWriteDeadline(by time.Time) error }); ok {
		return own.SetWriteDeadline(by)
	}
	return http.NewResponseController(w).SetWriteDeadline(by)
}

// controlPrefix begins the paths of the control API, whose errors are problems.
const controlPrefix = "/api/"

// refuse answers and closes the connection: whatever follows on it is not to be trusted.
func refuse(w http.ResponseWriter, r *http.Request, status int, text string) {
	w.Header().Set("Connection", "close")
	if !strings.HasPrefix(r.RequestURI, controlPrefix) {
		writeError(w, status, text)
		return
	}
	id := ulid.Make().String()
	problem := api.ProblemOf(api.Fail(api.CodeBadRequest, "", "%s", text), id)
	problem.Status = status
	body, err := json.Marshal(problem)
	if err != nil {
		body = []byte(`{"status":400}`) // cannot happen with strings and numbers
	}
	w.Header().Set("Penstock-Request-Id", id)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the caller may be gone
}

// oddPath says what is wrong with a request's target, or nothing.
func oddPath(target string) string {
	if !strings.HasPrefix(target, "/") {
		return "the request's target must be a path"
	}
	path, _, _ := strings.Cut(target, "?")
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '/':
			rest := path[i+1:]
			switch {
			case strings.HasPrefix(rest, "/"):
				return "the path has an empty segment"
			case rest == "." || rest == ".." || strings.HasPrefix(rest, "./") || strings.HasPrefix(rest, "../"):
				return "the path has a dot segment"
			}
		case c == ';' || c == '\\':
			return "the path has a character that is not allowed"
		case c <= ' ' || c >= 0x7f:
			return "the path has a character that must be escaped"
		case c == '%':
			if len(path)-i >= 3 && oddEscape(path[i+1], path[i+2]) {
				return "the path has an escape that is not allowed"
			}
		}
	}
	return ""
}

// oddEscape tells escapes of '.', '/', ';', '\' and control characters: nobody needs them, except to be read twice.
func oddEscape(high, low byte) bool {
	switch {
	case high <= '1' || high == '7' && low|0x20 == 'f':
		return true
	case high == '2':
		return low|0x20 == 'e' || low|0x20 == 'f'
	case high == '3':
		return low|0x20 == 'b'
	case high == '5':
		return low|0x20 == 'c'
	}
	return false
}

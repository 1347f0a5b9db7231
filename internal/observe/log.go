package observe

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	logValueMax = 8 << 10          // bytes of one text in a log line; the rest is cut
	sparsePause = 30 * time.Second // between two lines about the same trouble
	keyPrefix   = "psk_"           // what every secret key begins with
	keyLength   = 40
)

// NewLogger makes the server's logger: "text" for people or "json" for machines. Lines cannot be forged: newlines,
// terminal escapes and other invisible characters inside values come out escaped in both formats, and anything that
// looks like a secret key comes out struck through. A request id put in the context by WithRequestID is on every line.
func NewLogger(w io.Writer, format string, level slog.Leveler) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: boundAttr}
	w = &plainWriter{w: w}
	switch format {
	case "text":
		return slog.New(requestHandler{slog.NewTextHandler(w, options)}), nil
	case "json":
		return slog.New(requestHandler{slog.NewJSONHandler(w, options)}), nil
	}
	return nil, fmt.Errorf("log format %q is neither text nor json", format)
}

type requestIDKey struct{}

// WithRequestID returns a context whose log lines carry the request id.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// requestHandler adds the context's request id.
type requestHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h requestHandler) Handle(ctx context.Context, r slog.Record) error {
	if id, ok := ctx.Value(requestIDKey{}).(string); ok {
		r.AddAttrs(slog.String("request_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h requestHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h requestHandler) WithGroup(name string) slog.Handler {
	return requestHandler{h.Handler.WithGroup(name)}
}

// boundAttr cuts long texts; errors become texts, because their fields could say more than their message does.
func boundAttr(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		if s := a.Value.String(); len(s) > logValueMax {
			a.Value = slog.StringValue(clip(s, logValueMax))
		}
	case slog.KindAny:
		if err, ok := a.Value.Any().(error); ok && err != nil {
			a.Value = slog.StringValue(clip(errorText(err), logValueMax))
		}
	}
	return a
}

// errorText survives errors that are nil pointers inside: a log line must not end the process.
func errorText(err error) (text string) {
	defer func() {
		if fault := recover(); fault != nil {
			text = "an error that cannot tell its text"
		}
	}()
	return err.Error()
}

// plainWriter makes a finished line harmless. Both of slog's formats escape control characters below space themselves;
// what is left are the invisible ones above: C1 controls, which terminals obey, and those that turn the direction of
// text. They can stand only inside a quoted value, where \u is an escape in both formats.
type plainWriter struct{ w io.Writer }

// Write implements io.Writer; slog calls it once per line.
func (p *plainWriter) Write(line []byte) (int, error) {
	out := line
	if hidden(line) {
		out = make([]byte, 0, len(line)+64)
		for rest := line; len(rest) > 0; {
			r, size := utf8.DecodeRune(rest)
			switch {
			case r == utf8.RuneError && size == 1:
				out = append(out, `\ufffd`...)
			case visible(r):
				out = append(out, rest[:size]...)
			case r > 0xffff:
				out = append(out, `\ufffd`...) // nothing printable is lost
			default:
				out = fmt.Appendf(out, `\u%04x`, r)
			}
			rest = rest[size:]
		}
	}
	if at := bytes.Index(out, []byte(keyPrefix)); at >= 0 {
		out = strike(out, at)
	}
	if _, err := p.w.Write(out); err != nil {
		return 0, err
	}
	return len(line), nil
}

func hidden(line []byte) bool {
	for i := 0; i < len(line); {
		if line[i] < utf8.RuneSelf {
			if line[i] == 0x7f {
				return true
			}
			i++
			continue
		}
		r, size := utf8.DecodeRune(line[i:])
		if (r == utf8.RuneError && size == 1) || !visible(r) {
			return true
		}
		i += size
	}
	return false
}

// visible reports characters that may stand in a line as they are; those below space are the format's own business.
func visible(r rune) bool { return r < 0x7f || unicode.IsPrint(r) }

// strike replaces secret keys, from the first place on where one may begin. The line is copied: it may be slog's own.
func strike(line []byte, at int) []byte {
	out := append([]byte(nil), line...)
	for at < len(out) {
		n := len(keyPrefix)
		for at+n < len(out) && n < keyLength && base62(out[at+n]) {
			n++
		}
		if n == keyLength {
			copy(out[at+len(keyPrefix):at+n], bytes.Repeat([]byte{'*'}, n-len(keyPrefix)))
		}
		next := bytes.Index(out[at+len(keyPrefix):], []byte(keyPrefix))
		if next < 0 {
			break
		}
		at += len(keyPrefix) + next
	}
	return out
}

func base62(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

// sparse says the same trouble at most once in sparsePause, and how often it was silent meanwhile.
type sparse struct {
	log *slog.Logger

	mu     sync.Mutex // guards the fields below
	next   time.Time
	silent int
}

func newSparse(log *slog.Logger) *sparse { return &sparse{log: log} }

func (s *sparse) warn(message string, args ...any) {
	s.mu.Lock()
	now := time.Now()
	if now.Before(s.next) {
		s.silent++
		s.mu.Unlock()
		return
	}
	silent := s.silent
	s.next, s.silent = now.Add(sparsePause), 0
	s.mu.Unlock()
	s.log.Warn(message, append(args, "not_logged", silent)...)
}

package gateway

import (
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// answerKeep is how much of an answer is gathered before it is written; an answer that ends within it leaves in one
	// system call, and has a length even if the handler names none.
	answerKeep = 32 << 10
	// answerDirect is the size from which a piece is written from where it lies.
	answerDirect = 16 << 10
)

// answer is the http.ResponseWriter of a lean connection.
type answer struct {
	lean    *lean
	header  http.Header
	status  int
	out     []byte     // gathered: the header, once begun, and what of the body is not written
	body    []byte     // gathered before the header is begun
	keys    []string   // of the last answer's header, in order
	values  [][]string // of these keys
	begun   bool       // the header is in out, or written
	chunked bool       // the length is not known
	length  int64      // what was announced; -1 when nothing was
	written int64      // bytes of the body
	closes  bool       // the connection ends behind this answer
	by      time.Time
	err     error
}

func (a *answer) reset() {
	clear(a.header)
	a.status, a.begun, a.chunked, a.length, a.written, a.closes, a.err = 0, false, false, -1, 0, false, nil
	a.out, a.body = a.out[:0], a.body[:0]
	a.by = time.Time{}
}

// Header is what the answer's header will hold.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader fixes the status; informational ones are not sent.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
}

// SetReadDeadline bounds the reading of the body.
func (a *answer) SetReadDeadline(by time.Time) error {
	a.lean.body.by = by
	return nil
}

// SetWriteDeadline bounds the next writes.
func (a *answer) SetWriteDeadline(by time.Time) error {
	a.by = by
	return nil
}

// Write takes a piece of the body.
func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	if a.err != nil {
		return 0, a.err
	}
	if !a.begun {
		if a.length = a.announced(); a.length < 0 {
			if len(a.body)+len(p) <= answerKeep {
				a.body = append(a.body, p...)
				return len(p), nil
			}
			a.chunked = true
		}
		if len(a.body) > 0 {
			a.sniff(a.body)
		} else {
			a.sniff(p)
		}
		a.begin()
		if len(a.body) > 0 {
			a.piece(a.body)
			a.body = a.body[:0]
		}
	}
	if a.length >= 0 && a.written+int64(len(p)) > a.length {
		return 0, http.ErrContentLength
	}
	a.piece(p)
	if a.err != nil {
		return 0, a.err
	}
	return len(p), nil
}

// announced is the length that the handler named, or -1.
func (a *answer) announced() int64 {
	if v := a.header["Content-Length"]; len(v) == 1 {
		return digits(v[0])
	}
	return -1
}

// piece adds to the body, framed, and writes when enough has gathered.
func (a *answer) piece(p []byte) {
	if len(p) == 0 || a.err != nil {
		return
	}
	a.written += int64(len(p))
	if a.chunked {
		a.out = strconv.AppendInt(a.out, int64(len(p)), 16)
		a.out = append(a.out, "\r\n"...)
	}
	if len(p) >= answerDirect {
		a.send(p)
	} else {
		a.out = append(a.out, p...)
	}
	if a.chunked {
		a.out = append(a.out, "\r\n"...)
	}
	if len(a.out) >= answerKeep {
		a.send(nil)
	}
}

// send writes what has gathered, and more behind it.
func (a *answer) send(more []byte) {
	l := a.lean
	if by := a.by; !by.IsZero() {
		if slack := l.server.config.WriteTimeout / 4; by.Sub(l.writeBy) > slack || by.Before(l.writeBy) {
			l.writeBy = by
			_ = l.raw.SetWriteDeadline(by) // fails on a closed connection, as the write will
		}
	}
	switch {
	case len(more) == 0:
		_, a.err = l.raw.Write(a.out)
	case len(a.out) == 0:
		_, a.err = l.raw.Write(more)
	default:
		both := net.Buffers{a.out, more}
		_, a.err = both.WriteTo(l.conn.Conn) // in one call
	}
	a.out = a.out[:0]
}

// sniff names the type of a body that the handler did not, as net/http does.
func (a *answer) sniff(body []byte) {
	if len(body) > 0 && len(a.header["Content-Type"]) == 0 && len(a.header["Content-Encoding"]) == 0 {
		a.header["Content-Type"] = []string{http.DetectContentType(body)}
	}
}

// begin puts the header into out.
func (a *answer) begin() {
	a.begun = true
	l := a.lean
	// Of a body that is not in the buffer whole, nobody knows when the rest comes.
	unread := l.body.left > int64(l.to-l.from)
	a.closes = unread || l.server.stopped() || slices.ContainsFunc(a.header["Connection"], func(v string) bool { return strings.EqualFold(v, "close") })
	a.out = append(a.out, "HTTP/1.1 "...)
	a.out = strconv.AppendInt(a.out, int64(a.status), 10)
	a.out = append(a.out, ' ')
	a.out = append(a.out, http.StatusText(a.status)...)
	a.out = append(a.out, "\r\nDate: "...)
	a.out = append(a.out, l.server.today(time.Now())...)
	a.out = append(a.out, "\r\n"...)
	if !a.alike() {
		a.order()
	}
	for i, key := range a.keys {
		if key == "Connection" || key == "Content-Length" && len(a.values[i]) != 1 {
			continue
		}
		for _, value := range a.values[i] {
			a.field(key, value)
		}
	}
	clear(a.values) // they are the request's
	if a.closes {
		a.field("Connection", "close")
	}
	if a.chunked {
		a.field("Transfer-Encoding", "chunked")
	}
	a.out = append(a.out, "\r\n"...)
}

// alike takes the values of the last answer's keys, and reports whether they are all that there is.
func (a *answer) alike() bool {
	if len(a.keys) != len(a.header) {
		return false
	}
	for i, key := range a.keys {
		values, ok := a.header[key]
		if !ok {
			return false
		}
		a.values[i] = values
	}
	return true
}

// order takes the header's keys, sorted, and their values.
func (a *answer) order() {
	a.keys, a.values = a.keys[:0], a.values[:0]
	for key := range a.header {
		a.keys = append(a.keys, key)
	}
	slices.Sort(a.keys)
	for _, key := range a.keys {
		a.values = append(a.values, a.header[key])
	}
}

// newlines cannot be in a header's value: they would end it.
var newlines = strings.NewReplacer("\r", " ", "\n", " ")

func (a *answer) field(key, value string) {
	if strings.IndexByte(value, '\r') >= 0 || strings.IndexByte(value, '\n') >= 0 {
		value = newlines.Replace(value)
	}
	a.out = append(a.out, key...)
	a.out = append(a.out, ": "...)
	a.out = append(a.out, value...)
	a.out = append(a.out, "\r\n"...)
}

// finish completes the answer and writes what has gathered. An error means that the connection cannot go on.
func (a *answer) finish() error {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	switch {
	case a.err != nil:
		return a.err
	case !a.begun:
		empty := a.status == http.StatusNoContent || a.status == http.StatusNotModified
		if empty {
			delete(a.header, "Content-Length")
		} else if announced := a.announced(); announced < 0 || announced == int64(len(a.body)) {
			a.header["Content-Length"] = []string{strconv.Itoa(len(a.body))}
			a.sniff(a.body)
		} else {
			return io.ErrShortWrite
		}
		a.begin()
		if !empty {
			a.out = append(a.out, a.body...)
		}
	case a.length >= 0 && a.written != a.length:
		a.send(nil)
		return io.ErrShortWrite
	case a.chunked:
		a.out = append(a.out, "0\r\n\r\n"...)
	}
	if len(a.out) > 0 {
		a.send(nil)
	}
	if cap(a.out) > 4*answerKeep {
		a.out = nil
	}
	return a.err
}

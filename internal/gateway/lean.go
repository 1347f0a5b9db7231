package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/penstock/penstock/internal/expiry"
	"github.com/penstock/penstock/internal/socket"
)

// The limits of a connection's plain requests; what goes over one of them goes to net/http.
const (
	leanBuffer  = 8 << 10   // bytes read ahead: a header, and the body of a small request with it
	leanHeaders = 32        // lines of a header
	lingerBytes = 256 << 10 // what is read of a refused body before the connection is reset
	lingerTime  = 500 * time.Millisecond
)

// lean answers the plain requests of one connection, one after the other, on one goroutine and mostly in memory that it
// keeps.
type lean struct {
	server *HTTP
	conn   *conn
	raw    net.Conn     // the same below the watch, which plain requests do not need
	state  atomic.Int32 // idle, active, dismissed

	in       []byte // read ahead
	from, to int    // what of it is not consumed yet

	request http.Request
	url     url.URL
	lines   []line // the last header's, and room for longer ones
	count   int    // of the last header's lines
	unique  bool   // no two of its fields have the same name
	header  http.Header
	body    leanBody
	answer  answer
	life    *expiry.Context // of all requests: ends when the caller hangs up, or the request's time

	readBy  time.Time // the read deadline that is set
	writeBy time.Time // the same for writing

	peer    *socket.Peer
	mu      sync.Mutex // guards the fields below, the replacing of life, and looks
	serving bool       // a handler runs
	ticks   int        // since it began
}

const (
	leanIdle = iota
	leanActive
	leanDismissed
)

// line is one line of a header, as read and as understood.
type line struct {
	text  []byte
	key   string
	value string
}

func newLean(s *HTTP, c *conn) *lean {
	l := &lean{server: s, conn: c, raw: socket.Poll(c.Conn), peer: socket.PeerOf(c.Conn), in: make([]byte, leanBuffer), header: http.Header{}}
	l.body.lean = l
	l.answer.lean, l.answer.header = l, http.Header{}
	l.request = http.Request{URL: &l.url, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: l.header, RemoteAddr: c.RemoteAddr().String()}
	l.live()
	return l
}

// live begins a context for the requests that come.
func (l *lean) live() {
	life := new(expiry.Context)
	life.Init(time.Now(), hangUpTick)
	l.mu.Lock()
	l.life = life
	l.mu.Unlock()
	l.request = *l.request.WithContext(life)
}

// dismiss closes the connection when it waits for a request, or in any case.
func (l *lean) dismiss(all bool) {
	if l.state.CompareAndSwap(leanIdle, leanDismissed) || all {
		_ = l.conn.Close()
	}
}

// serve answers until the connection ends or goes to net/http.
func (l *lean) serve() {
	defer l.server.forget(l)
	defer func() { l.life.Cancel() }()
	for {
		size, err := l.readHeader()
		if err != nil {
			_ = l.conn.Close()
			return
		}
		if !l.state.CompareAndSwap(leanIdle, leanActive) {
			return // dismissed, and closed
		}
		if size == 0 || !l.parse(l.in[l.from:l.from+size]) {
			l.handOver()
			return
		}
		l.from += size
		if !l.handle() {
			_ = l.conn.Close()
			return
		}
		l.state.Store(leanIdle)
		if l.server.stopped() {
			_ = l.conn.Close()
			return
		}
	}
}

// handOver gives the connection to net/http, with what was read of it.
func (l *lean) handOver() {
	l.conn.ahead = l.in[l.from:l.to]
	_ = l.raw.SetDeadline(time.Time{}) // net/http sets its own
	l.server.handed.give(l.conn)
}

// readHeader waits for a whole header and gives its size; 0 means that this is nothing for here.
func (l *lean) readHeader() (size int, err error) {
	config := &l.server.config
	var begun time.Time    // when the header's first bytes were there
	peeked := l.count == 0 // behind a request, net/http waits for four bytes before it makes something of them
	for {
		have := l.in[l.from:l.to]
		if !peeked && len(have) >= 4 {
			peeked = true
			// Old clients end a body with a line end that is not part of it.
			if l.lines[0].key == http.MethodPost {
				have = have[4-len(bytes.TrimLeft(have[:4], "\r\n")):]
				l.from = l.to - len(have)
			}
		}
		if i := bytes.Index(have, endOfHeader); i >= 0 {
			return i + len(endOfHeader), nil
		}
		if peeked && strange(have) || len(have) == len(l.in) {
			return 0, nil
		}
		if l.from > 0 {
			l.to = copy(l.in, have)
			l.from = 0
		}
		switch {
		case len(have) == 0 && l.count == 0: // a fresh connection has to say what it wants
			l.readUntil(time.Now().Add(config.HeaderTimeout), 0)
		case len(have) == 0:
			l.readUntil(time.Now().Add(config.IdleTimeout), config.IdleTimeout/4)
		case begun.IsZero():
			begun = time.Now()
			l.readUntil(begun.Add(config.HeaderTimeout), 0)
		}
		n, err := l.raw.Read(l.in[l.to:])
		l.to += n
		if err != nil && n == 0 {
			return 0, err
		}
	}
}

var endOfHeader = []byte("\r\n\r\n")

// strange reports the beginning of what cannot become a plain request, so that nobody waits for its end.
func strange(have []byte) bool {
	if len(have) > 0 && have[0] != 'G' && have[0] != 'P' {
		return true
	}
	for rest := have; ; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return false
		}
		if i == 0 || rest[i-1] != '\r' {
			return true
		}
		rest = rest[i+1:]
	}
}

// readUntil sets the read deadline, unless the one that is set lies no further than slack from it.
func (l *lean) readUntil(by time.Time, slack time.Duration) {
	if d := by.Sub(l.readBy); d > slack || d < -slack {
		l.readBy = by
		_ = l.raw.SetReadDeadline(by) // fails on a closed connection, as the read will
	}
}

// parse reads a header; false means that net/http shall.
func (l *lean) parse(head []byte) bool {
	head = head[:len(head)-len(endOfHeader)]
	n, length, host, alike := 0, int64(-1), "", true
	for len(head) > 0 || n == 0 {
		text, rest, _ := bytes.Cut(head, endOfHeader[:2])
		head = rest
		if n == leanHeaders+1 || len(text) == 0 {
			return false
		}
		if n == len(l.lines) {
			l.lines = append(l.lines, line{})
		}
		at := &l.lines[n]
		if !bytes.Equal(at.text, text) {
			read := (*lean).readField
			if n == 0 {
				read = (*lean).readTarget
			}
			before := at.key
			if !read(l, at, text) {
				at.text = at.text[:0]
				return false
			}
			at.text = append(at.text[:0], text...)
			alike = alike && at.key == before
		}
		switch at.key {
		case "Content-Length":
			if length >= 0 {
				return false
			}
			if length = digits(at.value); length < 0 {
				return false
			}
		case "Host":
			if host != "" || at.value == "" || !httpguts.ValidHostHeader(at.value) {
				return false
			}
			host = at.value
		}
		n++
	}
	alike = alike && n == l.count
	l.count = n
	if host == "" || length > 0 && l.lines[0].key != http.MethodPost {
		return false
	}
	l.fill(alike)
	l.request.Host = host
	l.request.ContentLength = max(length, 0)
	return true
}

// digits reads a length; -1 when it is not one.
func digits(s string) int64 {
	if len(s) == 0 || len(s) > 18 {
		return -1
	}
	n := int64(0)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return -1
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n
}

// readTarget reads the first line: a GET or POST to a plain path of the data plane.
func (*lean) readTarget(to *line, text []byte) bool {
	method, rest, _ := strings.Cut(string(text), " ")
	target, version, _ := strings.Cut(rest, " ")
	if method != http.MethodGet && method != http.MethodPost || version != "HTTP/1.1" {
		return false
	}
	if !strings.HasPrefix(target, "/v2/") && !strings.HasPrefix(target, "/v1/") || strings.ContainsAny(target, "%?#") || oddPath(target) != "" {
		return false
	}
	to.key, to.value = method, target
	return true
}

// readField reads another line. Fields that change what the bytes behind the header mean are not read here.
func (*lean) readField(to *line, text []byte) bool {
	colon := bytes.IndexByte(text, ':')
	if colon <= 0 {
		return false
	}
	name, value := string(text[:colon]), strings.Trim(string(text[colon+1:]), " \t")
	if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
		return false
	}
	key := textproto.CanonicalMIMEHeaderKey(name)
	switch key {
	case "Transfer-Encoding", "Te", "Trailer", "Expect", "Upgrade", "Proxy-Connection", "Http2-Settings":
		return false
	case "Connection":
		if !strings.EqualFold(value, "keep-alive") {
			return false
		}
	}
	to.key, to.value = key, value
	return true
}

// fill makes the request of the lines. alike says that the fields' names are the last request's, one for one.
func (l *lean) fill(alike bool) {
	l.request.Method, l.request.RequestURI, l.url.Path = l.lines[0].key, l.lines[0].value, l.lines[0].value
	fields := l.lines[1:l.count]
	if alike && l.unique {
		for i := range fields {
			if fields[i].key != "Host" { // which is no field of the map
				l.header[fields[i].key][0] = fields[i].value
			}
		}
		return
	}
	clear(l.header)
	l.unique = true
	for i := range fields {
		if key := fields[i].key; key != "Host" {
			l.header[key] = append(l.header[key], fields[i].value)
			l.unique = l.unique && len(l.header[key]) == 1
		}
	}
}

// handle has one request answered; it reports whether another may follow on the connection.
func (l *lean) handle() (again bool) {
	l.body.left, l.body.closed = l.request.ContentLength, false
	l.body.readAll.Store(l.request.ContentLength == 0)
	l.request.Body = http.NoBody
	if l.request.ContentLength > 0 {
		l.request.Body = &l.body
	}
	l.answer.reset()
	l.beginWatch()
	clean := l.call()
	if !l.endWatch() || !clean {
		return false
	}
	if err := l.answer.finish(); err != nil {
		return false
	}
	if l.answer.closes {
		l.linger()
		return false
	}
	l.from += int(l.body.left) // all of it is in the buffer, or the answer would have closed
	return true
}

// call runs the handler; false when it panicked.
func (l *lean) call() (clean bool) {
	defer func() {
		p := recover()
		if err, ok := p.(error); p != nil && (!ok || !errors.Is(err, http.ErrAbortHandler)) {
			l.server.log.Error("http: the handler panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	l.server.handler.ServeHTTP(&l.answer, &l.request)
	return true
}

// linger lets the caller read why its body is not wanted: data that arrives after a close would reset the connection and
// take the answer with it.
func (l *lean) linger() {
	if l.body.left <= 0 || l.conn.CloseWrite() != nil {
		return
	}
	wait := time.NewTimer(lingerTime)
	defer wait.Stop()
	_ = l.raw.SetReadDeadline(time.Now().Add(lingerTime))
	if n, _ := io.CopyN(io.Discard, l.conn.Conn, lingerBytes); n == lingerBytes { // else the caller is gone, or silent
		<-wait.C // more is coming than is worth reading
	}
}

// leanBody is a request's body: first what was read with the header, then the connection.
type leanBody struct {
	lean    *lean
	left    int64
	by      time.Time // read deadline that the handler asked for
	closed  bool
	readAll atomic.Bool
}

// Read gives the next bytes of the body.
func (b *leanBody) Read(p []byte) (n int, err error) {
	l := b.lean
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose
	case b.left == 0:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	p = p[:min(int64(len(p)), b.left)]
	if l.from < l.to {
		n = copy(p, l.in[l.from:l.to])
		l.from += n
	} else {
		l.readUntil(b.by, 0)
		if n, err = l.raw.Read(p); errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
	}
	if b.left -= int64(n); b.left == 0 {
		b.readAll.Store(true)
		return n, io.EOF
	}
	return n, err
}

// Close makes later reads fail; what is left is dealt with behind the handler.
func (b *leanBody) Close() error {
	b.closed = true
	return nil
}

// beginWatch makes sure that a caller who hangs up is noticed, if the request takes long.
func (l *lean) beginWatch() {
	l.mu.Lock()
	l.serving, l.ticks = true, 0
	l.mu.Unlock()
	l.server.hangUps.arm()
}

// tick counts the time of a request under way, ends one that is over it, and reports whether it is time to look: after 1 to 2
// ticks, 3 to 4, 7 to 8, and then every 8.
func (l *lean) tick(now time.Time) (serving, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.serving {
		return false, false
	}
	l.life.Look(now)
	l.ticks++
	return true, l.ticks == 2 || l.ticks == 4 || l.ticks%hangUpTicks == 0
}

// look asks the system whether the caller is gone.
func (l *lean) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.serving && l.body.readAll.Load() && l.peer.Gone() { // a caller may end its side behind the body
		l.life.Cancel()
	}
}

// endWatch reports whether the caller is there still, as far as the watch knows.
func (l *lean) endWatch() bool {
	l.mu.Lock()
	l.serving = false
	l.mu.Unlock()
	if errors.Is(l.life.Err(), context.DeadlineExceeded) { // the request's end, not the caller's
		l.live()
	}
	return l.life.Err() == nil
}

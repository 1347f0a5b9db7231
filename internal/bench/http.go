package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/socket"
)

const (
	lineMax    = 32 << 10 // bytes of one header line of an answer
	headersMax = 256      // header lines of an answer
	interimMax = 8        // answers of 1xx before the real one
	errorMax   = 4 << 10  // bytes of an error's body that are kept

	connectWithin = 10 * time.Second
	idleMax       = 4 * time.Second // servers close idle connections after 5 s and more, without a word
)

// HTTP says where and what an HTTP client asks.
type HTTP struct {
	Address  string        // host and port
	TLS      *tls.Config   // nil: none
	Requests [][]byte      // whole requests, head and body; taken in turn
	Timeout  time.Duration // of one request, which may take up to an eighth longer; 0: none
	// Connect, when it is there, makes the connection in place of Address and TLS.
	Connect func(ctx context.Context) (net.Conn, error)
}

// httpCaller speaks HTTP/1.1 by hand over a kept connection: a generator often shares the processors with what it
// measures, so it does no more than it must.
type httpCaller struct {
	HTTP
	conn net.Conn // nil when it has to be made anew
	in   *bufio.Reader
	late time.Time   // the connection's deadline
	used time.Time   // when the last request began
	stop func() bool // of the watch over ctx
}

// DialHTTP makes a client with one connection, which is made anew when the server closes it.
func DialHTTP(ctx context.Context, to HTTP) (Caller, error) {
	c := &httpCaller{HTTP: to}
	if len(to.Requests) == 0 {
		return nil, errors.New("there is no request to send")
	}
	return c, c.connect(ctx)
}

func (c *httpCaller) connect(ctx context.Context) (err error) {
	dialer := &net.Dialer{Timeout: connectWithin}
	var conn net.Conn
	if c.Connect != nil {
		conn, err = c.Connect(ctx)
	} else if c.TLS != nil {
		conn, err = (&tls.Dialer{NetDialer: dialer, Config: c.TLS}).DialContext(ctx, "tcp", c.Address)
	} else {
		conn, err = dialer.DialContext(ctx, "tcp", c.Address)
	}
	if err != nil {
		return err
	}
	c.attach(ctx, conn)
	return nil
}

func (c *httpCaller) attach(ctx context.Context, conn net.Conn) {
	conn = socket.Poll(conn) // the less the generator takes, the more it measures of others
	c.conn, c.late = conn, time.Time{}
	if c.in == nil {
		c.in = bufio.NewReaderSize(conn, lineMax)
	} else {
		c.in.Reset(conn)
	}
	// An end of ctx wakes whoever reads or writes.
	c.stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}

// Close closes the connection.
func (c *httpCaller) Close() {
	if c.conn != nil {
		c.stop()
		_ = c.conn.Close() // nothing is left to be told
		c.conn = nil
	}
}

// Ask sends a request and reads its answer.
func (c *httpCaller) Ask(ctx context.Context, n int) error {
	now := time.Now()
	if now.Sub(c.used) > idleMax && !c.used.IsZero() {
		c.Close()
	}
	c.used = now
	if c.conn == nil {
		if err := c.connect(ctx); err != nil {
			return err
		}
	}
	if err := c.allow(ctx, now); err != nil {
		return err
	}
	keep, err := c.exchange(c.Requests[n%len(c.Requests)])
	if !keep {
		c.Close()
	}
	return err
}

// allow gives the next request its time. Setting a deadline costs more than looking at the clock, so one is set somewhat
// later than needed and then does for many requests.
func (c *httpCaller) allow(ctx context.Context, now time.Time) error {
	if c.Timeout <= 0 || c.late.Sub(now) >= c.Timeout {
		return nil
	}
	c.late = now.Add(c.Timeout + c.Timeout/8)
	if err := c.conn.SetDeadline(c.late); err != nil {
		return err
	}
	return ctx.Err() // its end may have set a deadline just before
}

// exchange says whether the connection can be used again.
func (c *httpCaller) exchange(request []byte) (keep bool, err error) {
	if _, err := c.conn.Write(request); err != nil {
		return false, err
	}
	var a answer
	for range interimMax {
		if a, err = c.head(); err != nil {
			return false, err
		}
		if a.status/100 != 1 {
			break
		}
	}
	if a.status == 200 {
		err := c.body(a, io.Discard)
		return a.keep && err == nil, err
	}
	var text bytes.Buffer
	if err := c.body(a, &limited{to: &text, left: errorMax}); err != nil {
		return false, err
	}
	return a.keep, &AnswerError{Code: fmt.Sprintf("http %d", a.status), Text: strings.ToValidUTF8(strings.TrimSpace(text.String()), "\ufffd")}
}

// answer is the head of an answer.
type answer struct {
	status  int
	length  int64 // -1: unknown
	chunked bool
	keep    bool // the connection
}

func (c *httpCaller) head() (answer, error) {
	a := answer{length: -1, keep: true}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return a, err
	}
	// HTTP/1.1 200 OK
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' {
		return a, fmt.Errorf("the answer is no HTTP/1.1: %q", line[:min(len(line), 64)])
	}
	a.keep = line[7] == '1'
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil || a.status < 100 {
		return a, fmt.Errorf("the answer has no status: %q", line[:min(len(line), 64)])
	}
	for range headersMax {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return a, err
		}
		if len(line) <= 2 {
			if a.status == 204 || a.status == 304 || a.status/100 == 1 {
				a.length, a.chunked = 0, false
			}
			return a, nil
		}
		if err := a.field(line); err != nil {
			return a, err
		}
	}
	return a, fmt.Errorf("the answer has more than %d headers", headersMax)
}

// field looks at the headers that say where the body ends. Their first letters sort out nearly all others.
func (a *answer) field(line []byte) (err error) {
	switch line[0] | 0x20 {
	case 'c':
		if value, ok := valueOf(line, "content-length"); ok {
			if a.length, err = strconv.ParseInt(string(value), 10, 64); err != nil || a.length < 0 {
				return fmt.Errorf("the answer has the length %q", value[:min(len(value), 64)])
			}
		} else if value, ok := valueOf(line, "connection"); ok && bytes.EqualFold(value, []byte("close")) {
			a.keep = false
		}
	case 't':
		if value, ok := valueOf(line, "transfer-encoding"); ok {
			if !bytes.EqualFold(value, []byte("chunked")) {
				return fmt.Errorf("the answer has the transfer encoding %q", value[:min(len(value), 64)])
			}
			a.chunked = true
		}
	}
	return nil
}

// valueOf gives the value of a header line, if it has that name, which is given in lower case.
func valueOf(line []byte, name string) ([]byte, bool) {
	if len(line) <= len(name) || line[len(name)] != ':' {
		return nil, false
	}
	for i := range len(name) {
		if c := line[i]; c != name[i] && c|0x20 != name[i] {
			return nil, false
		}
	}
	return bytes.TrimSpace(line[len(name)+1:]), true
}

func (c *httpCaller) body(a answer, to io.Writer) error {
	switch {
	case a.chunked:
		return c.chunks(to)
	case a.length < 0 && a.keep:
		return errors.New("the answer does not say where it ends")
	case a.length < 0:
		_, err := io.Copy(to, c.in)
		return err
	}
	return c.pass(a.length, to)
}

// pass reads n bytes. What nobody wants is not even copied.
func (c *httpCaller) pass(n int64, to io.Writer) error {
	if to == io.Discard {
		for n > 0 {
			skipped, err := c.in.Discard(int(min(n, 1<<30)))
			if err != nil {
				return err
			}
			n -= int64(skipped)
		}
		return nil
	}
	_, err := io.CopyN(to, c.in, n)
	return err
}

func (c *httpCaller) chunks(to io.Writer) error {
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte{';'})
		n, err := strconv.ParseInt(string(size), 16, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("the answer has a chunk of the size %q", size[:min(len(size), 64)])
		}
		if n == 0 {
			break
		}
		if err := c.pass(n, to); err != nil {
			return err
		}
		if _, err := c.in.Discard(2); err != nil {
			return err
		}
	}
	for range headersMax { // trailers
		line, err := c.in.ReadSlice('\n')
		if err != nil || len(line) <= 2 {
			return err
		}
	}
	return fmt.Errorf("the answer has more than %d trailers", headersMax)
}

// limited passes on the first bytes and swallows the rest.
type limited struct {
	to   io.Writer
	left int
}

// Write never fails for what it swallows.
func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	if _, err := l.to.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}

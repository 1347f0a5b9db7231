package gateway

import (
	"bytes"
	"strconv"
)

// watch follows the HTTP/1 requests on a connection to find those whose length is in doubt: net/http drops a
// Content-Length beside a Transfer-Encoding without a word, while another reader on the way may have believed it. It follows
// the framing alone and forgets what passed. What it cannot follow counts as found; TLS and HTTP/2 are left alone, as their
// framing has no such doubt.
type watch struct {
	state    watchState
	requests int64    // begun, with the present one
	line     [64]byte // the beginning of the present line
	seen     int      // of the present line
	lines    int      // of the present header
	left     int64    // bytes of body or chunk still to pass
	length   int64    // Content-Length, -1 when none
	coded    bool     // Transfer-Encoding was there
}

type watchState uint8

const (
	atHeader watchState = iota
	atBody
	atChunkSize
	atChunk
	atTrailer
	watchOff
)

// feed takes the next bytes and reports whether a doubtful request was found in them.
func (w *watch) feed(b []byte) (found bool) {
	for len(b) > 0 && w.state != watchOff {
		if w.state == atBody || w.state == atChunk {
			n := min(int64(len(b)), w.left)
			b = b[n:]
			if w.left -= n; w.left == 0 {
				w.next()
			}
			continue
		}
		end := bytes.IndexByte(b, '\n')
		part := b
		if end >= 0 {
			part = b[:end]
		}
		if w.seen < len(w.line) {
			copy(w.line[w.seen:], part)
		}
		w.seen += len(part)
		if w.state == atHeader && w.lines == 0 && w.seen > 0 && w.line[0] == 0x16 {
			w.state = watchOff // a TLS handshake
			return false
		}
		if end < 0 {
			return false
		}
		b = b[end+1:]
		line := bytes.TrimSuffix(w.line[:min(w.seen, len(w.line))], []byte("\r"))
		w.seen = 0
		if w.take(line) {
			w.state = watchOff
			return true
		}
	}
	return false
}

// next moves on when a body or a chunk has passed.
func (w *watch) next() {
	if w.state == atChunk {
		w.state = atChunkSize
		return
	}
	w.state, w.lines = atHeader, 0
}

// take reads the beginning of one line; true means that the request is in doubt.
func (w *watch) take(line []byte) bool {
	switch w.state {
	case atChunkSize:
		return w.chunk(line)
	case atTrailer:
		if len(line) == 0 {
			w.state, w.lines = atHeader, 0
		}
		return false
	}
	w.lines++
	switch {
	case w.lines == 1:
		w.requests++
		w.length, w.coded = -1, false
		if bytes.HasPrefix(line, []byte("PRI * HTTP/2")) {
			w.state = watchOff
		}
		return len(line) == 0
	case len(line) == 0:
		return w.headerEnd()
	case line[0] == ' ' || line[0] == '\t':
		return true
	}
	name, value, _ := bytes.Cut(line, []byte(":"))
	name = bytes.TrimSpace(name)
	switch {
	case bytes.EqualFold(name, []byte("Transfer-Encoding")):
		w.coded = true
	case bytes.EqualFold(name, []byte("Content-Length")):
		n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
		if err != nil || n < 0 || w.length >= 0 && w.length != n {
			return true
		}
		w.length = n
	}
	return false
}

func (w *watch) headerEnd() bool {
	w.lines = 0
	switch {
	case w.coded && w.length >= 0:
		return true
	case w.coded:
		w.state = atChunkSize
	case w.length > 0:
		w.state, w.left = atBody, w.length
	}
	return false
}

// chunk reads the line of a chunk's size; the data and its line end follow.
func (w *watch) chunk(line []byte) bool {
	digits := 0
	for digits < len(line) && isHex(line[digits]) {
		digits++
	}
	size, err := strconv.ParseInt(string(line[:digits]), 16, 64)
	if err != nil || size > 1<<40 {
		return true
	}
	if size == 0 {
		w.state = atTrailer
		return false
	}
	// The line end behind the data is CRLF: a reader that takes a bare LF there is in doubt with the others.
	w.state, w.left = atChunk, size+2
	return false
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

package rpc

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// field is one line of a call's header.
type field struct{ name, value string }

// fieldCost is what the standard counts for a field beside its bytes.
const fieldCost = 32

// emit takes a field from the decoder. What is over the limit is forgotten, not kept; the connection's table of fields
// stays right.
func (c *conn) emit(f hpack.HeaderField) {
	c.fieldBytes += len(f.Name) + len(f.Value) + fieldCost
	if c.fieldBytes <= c.server.limits.HeaderBytes {
		c.fields = append(c.fields, field{f.Name, f.Value})
	}
}

// request is what a call's header asks for.
type request struct {
	method, path string
	contentType  string
	coding       string // grpc-encoding; empty for messages as they are
	timeout      time.Duration
	length       int64   // content-length; -1 for none
	fields       []field // the others, in order
}

// read checks a header as RFC 9113 8.2 and 8.3 want; false means that it is malformed.
func (r *request) read(fields []field) bool {
	var scheme string
	r.length = -1
	pseudo, rest := 0, fields
	for len(rest) > 0 && strings.HasPrefix(rest[0].name, ":") {
		var to *string
		switch rest[0].name {
		case ":method":
			to = &r.method
		case ":path":
			to = &r.path
		case ":scheme":
			to = &scheme
		case ":authority":
			to = new(string)
		default:
			return false
		}
		if *to != "" || pseudo == 4 {
			return false
		}
		*to = rest[0].value
		pseudo++
		rest = rest[1:]
	}
	if r.method == "" || r.path == "" || scheme == "" {
		return false
	}
	for i := range rest {
		if !r.field(&rest[i]) {
			return false
		}
	}
	r.fields = rest
	return true
}

// field reads one field behind the pseudo ones.
func (r *request) field(f *field) bool {
	if !plainName(f.name) || !httpguts.ValidHeaderFieldValue(f.value) {
		return false
	}
	switch f.name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return false
	case "content-length":
		n, err := strconv.ParseUint(f.value, 10, 62)
		if err != nil || r.length >= 0 && r.length != int64(n) {
			return false
		}
		r.length = int64(n)
	case "te":
		return f.value == "trailers"
	case "content-type":
		r.contentType = f.value
	case "grpc-encoding":
		if r.coding = f.value; r.coding == "identity" {
			r.coding = ""
		}
	case "grpc-timeout":
		timeout, ok := parseTimeout(f.value)
		r.timeout = timeout
		return ok
	default:
		if strings.HasSuffix(f.name, "-bin") {
			value, ok := binaryValue(f.value)
			f.value = value
			return ok
		}
	}
	return true
}

// plainName reports a field name of lower-case letters, digits and the marks that names may hold.
func plainName(name string) bool {
	if name == "" || name[0] == ':' {
		return false
	}
	for i := range len(name) {
		if c := name[i]; 'A' <= c && c <= 'Z' || !httpguts.IsTokenRune(rune(c)) {
			return false
		}
	}
	return true
}

// binaryValue decodes a field whose name ends in -bin, with or without padding.
func binaryValue(text string) (string, bool) {
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	return string(b), err == nil
}

// parseTimeout reads grpc-timeout: at most eight digits and a unit.
func parseTimeout(text string) (time.Duration, bool) {
	if len(text) < 2 || len(text) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	unit := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second,
		'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}[text[len(text)-1]]
	if unit == 0 {
		return 0, false
	}
	const longest = 24 * 365 * time.Hour // beyond it nobody waits, and hours would overflow
	if time.Duration(n) > longest/unit {
		return longest, true
	}
	return max(time.Duration(n)*unit, 1), true
}

// grpcType reports whether a content type is gRPC's with protobuf messages, which is the one that methods speak.
func grpcType(text string) bool {
	rest, ok := strings.CutPrefix(text, plainType)
	return ok && (rest == "" || rest == "+proto" || strings.HasPrefix(rest, ";") || strings.HasPrefix(rest, "+proto;"))
}

const plainType = "application/grpc"

// Prefixes and numbers of field representations, RFC 7541 6 and appendix A.
const (
	indexed    = 0x80
	intoTable  = 0x40
	sizeUpdate = 0x20
	notKept    = 0x00

	staticStatus = 8  // :status: 200, and :status alone
	staticType   = 31 // content-type
	staticFields = 61

	tableExpected = 4096 // the peer's table, unless it says otherwise
)

// table is what this end has put into the peer's table of header fields: the two fields that every answer has, so that
// they take a byte each from the second time on. Guarded by conn.mu: it depends on the order of what is sent.
type table struct {
	off    bool // the peer wants a small table: nothing is put there
	empty  bool // the next block has to say that the table is empty from now on
	kept   int
	typeAt int // position, from 1; 0: not there
	okAt   int
}

// shrink follows the peer's setting.
func (t *table) shrink(size uint32) {
	if size < tableExpected && !t.off {
		*t = table{off: true, empty: true}
	}
}

// field writes a field by its place in the table, or puts it there; name is its number in the standard's table, 0 for none.
func (t *table) field(dst []byte, at *int, static int, name, value string) []byte {
	switch {
	case *at > 0:
		return appendInt(dst, indexed, 7, staticFields+1+t.kept-*at)
	case t.off:
		dst = appendInt(dst, notKept, 4, static)
	default:
		dst = appendInt(dst, intoTable, 6, static)
		t.kept++
		*at = t.kept
	}
	if static == 0 {
		dst = appendString(dst, name)
	}
	return appendString(dst, value)
}

// appendHeader needs mu: the header of an answer.
func (c *conn) appendHeader(s *stream) {
	at := c.beginBlock()
	c.appendOpening(s)
	if s.answerCoding != "" {
		c.appendField("grpc-encoding", s.answerCoding)
	}
	c.endBlock(at, s.id, 0)
	s.answering = true
}

// appendTrailer needs mu: how the call ended; with the header, when nothing was sent before.
func (c *conn) appendTrailer(s *stream, st *status.Status, more []string) {
	at := c.beginBlock()
	if !s.answering {
		c.appendOpening(s)
	}
	if st.Code() == codes.OK {
		c.out = c.table.field(c.out, &c.table.okAt, 0, "grpc-status", "0")
	} else {
		c.appendField("grpc-status", strconv.Itoa(int(st.Code())))
	}
	if text := st.Message(); text != "" {
		c.appendField("grpc-message", percent(text))
	}
	if p := st.Proto(); p != nil && len(p.GetDetails()) > 0 {
		if b, err := proto.Marshal(p); err == nil && len(b) <= messageBytes {
			c.appendField("grpc-status-details-bin", base64.RawStdEncoding.EncodeToString(b))
		}
	}
	for i := 0; i+1 < len(more); i += 2 {
		c.appendField(more[i], more[i+1])
	}
	c.endBlock(at, s.id, flagEndStream)
	s.answering = true
}

// appendOpening needs mu: what every answer begins with.
func (c *conn) appendOpening(s *stream) {
	c.out = append(c.out, indexed|staticStatus)
	if s.contentType == plainType {
		c.out = c.table.field(c.out, &c.table.typeAt, staticType, "", plainType)
	} else {
		c.out = appendString(appendInt(c.out, notKept, 4, staticType), s.contentType)
	}
	for i := 0; i+1 < len(s.extra); i += 2 {
		c.appendField(s.extra[i], s.extra[i+1])
	}
}

// appendRefusal needs mu: the header of an answer for who does not speak gRPC.
func (c *conn) appendRefusal(s *stream) {
	at := c.beginBlock()
	c.out = appendString(appendInt(c.out, notKept, 4, staticStatus), strconv.Itoa(s.refused))
	c.out = appendString(appendInt(c.out, notKept, 4, staticType), "text/plain; charset=utf-8")
	if s.refused == http.StatusMethodNotAllowed {
		c.appendField("allow", http.MethodPost)
	}
	c.endBlock(at, s.id, 0)
	s.answering = true
}

// beginBlock needs mu. It leaves room for the frame's beginning, which endBlock fills in.
func (c *conn) beginBlock() (at int) {
	at = len(c.out)
	c.out = appendFrame(c.out, frameHeaders, flagEndHeaders, 0, 0)
	if c.table.empty {
		c.out = append(c.out, sizeUpdate)
		c.table.empty = false
	}
	return at
}

// endBlock needs mu.
func (c *conn) endBlock(at int, id uint32, flags byte) {
	appendFrame(c.out[:at], frameHeaders, flags|flagEndHeaders, id, len(c.out)-at-frameStart)
	c.spoke = true
}

// appendField needs mu: a field that no table keeps.
func (c *conn) appendField(name, value string) {
	c.out = append(c.out, notKept)
	c.out = appendString(appendString(c.out, name), value)
}

// appendInt writes a number with a prefix of bits, RFC 7541 5.1.
func appendInt(dst []byte, first byte, bits, n int) []byte {
	most := 1<<bits - 1
	if n < most {
		return append(dst, first|byte(n))
	}
	dst = append(dst, first|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

// appendString writes a string as it is.
func appendString(dst []byte, s string) []byte {
	return append(appendInt(dst, 0, 7, len(s)), s...)
}

// messageBytes bounds the text of a status: a header has to fit a frame.
const messageBytes = 4 << 10

// percent writes a status's text as gRPC wants it in a header.
func percent(text string) string {
	if len(text) > messageBytes {
		text = text[:messageBytes]
	}
	plain := true
	for i := range len(text) {
		plain = plain && text[i] >= ' ' && text[i] < 0x7f && text[i] != '%'
	}
	if plain {
		return text
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c >= ' ' && c < 0x7f && c != '%' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

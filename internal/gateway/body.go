package gateway

import (
	"bufio"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/penstock/penstock/api"
)

// bodyClasses are the sizes of pooled body memory. Larger bodies are left to the garbage collector.
var bodyClasses = [...]int{4 << 10, 64 << 10, 1 << 20, 16 << 20}

// sharedBody is the size from which body memory is asked of Options.Memory.
const sharedBody = 16 << 10

// firstBody is the most that a Content-Length is believed before any byte has come.
const firstBody = 1 << 20

// bodyAlign is where the part after a binary request's JSON begins, so that native readers find its first tensor aligned.
const bodyAlign = 64

// Body is a request's body in memory. Release gives the memory back; nothing may alias it afterwards. The zero value is empty.
type Body struct {
	Data  []byte
	s     *Server
	block block
	held  int64
	pace  paced
}

// block is the memory under a body.
type block struct {
	bytes  []byte
	pooled *[]byte // the same, when it came from a pool
	shared bool    // it came from Options.Memory
}

// Release gives the body's memory back.
func (b *Body) Release() {
	if b.s == nil {
		return
	}
	b.drop()
	*b = Body{}
}

// drop gives the block back and keeps the rest.
func (b *Body) drop() {
	b.s.Free(b.held)
	b.held = 0
	b.s.give(b.block)
	b.block = block{}
}

// ReadBody reads a request's whole body into b, at most limit bytes of it, decoded when it is compressed. The memory grows with
// what really arrives. lead is how many bytes stand before the part to align; 0 when there is no such part. The caller must
// release the body, also after an error.
func (s *Server) ReadBody(b *Body, w http.ResponseWriter, r *http.Request, limit, lead int64) error {
	*b = Body{s: s}
	if r.ContentLength > limit {
		return tooLarge(limit)
	}
	b.pace = paced{body: r.Body, w: w, grace: s.config.BodyGrace, rate: s.config.BodyBytesPerSec, started: time.Now()}
	reader, err := s.inflate(r, b, limit)
	if err != nil {
		return err
	}
	// One byte more than announced, so that the end is seen without another step; nothing is believed of a compressed body.
	most, first := limit+1, int64(4<<10)
	if r.ContentLength >= 0 && reader == &b.pace {
		most = r.ContentLength + 1
		first = min(most, firstBody)
	}
	pad := -lead & (bodyAlign - 1)
	if err := b.grow(0, first+pad); err != nil {
		return err
	}
	for n := pad; ; {
		size := int64(len(b.block.bytes))
		if n == size {
			if err := b.grow(n, max(n+1, min(4*size, most+pad))); err != nil {
				return err
			}
		}
		got, err := reader.Read(b.block.bytes[n:])
		n += int64(got)
		if n-pad > limit {
			return tooLarge(limit)
		}
		if err == io.EOF {
			b.pace.done()
			b.Data = b.block.bytes[pad:n:n]
			return nil
		}
		if err != nil {
			return readFault(err)
		}
	}
}

// grow makes room for size bytes and keeps the first n.
func (b *Body) grow(n, size int64) error {
	if b.block.shared {
		if grown, err := b.widen(size); grown || err != nil {
			return err
		}
	}
	next := Body{s: b.s, block: b.s.take(size)}
	next.held = int64(len(next.block.bytes))
	if err := b.s.Hold(next.held); err != nil {
		next.held = 0
		next.drop()
		return err
	}
	copy(next.block.bytes[:n], b.block.bytes)
	b.drop()
	b.block, b.held = next.block, next.held
	return nil
}

// widen is grow where the memory lies.
func (b *Body) widen(size int64) (grown bool, err error) {
	wide := b.s.memory.Grow(b.block.bytes, int(size))
	if wide == nil {
		return false, nil
	}
	b.block.bytes = wide
	more := int64(len(wide)) - b.held
	if err := b.s.Hold(more); err != nil {
		return false, err
	}
	b.held += more
	return true, nil
}

// Hold counts n bytes of a request against the limit on all of them; what was held must be freed. It is for memory that
// others allocated: ReadBody counts its own.
func (s *Server) Hold(n int64) error {
	if now := s.inFlight.Add(n); now > s.config.InFlightBytes {
		s.inFlight.Add(-n)
		return api.Fail(api.CodeQueueFull, "", "request bodies in memory are at the limit of %d bytes", s.config.InFlightBytes)
	}
	return nil
}

// Free ends a Hold.
func (s *Server) Free(n int64) { s.inFlight.Add(-n) }

// take gives memory of at least size bytes: for large bodies such that the workers see too, else from a pool where there is
// one for the size.
func (s *Server) take(size int64) block {
	if s.memory != nil && size > sharedBody {
		if b := s.memory.Take(int(size)); b != nil {
			return block{bytes: b, shared: true}
		}
	}
	for i, class := range bodyClasses {
		if size > int64(class) {
			continue
		}
		if p, ok := s.bodies[i].Get().(*[]byte); ok {
			return block{bytes: *p, pooled: p}
		}
		b := make([]byte, class)
		return block{bytes: b, pooled: &b}
	}
	return block{bytes: make([]byte, size)}
}

// give takes a block back.
func (s *Server) give(b block) {
	if b.shared {
		s.memory.Give(b.bytes)
	}
	if b.pooled == nil {
		return
	}
	for i, size := range bodyClasses {
		if len(b.bytes) == size {
			s.bodies[i].Put(b.pooled)
		}
	}
}

func tooLarge(limit int64) error {
	return api.Fail(api.CodeTooLarge, "", "the body is larger than the limit of %d bytes", limit)
}

// readFault explains why a body ended early.
func readFault(err error) error {
	var known *api.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, os.ErrDeadlineExceeded):
		return api.Fail(api.CodeDeadline, "", "the body came slower than the minimum rate").Because(err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return api.Fail(api.CodeBadRequest, "", "the body ended before its announced length").Because(err)
	}
	return api.Fail(api.CodeBadRequest, "", "the body could not be read").Because(err)
}

// inflate puts the decoder before a compressed body. One coding is taken, and no more than limit bytes of its result.
func (s *Server) inflate(r *http.Request, b *Body, limit int64) (io.Reader, error) {
	encodings := r.Header["Content-Encoding"]
	if len(encodings) == 0 {
		return &b.pace, nil
	}
	coding := strings.ToLower(strings.TrimSpace(strings.Join(encodings, ",")))
	packed := bufio.NewReader(&b.pace)
	var decoder io.Reader
	var err error
	switch coding {
	case "", "identity":
		return &b.pace, nil
	case "gzip":
		var z *gzip.Reader
		if z, err = gzip.NewReader(packed); err == nil {
			z.Multistream(false) // one member is what a client sends; a chain of them is somebody's trick
			decoder = z
		}
	case "deflate":
		decoder, err = zlib.NewReader(packed)
	default:
		return nil, api.Fail(api.CodeBadRequest, "", "Content-Encoding must be one of gzip and deflate, once")
	}
	if err != nil {
		return nil, api.Fail(api.CodeBadRequest, "", "the body is not valid %s", coding).Because(err)
	}
	return &ratio{from: decoder, packed: packed, pace: &b.pace, most: s.config.InflateRatio, limit: limit}, nil
}

// paced sets the connection's read deadline ahead of every read, so that a body must keep its minimum rate.
type paced struct {
	body    io.Reader
	w       http.ResponseWriter
	grace   time.Duration
	rate    int64
	started time.Time
	read    int64
	until   time.Time // the deadline that is set
}

func (p *paced) Read(b []byte) (int, error) {
	earned := time.Duration(p.read/p.rate) * time.Second
	if until := p.started.Add(p.grace + earned); until != p.until {
		p.until = until
		// Where the connection takes no deadline (a test's recorder), there is no slow caller either.
		_ = SetReadDeadline(p.w, until)
	}
	n, err := p.body.Read(b)
	p.read += int64(n)
	return n, err
}

// done takes the deadline away again: the server goes on reading the connection to notice that the caller hangs up.
func (p *paced) done() { _ = SetReadDeadline(p.w, time.Time{}) }

// ratio stops a decoder whose output outgrows its input.
type ratio struct {
	from   io.Reader
	packed *bufio.Reader
	pace   *paced
	most   int64
	limit  int64
	given  int64
}

// ratioFree is what a body may become whatever its ratio: small bodies of zeros are honest.
const ratioFree = 1 << 20

func (r *ratio) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	r.given += int64(n)
	if r.given > ratioFree && r.given > r.pace.read*r.most {
		return n, api.Fail(api.CodeTooLarge, "", "the body becomes more than %d times its compressed size", r.most)
	}
	if r.given > r.limit {
		return n, tooLarge(r.limit)
	}
	if err != nil && err != io.EOF {
		return n, api.Fail(api.CodeBadRequest, "", "the compressed body is damaged").Because(err)
	}
	if err == io.EOF {
		if _, more := r.packed.ReadByte(); more != io.EOF {
			return n, api.Fail(api.CodeBadRequest, "", "something follows the compressed body")
		}
	}
	return n, err
}

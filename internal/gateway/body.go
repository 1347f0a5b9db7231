package gateway

import (
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

// firstBody is the most that a Content-Length is believed before any byte has come.
const firstBody = 1 << 20

// bodyAlign is where the part after a binary request's JSON begins, so that native readers find its first tensor aligned.
const bodyAlign = 64

// Body is a request's body in memory. Release gives the memory back; nothing may alias it afterwards.
type Body struct {
	Data  []byte
	s     *Server
	block []byte
	held  int64
}

// Release gives the body's memory back.
func (b *Body) Release() {
	if b.s == nil {
		return
	}
	b.s.inFlight.Add(-b.held)
	for i, size := range bodyClasses {
		if cap(b.block) == size {
			block := b.block[:0]
			b.s.bodies[i].Put(&block)
		}
	}
	*b = Body{s: b.s}
}

// ReadBody reads a request's whole body, at most limit bytes of it, decoded when it is compressed. The memory grows with
// what really arrives. lead is how many bytes stand before the part to align; 0 when there is no such part. The caller must
// release the body, also after an error.
func (s *Server) ReadBody(w http.ResponseWriter, r *http.Request, limit, lead int64) (*Body, error) {
	b := &Body{s: s}
	if r.ContentLength > limit {
		return b, tooLarge(limit)
	}
	reader, err := s.inflate(w, r, limit)
	if err != nil {
		return b, err
	}
	expect := r.ContentLength
	if reader.inflated || expect < 0 {
		expect = 4 << 10
	}
	pad := int(-lead & (bodyAlign - 1))
	if err := b.grow(pad, int(min(expect, firstBody))+pad+1); err != nil {
		return b, err
	}
	for n := pad; ; {
		if n == cap(b.block) {
			// One byte more than announced, so that the end is seen without another step.
			next := min(int64(cap(b.block))*4, limit+int64(pad)+1)
			if !reader.inflated && r.ContentLength >= 0 {
				next = min(next, r.ContentLength+int64(pad)+1)
			}
			if err := b.grow(n, int(max(next, int64(n)+1))); err != nil {
				return b, err
			}
		}
		got, err := reader.Read(b.block[n:cap(b.block)])
		n += got
		if int64(n-pad) > limit {
			return b, tooLarge(limit)
		}
		if err == io.EOF {
			reader.done()
			b.Data = b.block[pad:n:n]
			return b, nil
		}
		if err != nil {
			return b, readFault(err)
		}
	}
}

// grow makes room for size bytes and keeps the first n.
func (b *Body) grow(n, size int) error {
	block := b.s.block(size)
	add := int64(cap(block))
	if now := b.s.inFlight.Add(add); now > b.s.config.InFlightBytes {
		b.s.inFlight.Add(-add)
		return api.Fail(api.CodeQueueFull, "", "request bodies in memory are at the limit of %d bytes", b.s.config.InFlightBytes)
	}
	copy(block[:n], b.block[:min(n, cap(b.block))])
	old := Body{s: b.s, block: b.block, held: b.held}
	old.Release()
	b.block, b.held = block[:cap(block)], add
	return nil
}

// block takes pooled memory of at least size bytes.
func (s *Server) block(size int) []byte {
	for i, class := range bodyClasses {
		if size > class {
			continue
		}
		if p, ok := s.bodies[i].Get().(*[]byte); ok {
			return *p
		}
		return make([]byte, 0, class)
	}
	return make([]byte, 0, size)
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

// bodyReader reads a body under its minimum rate.
type bodyReader struct {
	io.Reader
	inflated bool
	paced    *paced
}

func (b bodyReader) done() { b.paced.done() }

// inflate puts the decoder before a compressed body. One coding is taken, and no more than limit bytes of its result.
func (s *Server) inflate(w http.ResponseWriter, r *http.Request, limit int64) (bodyReader, error) {
	p := &paced{body: r.Body, control: http.NewResponseController(w), grace: s.config.BodyGrace, rate: s.config.BodyBytesPerSec, started: time.Now()}
	plain := bodyReader{Reader: p, paced: p}
	encodings := r.Header["Content-Encoding"]
	if len(encodings) == 0 {
		return plain, nil
	}
	coding := strings.ToLower(strings.TrimSpace(strings.Join(encodings, ",")))
	var decoder io.Reader
	var err error
	switch coding {
	case "", "identity":
		return plain, nil
	case "gzip":
		var z *gzip.Reader
		if z, err = gzip.NewReader(p); err == nil {
			z.Multistream(false) // one member: a chain of them is a way around the ratio
			decoder = z
		}
	case "deflate":
		decoder, err = zlib.NewReader(p)
	default:
		return plain, api.Fail(api.CodeBadRequest, "", "Content-Encoding must be one of gzip and deflate, once")
	}
	if err != nil {
		return plain, api.Fail(api.CodeBadRequest, "", "the body is not valid %s", coding).Because(err)
	}
	return bodyReader{Reader: &ratio{from: decoder, packed: p, most: s.config.InflateRatio, limit: limit}, inflated: true, paced: p}, nil
}

// paced sets the connection's read deadline ahead of every read, so that a body must keep its minimum rate.
type paced struct {
	body    io.Reader
	control *http.ResponseController
	grace   time.Duration
	rate    int64
	started time.Time
	read    int64
}

func (p *paced) Read(b []byte) (int, error) {
	earned := time.Duration(p.read/p.rate) * time.Second
	// Where the connection takes no deadline (a test's recorder), there is no slow caller either.
	_ = p.control.SetReadDeadline(p.started.Add(p.grace + earned))
	n, err := p.body.Read(b)
	p.read += int64(n)
	return n, err
}

// done takes the deadline away again: the server goes on reading the connection to notice that the caller hangs up.
func (p *paced) done() { _ = p.control.SetReadDeadline(time.Time{}) }

// ratio stops a decoder whose output outgrows its input.
type ratio struct {
	from   io.Reader
	packed *paced
	most   int64
	limit  int64
	given  int64
}

// ratioFree is what a body may become whatever its ratio: small bodies of zeros are honest.
const ratioFree = 1 << 20

func (r *ratio) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	r.given += int64(n)
	if r.given > ratioFree && r.given > r.packed.read*r.most {
		return n, api.Fail(api.CodeTooLarge, "", "the body becomes more than %d times its compressed size", r.most)
	}
	if r.given > r.limit {
		return n, tooLarge(r.limit)
	}
	if err != nil && err != io.EOF {
		return n, api.Fail(api.CodeBadRequest, "", "the compressed body is damaged").Because(err)
	}
	return n, err
}

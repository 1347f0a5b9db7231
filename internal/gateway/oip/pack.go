package oip

import (
	"compress/zlib"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// packFrom is the smallest answer that is compressed, and only for callers who ask: below it, one packet carries both.
const packFrom = 1 << 10

// packer compresses one answer at a time.
type packer struct {
	coding string
	stream interface {
		io.WriteCloser
		Reset(io.Writer)
	}
}

// Write compresses data.
func (p *packer) Write(data []byte) (int, error) { return p.stream.Write(data) }

// Close ends the compressed form.
func (p *packer) Close() error { return p.stream.Close() }

// Reset begins a new answer.
func (p *packer) Reset(w io.Writer) { p.stream.Reset(w) }

// packer gives what compresses an answer of size bytes for this caller; nil when it goes as it is.
func (p *protocol) packer(r *http.Request, size int64) *packer {
	if size < packFrom || r.Method == http.MethodHead {
		return nil
	}
	switch coding := accepted(r.Header["Accept-Encoding"]); coding {
	case "gzip":
		if used, ok := p.gzips.Get().(*packer); ok {
			return used
		}
		z, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
		if err != nil {
			return nil // the level is valid
		}
		return &packer{coding: coding, stream: z}
	case "deflate":
		if used, ok := p.deflates.Get().(*packer); ok {
			return used
		}
		z, err := zlib.NewWriterLevel(io.Discard, zlib.BestSpeed)
		if err != nil {
			return nil // the level is valid
		}
		return &packer{coding: coding, stream: z}
	}
	return nil
}

func (p *protocol) giveBack(used *packer) {
	used.Reset(io.Discard)
	if used.coding == "gzip" {
		p.gzips.Put(used)
		return
	}
	p.deflates.Put(used)
}

// accepted picks the coding of an answer: gzip before deflate, as named; a weight of 0 refuses, any other is a yes.
func accepted(values []string) string {
	best := ""
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			name, parameter, _ := strings.Cut(name, ";")
			if weight, ok := strings.CutPrefix(strings.TrimSpace(parameter), "q="); ok {
				if q, err := strconv.ParseFloat(weight, 64); err != nil || q <= 0 {
					continue
				}
			}
			switch coding := strings.ToLower(strings.TrimSpace(name)); coding {
			case "gzip":
				return coding
			case "deflate":
				best = coding
			}
		}
	}
	return best
}

package oip

import (
	"compress/zlib"
	"io"
	"sync"

	"google.golang.org/grpc/encoding"
)

// RegisterDeflate lets clients compress messages with deflate, which is a zlib stream in gRPC as in HTTP; the transport
// brings gzip alone. The transport's table of compressors is the process's own, so it is done once, and before any server
// runs. What a message becomes is bounded by the transport, for every compressor alike: it reads one byte more than the limit
// on messages and refuses what has one.
var RegisterDeflate = sync.OnceFunc(func() {
	encoding.RegisterCompressor(&deflate{})
})

// deflate is the compressor; what it needs for one message is kept for the next.
type deflate struct{ readers, writers sync.Pool }

// Name is the coding's name in grpc-encoding.
func (d *deflate) Name() string { return "deflate" }

// Compress gives a writer of a zlib stream; the message ends with its Close.
func (d *deflate) Compress(w io.Writer) (io.WriteCloser, error) {
	if used, ok := d.writers.Get().(*deflater); ok {
		used.Reset(w)
		return used, nil
	}
	z, err := zlib.NewWriterLevel(w, zlib.BestSpeed)
	if err != nil {
		return nil, err
	}
	return &deflater{Writer: z, pool: &d.writers}, nil
}

// Decompress gives a reader of a zlib stream. The transport closes it when it has what it wants.
func (d *deflate) Decompress(r io.Reader) (io.Reader, error) {
	if used, ok := d.readers.Get().(*inflater); ok {
		if err := used.ReadCloser.(zlib.Resetter).Reset(r, nil); err != nil {
			d.readers.Put(used)
			return nil, err
		}
		return used, nil
	}
	z, err := zlib.NewReader(r)
	if err != nil {
		return nil, err
	}
	return &inflater{ReadCloser: z, pool: &d.readers}, nil
}

type deflater struct {
	*zlib.Writer
	pool *sync.Pool
}

// Close ends the stream.
func (d *deflater) Close() error {
	err := d.Writer.Close()
	d.Reset(io.Discard) // lets go of the message
	d.pool.Put(d)
	return err
}

type inflater struct {
	io.ReadCloser
	pool *sync.Pool
}

// Close keeps the reader for another message.
func (i *inflater) Close() error {
	err := i.ReadCloser.Close()
	i.pool.Put(i)
	return err
}

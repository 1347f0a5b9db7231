package client

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/penstock/penstock/api"
)

// Blob is a file to upload. Open is called once per try and must give the same bytes each time.
type Blob struct {
	Digest   api.Digest
	Size     int64
	Open     func() (io.ReadCloser, error)
	Progress func(sent int64) // told the bytes sent so far in this try; may be nil
}

// HasBlob asks whether the server holds a blob.
func (c *Client) HasBlob(ctx context.Context, d api.Digest) (bool, error) {
	err := c.do(ctx, exchange{method: http.MethodHead}, "blobs", string(d))
	if api.KindOf(err) == api.NotFound && err != nil {
		return false, nil
	}
	return err == nil, err
}

// PutBlob streams a blob to the server, which checks its digest.
func (c *Client) PutBlob(ctx context.Context, b Blob) (api.BlobInfo, error) {
	stream := func() (io.ReadCloser, error) {
		file, err := b.Open()
		if err != nil {
			return nil, api.Fail(api.CodeBadRequest, "", "the file cannot be read: %w", err)
		}
		return &countedReader{ReadCloser: file, told: b.Progress}, nil
	}
	return send[api.BlobInfo](ctx, c, exchange{method: http.MethodPost, query: url.Values{"digest": {string(b.Digest)}}, stream: stream, length: b.Size}, "blobs")
}

// Commit makes a version of uploaded blobs.
func (c *Client) Commit(ctx context.Context, m api.ModelName, up api.Upload) (api.Version, error) {
	return send[api.Version](ctx, c, exchange{method: http.MethodPost, json: up}, "models", string(m), "versions")
}

type countedReader struct {
	io.ReadCloser
	sent int64
	told func(int64)
}

// Read passes bytes on and tells how many went so far.
func (r *countedReader) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	r.sent += int64(n)
	if r.told != nil {
		r.told(r.sent)
	}
	return n, err
}

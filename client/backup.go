package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/penstock/penstock/api"
)

// Backup streams a backup of the server's whole data directory to w. Only when it returns without error has w every
// byte: the server says their count and digest at the end.
func (c *Client) Backup(ctx context.Context, w io.Writer) (api.BlobInfo, error) {
	return c.backup(ctx, w, nil)
}

// BackupWithoutBlobs is Backup for servers whose blob store keeps copies of its own.
func (c *Client) BackupWithoutBlobs(ctx context.Context, w io.Writer) (api.BlobInfo, error) {
	return c.backup(ctx, w, url.Values{"without_blobs": {"1"}})
}

func (c *Client) backup(ctx context.Context, w io.Writer, query url.Values) (api.BlobInfo, error) {
	response, err := c.send(ctx, exchange{method: http.MethodGet, path: control("backup"), query: query})
	if err != nil {
		return api.BlobInfo{}, err
	}
	defer response.Body.Close()
	hash := sha256.New()
	size, err := io.Copy(io.MultiWriter(w, hash), response.Body)
	if err != nil {
		return api.BlobInfo{}, failed(ctx, err)
	}
	got := api.BlobInfo{Digest: api.Digest("sha256:" + hex.EncodeToString(hash.Sum(nil))), Size: size}
	told := response.Trailer.Get("Penstock-Backup-Digest")
	if told == "" || response.Trailer.Get("Penstock-Backup-Size") != strconv.FormatInt(size, 10) || told != string(got.Digest) {
		return got, api.Fail(api.CodeDigestMismatch, "", "the backup was damaged or cut short on the way").WithCure("Take the backup again.")
	}
	return got, nil
}

package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"

	"github.com/penstock/penstock/api"
)

// paperMax bounds what Referrer reads of one paper, in bytes.
const paperMax = 64 << 20

// Referrers lists what is attached to a version; of one type when it is given.
func (c *Client) Referrers(ctx context.Context, ref api.Ref, kind string, page Page) (api.List[api.Referrer], error) {
	query := page.query("after")
	if kind != "" {
		query.Set("type", kind)
	}
	return ask[api.List[api.Referrer]](ctx, c, query, "models", string(ref.Model), "versions", pick(ref), "referrers")
}

// Referrer downloads one paper that is attached to a version, whole.
func (c *Client) Referrer(ctx context.Context, ref api.Ref, d api.Digest) ([]byte, error) {
	path, err := c.path(ctx, "models", string(ref.Model), "versions", pick(ref), "referrers", string(d))
	if err != nil {
		return nil, err
	}
	return c.paper(ctx, exchange{method: http.MethodGet, path: path})
}

// SBOM gives a version's bill of materials; form is cyclonedx, which is the default, or spdx.
func (c *Client) SBOM(ctx context.Context, ref api.Ref, form string) ([]byte, error) {
	path, err := c.path(ctx, "models", string(ref.Model), "versions", pick(ref), "sbom")
	if err != nil {
		return nil, err
	}
	query := make(url.Values)
	if form != "" {
		query.Set("format", form)
	}
	return c.paper(ctx, exchange{method: http.MethodGet, path: path, query: query})
}

// paper reads an answer whole that is no JSON of the API's own.
func (c *Client) paper(ctx context.Context, x exchange) ([]byte, error) {
	response, err := c.send(ctx, x)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, paperMax+1))
	if err != nil {
		return nil, failed(ctx, err)
	}
	if len(text) > paperMax {
		return nil, api.Fail(api.CodeTooLarge, "", "the answer is over %d bytes", paperMax)
	}
	return text, nil
}

// Attach uploads a paper and makes it a referrer of a version. Digest and size of the request are filled in.
func (c *Client) Attach(ctx context.Context, ref api.Ref, content []byte, in api.ReferrerRequest) (api.Referrer, error) {
	sum := sha256.Sum256(content)
	in.Digest, in.Size = api.Digest("sha256:"+hex.EncodeToString(sum[:])), int64(len(content))
	if _, err := c.PutBlob(ctx, Blob{Digest: in.Digest, Size: in.Size,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }}); err != nil {
		return api.Referrer{}, err
	}
	return send[api.Referrer](ctx, c, exchange{method: http.MethodPost, json: in}, "models", string(ref.Model), "versions", pick(ref), "referrers")
}

// Trust shows the tenant's trust policy.
func (c *Client) Trust(ctx context.Context) (api.TrustPolicy, error) {
	return ask[api.TrustPolicy](ctx, c, nil, "trust")
}

// SetTrust changes the tenant's trust policy.
func (c *Client) SetTrust(ctx context.Context, in api.TrustRequest, match IfMatch) (api.TrustPolicy, error) {
	return send[api.TrustPolicy](ctx, c, exchange{method: http.MethodPut, json: in, header: match.header()}, "trust")
}

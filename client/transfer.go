package client

import (
	"context"
	"net/http"
	"time"

	"github.com/penstock/penstock/api"
)

// Import asks the server to copy a model from another registry. The transfer goes on in the background.
func (c *Client) Import(ctx context.Context, m api.ModelName, in api.ImportRequest) (api.Transfer, error) {
	return send[api.Transfer](ctx, c, exchange{method: http.MethodPost, json: in}, "models", string(m), "imports")
}

// Copy asks the server to copy a version to another registry. The transfer goes on in the background.
func (c *Client) Copy(ctx context.Context, ref api.Ref, in api.CopyRequest) (out api.Transfer, err error) {
	if err := c.own(ctx, ref); err != nil {
		return out, err
	}
	return send[api.Transfer](ctx, c, exchange{method: http.MethodPost, json: in}, "models", string(ref.Model), "versions", pick(ref), "copies")
}

// Transfer shows a transfer. With a wait the answer comes when it has ended, or as it stands after that time.
func (c *Client) Transfer(ctx context.Context, id api.TransferID, wait time.Duration) (api.Transfer, error) {
	return ask[api.Transfer](ctx, c, waitQuery(wait), "transfers", string(id))
}

// Transfers lists transfers, newest first.
func (c *Client) Transfers(ctx context.Context, page Page) (api.List[api.Transfer], error) {
	return ask[api.List[api.Transfer]](ctx, c, page.query("before"), "transfers")
}

// CancelTransfer ends a transfer.
func (c *Client) CancelTransfer(ctx context.Context, id api.TransferID) (api.Transfer, error) {
	return send[api.Transfer](ctx, c, exchange{method: http.MethodPost}, "transfers", string(id), "cancel")
}

// CreateMirror makes a mirror.
func (c *Client) CreateMirror(ctx context.Context, in api.MirrorRequest) (api.Mirror, error) {
	return send[api.Mirror](ctx, c, exchange{method: http.MethodPost, json: in}, "mirrors")
}

// Mirrors lists the tenant's mirrors.
func (c *Client) Mirrors(ctx context.Context) ([]api.Mirror, error) {
	all, err := ask[api.List[api.Mirror]](ctx, c, nil, "mirrors")
	return all.Items, err
}

// Mirror shows a mirror, and how its last round went.
func (c *Client) Mirror(ctx context.Context, name api.MirrorName) (api.Mirror, error) {
	return ask[api.Mirror](ctx, c, nil, "mirrors", string(name))
}

// RunMirror begins a round of a mirror now.
func (c *Client) RunMirror(ctx context.Context, name api.MirrorName) (api.Mirror, error) {
	return send[api.Mirror](ctx, c, exchange{method: http.MethodPost}, "mirrors", string(name), "run")
}

// DeleteMirror deletes a mirror; what it copied stays.
func (c *Client) DeleteMirror(ctx context.Context, name api.MirrorName) error {
	return c.do(ctx, exchange{method: http.MethodDelete}, "mirrors", string(name))
}

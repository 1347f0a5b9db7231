package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/penstock/penstock/api"
)

// RenameModel gives a model another name; earlier names lead to it from then on.
func (c *Client) RenameModel(ctx context.Context, m api.ModelName, in api.RenameRequest) (api.Model, error) {
	return send[api.Model](ctx, c, exchange{method: http.MethodPost, json: in}, "models", string(m), "rename")
}

// ForgetRedirect frees an earlier name of a model. It needs a key with the scope admin.
func (c *Client) ForgetRedirect(ctx context.Context, name api.ModelName) error {
	return c.do(ctx, exchange{method: http.MethodDelete}, "redirects", string(name))
}

// Redirects lists earlier names of models, those after the one given.
func (c *Client) Redirects(ctx context.Context, after api.ModelName) (api.List[api.Redirect], error) {
	return ask[api.List[api.Redirect]](ctx, c, url.Values{"limit": {"1000"}, "after": {string(after)}}, "redirects")
}

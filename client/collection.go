package client

import (
	"context"
	"net/http"
	"time"

	"github.com/penstock/penstock/api"
)

// Collect begins a run of the garbage collection, or a dry run. With a wait, it answers when the run or the wait is over.
func (c *Client) Collect(ctx context.Context, in api.CollectRequest, wait time.Duration) (out api.Collection, err error) {
	return out, c.call(ctx, exchange{method: http.MethodPost, path: control("collections"), json: in, query: waitQuery(wait)}, &out)
}

// Collection shows a run of the garbage collection; with a wait, when it or the wait is over.
func (c *Client) Collection(ctx context.Context, id api.CollectionID, wait time.Duration) (out api.Collection, err error) {
	return out, c.call(ctx, exchange{method: http.MethodGet, path: control("collections", string(id)), query: waitQuery(wait)}, &out)
}

// Collections lists the last runs of the garbage collection, newest first, without what each found.
func (c *Client) Collections(ctx context.Context) ([]api.Collection, error) {
	var out api.List[api.Collection]
	err := c.call(ctx, exchange{method: http.MethodGet, path: control("collections")}, &out)
	return out.Items, err
}

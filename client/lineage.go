package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/penstock/penstock/api"
)

// Lineage tells what came from what: of a version's reference, or dataset:NAME, run:NAME, endpoint:NAME, key:ID. Direction is
// up, down, or empty for both.
func (c *Client) Lineage(ctx context.Context, of, direction string) (api.Lineage, error) {
	return ask[api.Lineage](ctx, c, lineageQuery(of, direction), "lineage")
}

// LineageSVG draws it.
func (c *Client) LineageSVG(ctx context.Context, of, direction string) ([]byte, error) {
	path, err := c.path(ctx, "lineage.svg")
	if err != nil {
		return nil, err
	}
	return c.paper(ctx, exchange{method: http.MethodGet, path: path, query: lineageQuery(of, direction)})
}

func lineageQuery(of, direction string) url.Values {
	query := url.Values{"of": {of}}
	if direction != "" {
		query.Set("direction", direction)
	}
	return query
}

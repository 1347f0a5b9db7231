package client

import (
	"context"
	"net/url"
	"strconv"

	"github.com/penstock/penstock/api"
)

// Search finds versions, a page at a time: see api.SearchRequest.
func (c *Client) Search(ctx context.Context, in api.SearchRequest) (api.List[api.Found], error) {
	query := make(url.Values)
	for name, value := range map[string]string{"q": in.Query, "sort": in.Sort, "after": in.After} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if in.Limit > 0 {
		query.Set("limit", strconv.Itoa(in.Limit))
	}
	return ask[api.List[api.Found]](ctx, c, query, "search")
}

// SearchFields lists what a query may name.
func (c *Client) SearchFields(ctx context.Context) ([]api.SearchField, error) {
	out, err := ask[api.List[api.SearchField]](ctx, c, nil, "search", "fields")
	return out.Items, err
}

// SearchValues lists values that a field has or had, those that begin with a prefix.
func (c *Client) SearchValues(ctx context.Context, field, prefix string, limit int) ([]string, error) {
	query := url.Values{"field": {field}, "prefix": {prefix}}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	out, err := ask[api.List[string]](ctx, c, query, "search", "values")
	return out.Items, err
}

package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/penstock/penstock/api"
)

// Deletion says how something is deleted.
type Deletion struct {
	Why     string
	ForGood bool // it cannot be restored
	Aliases bool // of a model: its aliases too
}

func (d Deletion) query() url.Values {
	query := make(url.Values)
	if d.Why != "" {
		query.Set("why", d.Why)
	}
	if d.ForGood {
		query.Set("for_good", "1")
	}
	if d.Aliases {
		query.Set("aliases", "1")
	}
	return query
}

// DeleteVersion deletes the version that a reference names. It can be restored for a while.
func (c *Client) DeleteVersion(ctx context.Context, ref api.Ref, d Deletion) error {
	if err := c.own(ctx, ref); err != nil {
		return err
	}
	return c.do(ctx, exchange{method: http.MethodDelete, query: d.query()}, "models", string(ref.Model), "versions", pick(ref))
}

// DeleteModel deletes all versions of a model.
func (c *Client) DeleteModel(ctx context.Context, m api.ModelName, d Deletion) error {
	return c.do(ctx, exchange{method: http.MethodDelete, query: d.query()}, "models", string(m))
}

// RestoreVersion restores a deleted version.
func (c *Client) RestoreVersion(ctx context.Context, m api.ModelName, n api.VersionNumber) (api.Version, error) {
	return send[api.Version](ctx, c, exchange{method: http.MethodPost}, "models", string(m), "versions", strconv.FormatInt(int64(n), 10), "restore")
}

// RestoreManifest restores a deleted manifest of a repository.
func (c *Client) RestoreManifest(ctx context.Context, in api.RestoreRequest) error {
	return c.do(ctx, exchange{method: http.MethodPost, json: in}, "trash")
}

// Trash lists what can be restored.
func (c *Client) Trash(ctx context.Context) ([]api.Deleted, error) {
	out, err := ask[api.List[api.Deleted]](ctx, c, url.Values{"limit": {"1000"}}, "trash")
	return out.Items, err
}

// Retention shows which versions of a model are kept.
func (c *Client) Retention(ctx context.Context, m api.ModelName) (api.Retention, error) {
	return ask[api.Retention](ctx, c, nil, "models", string(m), "retention")
}

// SetRetention sets which versions of a model are kept.
func (c *Client) SetRetention(ctx context.Context, m api.ModelName, in api.RetentionRules, match IfMatch) (api.Retention, error) {
	return send[api.Retention](ctx, c, exchange{method: http.MethodPut, json: in, header: match.header()}, "models", string(m), "retention")
}

// ApplyRetention deletes what a model's retention does not keep, or tells what that would be.
func (c *Client) ApplyRetention(ctx context.Context, m api.ModelName, in api.RetentionRequest) ([]api.RetentionVerdict, error) {
	out, err := send[api.List[api.RetentionVerdict]](ctx, c, exchange{method: http.MethodPost, json: in}, "models", string(m), "retention", "apply")
	return out.Items, err
}

// Quota shows what the tenant may store, and what it stores.
func (c *Client) Quota(ctx context.Context) (api.Quota, error) {
	return ask[api.Quota](ctx, c, nil, "quota")
}

// SetQuota sets what the tenant may store; only an admin of tenant default may.
func (c *Client) SetQuota(ctx context.Context, in api.QuotaRequest, match IfMatch) (api.Quota, error) {
	return send[api.Quota](ctx, c, exchange{method: http.MethodPut, json: in, header: match.header()}, "quota")
}

package client

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/penstock/penstock/api"
)

// Page asks for one page of a list: the cursor of the page before, and the most items (0: the server's default).
type Page struct {
	Cursor string
	Limit  int
}

func (p Page) query(cursor string) url.Values {
	q := make(url.Values)
	if p.Cursor != "" {
		q.Set(cursor, p.Cursor)
	}
	if p.Limit > 0 {
		q.Set("limit", strconv.Itoa(p.Limit))
	}
	return q
}

// All reads a list page by page.
//
//	for model, err := range client.All(ctx, c.Models) {
func All[T any](ctx context.Context, list func(context.Context, Page) (api.List[T], error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		page := Page{}
		for {
			part, err := list(ctx, page)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range part.Items {
				if !yield(item, nil) {
					return
				}
			}
			if part.Next == "" {
				return
			}
			page.Cursor = part.Next
		}
	}
}

// ask makes a GET of a path below the tenant, or below /api/v1 when tenantless.
func ask[T any](ctx context.Context, c *Client, query url.Values, parts ...string) (out T, err error) {
	return send[T](ctx, c, exchange{method: http.MethodGet, query: query}, parts...)
}

// send makes a call of a path below the tenant.
func send[T any](ctx context.Context, c *Client, x exchange, parts ...string) (out T, err error) {
	if x.path, err = c.path(ctx, parts...); err != nil {
		return out, err
	}
	return out, c.call(ctx, x, &out)
}

// path joins the parts below the tenant, each escaped.
func (c *Client) path(ctx context.Context, parts ...string) (string, error) {
	tenant, err := c.Tenant(ctx)
	if err != nil {
		return "", err
	}
	return control(append([]string{"tenants", string(tenant)}, parts...)...), nil
}

func control(parts ...string) string {
	path := "/api/v1"
	for _, part := range parts {
		path += "/" + url.PathEscape(part)
	}
	return path
}

// Version tells which server answers.
func (c *Client) Version(ctx context.Context) (out api.ServerInfo, err error) {
	return out, c.call(ctx, exchange{method: http.MethodGet, path: control("version")}, &out)
}

// Whoami tells who the key is taken for.
func (c *Client) Whoami(ctx context.Context) (out api.Whoami, err error) {
	return out, c.call(ctx, exchange{method: http.MethodGet, path: control("whoami")}, &out)
}

// Workers lists worker processes.
func (c *Client) Workers(ctx context.Context) ([]api.Worker, error) {
	var out api.List[api.Worker]
	err := c.call(ctx, exchange{method: http.MethodGet, path: control("workers")}, &out)
	return out.Items, err
}

// Statistics tells what the tenant's endpoints did in the last window, 2 s to 1 min and 10 s when it is 0, and for admins of
// tenant default what the workers have in hand.
func (c *Client) Statistics(ctx context.Context, window time.Duration) (api.Statistics, error) {
	query := make(url.Values)
	if window > 0 {
		query.Set("window", window.String())
	}
	return ask[api.Statistics](ctx, c, query, "statistics")
}

// LoadedModels lists which of the tenant's models are in memory, where and why; for admins of tenant default with what all
// tenants' models take together.
func (c *Client) LoadedModels(ctx context.Context) (api.LoadedModels, error) {
	return ask[api.LoadedModels](ctx, c, nil, "loaded")
}

// Tenants lists tenants.
func (c *Client) Tenants(ctx context.Context) ([]api.Tenant, error) {
	var out api.List[api.Tenant]
	err := c.call(ctx, exchange{method: http.MethodGet, path: control("tenants")}, &out)
	return out.Items, err
}

// ShowTenant gives one tenant; its Generation is what SetTenant's match takes.
func (c *Client) ShowTenant(ctx context.Context, id api.TenantID) (out api.Tenant, err error) {
	return out, c.call(ctx, exchange{method: http.MethodGet, path: control("tenants", string(id))}, &out)
}

// SetTenant changes a tenant's weight.
func (c *Client) SetTenant(ctx context.Context, id api.TenantID, in api.TenantChange, match IfMatch) (out api.Tenant, err error) {
	return out, c.call(ctx, exchange{method: http.MethodPatch, path: control("tenants", string(id)), json: in, header: match.header()}, &out)
}

// CreateTenant makes a tenant.
func (c *Client) CreateTenant(ctx context.Context, id api.TenantID) (out api.Tenant, err error) {
	return out, c.call(ctx, exchange{method: http.MethodPost, path: control("tenants"), json: api.TenantRequest{ID: id}}, &out)
}

// Keys lists the tenant's keys.
func (c *Client) Keys(ctx context.Context) ([]api.Key, error) {
	out, err := ask[api.List[api.Key]](ctx, c, nil, "keys")
	return out.Items, err
}

// CreateKey makes a key; its secret is in the answer and nowhere else.
func (c *Client) CreateKey(ctx context.Context, in api.KeyRequest) (api.NewKey, error) {
	return send[api.NewKey](ctx, c, exchange{method: http.MethodPost, json: in}, "keys")
}

// RevokeKey takes a key back.
func (c *Client) RevokeKey(ctx context.Context, id api.KeyID) error {
	return c.do(ctx, exchange{method: http.MethodDelete}, "keys", string(id))
}

// do makes a call below the tenant whose answer has no body.
func (c *Client) do(ctx context.Context, x exchange, parts ...string) (err error) {
	if x.path, err = c.path(ctx, parts...); err != nil {
		return err
	}
	return c.call(ctx, x, nil)
}

// Models lists models by name.
func (c *Client) Models(ctx context.Context, page Page) (api.List[api.Model], error) {
	return ask[api.List[api.Model]](ctx, c, page.query("after"), "models")
}

// Model shows a model.
func (c *Client) Model(ctx context.Context, name api.ModelName) (api.Model, error) {
	return ask[api.Model](ctx, c, nil, "models", string(name))
}

// Versions lists a model's versions, newest first.
func (c *Client) Versions(ctx context.Context, name api.ModelName, page Page) (api.List[api.Version], error) {
	return ask[api.List[api.Version]](ctx, c, page.query("before"), "models", string(name), "versions")
}

// Resolve shows the version that a reference names. A reference into another tenant must be the client's own.
func (c *Client) Resolve(ctx context.Context, ref api.Ref) (api.Version, error) {
	if err := c.own(ctx, ref); err != nil {
		return api.Version{}, err
	}
	return ask[api.Version](ctx, c, nil, "models", string(ref.Model), "versions", pick(ref))
}

func (c *Client) own(ctx context.Context, ref api.Ref) error {
	if ref.Tenant == "" {
		return nil
	}
	tenant, err := c.Tenant(ctx)
	if err == nil && tenant != ref.Tenant {
		return api.Fail(api.CodeNotFound, ref.String(), "there is no such tenant within reach of this key").
			WithCure("Use a key of tenant %s, and --tenant %s.", ref.Tenant, ref.Tenant)
	}
	return err
}

// pick is the {version} part of a path.
func pick(ref api.Ref) string {
	switch {
	case ref.Version > 0:
		return strconv.FormatInt(int64(ref.Version), 10)
	case ref.Digest != "":
		return string(ref.Digest)
	case ref.Label != "":
		return ref.Label
	case ref.Alias != "":
		return string(ref.Alias)
	}
	return "latest"
}

// SetTags changes the tags of a version.
func (c *Client) SetTags(ctx context.Context, ref api.Ref, in api.TagsRequest) (api.Version, error) {
	return send[api.Version](ctx, c, exchange{method: http.MethodPatch, json: in}, "models", string(ref.Model), "versions", pick(ref), "tags")
}

// IfMatch makes a change depend on the counter that was read with a thing: 0 is any.
type IfMatch int64

func (m IfMatch) header() http.Header {
	if m == 0 {
		return nil
	}
	return http.Header{"If-Match": {strconv.Quote(strconv.FormatInt(int64(m), 10))}}
}

// MoveAlias makes or moves an alias.
func (c *Client) MoveAlias(ctx context.Context, m api.ModelName, a api.AliasName, in api.AliasRequest, match IfMatch) (api.Alias, error) {
	return send[api.Alias](ctx, c, exchange{method: http.MethodPut, json: in, header: match.header()}, "models", string(m), "aliases", string(a))
}

// DeleteAlias removes an alias.
func (c *Client) DeleteAlias(ctx context.Context, m api.ModelName, a api.AliasName, why string, match IfMatch) error {
	query := make(url.Values)
	if why != "" {
		query.Set("why", why)
	}
	return c.do(ctx, exchange{method: http.MethodDelete, query: query, header: match.header()}, "models", string(m), "aliases", string(a))
}

// AliasHistory lists an alias's moves, newest first.
func (c *Client) AliasHistory(ctx context.Context, m api.ModelName, a api.AliasName) ([]api.AliasMove, error) {
	out, err := ask[api.List[api.AliasMove]](ctx, c, nil, "models", string(m), "aliases", string(a), "history")
	return out.Items, err
}

// Endpoints lists endpoints by name.
func (c *Client) Endpoints(ctx context.Context, page Page) (api.List[api.Endpoint], error) {
	return ask[api.List[api.Endpoint]](ctx, c, page.query("after"), "endpoints")
}

// Endpoint shows an endpoint.
func (c *Client) Endpoint(ctx context.Context, e api.EndpointName) (api.Endpoint, error) {
	return ask[api.Endpoint](ctx, c, nil, "endpoints", string(e))
}

// Deploy makes or changes an endpoint. With a wait, it answers when the release is final or the wait is over.
func (c *Client) Deploy(ctx context.Context, e api.EndpointName, in api.DeployRequest, match IfMatch, wait time.Duration) (api.Release, error) {
	return send[api.Release](ctx, c, exchange{method: http.MethodPut, json: in, header: match.header(), query: waitQuery(wait)}, "endpoints", string(e))
}

func waitQuery(wait time.Duration) url.Values {
	if wait <= 0 {
		return nil
	}
	return url.Values{"wait": {wait.String()}}
}

// DeleteEndpoint removes an endpoint.
func (c *Client) DeleteEndpoint(ctx context.Context, e api.EndpointName, match IfMatch) error {
	return c.do(ctx, exchange{method: http.MethodDelete, header: match.header()}, "endpoints", string(e))
}

// Rollback makes an earlier revision current; it answers when that is in effect.
func (c *Client) Rollback(ctx context.Context, e api.EndpointName, in api.RollbackRequest) (api.Release, error) {
	return send[api.Release](ctx, c, exchange{method: http.MethodPost, json: in}, "endpoints", string(e), "rollback")
}

// Abort stops the release under way.
func (c *Client) Abort(ctx context.Context, e api.EndpointName) (api.Release, error) {
	return send[api.Release](ctx, c, exchange{method: http.MethodPost}, "endpoints", string(e), "abort")
}

// Revisions lists an endpoint's revisions, newest first.
func (c *Client) Revisions(ctx context.Context, e api.EndpointName, page Page) (api.List[api.Revision], error) {
	return ask[api.List[api.Revision]](ctx, c, page.query("before"), "endpoints", string(e), "revisions")
}

// Releases lists an endpoint's releases, newest first.
func (c *Client) Releases(ctx context.Context, e api.EndpointName, page Page) (api.List[api.Release], error) {
	return ask[api.List[api.Release]](ctx, c, page.query("before"), "endpoints", string(e), "releases")
}

// Release shows a release; with a wait, when it is final or the wait is over.
func (c *Client) Release(ctx context.Context, e api.EndpointName, number int64, wait time.Duration) (api.Release, error) {
	return ask[api.Release](ctx, c, waitQuery(wait), "endpoints", string(e), "releases", strconv.FormatInt(number, 10))
}

// EventQuery chooses events.
type EventQuery struct {
	After int64         // sequence number to read on from; negative: the newest
	Limit int           // most events; 0: the server's default
	Wait  time.Duration // how long to wait for a new one
	All   bool          // of all tenants
}

// Events lists events, oldest first. Next in the answer is the After of the next call.
func (c *Client) Events(ctx context.Context, in EventQuery) (out api.List[api.Event], err error) {
	query := Page{Limit: in.Limit}.query("")
	if in.After >= 0 {
		query.Set("after", strconv.FormatInt(in.After, 10))
	}
	if in.Wait > 0 {
		query.Set("wait", in.Wait.String())
	}
	if in.All {
		query.Set("all", "1")
	}
	return out, c.call(ctx, exchange{method: http.MethodGet, path: control("events"), query: query}, &out)
}

// OpenArtifact downloads a file of a version; the caller closes it. size is -1 when the server does not tell.
func (c *Client) OpenArtifact(ctx context.Context, ref api.Ref, path string) (_ io.ReadCloser, size int64, _ error) {
	prefix, err := c.path(ctx, "models", string(ref.Model), "versions", pick(ref), "artifacts")
	if err != nil {
		return nil, 0, err
	}
	escaped := (&url.URL{Path: "/" + path}).EscapedPath()
	response, err := c.send(ctx, exchange{method: http.MethodGet, path: prefix + escaped})
	if err != nil {
		return nil, 0, err
	}
	return response.Body, response.ContentLength, nil
}

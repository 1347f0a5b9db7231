package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/penstock/penstock/api"
)

// SetMetadata changes notes and label of a version; match is Version.Changes as it was read.
func (c *Client) SetMetadata(ctx context.Context, ref api.Ref, in api.MetadataRequest, match IfMatch) (api.Version, error) {
	return send[api.Version](ctx, c, exchange{method: http.MethodPatch, json: in, header: match.header()}, "models", string(ref.Model), "versions", pick(ref), "metadata")
}

// WriteGate writes what a gate found about a version. It needs a key with the scope gate.
func (c *Client) WriteGate(ctx context.Context, ref api.Ref, in api.GateRequest) (api.Version, error) {
	return send[api.Version](ctx, c, exchange{method: http.MethodPost, json: in}, "models", string(ref.Model), "versions", pick(ref), "gates")
}

// ProtectAlias writes the rule of an alias; an empty one removes it. It needs a key with the scope admin.
func (c *Client) ProtectAlias(ctx context.Context, m api.ModelName, a api.AliasName, in api.AliasRuleRequest) (api.AliasRule, error) {
	return send[api.AliasRule](ctx, c, exchange{method: http.MethodPut, json: in}, "models", string(m), "aliases", string(a), "rule")
}

// AliasRules lists the rules of a model's aliases.
func (c *Client) AliasRules(ctx context.Context, m api.ModelName) ([]api.AliasRule, error) {
	out, err := ask[api.List[api.AliasRule]](ctx, c, nil, "models", string(m), "rules")
	return out.Items, err
}

// Diff compares two versions, which may be of two models.
func (c *Client) Diff(ctx context.Context, from, to api.Ref) (api.VersionDiff, error) {
	return ask[api.VersionDiff](ctx, c, url.Values{"with": {to.String()}}, "models", string(from.Model), "versions", pick(from), "diff")
}

// ShareModel lets another tenant copy versions of a model, or no more.
func (c *Client) ShareModel(ctx context.Context, m api.ModelName, with api.TenantID, share bool) error {
	method := http.MethodDelete
	if share {
		method = http.MethodPut
	}
	return c.do(ctx, exchange{method: method}, "models", string(m), "readers", string(with))
}

// ModelReaders lists who may copy versions of a model.
func (c *Client) ModelReaders(ctx context.Context, m api.ModelName) ([]api.ModelReader, error) {
	out, err := ask[api.List[api.ModelReader]](ctx, c, nil, "models", string(m), "readers")
	return out.Items, err
}

// CopyVersion makes a version of the client's tenant out of one that another tenant shares.
func (c *Client) CopyVersion(ctx context.Context, m api.ModelName, in api.SharedCopyRequest) (api.Version, error) {
	return send[api.Version](ctx, c, exchange{method: http.MethodPost, json: in}, "models", string(m), "copies")
}

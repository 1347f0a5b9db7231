package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/penstock/penstock/api"
)

// AuditQuery chooses records of the audit. Empty fields choose all.
type AuditQuery struct {
	Actor   string // name or identifier of a key
	Action  string
	Subject string // may end in a star
	Since   api.Time
	All     bool // of all tenants; for admins of tenant default
}

// Audit lists who did what, newest first.
func (c *Client) Audit(ctx context.Context, in AuditQuery, page Page) (out api.List[api.AuditRecord], err error) {
	query := page.query("before")
	set := func(query url.Values, name, value string) {
		if value != "" {
			query.Set(name, value)
		}
	}
	set(query, "actor", in.Actor)
	set(query, "action", in.Action)
	set(query, "subject", in.Subject)
	if in.Since != 0 {
		text, err := in.Since.MarshalText()
		if err != nil {
			return out, err
		}
		set(query, "since", string(text))
	}
	if in.All {
		set(query, "all", "1")
	}
	return out, c.call(ctx, exchange{method: http.MethodGet, path: control("audit"), query: query}, &out)
}

// VerifyAudit has the server look at every record of its audit.
func (c *Client) VerifyAudit(ctx context.Context) (out api.AuditReport, err error) {
	return out, c.call(ctx, exchange{method: http.MethodGet, path: control("audit", "verify")}, &out)
}

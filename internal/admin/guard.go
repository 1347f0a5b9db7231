package admin

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// Guard turns the values of the Authorization header into a principal, from memory. It never fails open: an error is
// always an *api.Error of CodeUnauthenticated or a sharper one.
type Guard interface {
	Authenticate(authorization []string) (*api.Principal, error)
}

// admit decides whether the request may reach its handler: browser, key, tenant, scope, in this order. A tenant that
// the key cannot reach and one that does not exist are answered alike, before the scope could tell them apart.
func (q *request) admit() error {
	if err := q.server.checkBrowser(q.Request); err != nil {
		return err
	}
	if q.route.reach == openToAll {
		return nil
	}
	principal, err := q.server.cfg.Guard.Authenticate(q.Header.Values("Authorization"))
	if err != nil {
		return err
	}
	if principal == nil {
		return api.Fail(api.CodeUnauthenticated, "", "the caller is not known")
	}
	q.principal, q.tenant = principal, principal.Tenant
	if err := q.admitTenant(); err != nil {
		return err
	}
	if q.route.scope != "" && !principal.Allows(q.route.scope) {
		return api.Fail(api.CodeForbidden, "", "the key %q lacks the scope %q", principal.Name, q.route.scope)
	}
	return nil
}

func (q *request) admitTenant() error {
	overseer := q.principal.Tenant == api.DefaultTenant && q.principal.Allows(api.ScopeAdmin)
	if q.route.reach == serverWide && !overseer {
		return api.Fail(api.CodeForbidden, "", "this needs a key of tenant %q with the scope %q", api.DefaultTenant, api.ScopeAdmin)
	}
	if !strings.Contains(q.route.path, "{tenant}") {
		return nil
	}
	named := api.TenantID(q.PathValue("tenant"))
	if named == q.principal.Tenant || q.route.reach == administrated && overseer && api.CheckName("tenant", string(named)) == nil {
		q.tenant = named
		return nil
	}
	return noSuchTenant()
}

// noSuchTenant is one body for tenants that do not exist and for those of others; it does not repeat the name.
func noSuchTenant() error {
	return api.Fail(api.CodeNotFound, "", "there is no such tenant within reach of this key")
}

// checkBrowser refuses what only a hostile web page would send: a request from another origin, or, without a key, one
// for a host name that a page may have bound to this address. A key cannot be sent by a page that does not know it.
func (s *Server) checkBrowser(r *http.Request) error {
	if origin := r.Header.Get("Origin"); origin != "" {
		if from, err := url.Parse(origin); err != nil || !strings.EqualFold(from.Host, r.Host) {
			return api.Fail(api.CodeForbidden, "", "the request comes from another origin").
				WithCure("Call the API from a program, or from a page of this server.")
		}
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return api.Fail(api.CodeForbidden, "", "the request comes from another site").
			WithCure("Call the API from a program, or from a page of this server.")
	}
	if len(r.Header.Values("Authorization")) > 0 || s.knownHost(r.Host) {
		return nil
	}
	return api.Fail(api.CodeForbidden, "", "without a key, this server answers to its address and known host names only").
		WithCure("Use http://127.0.0.1:PORT, send a key, or add the name to the server's host names.")
}

func (s *Server) knownHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	return host == "localhost" || net.ParseIP(host) != nil || slices.Contains(s.cfg.Hosts, host)
}

package tenancy

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/penstock/penstock/api"
)

// Authorize reports why the principal may not do this in the tenant, or nil. A foreign tenant answers exactly as one
// that does not exist, whatever the scopes; also tenant default's admin reaches only its own tenant's things here.
func Authorize(p *api.Principal, tenant api.TenantID, s api.Scope) error {
	if p == nil {
		return api.Fail(api.CodeUnauthenticated, "", "no API key was sent")
	}
	if tenant == "" || p.Tenant != tenant {
		return errNoTenant(tenant)
	}
	if !slices.Contains(api.Scopes, s) || !p.Allows(s) {
		return api.Fail(api.CodeForbidden, "", "the key lacks the scope %q", s)
	}
	return nil
}

// AuthorizeKeys reports why the principal may not manage the tenant's keys, or nil: admins may in their own tenant,
// and those of tenant default in every one.
func AuthorizeKeys(p *api.Principal, tenant api.TenantID) error {
	if isOperator(p) && tenant != "" {
		return nil
	}
	return Authorize(p, tenant, api.ScopeAdmin)
}

// isOperator reports an admin of tenant default, who runs the installation.
func isOperator(p *api.Principal) bool {
	return p != nil && p.Tenant == api.DefaultTenant && slices.Contains(p.Scopes, api.ScopeAdmin)
}

// errNoTenant is the one answer for tenants that are foreign and those that are not there.
func errNoTenant(tenant api.TenantID) error {
	return api.Fail(api.CodeNotFound, clip(string(tenant)), "no such tenant")
}

// clip bounds a name that a caller chose, for messages.
func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

// CreateKey makes a key and returns its text, once: it is nowhere else. Of k the tenant, name, scopes and expiry count.
func (g *Guard) CreateKey(ctx context.Context, by *api.Principal, k api.Key) (api.Key, string, error) {
	if err := AuthorizeKeys(by, k.Tenant); err != nil {
		return api.Key{}, "", err
	}
	if _, there := g.known.Load().tenants[k.Tenant]; !there {
		return api.Key{}, "", errNoTenant(k.Tenant)
	}
	now := api.TimeOf(g.Now())
	if err := checkKey(&k, now); err != nil {
		return api.Key{}, "", err
	}
	token := newToken()
	mac, _ := g.mac(token)
	k = api.Key{ID: newKeyID(uint64(now / 1000)), Tenant: k.Tenant, Name: k.Name, Hint: hint(token),
		Scopes: slices.Clone(k.Scopes), Created: now, Expires: k.Expires}
	if err := g.addKey(ctx, k, mac); err != nil {
		return api.Key{}, "", err
	}
	return k, token, nil
}

func checkKey(k *api.Key, now api.Time) error {
	if err := api.CheckName("key", k.Name); err != nil {
		return err
	}
	if len(k.Scopes) == 0 {
		return api.Fail(api.CodeBadRequest, k.Name, "a key needs at least one scope of %v", api.Scopes)
	}
	for i, s := range k.Scopes {
		if !slices.Contains(api.Scopes, s) {
			return api.Fail(api.CodeBadRequest, k.Name, "scope %q is none of %v", clip(string(s)), api.Scopes)
		}
		if slices.Contains(k.Scopes[:i], s) {
			return api.Fail(api.CodeBadRequest, k.Name, "scope %q stands twice", s)
		}
	}
	if k.Expires != 0 && k.Expires <= now {
		return api.Fail(api.CodeBadRequest, k.Name, "the expiry lies in the past")
	}
	return nil
}

// addKey stores the key, then lets it in. The quota counts keys that are being stored too, so that many at once do not
// pass it together.
func (g *Guard) addKey(ctx context.Context, k api.Key, mac [sha256.Size]byte) error {
	if err := g.reserve(k); err != nil {
		return err
	}
	err := g.store.PutKey(ctx, k, mac[:])
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pending[k.Tenant]--; g.pending[k.Tenant] == 0 {
		delete(g.pending, k.Tenant)
	}
	if err != nil {
		return err
	}
	d := g.known.Load().clone()
	if d.byID[k.ID] == nil { // a Load in between may have read it already
		e := newEntry(k, mac, nil)
		d.byMAC[mac], d.byID[k.ID] = e, e
	}
	g.known.Store(d)
	return nil
}

func (g *Guard) reserve(k api.Key) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.pending[k.Tenant]
	for _, e := range g.known.Load().byID {
		if e.key.Tenant == k.Tenant && e.revoked.Load() == 0 {
			n++
		}
	}
	if n >= KeysPerTenant {
		return api.Fail(api.CodeTooLarge, string(k.Tenant), "the tenant has %d keys, which is the limit", n).
			WithCure("Revoke keys that nobody uses.")
	}
	g.pending[k.Tenant]++
	return nil
}

func (d *directory) clone() *directory {
	c := &directory{byMAC: maps.Clone(d.byMAC), byID: maps.Clone(d.byID), tenants: maps.Clone(d.tenants)}
	if c.byMAC == nil {
		c.byMAC, c.byID, c.tenants = map[[sha256.Size]byte]*entry{}, map[api.KeyID]*entry{}, map[api.TenantID]api.Tenant{}
	}
	return c
}

// newKeyID makes an identifier that is not secret and sorts by time.
func newKeyID(ms uint64) api.KeyID {
	return api.KeyID(strings.ToLower(ulid.MustNew(ms, rand.Reader).String()))
}

// Keys lists the tenant's keys, oldest first, without their text, from memory. Who may see them is for the caller to
// ask of AuthorizeKeys.
func (g *Guard) Keys(_ context.Context, t api.TenantID) ([]api.Key, error) {
	d := g.known.Load()
	if _, there := d.tenants[t]; !there {
		return nil, errNoTenant(t)
	}
	keys := []api.Key{}
	for _, e := range d.byID {
		if e.key.Tenant == t {
			k := e.key
			k.Scopes, k.Revoked = slices.Clone(k.Scopes), api.Time(e.revoked.Load())
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b api.Key) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID))
	})
	return keys, nil
}

// RevokeKey stops a key at once, here, before the store is asked. When the store cannot record it the key stays
// stopped until this process ends, and the error says so; repeating the call records it later.
func (g *Guard) RevokeKey(ctx context.Context, by *api.Principal, t api.TenantID, id api.KeyID) error {
	if err := AuthorizeKeys(by, t); err != nil {
		return err
	}
	e := g.known.Load().byID[id]
	if e == nil || e.key.Tenant != t {
		return api.Fail(api.CodeNotFound, clip(string(id)), "no such key")
	}
	e.revoke(api.TimeOf(g.Now()))
	if e.recorded.Load() {
		return nil
	}
	if err := g.store.RevokeKey(ctx, t, id, api.Time(e.revoked.Load())); err != nil {
		failed := api.AsError(err)
		return api.Fail(failed.Code, string(id), "the key is stopped on this server, but that is not on disk yet").
			WithCure("Repeat the command when the storage takes writes again; until then a restart would revive the key.").
			Because(err)
	}
	e.recorded.Store(true)
	return nil
}

// CreateTenant makes a tenant; only an admin of tenant default may.
func (g *Guard) CreateTenant(ctx context.Context, by *api.Principal, id api.TenantID) (api.Tenant, error) {
	if by == nil {
		return api.Tenant{}, api.Fail(api.CodeUnauthenticated, "", "no API key was sent")
	}
	if !isOperator(by) {
		return api.Tenant{}, api.Fail(api.CodeForbidden, "", "only a key of tenant %q with the scope %q makes tenants", api.DefaultTenant, api.ScopeAdmin)
	}
	if err := api.CheckName("tenant", string(id)); err != nil {
		return api.Tenant{}, err
	}
	if n := len(g.known.Load().tenants); n >= TenantsMax {
		return api.Tenant{}, api.Fail(api.CodeTooLarge, clip(string(id)), "there are %d tenants, which is the limit", n)
	}
	return g.addTenant(ctx, id)
}

func (g *Guard) addTenant(ctx context.Context, id api.TenantID) (api.Tenant, error) {
	t := api.Tenant{ID: id, Created: api.TimeOf(g.Now()), Weight: api.WeightDefault, Generation: 1}
	if err := g.store.PutTenant(ctx, t); err != nil {
		return api.Tenant{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.known.Load().clone()
	d.tenants[id] = t
	g.known.Store(d)
	return t, nil
}

// SetWeight changes a tenant's part of the workers relative to the others; only an admin of tenant default may. It holds
// only if the tenant has changed ifGeneration times; -1 is any.
func (g *Guard) SetWeight(ctx context.Context, by *api.Principal, id api.TenantID, weight int, ifGeneration int64) (api.Tenant, error) {
	if !isOperator(by) {
		return api.Tenant{}, api.Fail(api.CodeForbidden, "", "only a key of tenant %q with the scope %q sets weights", api.DefaultTenant, api.ScopeAdmin)
	}
	if weight < 1 || weight > api.WeightMax {
		return api.Tenant{}, api.Fail(api.CodeBadRequest, clip(string(id)), "the weight is %d, it must be 1 to %d", weight, api.WeightMax)
	}
	if _, there := g.known.Load().tenants[id]; !there {
		return api.Tenant{}, errNoTenant(id)
	}
	t, err := g.store.SetWeight(ctx, id, weight, ifGeneration, api.Event{Tenant: id, At: api.TimeOf(g.Now()), Kind: "tenant.changed",
		Subject: string(id), Text: fmt.Sprintf("The weight of tenant %s is %d.", id, weight), By: by.Name})
	if err != nil {
		return api.Tenant{}, err
	}
	g.mu.Lock()
	d := g.known.Load().clone()
	if d.tenants[id].Generation < t.Generation { // of two at once, the later one is not undone by the earlier
		d.tenants[id] = t
		g.known.Store(d)
	}
	g.mu.Unlock()
	if g.Changed != nil {
		g.Changed()
	}
	return t, nil
}

// Weights gives the weights of the tenants whose weight is not 1.
func (g *Guard) Weights() map[api.TenantID]int {
	weights := map[api.TenantID]int{}
	for id, t := range g.known.Load().tenants {
		if t.Weight > api.WeightDefault {
			weights[id] = t.Weight
		}
	}
	return weights
}

// Tenants lists all tenants by name, from memory. Only admins of tenant default may see it; that is for the caller to ask.
func (g *Guard) Tenants(_ context.Context) ([]api.Tenant, error) {
	return slices.SortedFunc(maps.Values(g.known.Load().tenants),
		func(a, b api.Tenant) int { return cmp.Compare(a.ID, b.ID) }), nil
}

// Package tenancy knows who is calling and what they may do: tenants, API keys, scopes. It keeps every key's HMAC in
// memory, so that a request is authenticated without the database, and it never fails open. It routes nothing and
// counts no quota of requests. Callers: serve and admin, through interfaces of their own; server starts it.
package tenancy

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
)

// Store is where tenants and keys rest. What it acknowledged is durable. Keys reach it as HMACs only.
type Store interface {
	PutTenant(ctx context.Context, t api.Tenant) error
	Tenants(ctx context.Context) ([]api.Tenant, error)
	SetWeight(ctx context.Context, t api.TenantID, weight int, ifGeneration int64, e api.Event) (api.Tenant, error)
	PutKey(ctx context.Context, k api.Key, mac []byte) error
	EachKey(ctx context.Context, each func(k api.Key, mac []byte) error) error
	RevokeKey(ctx context.Context, tenant api.TenantID, id api.KeyID, at api.Time) error
}

// Limits of objects, so that nobody fills the memory with them.
const (
	KeysPerTenant = 1000  // keys of one tenant that are not revoked
	TenantsMax    = 10000 // tenants
)

// devKey is the key id of callers let in by --dev.
const devKey api.KeyID = "dev"

// Guard answers who is calling. Its methods may be called from any goroutine; reading takes no lock.
type Guard struct {
	// Now is the clock; set it before the first use, or leave it at time.Now.
	Now func() time.Time

	// Changed, when set, is called after a tenant's weight has changed; it must not call the guard.
	Changed func()

	store  Store
	pepper []byte
	dev    *api.Principal // nil outside dev mode
	macs   sync.Pool      // of *macer

	known atomic.Pointer[directory]
	high  atomic.Int64 // latest api.Time seen: a clock moved back revives no expired key

	mu      sync.Mutex // guards replacing known, and pending
	pending map[api.TenantID]int
}

// directory is one immutable picture of tenants and keys; entries are shared between pictures.
type directory struct {
	byMAC   map[[sha256.Size]byte]*entry
	byID    map[api.KeyID]*entry
	tenants map[api.TenantID]api.Tenant
}

// entry is one key, immutable but for its revocation.
type entry struct {
	key       api.Key
	principal *api.Principal
	mac       [sha256.Size]byte
	*revocation
}

// revocation goes from "not" to a time and never back. It is shared by all entries that a key ever had, so that none
// of them can miss it.
type revocation struct {
	revoked  atomic.Int64 // api.Time; takes effect at once
	recorded atomic.Bool  // the store knows
}

// revoke stops the key unless it is stopped already.
func (r *revocation) revoke(at api.Time) { r.revoked.CompareAndSwap(0, max(1, int64(at))) }

// macer is one HMAC state with room for its input and output, reused so that a request allocates nothing.
type macer struct {
	hash  hash.Hash
	token [tokenLength]byte
	sum   [sha256.Size]byte
}

// New makes a guard that knows nobody until Load. The pepper comes from LoadPepper: without it a stored HMAC is of no
// use, and a row smuggled into the database admits nobody.
func New(store Store, pepper []byte, dev bool) *Guard {
	g := &Guard{Now: time.Now, store: store, pepper: pepper, pending: map[api.TenantID]int{}}
	g.macs.New = func() any { return &macer{hash: hmac.New(sha256.New, pepper)} }
	if dev {
		g.dev = &api.Principal{Tenant: api.DefaultTenant, Key: devKey, Name: "dev", Scopes: append([]api.Scope(nil), api.Scopes...)}
	}
	g.known.Store(&directory{})
	return g
}

// Load reads all tenants and keys. It may be called again to see what other servers wrote; a revocation made here
// meanwhile, or one that the store could not record, stays in force.
func (g *Guard) Load(ctx context.Context) error {
	// Writers of the directory wait, so that a key stored during the reading is added after it, not lost.
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.known.Load()
	d := &directory{byMAC: map[[sha256.Size]byte]*entry{}, byID: map[api.KeyID]*entry{}, tenants: map[api.TenantID]api.Tenant{}}
	tenants, err := g.store.Tenants(ctx)
	if err != nil {
		return fmt.Errorf("load tenants: %w", err)
	}
	for _, t := range tenants {
		d.tenants[t.ID] = t
	}
	seen := api.Time(0)
	var twice [][sha256.Size]byte
	err = g.store.EachKey(ctx, func(k api.Key, mac []byte) error {
		if len(mac) != sha256.Size {
			slog.WarnContext(ctx, "stored key has no proper HMAC and admits nobody", "key", k.ID, "tenant", k.Tenant)
			return nil
		}
		e := old.byID[k.ID]
		if e == nil || e.mac != [sha256.Size]byte(mac) || !sameRights(&e.key, &k) {
			e = newEntry(k, [sha256.Size]byte(mac), e)
		}
		if k.Revoked != 0 {
			e.revoke(k.Revoked)
			e.recorded.Store(true)
		}
		if d.byMAC[e.mac] != nil {
			slog.WarnContext(ctx, "two stored keys share an HMAC and admit nobody", "key", k.ID, "tenant", k.Tenant)
			twice = append(twice, e.mac)
		}
		d.byMAC[e.mac], d.byID[k.ID] = e, e
		seen = max(seen, k.Created, k.Revoked)
		return nil
	})
	if err != nil {
		return fmt.Errorf("load keys: %w", err)
	}
	for _, mac := range twice {
		delete(d.byMAC, mac)
	}
	if now := g.Now(); seen > api.TimeOf(now.Add(clockSlack)) {
		slog.WarnContext(ctx, "the clock is behind the newest stored key; expiry goes by the later of the two",
			"clock", now, "newest", seen.Std())
	}
	g.raise(seen)
	g.known.Store(d)
	return nil
}

// newEntry makes an entry that owns its slices; was is its former self, if any, whose revocation it shares.
func newEntry(k api.Key, mac [sha256.Size]byte, was *entry) *entry {
	k.Scopes = append([]api.Scope(nil), k.Scopes...)
	e := &entry{key: k, mac: mac,
		principal: &api.Principal{Tenant: k.Tenant, Key: k.ID, Name: k.Name, Scopes: k.Scopes}}
	if was != nil {
		e.revocation = was.revocation
	} else {
		e.revocation = new(revocation)
	}
	return e
}

func sameRights(a, b *api.Key) bool {
	if a.Tenant != b.Tenant || a.Name != b.Name || a.Expires != b.Expires || len(a.Scopes) != len(b.Scopes) {
		return false
	}
	for i := range a.Scopes {
		if a.Scopes[i] != b.Scopes[i] {
			return false
		}
	}
	return true
}

// Authenticate tells who sent these values of the Authorization header. The principal is shared: nobody may change it.
// No text of a key is in any error.
func (g *Guard) Authenticate(authorization []string) (*api.Principal, error) {
	if len(authorization) == 0 {
		if g.dev != nil {
			return g.dev, nil
		}
		return nil, api.Fail(api.CodeUnauthenticated, "", "no API key was sent")
	}
	for _, more := range authorization[1:] {
		if more != authorization[0] {
			return nil, api.Fail(api.CodeBadRequest, "", "several Authorization headers that differ").
				WithCure("Send exactly one Authorization header.")
		}
	}
	const scheme = "Bearer "
	header := authorization[0]
	if len(header) < len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return nil, api.Fail(api.CodeUnauthenticated, "", "the Authorization header is not of the form 'Bearer KEY'")
	}
	mac, ok := g.mac(header[len(scheme):])
	if !ok {
		return nil, errInvalidKey()
	}
	return g.admit(g.known.Load().byMAC[mac])
}

// mac gives the HMAC of a token, after its form and checksum were found right: junk costs no hash.
func (g *Guard) mac(token string) (mac [sha256.Size]byte, ok bool) {
	if len(token) != tokenLength {
		return mac, false
	}
	m := g.macs.Get().(*macer)
	defer g.macs.Put(m)
	copy(m.token[:], token)
	defer clear(m.token[:])
	if !wellFormed(&m.token) {
		return mac, false
	}
	m.hash.Reset()
	m.hash.Write(m.token[:]) // a hash never fails
	return [sha256.Size]byte(m.hash.Sum(m.sum[:0])), true
}

func (g *Guard) admit(e *entry) (*api.Principal, error) {
	if e == nil {
		return nil, errInvalidKey()
	}
	if e.revoked.Load() != 0 {
		return nil, api.Fail(api.CodeUnauthenticated, "", "the API key was revoked")
	}
	if e.key.Expires != 0 && g.past(e.key.Expires) {
		return nil, api.Fail(api.CodeUnauthenticated, "", "the API key has expired")
	}
	return e.principal, nil
}

func errInvalidKey() error {
	return api.Fail(api.CodeUnauthenticated, "", "the API key is not valid")
}

// highStep keeps the request path from writing the high-water mark all the time: it may lag by so much while keys are
// admitted, but the moment at which one is refused is always remembered.
const highStep = api.Time(1_000_000)

// clockSlack is how far clocks of servers that share a store may differ without a warning.
const clockSlack = time.Minute

// past reports whether the time has come, by the clock or by what the clock said before. The high-water mark lives in
// memory and starts at the latest time in the store's keys; it is not written anywhere by itself.
func (g *Guard) past(at api.Time) bool {
	now := api.TimeOf(g.Now())
	if high := api.Time(g.high.Load()); now > high+highStep || (now >= at && now > high) {
		g.raise(now)
	} else {
		now = max(now, high)
	}
	return now >= at
}

func (g *Guard) raise(to api.Time) {
	for {
		high := g.high.Load()
		if int64(to) <= high || g.high.CompareAndSwap(high, int64(to)) {
			return
		}
	}
}

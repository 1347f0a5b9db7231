package tenancy_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tenancy"
)

// memory is a store that keeps what it is told, remembers every argument as text, and can fail.
type memory struct {
	mu      sync.Mutex
	tenants []api.Tenant
	keys    []api.Key
	macs    map[api.KeyID][]byte
	fail    error
	said    strings.Builder
}

func (m *memory) begin(args ...any) error {
	fmt.Fprintln(&m.said, args...)
	return m.fail
}

func (m *memory) PutTenant(_ context.Context, t api.Tenant) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.begin(t); err != nil {
		return err
	}
	for _, old := range m.tenants {
		if old.ID == t.ID {
			return api.Fail(api.CodeExists, string(t.ID), "there already")
		}
	}
	m.tenants = append(m.tenants, t)
	return nil
}

func (m *memory) Tenants(context.Context) ([]api.Tenant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]api.Tenant(nil), m.tenants...), m.fail
}

func (m *memory) SetWeight(_ context.Context, id api.TenantID, weight int, _ int64, _ api.Event) (api.Tenant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.tenants {
		if t := &m.tenants[i]; t.ID == id {
			t.Weight, t.Generation = weight, t.Generation+1
			return *t, m.begin(*t)
		}
	}
	return api.Tenant{}, api.Fail(api.CodeNotFound, string(id), "no such tenant")
}

func (m *memory) PutKey(_ context.Context, k api.Key, mac []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.begin(k, string(mac)); err != nil {
		return err
	}
	if m.macs == nil {
		m.macs = map[api.KeyID][]byte{}
	}
	m.keys, m.macs[k.ID] = append(m.keys, k), bytes.Clone(mac)
	return nil
}

func (m *memory) EachKey(_ context.Context, each func(k api.Key, mac []byte) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.keys {
		if err := each(k, m.macs[k.ID]); err != nil {
			return err
		}
	}
	return m.fail
}

func (m *memory) RevokeKey(_ context.Context, t api.TenantID, id api.KeyID, at api.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.begin(t, id, at); err != nil {
		return err
	}
	for i := range m.keys {
		if m.keys[i].Tenant == t && m.keys[i].ID == id {
			m.keys[i].Revoked = at
			return nil
		}
	}
	return api.Fail(api.CodeNotFound, string(id), "no such key")
}

func (m *memory) setFail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

var pepper = bytes.Repeat([]byte{7}, 32)

// operator is an admin of tenant default; owner returns an admin of another tenant.
var operator = &api.Principal{Tenant: api.DefaultTenant, Key: "op", Name: "op", Scopes: []api.Scope{api.ScopeAdmin}}

func owner(t api.TenantID) *api.Principal {
	return &api.Principal{Tenant: t, Key: "owner", Name: "owner", Scopes: []api.Scope{api.ScopeAdmin}}
}

// newGuard makes a loaded guard over the store with the tenants default, acme and umbrella.
func newGuard(t testing.TB, store *memory, dev bool) *tenancy.Guard {
	t.Helper()
	for _, id := range []api.TenantID{api.DefaultTenant, "acme", "umbrella"} {
		if err := store.PutTenant(t.Context(), api.Tenant{ID: id, Created: 1}); err != nil && !api.Is(err, api.CodeExists) {
			t.Fatal(err)
		}
	}
	g := tenancy.New(store, pepper, dev)
	if err := g.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return g
}

func mustKey(t testing.TB, g *tenancy.Guard, k api.Key) (api.Key, string) {
	t.Helper()
	if k.Name == "" {
		k.Name = "test"
	}
	if k.Scopes == nil {
		k.Scopes = []api.Scope{api.ScopeInfer}
	}
	made, secret, err := g.CreateKey(t.Context(), operator, k)
	if err != nil {
		t.Fatal(err)
	}
	return made, secret
}

// fixed replaces the checksum of a key's text by the right one.
func fixed(token string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	body := token[:min(34, len(token))]
	sum := make([]byte, 6)
	for i, crc := 5, crc32.ChecksumIEEE([]byte(body)); i >= 0; i, crc = i-1, crc/62 {
		sum[i] = digits[crc%62]
	}
	return body + string(sum)
}

// other gives a character of base62 that is not c.
func other(c byte) string {
	if c == 'x' {
		return "y"
	}
	return "x"
}

func wantCode(t testing.TB, err error, code api.Code) {
	t.Helper()
	if !api.Is(err, code) {
		t.Errorf("got %v, want %s", err, code)
	}
}

// TestAuthenticate holds cases A1 to A4 and A9 of the security list.
func TestAuthenticate(t *testing.T) {
	var logged bytes.Buffer
	was := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})))
	defer slog.SetDefault(was)
	store := &memory{}
	g := newGuard(t, store, false)
	key, secret := mustKey(t, g, api.Key{Tenant: "acme", Name: "ci", Scopes: []api.Scope{api.ScopeRead, api.ScopeInfer}})
	changed := fixed(secret[:10] + other(secret[10]) + secret[11:])
	smuggled := fixed("psk_" + strings.Repeat("a", 36))
	plain := sha256.Sum256([]byte(smuggled))
	foreign := hmac.New(sha256.New, []byte("guessed"))
	foreign.Write([]byte(smuggled))
	for i, mac := range [][]byte{plain[:], foreign.Sum(nil), []byte(smuggled), nil} {
		id := api.KeyID(fmt.Sprint("smuggled", i))
		store.keys = append(store.keys, api.Key{ID: id, Tenant: "acme", Scopes: api.Scopes})
		store.macs[id] = mac
	}
	// Texts that are no keys stay out even if their right HMAC is stored: form and checksum are asked first.
	malformed := map[string]string{"bad checksum": secret[:39] + other(secret[39]), "bad character": fixed(secret[:33] + "-"),
		"bad prefix": fixed("psk-" + secret[4:])}
	for name, token := range malformed {
		proper := hmac.New(sha256.New, pepper)
		proper.Write([]byte(token))
		store.keys = append(store.keys, api.Key{ID: api.KeyID(name), Tenant: "acme", Scopes: api.Scopes})
		store.macs[api.KeyID(name)] = proper.Sum(nil)
	}
	if err := g.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, token := range malformed {
		if _, err := g.Authenticate([]string{"Bearer " + token}); !api.Is(err, api.CodeUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	bearer := "Bearer " + secret
	for _, c := range []struct {
		name string
		sent []string
		code api.Code
	}{
		{"the key", []string{bearer}, ""},
		{"scheme in lower case", []string{"bearer " + secret}, ""},
		{"the same twice", []string{bearer, bearer}, ""},
		{"nothing", nil, api.CodeUnauthenticated},
		{"empty", []string{""}, api.CodeUnauthenticated},
		{"Bearer only", []string{"Bearer"}, api.CodeUnauthenticated},
		{"Bearer and a space", []string{"Bearer "}, api.CodeUnauthenticated},
		{"Basic", []string{"Basic " + secret}, api.CodeUnauthenticated},
		{"no scheme", []string{secret}, api.CodeUnauthenticated},
		{"two that differ", []string{bearer, "Bearer " + changed}, api.CodeBadRequest},
		{"one empty of two", []string{bearer, ""}, api.CodeBadRequest},
		{"two in one line", []string{bearer + ", " + bearer}, api.CodeUnauthenticated},
		{"one character changed", []string{"Bearer " + secret[:10] + other(secret[10]) + secret[11:]}, api.CodeUnauthenticated},
		{"one changed, checksum fixed", []string{"Bearer " + changed}, api.CodeUnauthenticated},
		{"trailing space", []string{bearer + " "}, api.CodeUnauthenticated},
		{"two spaces", []string{"Bearer  " + secret}, api.CodeUnauthenticated},
		{"another prefix", []string{"Bearer " + fixed("ghp_"+secret[4:])}, api.CodeUnauthenticated},
		{"1 MB", []string{"Bearer " + strings.Repeat(secret, 1<<20/len(secret))}, api.CodeUnauthenticated},
		{"NUL", []string{"Bearer " + fixed(secret[:33]+"\x00"+secret[34:])}, api.CodeUnauthenticated},
		{"CRLF", []string{"Bearer " + fixed(secret[:32]+"\r\n"+secret[34:])}, api.CodeUnauthenticated},
		{"SQL", []string{"Bearer " + fixed(secret[:23]+"' OR 1=1-- "+secret[34:])}, api.CodeUnauthenticated},
		{"not ASCII", []string{"Bearer " + fixed(secret[:32]+"é"+secret[34:])}, api.CodeUnauthenticated},
		{"smuggled into the database", []string{"Bearer " + smuggled}, api.CodeUnauthenticated},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := g.Authenticate(c.sent)
			if c.code == "" {
				if err != nil || p.Tenant != "acme" || p.Key != key.ID || p.Name != "ci" || !p.Allows(api.ScopeRead) || p.Allows(api.ScopeWrite) {
					t.Fatalf("%+v, %v", p, err)
				}
				return
			}
			wantCode(t, err, c.code)
			if p != nil {
				t.Errorf("principal %+v beside an error", p)
			}
			if e := fmt.Sprintf("%#v", api.AsError(err)); strings.Contains(e, secret[4:14]) || strings.Contains(e, "OR 1=1") {
				t.Errorf("key text in %s", e)
			}
		})
	}
	for name, text := range map[string]string{"logs": logged.String(), "store": store.said.String()} {
		if strings.Contains(text, secret[4:20]) || strings.Contains(text, "OR 1=1") {
			t.Errorf("key text in %s", name)
		}
	}
	if key.Hint == "" || strings.Contains(secret, key.Hint) || len(key.Hint) > 12 {
		t.Errorf("hint %q", key.Hint)
	}
}

func TestDevMode(t *testing.T) {
	g := newGuard(t, &memory{}, true)
	p, err := g.Authenticate(nil)
	if err != nil || p.Tenant != api.DefaultTenant || p.Key != "dev" {
		t.Fatalf("%+v %v", p, err)
	}
	for _, s := range api.Scopes {
		if err := tenancy.Authorize(p, api.DefaultTenant, s); err != nil {
			t.Error(err)
		}
	}
	_, secret := mustKey(t, g, api.Key{Tenant: "acme"})
	if p, err := g.Authenticate([]string{"Bearer " + secret}); err != nil || p.Tenant != "acme" {
		t.Errorf("a real key in dev mode: %+v %v", p, err)
	}
	for _, wrong := range []string{"", "Bearer", "Bearer x", "Basic eA==", "Bearer " + fixed(secret[:5]+other(secret[5])+secret[6:])} {
		if _, err := g.Authenticate([]string{wrong}); err == nil {
			t.Errorf("%q is let in", wrong)
		}
	}
}

// TestTokenChecksum is case A3 for every place: no single changed character passes the checksum, so none costs a look-up.
func TestTokenChecksum(t *testing.T) {
	g := newGuard(t, &memory{}, false)
	_, secret := mustKey(t, g, api.Key{Tenant: "acme"})
	if fixed(secret) != secret {
		t.Fatalf("the checksum is not the one that was asked for")
	}
	rapid.Check(t, func(t *rapid.T) {
		_, token, err := g.CreateKey(context.Background(), operator, api.Key{Tenant: "umbrella", Name: "n", Scopes: []api.Scope{api.ScopeInfer}})
		if err == nil {
			secret = token
		}
		at := rapid.IntRange(0, len(secret)-1).Draw(t, "at")
		to := rapid.Byte().Filter(func(b byte) bool { return b != secret[at] }).Draw(t, "to")
		if p, err := g.Authenticate([]string{"Bearer " + secret[:at] + string([]byte{to}) + secret[at+1:]}); p != nil || !api.Is(err, api.CodeUnauthenticated) {
			t.Fatalf("place %d changed to %q: %v", at, to, err)
		}
		if _, err := g.Authenticate([]string{"Bearer " + secret}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestRevocationHoldsAtOnce is case A6; the store's trouble and later loading do not undo it.
func TestRevocationHoldsAtOnce(t *testing.T) {
	store := &memory{}
	g := newGuard(t, store, false)
	key, secret := mustKey(t, g, api.Key{Tenant: "acme"})
	refused := func(when string) {
		t.Helper()
		if _, err := g.Authenticate([]string{"Bearer " + secret}); !api.Is(err, api.CodeUnauthenticated) {
			t.Errorf("%s: %v", when, err)
		}
	}
	store.setFail(api.Fail(api.CodeStorage, "", "disk full"))
	err := g.RevokeKey(t.Context(), owner("acme"), "acme", key.ID)
	wantCode(t, err, api.CodeStorage)
	refused("with the store down")
	store.setFail(nil)
	for _, name := range []string{"test", "renamed"} {
		store.keys[0].Name = name
		if err := g.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		refused("after loading a store that does not know")
	}
	for range 2 {
		if err := g.RevokeKey(t.Context(), owner("acme"), "acme", key.ID); err != nil {
			t.Fatal(err)
		}
	}
	g = newGuard(t, store, false)
	refused("after a restart")
	if keys, err := g.Keys(t.Context(), "acme"); err != nil || len(keys) != 1 || keys[0].Revoked == 0 {
		t.Errorf("%+v %v", keys, err)
	}
}

// TestExpiryIsNotUndone is case A7.
func TestExpiryIsNotUndone(t *testing.T) {
	store := &memory{}
	g := newGuard(t, store, false)
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	g.Now = func() time.Time { return now }
	_, secret := mustKey(t, g, api.Key{Tenant: "acme", Expires: api.TimeOf(now.Add(time.Hour))})
	_, sibling := mustKey(t, g, api.Key{Tenant: "acme", Expires: api.TimeOf(now.Add(time.Hour))})
	works := func(token string) bool {
		_, err := g.Authenticate([]string{"Bearer " + token})
		return err == nil
	}
	for _, c := range []struct {
		name  string
		move  time.Duration
		works bool
	}{
		{"fresh", 0, true}, {"just before", time.Hour - time.Microsecond, true}, {"at the moment", time.Microsecond, false},
		{"clock moved back an hour", -time.Hour, false}, {"and a day", -24 * time.Hour, false},
	} {
		if now = now.Add(c.move); works(secret) != c.works {
			t.Errorf("%s: works %v", c.name, !c.works)
		}
	}
	if works(sibling) {
		t.Error("a key that nobody used at the moment revives with the clock")
	}
	_, _, err := g.CreateKey(t.Context(), operator, api.Key{Tenant: "acme", Name: "x", Scopes: api.Scopes, Expires: api.TimeOf(now)})
	wantCode(t, err, api.CodeBadRequest)
}

func TestScopes(t *testing.T) {
	infer := &api.Principal{Tenant: "acme", Scopes: []api.Scope{api.ScopeInfer}}
	for _, c := range []struct {
		name   string
		p      *api.Principal
		tenant api.TenantID
		scope  api.Scope
		code   api.Code
	}{
		{"own scope", infer, "acme", api.ScopeInfer, ""},
		{"lacking scope", infer, "acme", api.ScopeWrite, api.CodeForbidden},
		{"inference key on the admin API", infer, "acme", api.ScopeAdmin, api.CodeForbidden},
		{"admin implies all", owner("acme"), "acme", api.ScopeVariant, ""},
		{"foreign tenant", owner("acme"), "umbrella", api.ScopeRead, api.CodeNotFound},
		{"operator in another tenant", operator, "acme", api.ScopeRead, api.CodeNotFound},
		{"nobody", nil, "acme", api.ScopeRead, api.CodeUnauthenticated},
		{"no tenant", owner(""), "", api.ScopeRead, api.CodeNotFound},
		{"unknown scope", owner("acme"), "acme", "root", api.CodeForbidden},
		{"empty scope", owner("acme"), "acme", "", api.CodeForbidden},
		{"look-alike", owner("acme"), "Acme", api.ScopeRead, api.CodeNotFound},
		{"trailing dot", owner("acme"), "acme.", api.ScopeRead, api.CodeNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := tenancy.Authorize(c.p, c.tenant, c.scope)
			if c.code == "" && err != nil {
				t.Fatal(err)
			} else if c.code != "" {
				wantCode(t, err, c.code)
			}
			if c.code == api.CodeForbidden && !strings.Contains(err.Error(), string(c.scope)) {
				t.Errorf("%v does not name the scope", err)
			}
		})
	}
}

// TestForeignLooksLikeMissing is cases B16 to B19: whatever another tenant has, the answer is the one for nothing.
func TestForeignLooksLikeMissing(t *testing.T) {
	g := newGuard(t, &memory{}, false)
	theirs, _ := mustKey(t, g, api.Key{Tenant: "umbrella"})
	ours := owner("acme")
	body := func(err error, name string) string {
		e := api.AsError(err)
		e.Err = nil
		return strings.ReplaceAll(fmt.Sprintf("%+v", *e), name, "NAME")
	}
	create := func(tenant api.TenantID) error {
		_, _, err := g.CreateKey(t.Context(), ours, api.Key{Tenant: tenant, Name: "mine", Scopes: api.Scopes})
		return err
	}
	for name, pair := range map[string][2]string{
		"authorize":         {body(tenancy.Authorize(ours, "umbrella", api.ScopeRead), "umbrella"), body(tenancy.Authorize(ours, "nowhere", api.ScopeRead), "nowhere")},
		"create a key":      {body(create("umbrella"), "umbrella"), body(create("nowhere"), "nowhere")},
		"revoke theirs":     {body(g.RevokeKey(t.Context(), ours, "umbrella", theirs.ID), "umbrella"), body(g.RevokeKey(t.Context(), ours, "nowhere", theirs.ID), "nowhere")},
		"theirs as ours":    {body(g.RevokeKey(t.Context(), ours, "acme", theirs.ID), string(theirs.ID)), body(g.RevokeKey(t.Context(), ours, "acme", "none"), "none")},
		"theirs, by no one": {body(g.RevokeKey(t.Context(), nil, "umbrella", theirs.ID), "umbrella"), body(g.RevokeKey(t.Context(), nil, "nowhere", "none"), "nowhere")},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s:\n%s\n%s", name, pair[0], pair[1])
		}
	}
	if keys, err := g.Keys(t.Context(), "acme"); err != nil || len(keys) != 0 {
		t.Errorf("acme sees %v %v", keys, err)
	}
	if keys, _ := g.Keys(t.Context(), "umbrella"); len(keys) != 1 || keys[0].Revoked != 0 {
		t.Errorf("umbrella's keys are %+v", keys)
	}
}

func TestCreateKeyRefusals(t *testing.T) {
	store := &memory{}
	g := newGuard(t, store, false)
	writer := &api.Principal{Tenant: "acme", Scopes: []api.Scope{api.ScopeWrite, api.ScopeRead, api.ScopeInfer, api.ScopeVariant}}
	for _, c := range []struct {
		name string
		by   *api.Principal
		key  api.Key
		code api.Code
	}{
		{"without admin", writer, api.Key{Tenant: "acme", Name: "x", Scopes: api.Scopes}, api.CodeForbidden},
		{"by nobody", nil, api.Key{Tenant: "acme", Name: "x", Scopes: api.Scopes}, api.CodeUnauthenticated},
		{"tenant that is not there", operator, api.Key{Tenant: "nowhere", Name: "x", Scopes: api.Scopes}, api.CodeNotFound},
		{"no tenant", operator, api.Key{Name: "x", Scopes: api.Scopes}, api.CodeNotFound},
		{"no name", operator, api.Key{Tenant: "acme", Scopes: api.Scopes}, api.CodeBadName},
		{"name with a newline", operator, api.Key{Tenant: "acme", Name: "a\nb", Scopes: api.Scopes}, api.CodeBadName},
		{"no scopes", operator, api.Key{Tenant: "acme", Name: "x"}, api.CodeBadRequest},
		{"unknown scope", operator, api.Key{Tenant: "acme", Name: "x", Scopes: []api.Scope{"root"}}, api.CodeBadRequest},
		{"scope twice", operator, api.Key{Tenant: "acme", Name: "x", Scopes: []api.Scope{"read", "read"}}, api.CodeBadRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, secret, err := g.CreateKey(t.Context(), c.by, c.key)
			wantCode(t, err, c.code)
			if secret != "" || k.ID != "" {
				t.Errorf("made %v all the same", k)
			}
		})
	}
	store.setFail(errors.New("down"))
	if _, secret, err := g.CreateKey(t.Context(), operator, api.Key{Tenant: "acme", Name: "x", Scopes: api.Scopes}); err == nil || secret != "" {
		t.Error("a key that is not stored is handed out")
	}
	if len(store.keys) != 0 {
		t.Errorf("stored %v", store.keys)
	}
}

// TestKeyQuota fills a tenant from many goroutines at once.
func TestKeyQuota(t *testing.T) {
	g := newGuard(t, &memory{}, false)
	var wait sync.WaitGroup
	var mu sync.Mutex
	var made []api.Key
	for range 8 {
		wait.Go(func() {
			for range tenancy.KeysPerTenant/8 + 5 {
				k, _, err := g.CreateKey(context.Background(), owner("acme"), api.Key{Tenant: "acme", Name: "x", Scopes: api.Scopes})
				if err != nil && !api.Is(err, api.CodeTooLarge) {
					t.Error(err)
				} else if err == nil {
					mu.Lock()
					made = append(made, k)
					mu.Unlock()
				}
			}
		})
	}
	wait.Wait()
	if len(made) != tenancy.KeysPerTenant {
		t.Errorf("%d keys", len(made))
	}
	mustKey(t, g, api.Key{Tenant: "umbrella"}) // another tenant is not affected
	if err := g.RevokeKey(t.Context(), operator, "acme", made[0].ID); err != nil {
		t.Fatal(err)
	}
	mustKey(t, g, api.Key{Tenant: "acme"})
}

func TestTenants(t *testing.T) {
	g := newGuard(t, &memory{}, false)
	for _, c := range []struct {
		by   *api.Principal
		id   api.TenantID
		code api.Code
	}{
		{operator, "newco", ""}, {operator, "newco", api.CodeExists}, {operator, "New Co", api.CodeBadName}, {operator, "..", api.CodeBadName},
		{owner("acme"), "mine", api.CodeForbidden}, {nil, "mine", api.CodeUnauthenticated},
		{&api.Principal{Tenant: api.DefaultTenant, Scopes: []api.Scope{api.ScopeWrite}}, "mine", api.CodeForbidden},
	} {
		made, err := g.CreateTenant(t.Context(), c.by, c.id)
		if c.code != "" {
			wantCode(t, err, c.code)
		} else if err != nil || made.ID != c.id || made.Created == 0 {
			t.Errorf("%+v %v", made, err)
		}
	}
	all, err := g.Tenants(t.Context())
	if got := fmt.Sprint(all[0].ID, ",", all[3].ID); len(all) != 4 || err != nil || got != "acme,umbrella" {
		t.Errorf("%s %v", got, err)
	}
}

// TestWeights sets weights, as the operator and as those who may not, and within their bounds alone.
func TestWeights(t *testing.T) {
	g := newGuard(t, &memory{}, false)
	hints := 0
	g.Changed = func() { hints++ }
	for _, c := range []struct {
		by     *api.Principal
		id     api.TenantID
		weight int
		code   api.Code
	}{
		{operator, "acme", 4, ""}, {operator, "acme", 1000, ""}, {operator, "acme", 0, api.CodeBadRequest},
		{operator, "acme", 1001, api.CodeBadRequest}, {operator, "acme", -1, api.CodeBadRequest}, {operator, "nobody", 2, api.CodeNotFound},
		{owner("acme"), "acme", 2, api.CodeForbidden}, {nil, "acme", 2, api.CodeForbidden},
	} {
		set, err := g.SetWeight(t.Context(), c.by, c.id, c.weight, -1)
		if c.code != "" {
			wantCode(t, err, c.code)
		} else if err != nil || set.Weight != c.weight {
			t.Errorf("%+v %v", set, err)
		}
	}
	if w := g.Weights(); len(w) != 1 || w["acme"] != 1000 || hints != 2 {
		t.Errorf("weights %v after %d hints", w, hints)
	}
}

// TestManyAtOnce runs everything that may run together; what it finds is for the race detector, and no key that was
// revoked is let in again.
func TestManyAtOnce(t *testing.T) {
	g := newGuard(t, &memory{}, false)
	var wait sync.WaitGroup
	for n := range 4 {
		tenant := []api.TenantID{"acme", "umbrella"}[n%2]
		wait.Go(func() {
			for range 100 {
				k, secret, err := g.CreateKey(context.Background(), operator, api.Key{Tenant: tenant, Name: "x", Scopes: api.Scopes, Expires: api.TimeOf(time.Now().Add(time.Hour))})
				if err != nil {
					t.Error(err)
					return
				}
				if p, err := g.Authenticate([]string{"Bearer " + secret}); err != nil || p.Tenant != tenant {
					t.Errorf("%+v %v", p, err)
				}
				if err := g.RevokeKey(context.Background(), operator, tenant, k.ID); err != nil {
					t.Error(err)
				}
				if _, err := g.Authenticate([]string{"Bearer " + secret}); err == nil {
					t.Error("revoked and let in")
				}
			}
		})
	}
	wait.Go(func() {
		for range 50 {
			if err := g.Load(context.Background()); err != nil {
				t.Error(err)
			}
			if _, err := g.Keys(context.Background(), "acme"); err != nil {
				t.Error(err)
			}
		}
	})
	wait.Wait()
}

func BenchmarkAuthenticate(b *testing.B) {
	g := newGuard(b, &memory{}, false)
	var secret string
	for range 1000 {
		_, secret = mustKey(b, g, api.Key{Tenant: "acme", Expires: api.TimeOf(time.Now().Add(time.Hour))})
	}
	good, junk := []string{"Bearer " + secret}, []string{"Bearer " + secret[:39] + other(secret[39])}
	b.Run("good", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := g.Authenticate(good); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := g.Authenticate(good); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("junk", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := g.Authenticate(junk); err == nil {
				b.Fatal("let in")
			}
		}
	})
}

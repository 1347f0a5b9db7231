package tenancy_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tenancy"
)

// passing makes a guard with a tenant and a key, and a clock to move.
func passing(t *testing.T, pepper string, dev bool) (g *tenancy.Guard, p *api.Principal, key api.KeyID, now *time.Time) {
	t.Helper()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	g = tenancy.New(&memory{macs: map[api.KeyID][]byte{}}, []byte(pepper), dev)
	g.Now = func() time.Time { return at }
	admin := &api.Principal{Tenant: api.DefaultTenant, Scopes: []api.Scope{api.ScopeAdmin}}
	if _, err := g.CreateTenant(context.Background(), admin, "acme"); err != nil {
		t.Fatal(err)
	}
	k, secret, err := g.CreateKey(context.Background(), admin, api.Key{Tenant: "acme", Name: "ci", Scopes: []api.Scope{api.ScopeRead}})
	if err != nil {
		t.Fatal(err)
	}
	p, err = g.Authenticate([]string{"Bearer " + secret})
	if err != nil {
		t.Fatal(err)
	}
	return g, p, k.ID, &at
}

func TestPass(t *testing.T) {
	g, p, key, now := passing(t, "pepper", false)
	text, err := g.IssuePass(p, "repository:acme/m:pull", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if got, grant, err := g.RedeemPass(text); err != nil || got != p || grant != "repository:acme/m:pull" || !tenancy.IsPass(text) {
		t.Errorf("%+v, %q, %v", got, grant, err)
	}
	// A pass is no key, and a key no pass.
	if _, err := g.Authenticate([]string{"Bearer " + text}); !api.Is(err, api.CodeUnauthenticated) {
		t.Errorf("a pass was taken for a key: %v", err)
	}
	other, _, _, _ := passing(t, "another pepper", false)
	for name, bad := range map[string]string{"nothing": "", "only the prefix": "psp_", "cut": text[:len(text)-1], "longer": text + "A", "padded": text + "=",
		"no base64": "psp_!!!", "huge": "psp_" + strings.Repeat("A", 1<<20), "without prefix": strings.TrimPrefix(text, "psp_")} {
		if _, _, err := g.RedeemPass(bad); !api.Is(err, api.CodeUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := 4; i < len(text); i++ {
		changed := []byte(text)
		if changed[i] = 'A'; text[i] == 'A' {
			changed[i] = 'B'
		}
		if _, _, err := g.RedeemPass(string(changed)); !api.Is(err, api.CodeUnauthenticated) {
			t.Errorf("changed at %d: %v", i, err)
		}
	}
	if _, _, err := other.RedeemPass(text); !api.Is(err, api.CodeUnauthenticated) {
		t.Errorf("another server took it: %v", err)
	}
	// It ends with its time, also when the clock goes back, and with its key.
	*now = now.Add(61 * time.Second)
	if _, _, err := g.RedeemPass(text); !api.Is(err, api.CodeUnauthenticated) {
		t.Errorf("an old pass: %v", err)
	}
	*now = now.Add(-time.Hour)
	if _, _, err := g.RedeemPass(text); !api.Is(err, api.CodeUnauthenticated) {
		t.Errorf("an old pass and an old clock: %v", err)
	}
	*now = now.Add(2 * time.Hour)
	if text, err = g.IssuePass(p, "", time.Minute); err != nil {
		t.Fatal(err)
	}
	admin := &api.Principal{Tenant: api.DefaultTenant, Scopes: []api.Scope{api.ScopeAdmin}}
	if err := g.RevokeKey(context.Background(), admin, "acme", key); err != nil {
		t.Fatal(err)
	}
	if _, _, err := g.RedeemPass(text); !api.Is(err, api.CodeUnauthenticated) {
		t.Errorf("the pass of a revoked key: %v", err)
	}
	if _, err := g.IssuePass(p, strings.Repeat("x", 5000), time.Minute); !api.Is(err, api.CodeTooLarge) {
		t.Errorf("a long grant: %v", err)
	}
	if _, err := g.IssuePass(nil, "", time.Minute); !api.Is(err, api.CodeUnauthenticated) {
		t.Errorf("nobody's pass: %v", err)
	}
}

func TestPassOfDev(t *testing.T) {
	g, _, _, _ := passing(t, "pepper", true)
	p, err := g.Authenticate(nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := g.IssuePass(p, "x", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := g.RedeemPass(text); err != nil || got != p {
		t.Errorf("%+v, %v", got, err)
	}
	strict, _, _, _ := passing(t, "pepper", false)
	if _, _, err := strict.RedeemPass(text); !api.Is(err, api.CodeUnauthenticated) {
		t.Errorf("a server without --dev takes its pass: %v", err)
	}
}

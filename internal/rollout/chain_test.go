package rollout_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/rollout"
)

// resolver makes chains whose steps are what the spec names; the engine's own are tested there.
type resolver struct{}

func (resolver) Resolve(spec *api.ChainSpec, version func(string) (api.Version, error), file func(string, string, int64) ([]byte, error)) (*api.Chain, error) {
	c := &api.Chain{}
	for _, s := range spec.Steps {
		v, err := version(s.Model)
		if err != nil {
			return nil, err
		}
		text, err := file(s.Model, "labels.txt", 10)
		if err != nil {
			return nil, err
		}
		if string(text) != v.Ref().String()+" labels.txt" {
			return nil, api.Fail(api.CodeInternal, "", "read %q", text)
		}
		c.Steps = append(c.Steps, api.ChainStep{Name: s.Name, Model: v.Model, Version: v.Number, Digest: v.Digest, Format: v.Format})
	}
	return c, nil
}

type shelf struct{ catalog }

func (shelf) ReadArtifact(_ context.Context, _ api.TenantID, ref api.Ref, path string, _ int64) ([]byte, error) {
	return []byte(ref.String() + " " + path), nil
}

// prober remembers what it was asked to try, and refuses chains of version 8.
type prober struct {
	mu    sync.Mutex
	tried []string
}

func (p *prober) Probe(_ context.Context, w api.Want) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tried = append(p.tried, w.Subject)
	if w.Options.Chain == nil || w.Format != api.FormatChain || w.Tenant != "default" || !w.Digest.Valid() || w.Instance != w.Digest.Hex() {
		return api.Fail(api.CodeInternal, "", "bad want %+v", w)
	}
	if w.Options.Chain.Steps[0].Version == 8 {
		return api.Fail(api.CodeLoadFailed, w.Subject, "it does not load")
	}
	return nil
}

func chainOf(refs ...string) api.EndpointSpec {
	c := &api.ChainSpec{}
	for i, ref := range refs {
		c.Steps = append(c.Steps, api.ChainStepSpec{Name: string(rune('a' + i)), Model: ref})
	}
	return api.EndpointSpec{Variants: []api.VariantSpec{{Chain: c}}}
}

func TestChains(t *testing.T) {
	db, p, fleet := newDatabase(), &prober{}, &fleet{have: map[string]bool{}}
	c := rollout.New(rollout.Config{JournalDir: t.TempDir(), Now: time.Now, Log: slog.New(slog.DiscardHandler), Store: db,
		Catalog: catalog{}, Fleet: fleet, Meter: meter{}, Chains: resolver{}, Files: shelf{}, Prober: p}, func() {})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	deploy := func(spec api.EndpointSpec) (api.Release, error) {
		rel, err := c.Deploy(t.Context(), someone, "e", spec, -1, "")
		if err != nil {
			return rel, err
		}
		return c.Await(t.Context(), "default", "e", rel.Number)
	}
	if rel, err := deploy(spec(1)); err != nil || rel.State != api.ReleaseSucceeded {
		t.Fatal(rel, err)
	}
	for range 2 { // the second is loaded already and not tried again
		if rel, err := deploy(chainOf("m@1", "n@2")); err != nil || rel.State != api.ReleaseSucceeded {
			t.Fatal(rel, err)
		}
	}
	rev, err := c.Revisions(t.Context(), "default", "e", 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	v := rev[0].Variants[0]
	if want, err := v.Chain.Digest(); err != nil || v.Digest != want || v.Version != 3 || v.Model != "" || v.Subject() != "chain(m@1, n@2)" {
		t.Errorf("variant %+v", v)
	}
	e, err := c.Endpoint(t.Context(), "default", "e")
	if err != nil || !e.Status.Ready || e.Status.Variants[0].Model != "chain(m@1, n@2)" {
		t.Errorf("status %+v, %v", e.Status, err)
	}
	if !slices.Equal(p.tried, []string{"chain(m@1, n@2)"}) {
		t.Errorf("tried %q", p.tried)
	}
	both := chainOf("m@1")
	both.Variants[0].Model = "m@1"
	for name, tc := range map[string]struct {
		spec api.EndpointSpec
		code api.Code
		text string
	}{
		"refused by the trial": {chainOf("m@8"), api.CodeLoadFailed, "it does not load"},
		"unknown version":      {chainOf("m@77"), api.CodeVersionNotFound, "e: variant main: m@77: no such version"},
		"a foreign model":      {chainOf("other/m@1"), api.CodeModelNotFound, "no such model in this tenant"},
		"model and chain":      {both, api.CodeBadRequest, "model or chain"},
	} {
		if _, err := deploy(tc.spec); !api.Is(err, tc.code) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Rollback(t.Context(), someone, "e", 1, ""); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	none := start(t, newDatabase(), t.TempDir())
	defer none.stop()
	if _, err := none.Deploy(t.Context(), someone, "e", chainOf("m@1"), -1, ""); !api.Is(err, api.CodeUnsupported) {
		t.Errorf("without chains: %v", err)
	}
}

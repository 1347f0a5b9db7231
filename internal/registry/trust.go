package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/dsse"
)

// The bounds of a trust policy and of the search for a signature.
const (
	trustKeysMax    = 32
	trustAliasesMax = 64
	signaturesPage  = 100
	signaturesMax   = 1000 // signatures of one version that are looked at
	reasonsMax      = 3    // of signatures that do not count, told in the refusal
)

// TrustStore is what the catalog needs of the database for trust policies.
type TrustStore interface {
	TrustPolicy(ctx context.Context, t api.TenantID) (api.TrustPolicy, error)
	SaveTrustPolicy(ctx context.Context, t api.TenantID, p api.TrustPolicy, ifGeneration int64) (api.TrustPolicy, error)
}

// Trust shows a tenant's trust policy.
func (c *Catalog) Trust(ctx context.Context, t api.TenantID) (api.TrustPolicy, error) {
	return c.store.TrustPolicy(ctx, t)
}

// SetTrust puts a tenant's policy in the place of the one whose generation is ifGeneration; -1 is any. A policy that asks for
// signatures names a key: with none nothing could be deployed any more, and nobody would have said so. What serves goes on.
func (c *Catalog) SetTrust(ctx context.Context, p *api.Principal, t api.TenantID, in api.TrustRequest, ifGeneration int64) (api.TrustPolicy, error) {
	if !p.Allows(api.ScopeAdmin) {
		return api.TrustPolicy{}, api.Fail(api.CodeForbidden, "", "this needs a key with the scope %q", api.ScopeAdmin)
	}
	if len(in.Keys) > trustKeysMax || len(in.Aliases) > trustAliasesMax {
		return api.TrustPolicy{}, api.Fail(api.CodeTooLarge, "", "a policy names at most %d keys and %d aliases", trustKeysMax, trustAliasesMax)
	}
	if len(in.Keys) == 0 && (in.Require || len(in.Aliases) > 0) {
		return api.TrustPolicy{}, api.Fail(api.CodeBadRequest, "$.keys", "a policy that asks for signatures names at least one key").
			WithCure("Name a key with `penstock trust require --key NAME=FILE`.")
	}
	policy := api.TrustPolicy{Require: in.Require, Aliases: in.Aliases, Changed: api.TimeOf(c.now()), ChangedBy: p.Name}
	for _, a := range in.Aliases {
		if err := checkAlias(a); err != nil {
			return api.TrustPolicy{}, err
		}
	}
	for i, k := range in.Keys {
		if err := api.CheckName("key", k.Name); err != nil {
			return api.TrustPolicy{}, err
		}
		if slices.ContainsFunc(in.Keys[:i], func(o api.TrustedKey) bool { return o.Name == k.Name }) {
			return api.TrustPolicy{}, api.Fail(api.CodeBadRequest, "$.keys", "the key %q stands twice", k.Name)
		}
		key, err := dsse.ParsePublic([]byte(k.PublicKey))
		if err != nil {
			return api.TrustPolicy{}, api.Fail(api.CodeBadRequest, "$.keys", "the key %q: %w", k.Name, err).
				WithCure("Give a public key in PEM, Ed25519 or ECDSA P-256, as `penstock sign keygen` writes it.")
		}
		k.ID = key.ID()
		policy.Keys = append(policy.Keys, k)
	}
	slices.Sort(policy.Aliases)
	policy.Aliases = slices.Compact(policy.Aliases)
	return c.store.SaveTrustPolicy(ctx, t, policy, ifGeneration)
}

// MayDeploy refuses a version that the tenant's policy does not let into production.
func (c *Catalog) MayDeploy(ctx context.Context, v *api.Version) error {
	policy, err := c.store.TrustPolicy(ctx, v.Tenant)
	if err != nil || !policy.Require {
		return err
	}
	return c.needSignature(ctx, v, &policy, "deployed")
}

// mayMove refuses to move aliases that the tenant's policy guards to a version without a valid signature.
func (c *Catalog) mayMove(ctx context.Context, v *api.Version, names []api.AliasName) error {
	if len(names) == 0 {
		return nil
	}
	policy, err := c.store.TrustPolicy(ctx, v.Tenant)
	if err != nil {
		return err
	}
	for _, name := range names {
		if slices.Contains(policy.Aliases, name) {
			return c.needSignature(ctx, v, &policy, "named "+string(name))
		}
	}
	return nil
}

// needSignature looks for one signature that counts: by a named key that has not expired, of this manifest and exactly
// these files. It tells why those that are there do not.
func (c *Catalog) needSignature(ctx context.Context, v *api.Version, policy *api.TrustPolicy, what string) error {
	keys, names, reasons := trusted(policy.Keys, c.now())
	repo := api.Repository{Tenant: v.Tenant, Name: string(v.Model)}
	seen, after := 0, api.ContentDigest("")
	for seen < signaturesMax {
		page, err := c.store.Referrers(ctx, repo, api.ContentDigest(v.Digest), api.ReferrerSignature, after, signaturesPage)
		if err != nil {
			return err
		}
		for i := range page {
			why, err := c.counts(ctx, v, &page[i], keys)
			if err != nil {
				return err
			}
			if why == "" {
				return nil
			}
			if len(reasons) < reasonsMax {
				reasons = append(reasons, why)
			}
		}
		seen += len(page)
		if len(page) < signaturesPage {
			break
		}
		after = page[len(page)-1].Digest
	}
	subject, cure := string(v.Model), "Push it without the alias, sign the version with `penstock sign`, then move the alias."
	if v.Number > 0 {
		subject = v.Ref().String()
		cure = fmt.Sprintf("Sign it with one of these keys: `penstock sign --sign-key FILE %s`. What serves now goes on.", subject)
	}
	text := fmt.Sprintf("the version may not be %s: the tenant's policy asks for a signature by one of the keys %s, and none of its %d signatures counts",
		what, strings.Join(names, ", "), seen)
	if len(reasons) > 0 {
		text += " (" + strings.Join(reasons, "; ") + ")"
	}
	return api.Fail(api.CodeSignatureMissing, subject, "%s", text).WithCure("%s", cure)
}

// trusted gives the keys that still count, the names of all, and why some do not.
func trusted(all []api.TrustedKey, now time.Time) (keys []*dsse.PublicKey, names, reasons []string) {
	for _, k := range all {
		names = append(names, k.Name)
		if !k.Expires.IsZero() && !now.Before(k.Expires.Std()) {
			reasons = append(reasons, fmt.Sprintf("the key %s expired at %s", k.Name, k.Expires.Std().Format(time.RFC3339)))
			continue
		}
		key, err := dsse.ParsePublic([]byte(k.PublicKey))
		if err != nil { // it was read when it came; then the row was changed by hand
			reasons = append(reasons, fmt.Sprintf("the key %s cannot be read", k.Name))
			continue
		}
		keys = append(keys, key)
	}
	return keys, names, reasons
}

// counts says why a signature does not count, or nothing. Errors are the store's alone: what a stranger attached never
// keeps a valid signature beside it from being found.
func (c *Catalog) counts(ctx context.Context, v *api.Version, m *api.Manifest, keys []*dsse.PublicKey) (why string, _ error) {
	paper, err := c.firstLayer(ctx, m.Repository, m)
	if err == nil {
		var envelope *dsse.Envelope
		var statement dsse.Statement
		if envelope, statement, err = c.readEnvelope(ctx, paper.Digest, paper.Size); err == nil {
			if _, err = envelope.Verify(keys...); err == nil {
				err = statement.Covers(v.Digest, filesOf(v))
			}
		}
	}
	if kind := api.KindOf(err); err != nil && (kind == api.Storage || kind == api.Canceled || kind == api.Deadline) {
		return "", err
	}
	if err != nil {
		return m.Blob.Short() + ": " + err.Error(), nil
	}
	return "", nil
}

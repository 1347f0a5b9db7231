package api

import "slices"

// Scope is one thing that a key may do. ScopeAdmin implies every other in its tenant.
type Scope string

// The scopes.
const (
	ScopeAdmin   Scope = "admin"   // keys, tenants (from tenant default only), and all below
	ScopeWrite   Scope = "write"   // push, alias, deploy, roll back, apply
	ScopeRead    Scope = "read"    // list and show
	ScopeInfer   Scope = "infer"   // call endpoints
	ScopeVariant Scope = "variant" // force a variant with the Penstock-Variant header
	ScopeGate    Scope = "gate"    // write what a gate found about a version
)

// Scopes lists every scope, for validation and help texts.
var Scopes = []Scope{ScopeAdmin, ScopeWrite, ScopeRead, ScopeInfer, ScopeVariant, ScopeGate}

// Principal is who is calling, resolved once per request and never changed after. It is shared between goroutines.
type Principal struct {
	Tenant TenantID
	Key    KeyID  // "dev" for callers let in by --dev
	Name   string // the key's name, for history and audit
	Scopes []Scope
}

// Allows reports whether the principal has the scope, or admin.
func (p *Principal) Allows(s Scope) bool {
	return p != nil && (slices.Contains(p.Scopes, s) || slices.Contains(p.Scopes, ScopeAdmin))
}

// Tenant is an isolation boundary; it owns models, endpoints and keys.
type Tenant struct {
	ID      TenantID `json:"id" doc:"Name of the tenant."`
	Created Time     `json:"created" doc:"When it was made."`

	Weight     int   `json:"weight" doc:"Its part of the workers' time relative to the others', while several want more than there is."`
	Generation int64 `json:"generation" doc:"Counts its changes; also the ETag."`
}

// The weights of tenants.
const (
	WeightDefault = 1
	WeightMax     = 1000
)

// Key is an API credential, without its secret. The secret is shown once, when the key is made.
type Key struct {
	ID      KeyID    `json:"id" doc:"Identifier, not secret."`
	Tenant  TenantID `json:"tenant" doc:"Tenant whose things the key can reach."`
	Name    string   `json:"name" doc:"A name for people and the audit."`
	Hint    string   `json:"hint" doc:"Prefix and last four characters of the secret."`
	Scopes  []Scope  `json:"scopes" doc:"What the key may do: admin, write, read, infer, variant, gate."`
	Created Time     `json:"created" doc:"When it was made."`
	Expires Time     `json:"expires,omitzero" doc:"When it stops working; absent means never."`
	Revoked Time     `json:"revoked,omitzero" doc:"When it was revoked; absent while it works."`
}

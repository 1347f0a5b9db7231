package api

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// TenantID names a tenant. Like the names and ids below it is a type of its own, so that one cannot stand where another
// belongs.
type TenantID string

// KeyID identifies a key; it is no secret.
type KeyID string

// ModelName names a model in a tenant.
type ModelName string

// AliasName names an alias of a model.
type AliasName string

// EndpointName names an endpoint in a tenant.
type EndpointName string

// VariantName names an arm of a revision.
type VariantName string

// Digest is "sha256:" and 64 lower-case hex digits.
type Digest string

// VersionNumber numbers a model's versions, from 1.
type VersionNumber int64

// RevisionNumber numbers an endpoint's revisions, from 1.
type RevisionNumber int64

// DefaultTenant exists from the start and may be left out of names.
const DefaultTenant TenantID = "default"

var (
	nameRule   = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	digestRule = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// CheckName reports a name that breaks the rule [a-z0-9][a-z0-9._-]{0,62}; what says which noun it names.
func CheckName(what, name string) error {
	if nameRule.MatchString(name) && !strings.Contains(name, "..") {
		return nil
	}
	return Fail(CodeBadName, "", "%s name %q breaks the rule [a-z0-9][a-z0-9._-]{0,62} without '..'", what, clip(name))
}

// Valid reports whether the digest is sha256 with 64 hex digits.
func (d Digest) Valid() bool { return digestRule.MatchString(string(d)) }

// Hex is the digest without its algorithm.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// Short is the first 12 hex digits, for people.
func (d Digest) Short() string {
	h := d.Hex()
	return h[:min(12, len(h))]
}

// Ref names a model, or one version of it: "fraud", "fraud@3", "fraud:champion", "acme/fraud@3", "fraud@1.2.0",
// "fraud@^1.2", "fraud@sha256:…".
type Ref struct {
	Tenant  TenantID // empty when the text named none
	Model   ModelName
	Version VersionNumber // 0 when not given by number
	Label   string        // a semantic version or a range of them; empty when not given by one
	Alias   AliasName     // empty when not given by alias
	Digest  Digest        // empty when not given by digest
}

// ParseRef reads a reference. A reference without version, alias or digest means the latest version.
func ParseRef(s string) (Ref, error) {
	var r Ref
	rest := s
	if tenant, after, ok := strings.Cut(rest, "/"); ok {
		if err := CheckName("tenant", tenant); err != nil {
			return r, err
		}
		r.Tenant, rest = TenantID(tenant), after
	}
	model, pick, at := strings.Cut(rest, "@")
	if !at {
		var alias string
		var colon bool
		if model, alias, colon = strings.Cut(rest, ":"); colon {
			if err := CheckName("alias", alias); err != nil {
				return r, err
			}
			r.Alias = AliasName(alias)
		}
	}
	if err := CheckName("model", model); err != nil {
		return r, err
	}
	r.Model = ModelName(model)
	if !at {
		return r, nil
	}
	if d := Digest(pick); d.Valid() {
		r.Digest = d
		return r, nil
	}
	if LooksLikeLabel(pick) {
		r.Label = pick
		return r, CheckLabelRef(pick)
	}
	n, err := strconv.ParseInt(pick, 10, 64)
	if err != nil || n < 1 || strconv.FormatInt(n, 10) != pick {
		return r, Fail(CodeBadName, clip(s), "version %q is neither a number from 1, a label such as 1.2.0 or ^1.2, nor a sha256 digest", clip(pick))
	}
	r.Version = VersionNumber(n)
	return r, nil
}

// String gives the reference back as it is written.
func (r Ref) String() string {
	var b strings.Builder
	if r.Tenant != "" {
		fmt.Fprintf(&b, "%s/", r.Tenant)
	}
	b.WriteString(string(r.Model))
	switch {
	case r.Version > 0:
		fmt.Fprintf(&b, "@%d", r.Version)
	case r.Digest != "":
		fmt.Fprintf(&b, "@%s", r.Digest)
	case r.Label != "":
		fmt.Fprintf(&b, "@%s", r.Label)
	case r.Alias != "":
		fmt.Fprintf(&b, ":%s", r.Alias)
	}
	return b.String()
}

// clip bounds untrusted text that is put into a message.
func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

package api

import "slices"

// AliasChange asks an alias to move.
type AliasChange struct {
	Tenant TenantID
	Model  ModelName
	Alias  AliasName
	To     VersionNumber // 0 deletes it
	// Moves must be how often it moved so far: -1 is any, 0 is that there is none.
	Moves int64
	// Expect, when not nil, must be the version that it names now; 0 is that there is none.
	Expect *VersionNumber
	By     *Principal // nil: nobody, whom no rule lets through
	Why    string
	At     Time
}

// Mover is the name that the history keeps.
func (c *AliasChange) Mover() string {
	if c.By == nil {
		return ""
	}
	return c.By.Name
}

// AliasRule protects an alias: who may move or delete it, and what a version must have passed before it gets the name.
type AliasRule struct {
	Alias     AliasName `json:"alias" doc:"Alias that it protects."`
	Scopes    []Scope   `json:"scopes,omitempty" doc:"Keys with one of these scopes may move it." maxItems:"8"`
	Keys      []KeyID   `json:"keys,omitempty" doc:"These keys may move it. With neither scopes nor keys, all that may write." maxItems:"64"`
	Gates     []string  `json:"gates,omitempty" doc:"Gates whose last result for the version must be that it passed." maxItems:"16"`
	Changed   Time      `json:"changed" doc:"When the rule was written."`
	ChangedBy string    `json:"changed_by" doc:"Name of the key that wrote it."`
}

// AliasRuleRequest writes a rule.
type AliasRuleRequest struct {
	Scopes []Scope  `json:"scopes,omitempty" doc:"Keys with one of these scopes may move it." maxItems:"8"`
	Keys   []KeyID  `json:"keys,omitempty" doc:"These keys may move it." maxItems:"64"`
	Gates  []string `json:"gates,omitempty" doc:"Gates that a version must have passed." maxItems:"16"`
}

// Check refuses a move that the rule forbids. Version is the one that shall get the name, nil when the alias goes.
func (r *AliasRule) Check(by *Principal, v *Version) error {
	subject := ":" + string(r.Alias)
	who := len(r.Scopes)+len(r.Keys) == 0 || by != nil && slices.Contains(r.Keys, by.Key) || slices.ContainsFunc(r.Scopes, by.Allows)
	if !who {
		return Fail(CodeProtected, subject, "the alias is protected, and this key may not move it").
			WithCure("Use a key that its rule names: `penstock protect MODEL %s`.", r.Alias)
	}
	if v == nil {
		return nil
	}
	for _, name := range r.Gates {
		at := slices.IndexFunc(v.Gates, func(g GateResult) bool { return g.Name == name })
		switch {
		case at < 0:
			return Fail(CodeProtected, v.Ref().String(), "the alias %s is protected by the gate %q, which has not looked at this version", r.Alias, name).
				WithCure("Let the gate run first: its result is written by `penstock gate %s %s pass`.", v.Ref(), name)
		case !v.Gates[at].Passed:
			return Fail(CodeProtected, v.Ref().String(), "the alias %s is protected by the gate %q, which this version did not pass", r.Alias, name).
				WithCure("See why with `penstock show %s`, and push a version that passes.", v.Ref())
		}
	}
	return nil
}

package registry

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/registry/card"
)

// The limits of what is said about a version.
const (
	noteBytesMax = 256  // of one field or reference
	longBytesMax = 1024 // of the description, or of why a gate found what it did
	listMax      = 32   // datasets or base models
	keywordsMax  = 64
	resultsMax   = 256
	gatesMax     = 64 // different gates of one version
)

func (l Limits) checkOrigin(o api.Origin) error {
	if len(o.Datasets) > listMax || len(o.BaseModels) > listMax {
		return api.Fail(api.CodeTooLarge, "", "more than %d datasets or base models", listMax)
	}
	return checkLines(noteBytesMax, append(append([]string{o.Framework}, o.Datasets...), o.BaseModels...)...)
}

func (l Limits) checkNotes(n api.Notes) error {
	if len(n.Keywords) > keywordsMax || len(n.Results) > resultsMax {
		return api.Fail(api.CodeTooLarge, "", "%d keywords and %d results are over the limits of %d and %d", len(n.Keywords), len(n.Results), keywordsMax, resultsMax)
	}
	if err := checkLines(noteBytesMax, append([]string{n.Task, n.Owner, n.Licence}, n.Keywords...)...); err != nil {
		return err
	}
	if err := checkLines(longBytesMax, n.Description); err != nil {
		return err
	}
	seen := map[api.Result]bool{}
	for _, r := range n.Results {
		if !keyRule.MatchString(r.Metric) || math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
			return api.Fail(api.CodeBadName, "", "the result %q=%g is not a name of the rule %s with a finite number", shown(r.Metric), r.Value, keyRule)
		}
		if err := checkLines(128, r.Dataset, r.Split); err != nil {
			return err
		}
		if r.Value = 0; seen[r] {
			return api.Fail(api.CodeBadRequest, "", "the result %q stands twice for one dataset and split", r.Metric)
		}
		seen[r] = true
	}
	return nil
}

// checkLines refuses texts that are too long or not one line.
func checkLines(most int, texts ...string) error {
	for _, text := range texts {
		if len(text) > most {
			return api.Fail(api.CodeTooLarge, "", "%q has %d bytes, over the limit of %d", shown(text), len(text), most)
		}
		if !isLine(text) {
			return api.Fail(api.CodeBadRequest, "", "%q is not one line of UTF-8 text", shown(text))
		}
	}
	return nil
}

// learn fills what the push did not say with what the card's front matter says, and with the tool that wrote the file. It
// comes after the manifest: what can be read from the files again is not written a second time. A card that was given as one
// must be readable; a README that is found beside the model was perhaps never meant for this.
func (c *Catalog) learn(v *api.Version, given bool) error {
	front, err := card.Parse(v.Card)
	if err != nil && given {
		return err
	}
	origin, notes := front.Origin, front.Notes
	// A card of somebody else's program may say more than fits. It is a hint, so what does not fit is left out.
	notes.Results = slices.DeleteFunc(notes.Results, func(r api.Result) bool {
		return c.limits.checkNotes(api.Notes{Results: []api.Result{r}}) != nil
	})
	notes.Results = notes.Results[:min(len(notes.Results), resultsMax)]
	if c.limits.checkNotes(notes) == nil {
		v.Notes = v.Notes.Or(notes)
	}
	if c.limits.checkOrigin(origin) == nil {
		v.Origin = v.Origin.Or(origin)
	}
	v.Origin = v.Origin.Or(api.Origin{Framework: strings.ToValidUTF8(v.Info.Producer[:min(len(v.Info.Producer), noteBytesMax)], "")})
	return nil
}

// renote applies the notes of a push whose content is there already.
func (c *Catalog) renote(ctx context.Context, p *api.Principal, ref api.Ref, up api.Upload) (api.Version, error) {
	return c.store.EditVersion(ctx, p.Tenant, ref.Model, ref.Version, func(v *api.Version) (api.Event, error) {
		v.Notes = up.Notes.Or(v.Notes)
		return api.Event{}, relabel(v, up.Label)
	})
}

// relabel gives a version its label. One that it has stays for ever: others may have written it down.
func relabel(v *api.Version, label string) error {
	if label == "" || label == v.Label {
		return nil
	}
	if v.Label != "" {
		return api.Fail(api.CodeExists, v.Ref().String(), "the version has the label %s, which never changes", v.Label).
			WithCure("Push the next version with the label %s.", label)
	}
	if _, err := api.ParseLabel(label); err != nil {
		return err
	}
	v.Label = label
	return nil
}

// SetMetadata changes notes and label of a version. IfChanges is how often they changed so far; -1 is any.
func (c *Catalog) SetMetadata(ctx context.Context, p *api.Principal, ref api.Ref, in api.MetadataRequest, ifChanges int64) (api.Version, error) {
	if err := mayWrite(p); err != nil {
		return api.Version{}, err
	}
	v, err := c.Resolve(ctx, p.Tenant, ref)
	if err != nil {
		return v, err
	}
	at := api.TimeOf(c.now())
	return c.store.EditVersion(ctx, p.Tenant, v.Model, v.Number, func(v *api.Version) (api.Event, error) {
		if ifChanges >= 0 && ifChanges != v.Changes {
			return api.Event{}, api.Fail(api.CodeStale, v.Ref().String(), "the metadata has changed %d times, not %d", v.Changes, ifChanges)
		}
		for _, f := range []struct{ have, want *string }{{&v.Notes.Task, in.Task}, {&v.Notes.Owner, in.Owner}, {&v.Notes.Licence, in.Licence},
			{&v.Notes.Description, in.Description}} {
			if f.want != nil {
				*f.have = *f.want
			}
		}
		if in.Keywords != nil {
			v.Notes.Keywords = *in.Keywords
		}
		if in.Results != nil {
			v.Notes.Results = *in.Results
		}
		return api.Event{Tenant: v.Tenant, At: at, Kind: "version.noted", Subject: v.Ref().String(), Text: "The metadata of " + v.Ref().String() + " changed.", By: p.Name},
			errors.Join(c.limits.checkNotes(v.Notes), relabel(v, in.Label))
	})
}

// WriteGate keeps what a gate found about a version. It needs the scope gate, which write does not imply: who pushes a
// version is not who passes it.
func (c *Catalog) WriteGate(ctx context.Context, p *api.Principal, ref api.Ref, in api.GateRequest) (api.Version, error) {
	if !p.Allows(api.ScopeGate) {
		return api.Version{}, api.Fail(api.CodeForbidden, "", "this needs a key with the scope %q", api.ScopeGate)
	}
	if err := errors.Join(api.CheckName("gate", in.Name), checkLines(longBytesMax, in.Why)); err != nil {
		return api.Version{}, err
	}
	if in.Evidence != "" && !in.Evidence.Valid() {
		return api.Version{}, api.Fail(api.CodeBadName, in.Name, "the evidence is not a digest: sha256: and 64 lower-case hex digits")
	}
	v, err := c.Resolve(ctx, p.Tenant, ref)
	if err != nil {
		return v, err
	}
	result := api.GateResult{Name: in.Name, Passed: in.Passed, Evidence: in.Evidence, Why: in.Why, At: api.TimeOf(c.now()), By: p.Name}
	return c.store.EditVersion(ctx, p.Tenant, v.Model, v.Number, func(v *api.Version) (api.Event, error) {
		at := slices.IndexFunc(v.Gates, func(g api.GateResult) bool { return g.Name == result.Name })
		if at < 0 {
			if at = len(v.Gates); at == gatesMax {
				return api.Event{}, api.Fail(api.CodeTooLarge, v.Ref().String(), "a version has results of at most %d gates", gatesMax)
			}
			v.Gates = append(v.Gates, result)
		}
		v.Gates[at] = result
		words := map[bool]string{true: "passed", false: "did not pass"}[result.Passed]
		return api.Event{Tenant: v.Tenant, At: result.At, Kind: "version.gated", Subject: v.Ref().String(),
			Text: v.Ref().String() + " " + words + " the gate " + result.Name + ".", By: p.Name}, nil
	})
}

// byLabel finds the version of a label, or the newest one of a range.
func (c *Catalog) byLabel(ctx context.Context, t api.TenantID, ref api.Ref) (api.Version, error) {
	if _, err := api.ParseLabel(ref.Label); err == nil {
		return c.store.VersionByLabel(ctx, t, ref.Model, ref.Label)
	}
	r, err := api.ParseLabelRange(ref.Label)
	if err != nil {
		return api.Version{}, err
	}
	v, err := c.store.VersionInRange(ctx, t, ref.Model, r)
	if api.Is(err, api.CodeVersionNotFound) {
		err = api.Fail(api.CodeVersionNotFound, ref.String(), "no version has a label from %s to before %s", r.From, r.Before).
			WithCure("See the labels with `penstock versions %s`.", ref.Model)
	}
	return v, err
}

// ProtectAlias writes the rule of an alias; an empty one removes it. It needs the scope admin: a rule that its own subjects
// could lift would protect nothing.
func (c *Catalog) ProtectAlias(ctx context.Context, p *api.Principal, m api.ModelName, a api.AliasName, in api.AliasRuleRequest) (api.AliasRule, error) {
	rule := api.AliasRule{Alias: a, Scopes: in.Scopes, Keys: in.Keys, Gates: in.Gates, Changed: api.TimeOf(c.now())}
	if !p.Allows(api.ScopeAdmin) {
		return rule, api.Fail(api.CodeForbidden, "", "this needs a key with the scope %q", api.ScopeAdmin)
	}
	rule.ChangedBy = p.Name
	if err := checkAlias(a); err != nil {
		return rule, err
	}
	for _, s := range in.Scopes {
		if !slices.Contains(api.Scopes, s) {
			return rule, api.Fail(api.CodeBadRequest, "", "there is no scope %q", shown(string(s)))
		}
	}
	for _, g := range in.Gates {
		if err := api.CheckName("gate", g); err != nil {
			return rule, err
		}
	}
	for _, k := range in.Keys {
		if err := checkLines(noteBytesMax, string(k)); err != nil {
			return rule, err
		}
	}
	return rule, c.store.PutAliasRule(ctx, p.Tenant, m, rule)
}

// AliasRules lists the rules of a model's aliases.
func (c *Catalog) AliasRules(ctx context.Context, t api.TenantID, m api.ModelName) ([]api.AliasRule, error) {
	return c.store.AliasRules(ctx, t, m)
}

package admintest

import (
	"context"
	"slices"

	"github.com/penstock/penstock/api"
)

// edit changes a version in place.
func (r *Rooms) edit(t api.TenantID, ref api.Ref, change func(*api.Version) error) (api.Version, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, err := r.resolve(t, ref)
	if err != nil {
		return v, err
	}
	m, err := r.find(t, v.Model)
	if err != nil {
		return v, err
	}
	kept := &m.versions[v.Number-1]
	if err := change(kept); err != nil {
		return v, err
	}
	kept.Changes++
	return *kept, nil
}

// SetMetadata changes task, owner and label.
func (r *Rooms) SetMetadata(_ context.Context, p *api.Principal, ref api.Ref, in api.MetadataRequest, ifChanges int64) (api.Version, error) {
	return r.edit(p.Tenant, ref, func(v *api.Version) error {
		if ifChanges >= 0 && ifChanges != v.Changes {
			return api.Fail(api.CodeStale, v.Ref().String(), "the metadata has changed %d times", v.Changes)
		}
		for _, f := range []struct{ have, want *string }{{&v.Notes.Task, in.Task}, {&v.Notes.Owner, in.Owner}, {&v.Label, &in.Label}} {
			if f.want != nil && *f.want != "" {
				*f.have = *f.want
			}
		}
		return nil
	})
}

// WriteGate keeps a result.
func (r *Rooms) WriteGate(_ context.Context, p *api.Principal, ref api.Ref, in api.GateRequest) (api.Version, error) {
	return r.edit(p.Tenant, ref, func(v *api.Version) error {
		v.Gates = append(slices.DeleteFunc(slices.Clone(v.Gates), func(g api.GateResult) bool { return g.Name == in.Name }),
			api.GateResult{Name: in.Name, Passed: in.Passed, Evidence: in.Evidence, Why: in.Why, At: Clock, By: p.Name})
		return nil
	})
}

// ProtectAlias keeps a rule, which nothing here obeys.
func (r *Rooms) ProtectAlias(_ context.Context, p *api.Principal, name api.ModelName, a api.AliasName, in api.AliasRuleRequest) (api.AliasRule, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, err := r.find(p.Tenant, name)
	if err != nil {
		return api.AliasRule{}, err
	}
	rule := api.AliasRule{Alias: a, Scopes: in.Scopes, Keys: in.Keys, Gates: in.Gates, Changed: Clock, ChangedBy: p.Name}
	m.rules = append(slices.DeleteFunc(m.rules, func(r api.AliasRule) bool { return r.Alias == a }), rule)
	return rule, nil
}

// AliasRules lists them.
func (r *Rooms) AliasRules(_ context.Context, t api.TenantID, name api.ModelName) ([]api.AliasRule, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, err := r.find(t, name)
	if err != nil {
		return nil, err
	}
	return slices.Clone(m.rules), nil
}

// Diff compares digests alone.
func (r *Rooms) Diff(ctx context.Context, t api.TenantID, from, to api.Ref) (api.VersionDiff, error) {
	a, err := r.Resolve(ctx, t, from)
	if err != nil {
		return api.VersionDiff{}, err
	}
	b, err := r.Resolve(ctx, t, to)
	d := api.VersionDiff{From: a.Ref().String(), To: b.Ref().String(), Changes: []api.Change{}}
	if a.Digest != b.Digest {
		d.Changes = append(d.Changes, api.Change{Section: "files", Name: "model.onnx", From: a.Digest.Short(), To: b.Digest.Short()})
	}
	return d, err
}

// ShareModel keeps a reader.
func (r *Rooms) ShareModel(_ context.Context, p *api.Principal, name api.ModelName, with api.TenantID, share bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, err := r.find(p.Tenant, name)
	if err != nil {
		return err
	}
	m.readers = slices.DeleteFunc(m.readers, func(o api.ModelReader) bool { return o.Tenant == with })
	if share {
		m.readers = append(m.readers, api.ModelReader{Tenant: with, Granted: Clock, GrantedBy: p.Name})
	}
	return nil
}

// ModelReaders lists them.
func (r *Rooms) ModelReaders(_ context.Context, t api.TenantID, name api.ModelName) ([]api.ModelReader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, err := r.find(t, name)
	if err != nil {
		return nil, err
	}
	return slices.Clone(m.readers), nil
}

// CopyVersion makes a version of the same files.
func (r *Rooms) CopyVersion(ctx context.Context, p *api.Principal, name api.ModelName, in api.SharedCopyRequest) (api.Version, bool, error) {
	ref, err := api.ParseRef(in.Ref)
	if err != nil {
		return api.Version{}, false, err
	}
	v, err := r.Resolve(ctx, in.Tenant, ref)
	if err != nil {
		return v, false, err
	}
	up := api.Upload{}
	for _, a := range v.Artifacts {
		up.Files = append(up.Files, api.UploadFile{Path: a.Path, Digest: a.Digest, Size: a.Size})
	}
	return r.Commit(ctx, p, name, up)
}

// RenameModel moves a model, and keeps no rule but that of the name.
func (r *Rooms) RenameModel(_ context.Context, p *api.Principal, name api.ModelName, in api.RenameRequest) (api.Model, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, err := r.find(p.Tenant, name)
	if err != nil {
		return api.Model{}, err
	}
	if _, err := r.find(p.Tenant, in.To); err == nil {
		return api.Model{}, api.Fail(api.CodeExists, string(in.To), "there is such a model")
	}
	delete(r.models, string(p.Tenant)+"/"+string(name))
	r.models[string(p.Tenant)+"/"+string(in.To)] = m
	m.Name = in.To
	for i := range m.versions {
		m.versions[i].Model = in.To
	}
	r.redirects = append(r.redirects, api.Redirect{Name: name, Model: in.To, Renamed: Clock, By: p.Name})
	return m.Model, nil
}

// ForgetRedirect frees a name.
func (r *Rooms) ForgetRedirect(_ context.Context, _ *api.Principal, name api.ModelName) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := len(r.redirects)
	r.redirects = slices.DeleteFunc(r.redirects, func(d api.Redirect) bool { return d.Name == name })
	if len(r.redirects) == before {
		return api.Fail(api.CodeNotFound, string(name), "no model had this name")
	}
	return nil
}

// Redirects lists them, of all tenants.
func (r *Rooms) Redirects(context.Context, api.TenantID, api.ModelName, int) ([]api.Redirect, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.redirects), nil
}

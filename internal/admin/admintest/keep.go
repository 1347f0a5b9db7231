package admintest

import (
	"context"

	"github.com/penstock/penstock/api"
)

// keeping is what was set of quotas and retention; deletions are only answered.
type keeping struct {
	quota     api.Quota
	retention api.Retention
}

// DeleteVersion answers for a version that is there.
func (r *Rooms) DeleteVersion(ctx context.Context, p *api.Principal, ref api.Ref, _ string, _ bool) error {
	if err := r.Fail["DeleteVersion"]; err != nil {
		return err
	}
	_, err := r.Resolve(ctx, p.Tenant, ref)
	return err
}

// DeleteModel answers for a model that is there.
func (r *Rooms) DeleteModel(ctx context.Context, p *api.Principal, m api.ModelName, _ bool, _ string, _ bool) error {
	_, err := r.Model(ctx, p.Tenant, m)
	return err
}

// RestoreVersion gives a version that is there.
func (r *Rooms) RestoreVersion(ctx context.Context, p *api.Principal, m api.ModelName, n api.VersionNumber) (api.Version, error) {
	return r.Resolve(ctx, p.Tenant, api.Ref{Model: m, Version: n})
}

// RestoreManifest answers that all is well.
func (r *Rooms) RestoreManifest(context.Context, *api.Principal, api.Repository, api.ContentDigest) error {
	return r.Fail["RestoreManifest"]
}

// Trash gives one thing.
func (r *Rooms) Trash(context.Context, api.TenantID, int) ([]api.Deleted, error) {
	return []api.Deleted{{Repository: "digits", Version: 7, Digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000", Deleted: Clock, By: "ci", Until: Clock}}, nil
}

// Retention gives what was set.
func (r *Rooms) Retention(ctx context.Context, t api.TenantID, m api.ModelName) (api.Retention, error) {
	if _, err := r.Model(ctx, t, m); err != nil {
		return api.Retention{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keeping.retention.Model = m
	return r.keeping.retention, nil
}

// SetRetention keeps rules.
func (r *Rooms) SetRetention(ctx context.Context, p *api.Principal, m api.ModelName, rules api.RetentionRules, ifGeneration int64) (api.Retention, error) {
	old, err := r.Retention(ctx, p.Tenant, m)
	if err != nil {
		return old, err
	}
	if ifGeneration >= 0 && ifGeneration != old.Generation {
		return old, api.Fail(api.CodeStale, string(m), "the retention changed")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keeping.retention = api.Retention{Model: m, Generation: old.Generation + 1, RetentionRules: rules}
	return r.keeping.retention, nil
}

// ApplyRetention keeps everything.
func (r *Rooms) ApplyRetention(ctx context.Context, p *api.Principal, m api.ModelName, _ bool) ([]api.RetentionVerdict, error) {
	if _, err := r.Model(ctx, p.Tenant, m); err != nil {
		return nil, err
	}
	return []api.RetentionVerdict{{Version: 1, Why: "the model has no retention"}}, nil
}

// Quota gives what was set.
func (r *Rooms) Quota(_ context.Context, t api.TenantID) (api.Quota, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.keeping.quota
	q.Tenant, q.Used = t, api.Usage{Bytes: 2048, Blobs: 3}
	return q, nil
}

// SetQuota keeps limits.
func (r *Rooms) SetQuota(ctx context.Context, _ *api.Principal, t api.TenantID, in api.QuotaRequest, ifGeneration int64) (api.Quota, error) {
	old, err := r.Quota(ctx, t)
	if err != nil {
		return old, err
	}
	if ifGeneration >= 0 && ifGeneration != old.Generation {
		return old, api.Fail(api.CodeStale, string(t), "the quota changed")
	}
	r.mu.Lock()
	r.keeping.quota = api.Quota{Generation: old.Generation + 1, QuotaRequest: in}
	r.mu.Unlock()
	return r.Quota(ctx, t)
}

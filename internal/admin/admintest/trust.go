package admintest

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// Paper is the digest of every referrer here.
const Paper = api.Digest("sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")

// Attach gives a referrer of the type that was asked for.
func (r *Rooms) Attach(ctx context.Context, p *api.Principal, ref api.Ref, in api.ReferrerRequest) (api.Referrer, error) {
	_, err := r.Resolve(ctx, p.Tenant, ref)
	return api.Referrer{Digest: Paper, Type: in.Type, Annotations: in.Annotations, Pushed: Clock, PushedBy: p.Name}, err
}

// VersionReferrers lists one signature.
func (r *Rooms) VersionReferrers(ctx context.Context, t api.TenantID, ref api.Ref, kind string, after api.Digest, _ int) ([]api.Referrer, error) {
	_, err := r.Resolve(ctx, t, ref)
	all := []api.Referrer{{Digest: Paper, Type: api.ReferrerSignature, Pushed: Clock, PushedBy: "ops"}}
	return slices.DeleteFunc(all, func(p api.Referrer) bool { return kind != "" && p.Type != kind || p.Digest <= after }), err
}

// OpenReferrer opens the paper, which is two bytes long.
func (r *Rooms) OpenReferrer(ctx context.Context, t api.TenantID, ref api.Ref, d api.Digest) (api.Artifact, io.ReadSeekCloser, error) {
	_, err := r.Resolve(ctx, t, ref)
	if err == nil && d != Paper {
		err = api.Fail(api.CodeManifestNotFound, string(d), "nothing with this digest is attached to the version")
	}
	return api.Artifact{Path: "paper.json", Digest: Paper, Size: 2, MediaType: api.ReferrerSignature}, nothingToClose{strings.NewReader("{}")}, err
}

// Lineage tells of a version that came of a data set.
func (r *Rooms) Lineage(_ context.Context, _ api.TenantID, of, _ string) (api.Lineage, error) {
	return api.Lineage{Of: "version:" + of, Nodes: []api.LineageNode{{ID: "dataset:d", Kind: api.LineageDataset, Name: "d"}, {ID: "version:" + of, Kind: api.LineageVersion, Name: of}},
		Edges: []api.LineageEdge{{From: "dataset:d", To: "version:" + of}}}, nil
}

// Drawing draws nothing.
func (r *Rooms) Drawing(*api.Lineage) []byte { return []byte("<svg/>") }

// SBOM writes an empty document.
func (r *Rooms) SBOM(ctx context.Context, t api.TenantID, ref api.Ref, _ string) ([]byte, error) {
	_, err := r.Resolve(ctx, t, ref)
	return []byte("{}"), err
}

type nothingToClose struct{ io.ReadSeeker }

func (nothingToClose) Close() error { return nil }

// Trust shows the policy.
func (r *Rooms) Trust(context.Context, api.TenantID) (api.TrustPolicy, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.trust, nil
}

// SetTrust changes the policy.
func (r *Rooms) SetTrust(_ context.Context, p *api.Principal, _ api.TenantID, in api.TrustRequest, ifGeneration int64) (api.TrustPolicy, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ifGeneration >= 0 && ifGeneration != r.trust.Generation {
		return api.TrustPolicy{}, api.Fail(api.CodeStale, "trust", "the policy has changed")
	}
	r.trust = api.TrustPolicy{Require: in.Require, Aliases: in.Aliases, Keys: in.Keys, Generation: r.trust.Generation + 1, Changed: Clock, ChangedBy: p.Name}
	return r.trust, nil
}

package rollout

import (
	"context"

	"github.com/penstock/penstock/api"
)

// Chains checks chains and resolves what they name.
type Chains interface {
	// Resolve asks version for what a reference names, and file for a file of such a version. Its errors name the step.
	Resolve(spec *api.ChainSpec, version func(ref string) (api.Version, error), file func(ref, path string, limit int64) ([]byte, error)) (*api.Chain, error)
}

// Files reads the files of versions.
type Files interface {
	ReadArtifact(ctx context.Context, t api.TenantID, ref api.Ref, path string, limit int64) ([]byte, error)
}

// Prober loads what a want names where it can do no harm, and says whether that went well.
type Prober interface {
	Probe(ctx context.Context, w api.Want) error
}

// chain resolves a variant that is a chain. A chain that is not loaded anywhere is tried first, as a pushed version is:
// its members were tried one by one, but never together.
func (c *Controller) chain(ctx context.Context, p *api.Principal, name api.EndpointName, s *api.VariantSpec, v *api.Variant) error {
	if s.Model != "" {
		return api.Fail(api.CodeBadRequest, string(name), "variant %q: model or chain: only one of them may be given", v.Name)
	}
	if c.Chains == nil {
		return api.Fail(api.CodeUnsupported, string(name), "this server runs no chains")
	}
	sizes := map[api.Digest]int64{}
	version := func(ref string) (api.Version, error) {
		found, err := c.version(ctx, p, ref)
		if err == nil {
			err = cacheable(v, &found)
			sizes[found.Digest] = found.Size
		}
		return found, err
	}
	file := func(text, path string, limit int64) ([]byte, error) {
		found, err := c.version(ctx, p, text)
		if err != nil {
			return nil, err
		}
		return c.Files.ReadArtifact(ctx, p.Tenant, found.Ref(), path, limit)
	}
	made, err := c.Chains.Resolve(s.Chain, version, file)
	if err != nil {
		return about(name, v.Name, err)
	}
	if v.Digest, err = made.Digest(); err != nil {
		return about(name, v.Name, err)
	}
	for _, size := range sizes {
		v.Size += size
	}
	v.Chain, v.Format, v.Signature = made, api.FormatChain, made.Signature()
	if c.Prober == nil || len(c.Fleet.State(Instance(v)).Replicas) > 0 {
		return nil
	}
	w := want(v)
	w.Tenant = p.Tenant
	return c.Prober.Probe(ctx, w)
}

// about says which variant of which endpoint a chain's fault is in.
func about(name api.EndpointName, variant api.VariantName, err error) error {
	told := *api.AsError(err)
	if told.Subject != "" {
		told.Message = told.Subject + ": " + told.Message
	}
	told.Subject, told.Message = string(name), "variant "+string(variant)+": "+told.Message
	return &told
}

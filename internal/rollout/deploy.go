package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// Limits of a spec.
const (
	variantsMax  = 16
	weightMax    = 1_000_000
	replicasMax  = 64
	timeoutMSMax = 3_600_000

	keepPriorityMax = 20

	cacheBytesMin = 64 << 10
	cacheBytesMax = 1 << 40
	cacheTTLMSMax = 365 * 24 * 3_600_000
)

// Deploy resolves the spec to a revision and records its release; the loop carries it out. It returns when the record
// is durable. ifGeneration is the generation that the caller has seen, -1 for any and 0 for "must not exist".
func (c *Controller) Deploy(ctx context.Context, p *api.Principal, name api.EndpointName, spec api.EndpointSpec, ifGeneration int64, why string) (api.Release, error) {
	if err := api.CheckName("endpoint", string(name)); err != nil {
		return api.Release{}, err
	}
	renames := c.renaming()
	rev, err := c.resolve(ctx, p, name, &spec)
	if err != nil {
		return api.Release{}, err
	}
	key := api.EndpointKey{Tenant: p.Tenant, Endpoint: name}
	e, rel, err := c.reserve(ctx, key, p, why, &rev)
	if err != nil {
		return api.Release{}, err
	}
	saved, err := c.startRelease(ctx, e, spec, ifGeneration, rev, rel)
	if err == nil {
		c.presentNames(ctx, &rev, renames)
	}
	c.mu.Lock()
	e.recording = false
	if err != nil {
		if e.active != nil && e.active.Number == rel.Number {
			e.active = nil
		}
		if e.Generation == 0 {
			delete(c.endpoints, key)
			delete(c.ordered, key.Tenant)
		}
		c.mu.Unlock()
		return api.Release{}, err
	}
	e.Spec, e.Generation, e.Created = saved.Spec, saved.Generation, saved.Created
	e.lastRevision, e.lastRelease = rev.Number, max(e.lastRelease, rel.Number)
	e.revisions.put(&rev)
	c.mu.Unlock()
	c.want(key)
	c.publish()
	c.loop.Hint(key)
	return rel, nil
}

func (c *Controller) startRelease(ctx context.Context, e *endpoint, spec api.EndpointSpec, ifGeneration int64, rev api.Revision, rel api.Release) (api.Endpoint, error) {
	done, err := e.write(ctx)
	if err != nil {
		return api.Endpoint{}, err
	}
	defer done()
	return c.Store.StartRelease(ctx, spec, ifGeneration, rev, rel)
}

// reserve takes the endpoint for one release: at most one is open at a time.
func (c *Controller) reserve(ctx context.Context, key api.EndpointKey, p *api.Principal, why string, rev *api.Revision) (*endpoint, api.Release, error) {
	c.mu.Lock()
	e := c.endpoints[key]
	c.mu.Unlock()
	if e != nil {
		if err := c.save(ctx, e); err != nil { // a rollback that is not in the database yet goes first
			return nil, api.Release{}, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e = c.endpoints[key]
	if e == nil {
		e = newEndpoint()
		e.Tenant, e.Name = key.Tenant, key.Endpoint
		c.endpoints[key] = e
		delete(c.ordered, key.Tenant)
	}
	if e.active != nil {
		return nil, api.Release{}, api.Fail(api.CodeBusy, string(key.Endpoint), "release %d to revision %d is under way", e.active.Number, e.active.To)
	}
	now := api.TimeOf(c.Now())
	rev.Number, rev.Created = e.lastRevision+1, now
	for i := range rev.Variants {
		if v := &rev.Variants[i]; v.Chain != nil {
			v.Version = api.VersionNumber(rev.Number) // a chain has no versions but its endpoint's revisions
		}
	}
	rel := api.Release{Tenant: key.Tenant, Endpoint: key.Endpoint, Number: e.lastRelease + 1, Kind: api.ReleaseDeploy,
		From: e.Traffic.Current, To: rev.Number, Strategy: rev.Strategy, State: api.ReleaseLoading,
		By: p.Name, Why: why, Started: now, Durable: true}
	active := rel
	e.active, e.recording = &active, true
	return e, rel, nil
}

// resolve checks the spec, fills its defaults and turns every reference into a digest.
func (c *Controller) resolve(ctx context.Context, p *api.Principal, name api.EndpointName, spec *api.EndpointSpec) (api.Revision, error) {
	rev := api.Revision{Tenant: p.Tenant, Endpoint: name, Strategy: spec.Strategy, Sticky: spec.Sticky, By: p.Name}
	switch spec.Strategy {
	case "":
		rev.Strategy = api.StrategyBlueGreen
	case api.StrategyDirect, api.StrategyBlueGreen:
	default:
		return rev, api.Fail(api.CodeBadRequest, string(name), "strategy %q is not one of direct, blue-green", spec.Strategy)
	}
	if n := len(spec.Variants); n == 0 || n > variantsMax {
		return rev, api.Fail(api.CodeBadRequest, string(name), "%d variants; an endpoint has 1 to %d", n, variantsMax)
	}
	seen := map[api.VariantName]bool{}
	for i := range spec.Variants {
		v, err := c.variant(ctx, p, name, spec, i)
		if err != nil {
			return rev, err
		}
		if seen[v.Name] {
			return rev, api.Fail(api.CodeBadRequest, string(name), "two variants are named %q", v.Name)
		}
		seen[v.Name] = true
		rev.Variants = append(rev.Variants, v)
	}
	return rev, sameSignature(name, rev.Variants)
}

func (c *Controller) variant(ctx context.Context, p *api.Principal, name api.EndpointName, spec *api.EndpointSpec, i int) (api.Variant, error) {
	s := spec.Variants[i]
	v := api.Variant{Name: s.Name, Weight: spec.Weight(i), Serving: s.Serving}
	if v.Name == "" && len(spec.Variants) == 1 {
		v.Name = "main"
	}
	if err := api.CheckName("variant", string(v.Name)); err != nil {
		return v, err
	}
	if v.Weight < 0 || v.Weight > weightMax || v.Serving.Replicas < 0 || v.Serving.Replicas > replicasMax ||
		v.Serving.TimeoutMS < 0 || v.Serving.TimeoutMS > timeoutMSMax {
		return v, api.Fail(api.CodeBadRequest, string(name),
			"variant %q: weight must be 0 to %d, replicas 0 to %d, timeout_ms 0 to %d", v.Name, weightMax, replicasMax, timeoutMSMax)
	}
	if !v.Serving.Band.Valid() {
		return v, api.Fail(api.CodeBadRequest, string(name), "variant %q: band must be one of critical, standard and batch", v.Name)
	}
	if err := v.Serving.Batching.Check(string(name)); err != nil {
		return v, err
	}
	switch v.Serving.Pool {
	case "", api.PoolShared, api.PoolTenant, api.PoolEndpoint:
		v.Pool = v.Serving.Pool.Name(p.Tenant, name)
	default:
		return v, api.Fail(api.CodeBadRequest, string(name), "variant %q: pool must be shared, tenant or endpoint", v.Name)
	}
	if err := checkKeep(name, v.Name, &v.Serving); err != nil {
		return v, err
	}
	if err := checkCache(name, v.Name, v.Serving.Cache); err != nil {
		return v, err
	}
	if s.Chain != nil {
		err := c.chain(ctx, p, name, &s, &v)
		return v, err
	}
	if s.Model == "" {
		return v, api.Fail(api.CodeBadRequest, string(name), "variant %q: model or chain: one of them must be given", v.Name)
	}
	version, err := c.version(ctx, p, s.Model)
	if err != nil {
		return v, err
	}
	if err := cacheable(&v, &version); err != nil {
		return v, err
	}
	v.Model, v.Version, v.Digest, v.Format, v.Signature = version.Model, version.Number, version.Digest, version.Format, version.Signature
	v.Size = version.Size
	return v, nil
}

// version finds what a reference names, when it can serve.
func (c *Controller) version(ctx context.Context, p *api.Principal, text string) (v api.Version, err error) {
	ref, err := api.ParseRef(text)
	if err != nil {
		return v, err
	}
	if ref.Tenant != "" && ref.Tenant != p.Tenant {
		return v, api.Fail(api.CodeModelNotFound, text, "no such model in this tenant")
	}
	if v, err = c.Catalog.Resolve(ctx, p.Tenant, ref); err != nil {
		return v, err
	}
	if v.State != api.VersionReady {
		return v, api.Fail(api.CodeModelRefused, v.Ref().String(), "the version is %s: %s", v.State, v.Reason)
	}
	if !slices.Contains(c.Formats, v.Format) {
		return v, api.Fail(api.CodeUnsupported, v.Ref().String(), "the version is %s, and no engine of this server runs that yet; it runs %s",
			v.Format, strings.Join(c.Formats, ", ")).WithCure("Keep it in the registry, and deploy an export of the model to ONNX.")
	}
	if c.Trust != nil {
		err = c.Trust.MayDeploy(ctx, &v)
	}
	return v, err
}

// cacheable refuses a response cache for what answers otherwise every time.
func cacheable(v *api.Variant, version *api.Version) error {
	ops := drawing(version.Info.Ops)
	if v.Serving.Cache == nil || len(ops) == 0 {
		return nil
	}
	return api.Fail(api.CodeModelRefused, version.Ref().String(),
		"the model draws random numbers (%s): a response cache would give one draw to everybody", strings.Join(ops, ", ")).
		WithCure("Deploy it without serving.cache.")
}

func checkKeep(name api.EndpointName, variant api.VariantName, s *api.Serving) error {
	if s.Keep != "" && s.Keep != api.KeepLoaded {
		return api.Fail(api.CodeBadRequest, string(name), "variant %q: keep %.64q is not %q; leave it out for a model that may sleep while memory is short",
			variant, s.Keep, api.KeepLoaded)
	}
	if s.KeepPriority < -keepPriorityMax || s.KeepPriority > keepPriorityMax {
		return api.Fail(api.CodeBadRequest, string(name), "variant %q: keep_priority must be %d to %d", variant, -keepPriorityMax, keepPriorityMax)
	}
	return nil
}

func checkCache(name api.EndpointName, variant api.VariantName, c *api.ResponseCache) error {
	if c == nil {
		return nil
	}
	if c.Bytes < cacheBytesMin || c.Bytes > cacheBytesMax || c.TTLMS < 0 || c.TTLMS > cacheTTLMSMax {
		return api.Fail(api.CodeBadRequest, string(name), "variant %q: cache.bytes must be %d to %d, cache.ttl_ms 0 to %d",
			variant, cacheBytesMin, cacheBytesMax, int64(cacheTTLMSMax))
	}
	return nil
}

// drawing lists the operators of a graph that draw random numbers. A seed does not make them fit for a cache: it fixes
// where the runtime's generator begins when the model is loaded, and every run draws on from there.
func drawing(ops map[string]int64) []string {
	var found []string
	for _, op := range []string{"ai.onnx::Bernoulli", "ai.onnx::Multinomial", "ai.onnx::RandomNormal", "ai.onnx::RandomNormalLike",
		"ai.onnx::RandomUniform", "ai.onnx::RandomUniformLike", "com.microsoft::Sampling"} {
		if ops[op] > 0 {
			_, short, _ := strings.Cut(op, "::")
			found = append(found, short)
		}
	}
	slices.Sort(found)
	return found
}

// sameSignature refuses variants that would answer one caller with different tensors.
func sameSignature(name api.EndpointName, variants []api.Variant) error {
	first := &variants[0]
	for i := range variants[1:] {
		v := &variants[i+1]
		if err := sameTensors("input", first.Signature.Inputs, v.Signature.Inputs); err != nil {
			return api.Fail(api.CodeBadRequest, string(name), "variants %q and %q do not take the same: %w", first.Name, v.Name, err)
		}
		if err := sameTensors("output", first.Signature.Outputs, v.Signature.Outputs); err != nil {
			return api.Fail(api.CodeBadRequest, string(name), "variants %q and %q do not give the same: %w", first.Name, v.Name, err)
		}
	}
	return nil
}

func sameTensors(what string, a, b []api.TensorSpec) error {
	if len(a) != len(b) {
		return fmt.Errorf("%d and %d %ss", len(a), len(b), what)
	}
	for i := range a {
		if a[i].Name != b[i].Name || a[i].Datatype != b[i].Datatype || len(a[i].Shape) != len(b[i].Shape) {
			return fmt.Errorf("%s %d is %s %s of rank %d in one and %s %s of rank %d in the other", what, i,
				a[i].Name, a[i].Datatype, len(a[i].Shape), b[i].Name, b[i].Datatype, len(b[i].Shape))
		}
	}
	return nil
}

// advance looks whether the release's revision is loaded and, if so, moves the traffic.
func (c *Controller) advance(ctx context.Context, key api.EndpointKey, e *endpoint, rel api.Release) error {
	c.mu.Lock()
	rev := e.revisions.get(rel.To)
	c.mu.Unlock()
	if rev == nil {
		return fmt.Errorf("endpoint %s: revision %d of open release %d is not at hand", key.Endpoint, rel.To, rel.Number)
	}
	ready, failed := c.loaded(rev)
	late := c.Now().Sub(rel.Started.Std()) > c.ReleaseTimeout
	switch {
	case failed != nil:
		rel.State, rel.Reason = api.ReleaseFailed, failed.Error()
	case ready:
		rel.State = api.ReleaseSucceeded
	case late:
		rel.State, rel.Reason = api.ReleaseFailed, fmt.Sprintf("not loaded within the limit of %v", c.ReleaseTimeout)
	default:
		return nil
	}
	return c.end(ctx, key, e, rel)
}

// loaded reports whether every variant has all its replicas, or why one never will.
func (c *Controller) loaded(rev *api.Revision) (ready bool, failed *api.Error) {
	ready = true
	for i := range rev.Variants {
		s := c.Fleet.State(Instance(&rev.Variants[i]))
		if s.Err != nil {
			return false, s.Err
		}
		ready = ready && s.Wanted > 0 && len(s.Replicas) >= s.Wanted
	}
	return ready, nil
}

// end makes the end of a release durable, then effective, in that order: what was acknowledged survives. A rollback
// that came first has closed the release already, then nothing is written; one that comes while this writes waits with
// its own record for this one, so that the later record is written later.
func (c *Controller) end(ctx context.Context, key api.EndpointKey, e *endpoint, rel api.Release) error {
	done, err := e.write(ctx)
	if err != nil {
		return err
	}
	defer done()
	open := func() bool { return e.active != nil && e.active.Number == rel.Number && !e.recording }
	c.mu.Lock()
	if !open() {
		c.mu.Unlock()
		return nil
	}
	traffic := e.Traffic
	c.mu.Unlock()

	rel.Ended = api.TimeOf(c.Now())
	var moved *api.Traffic
	if rel.State == api.ReleaseSucceeded {
		traffic = move(traffic, rel)
		moved = &traffic
	}
	if err := c.Store.SaveRelease(ctx, rel, moved); err != nil {
		return fmt.Errorf("record release %d of %s: %w", rel.Number, key.Endpoint, err)
	}
	c.mu.Lock()
	if !open() {
		c.mu.Unlock()
		return nil
	}
	c.finish(e, rel, traffic)
	c.mu.Unlock()
	c.publish()
	c.settled(e, rel)
	return nil
}

// finish needs mu: it puts the end of the active release into effect.
func (c *Controller) finish(e *endpoint, rel api.Release, traffic api.Traffic) {
	e.active, e.ended = nil, &rel
	if rel.State == api.ReleaseSucceeded {
		e.Traffic = traffic
	}
	c.prune(e)
}

// settled tells the others that a release has ended, when the plan is out and mu was given back: those who wait for it,
// then the fleet what may be unloaded.
func (c *Controller) settled(e *endpoint, rel api.Release) {
	c.mu.Lock()
	e.effective = max(e.effective, rel.Number)
	c.notify()
	c.mu.Unlock()
	c.want(api.EndpointKey{Tenant: rel.Tenant, Endpoint: rel.Endpoint})
	c.Meter.ReleaseEnded(rel)
	c.Log.Info("release ended", "tenant", rel.Tenant, "endpoint", rel.Endpoint, "release", rel.Number, "kind", rel.Kind,
		"from", rel.From, "to", rel.To, "state", rel.State, "reason", rel.Reason, "by", rel.By)
}

// move computes the traffic after a release that succeeded. It reads nothing but its arguments.
func move(t api.Traffic, rel api.Release) api.Traffic {
	left := t.Current
	history := append([]api.RevisionNumber(nil), t.History...)
	if i := lastIndex(history, rel.To); rel.Kind == api.ReleaseRollback && i >= 0 {
		history = history[:i+1]
	} else {
		history = append(history, rel.To)
	}
	if len(history) > historyMax {
		history = history[len(history)-historyMax:]
	}
	next := api.Traffic{Current: rel.To, History: history, Changed: rel.Ended}
	if len(history) > 1 {
		next.Previous = history[len(history)-2]
	}
	for _, n := range []api.RevisionNumber{next.Previous, left} {
		keep := n != 0 && n != rel.To && lastIndex(next.Warm, n) < 0
		if keep && (rel.Kind == api.ReleaseRollback || rel.Strategy != api.StrategyDirect) {
			next.Warm = append(next.Warm, n)
		}
	}
	return next
}

func lastIndex(list []api.RevisionNumber, n api.RevisionNumber) int {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] == n {
			return i
		}
	}
	return -1
}

// prune needs mu: it forgets revisions outside the window.
func (c *Controller) prune(e *endpoint) {
	keep := e.window()
	e.revisions = slices.DeleteFunc(e.revisions, func(rev *api.Revision) bool { return !slices.Contains(keep, rev.Number) })
}

package admintest

import (
	"context"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/admin"
)

func (r *Rooms) endpoint(t api.TenantID, name api.EndpointName) (*endpoint, error) {
	if e, ok := r.endpoints[string(t)+"/"+string(name)]; ok {
		return e, nil
	}
	return nil, api.Fail(api.CodeEndpointNotFound, string(name), "there is no such endpoint")
}

// Endpoint reads an endpoint.
func (r *Rooms) Endpoint(_ context.Context, t api.TenantID, name api.EndpointName) (api.Endpoint, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.endpoint(t, name)
	if err != nil {
		return api.Endpoint{}, err
	}
	return e.Endpoint, nil
}

// Endpoints lists endpoints by name.
func (r *Rooms) Endpoints(_ context.Context, t api.TenantID, after api.EndpointName, limit int) ([]api.Endpoint, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []api.Endpoint
	for _, key := range slices.Sorted(maps.Keys(r.endpoints)) {
		if e := r.endpoints[key]; e.Tenant == t && e.Name > after && len(all) < limit {
			all = append(all, e.Endpoint)
		}
	}
	return all, nil
}

// Deploy makes a revision and a release; the release succeeds at once unless ReleaseState says otherwise.
func (r *Rooms) Deploy(_ context.Context, p *api.Principal, name api.EndpointName, spec api.EndpointSpec, ifGeneration int64, why string) (api.Release, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.Fail["Deploy"]; err != nil {
		return api.Release{}, err
	}
	key := string(p.Tenant) + "/" + string(name)
	e := r.endpoints[key]
	if e == nil {
		e = &endpoint{Endpoint: api.Endpoint{Tenant: p.Tenant, Name: name, Created: Clock}}
	}
	if ifGeneration >= 0 && ifGeneration != e.Generation {
		return api.Release{}, api.Fail(api.CodeStale, string(name), "the endpoint is at generation %d", e.Generation)
	}
	revision := api.Revision{Tenant: p.Tenant, Endpoint: name, Number: api.RevisionNumber(len(e.revisions) + 1), Strategy: spec.Strategy, Created: Clock, By: p.Name}
	for _, arm := range spec.Variants {
		ref, err := api.ParseRef(arm.Model)
		if err != nil {
			return api.Release{}, err
		}
		v, err := r.resolve(p.Tenant, ref)
		if err != nil {
			return api.Release{}, err
		}
		revision.Variants = append(revision.Variants, api.Variant{Name: arm.Name, Model: v.Model, Version: v.Number, Digest: v.Digest, Weight: max(arm.Weight, 1), Signature: v.Signature})
	}
	r.endpoints[key] = e
	e.Spec = spec
	e.Generation++
	e.revisions = append(e.revisions, revision)
	return e.release(p, api.Release{Kind: api.ReleaseDeploy, To: revision.Number, Strategy: spec.Strategy, State: r.ReleaseState, Reason: r.ReleaseReason, Why: why}), nil
}

func (e *endpoint) release(p *api.Principal, release api.Release) api.Release {
	if release.State == "" {
		release.State = api.ReleaseSucceeded
	}
	release.Tenant, release.Endpoint, release.Number, release.From = e.Tenant, e.Name, int64(len(e.releases)+1), e.Traffic.Current
	release.By, release.Started, release.Durable = p.Name, Clock, true
	if release.State.Final() {
		release.Ended = Clock
	}
	if release.State == api.ReleaseSucceeded {
		e.Traffic.Previous, e.Traffic.Current, e.Traffic.Changed = e.Traffic.Current, release.To, Clock
		e.Status = api.Status{Ready: true, Replicas: 1, Wanted: 1}
		for _, v := range e.Spec.Variants {
			e.Status.Variants = append(e.Status.Variants, api.VariantStatus{Name: v.Name, Model: v.Model, Weight: v.Weight, Replicas: 1, Wanted: 1})
		}
	}
	e.releases = append(e.releases, release)
	return release
}

// Delete removes an endpoint.
func (r *Rooms) Delete(_ context.Context, p *api.Principal, name api.EndpointName) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.endpoint(p.Tenant, name); err != nil {
		return err
	}
	delete(r.endpoints, string(p.Tenant)+"/"+string(name))
	return nil
}

// Await waits for the context to end when the release is not final.
func (r *Rooms) Await(ctx context.Context, t api.TenantID, name api.EndpointName, number int64) (api.Release, error) {
	r.mu.Lock()
	e, err := r.endpoint(t, name)
	if err != nil || int(number) > len(e.releases) {
		r.mu.Unlock()
		return api.Release{}, api.Fail(api.CodeNotFound, string(name), "there is no such release")
	}
	release := e.releases[number-1]
	r.mu.Unlock()
	if !release.State.Final() {
		<-ctx.Done()
	}
	return release, nil
}

// Rollback goes back.
func (r *Rooms) Rollback(_ context.Context, p *api.Principal, name api.EndpointName, to api.RevisionNumber, why string) (api.Release, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.Fail["Rollback"]; err != nil {
		return api.Release{}, err
	}
	e, err := r.endpoint(p.Tenant, name)
	if err != nil {
		return api.Release{}, err
	}
	if to == 0 {
		to = e.Traffic.Previous
	}
	if to == 0 {
		return api.Release{}, api.Fail(api.CodeNothingEarlier, string(name), "there is no earlier revision")
	}
	if int(to) > len(e.revisions) {
		return api.Release{}, api.Fail(api.CodeRevisionNotFound, string(name), "there is no revision %d", to)
	}
	return e.release(p, api.Release{Kind: api.ReleaseRollback, To: to, EffectUS: 850, Why: why}), nil
}

// Abort ends the release under way.
func (r *Rooms) Abort(_ context.Context, p *api.Principal, name api.EndpointName) (api.Release, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.endpoint(p.Tenant, name)
	if err != nil {
		return api.Release{}, err
	}
	last := &e.releases[len(e.releases)-1]
	if last.State.Final() {
		return api.Release{}, api.Fail(api.CodeNoRelease, string(name), "no release is under way")
	}
	last.State, last.Ended = api.ReleaseAborted, Clock
	return *last, nil
}

// Revisions lists revisions, newest first.
func (r *Rooms) Revisions(_ context.Context, t api.TenantID, name api.EndpointName, before api.RevisionNumber, limit int) ([]api.Revision, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.endpoint(t, name)
	if err != nil {
		return nil, err
	}
	return newest(e.revisions, func(x api.Revision) int64 { return int64(x.Number) }, int64(before), limit), nil
}

// Releases lists releases, newest first.
func (r *Rooms) Releases(_ context.Context, t api.TenantID, name api.EndpointName, before int64, limit int) ([]api.Release, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.endpoint(t, name)
	if err != nil {
		return nil, err
	}
	return newest(e.releases, func(x api.Release) int64 { return x.Number }, before, limit), nil
}

// AppendEvent adds an event.
func (r *Rooms) AppendEvent(e api.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Seq, e.At = int64(len(r.events)+1), Clock
	r.events = append(r.events, e)
}

// Events lists events.
func (r *Rooms) Events(_ context.Context, t api.TenantID, after int64, limit int) ([]api.Event, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []api.Event
	for _, e := range r.events {
		if (t == "" || e.Tenant == t) && e.Seq > after {
			all = append(all, e)
		}
	}
	if after < 0 {
		return all[max(0, len(all)-limit):], nil
	}
	return all[:min(limit, len(all))], nil
}

// Recent gives Logs, filtered.
func (r *Rooms) Recent(t api.TenantID, f admin.LogFilter) []api.Exchange {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []api.Exchange
	for _, x := range r.Logs {
		if x.Tenant == t && (f.Endpoint == "" || x.Endpoint == f.Endpoint) && (f.Variant == "" || x.Variant == f.Variant) &&
			(!f.OnlyErrors || x.Code != "") && len(all) < f.Limit {
			all = append(all, x)
		}
	}
	return all
}

// Follow gives what the test sends on Live.
func (r *Rooms) Follow(context.Context, api.TenantID) <-chan api.Exchange { return r.Live }

// Statistics gives one endpoint and one worker.
func (r *Rooms) Statistics(_ api.TenantID, span time.Duration) api.Statistics {
	return api.Statistics{At: Clock, Window: span, Step: 2 * time.Second,
		Endpoints: []api.EndpointStatistics{{Endpoint: "digits", Rate: 1234.5, Errors: 0.5, P50: 800 * time.Microsecond, P95: 2 * time.Millisecond,
			P99: 9 * time.Millisecond, Queue: 100 * time.Microsecond, Compute: 500 * time.Microsecond, Rows: 4, CacheHits: .25, CacheAsked: 1234.5,
			CacheBytes: 3 << 20, CacheLimit: 16 << 20, InFlight: 7, Recent: []float64{0, 100, 800, 1200, 1234}}},
		Workers: []api.WorkerStatistics{{Worker: r.Workers()[0], InFlight: 5}}}
}

// Workers gives one worker.
func (r *Rooms) Workers() []api.Worker {
	if r.Panic {
		panic("the room broke")
	}
	return []api.Worker{{Name: "w1", PID: 42, State: "ready", Runtime: "onnxruntime 1.2", Resident: 50 << 20, Instances: []string{"digits@1"}, Started: Clock}}
}

// Backup writes BackupBytes.
func (r *Rooms) Backup(_ context.Context, w io.Writer, _ bool) error {
	if _, err := w.Write(r.BackupBytes); err != nil {
		return err
	}
	return r.BackupErr
}

// ClaimIdempotency claims a key.
func (r *Rooms) ClaimIdempotency(_ context.Context, t api.TenantID, key, hash string, _ api.Time) (*admin.Reply, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.Fail["ClaimIdempotency"]; err != nil {
		return nil, err
	}
	known, ok := r.replies[string(t)+"/"+key]
	switch {
	case !ok:
		r.replies[string(t)+"/"+key] = &reply{hash: hash}
		return nil, nil
	case known.hash != hash:
		return nil, api.Fail(api.CodeIdempotency, "", "the key was used with another request")
	case known.done == nil:
		return nil, api.Fail(api.CodeBusy, "", "the first request is still under way")
	}
	return known.done, nil
}

// FinishIdempotency keeps an answer.
func (r *Rooms) FinishIdempotency(_ context.Context, t api.TenantID, key string, status int, body []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replies[string(t)+"/"+key].done = &admin.Reply{Status: status, Body: slices.Clone(body)}
	return nil
}

// ForgetIdempotency forgets a claim.
func (r *Rooms) ForgetIdempotency(_ context.Context, t api.TenantID, key string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.replies, string(t)+"/"+key)
	return nil
}

// Remembered gives every kept answer, for tests that look for what must not be there.
func (r *Rooms) Remembered() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, known := range r.replies {
		if known.done != nil {
			all = append(all, string(known.done.Body))
		}
	}
	return all
}

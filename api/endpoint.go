package api

// Endpoint is the stable name that callers address.
type Endpoint struct {
	Tenant     TenantID     `json:"tenant" doc:"Owner."`
	Name       EndpointName `json:"name" doc:"Name, unique in the tenant."`
	Spec       EndpointSpec `json:"spec" doc:"What the user asked for, last."`
	Generation int64        `json:"generation" doc:"Counts changes of the spec; also the ETag."`
	Created    Time         `json:"created" doc:"When it was made."`
	Traffic    Traffic      `json:"traffic" doc:"What serves now; written by the rollout alone."`
	Status     Status       `json:"status" doc:"What is loaded now; written by the fleet alone."`
}

// EndpointSpec is the user's part of an endpoint: which versions serve, with which weights and settings.
type EndpointSpec struct {
	Variants []VariantSpec `json:"variants" doc:"One or more; weights are relative." minItems:"1" maxItems:"16"`
	Strategy Strategy      `json:"strategy,omitempty" doc:"direct or blue-green (default)." enum:"direct,blue-green"`
	Sticky   bool          `json:"sticky,omitempty" doc:"Keep each Penstock-Unit on one variant while weights stand; on by default with several variants."`
}

// VariantSpec is one arm, as the user wrote it. Model is a reference: "fraud@3", "fraud:champion". It stands alone, or a
// chain stands in its place.
type VariantSpec struct {
	Name    VariantName `json:"name,omitempty" doc:"Arm's name; 'main' when there is one."`
	Model   string      `json:"model,omitempty" doc:"Reference of the version; or give a chain."`
	Chain   *ChainSpec  `json:"chain,omitempty" doc:"Graph of steps in the place of one model."`
	Weight  int64       `json:"weight,omitempty" doc:"Share relative to the others. When no variant names one, all weigh 1; beside others that do, a variant without one takes no traffic." minimum:"0" maximum:"1000000"`
	Serving Serving     `json:"serving,omitzero" doc:"Serving settings."`
}

// Weight gives a variant's share: what the user wrote, or 1 each when no variant names one. Beside weights that were
// written, 0 means no traffic, so that a variant can stand by and be forced.
func (s *EndpointSpec) Weight(i int) int64 {
	for _, v := range s.Variants {
		if v.Weight != 0 {
			return s.Variants[i].Weight
		}
	}
	return 1
}

// Serving holds the settings of a variant. Zero means the server's default.
type Serving struct {
	Replicas  int            `json:"replicas,omitempty" doc:"Loaded instances; default is one per worker." minimum:"0" maximum:"64"`
	TimeoutMS int64          `json:"timeout_ms,omitempty" doc:"Longest time for one request in milliseconds; default 60000." minimum:"0" maximum:"3600000"`
	Pool      Pool           `json:"pool,omitempty" doc:"Whose workers hold it: shared with everybody (default), or workers that are the tenant's or the endpoint's alone." enum:"shared,tenant,endpoint"`
	Batching  *Batching      `json:"batching,omitempty" doc:"How requests are run together; auto when left out."`
	Keep      Keep           `json:"keep,omitempty" doc:"'loaded' keeps the model in memory whatever happens; without it, it may sleep while memory is short, and the next request wakes it." enum:"loaded"`
	Cache     *ResponseCache `json:"cache,omitempty" doc:"Keep answers and give them again to identical requests; absent keeps none."`

	KeepPriority int  `json:"keep_priority,omitempty" doc:"When memory is short, the model counts as used twice as often for each step up, half as often for each down." minimum:"-20" maximum:"20"`
	Band         Band `json:"band,omitempty" doc:"Which of the tenant's own requests go first when they have to wait: critical, standard (default) or batch. Batch gets what the others leave, at least 5 %." enum:"critical,standard,batch"`
}

// Band is how urgent requests are among those of their own tenant. What a tenant gets of the workers is its weight's
// business: nobody gets more by calling everything critical.
type Band string

// The bands. Empty is standard.
const (
	BandCritical Band = "critical"
	BandStandard Band = "standard"
	BandBatch    Band = "batch"
)

// Valid reports whether b is one of the bands, or empty.
func (b Band) Valid() bool {
	switch b {
	case "", BandCritical, BandStandard, BandBatch:
		return true
	}
	return false
}

// Keep says whether a model may sleep.
type Keep string

// KeepLoaded is for models that never may.
const KeepLoaded Keep = "loaded"

// ResponseCache asks for answers to be kept. It is for models that answer the same to the same; those that draw random
// numbers are refused with it.
type ResponseCache struct {
	Bytes int64 `json:"bytes" doc:"Most memory for kept answers, in bytes. An answer over a quarter of it is not kept." minimum:"65536" maximum:"1099511627776"`
	TTLMS int64 `json:"ttl_ms,omitempty" doc:"How long an answer may be given again, in milliseconds; 0 as long as there is room." minimum:"0" maximum:"31536000000"`
}

// Pool says whose workers hold a variant.
type Pool string

// The pools. The empty one is shared.
const (
	PoolShared   Pool = "shared"
	PoolTenant   Pool = "tenant"
	PoolEndpoint Pool = "endpoint"
)

// Name is the pool that an endpoint's variant is in: the tenant's, TENANT/ENDPOINT, or none for the one shared.
func (p Pool) Name(t TenantID, e EndpointName) string {
	switch p {
	case PoolTenant:
		return string(t)
	case PoolEndpoint:
		return string(t) + "/" + string(e)
	}
	return ""
}

// Strategy is how a release is carried out.
type Strategy string

// The strategies. Both load and warm beside the current revision before they move traffic; direct also stops keeping
// the previous one warm, so that its memory returns at once and a rollback has to load it again.
const (
	StrategyDirect    Strategy = "direct"
	StrategyBlueGreen Strategy = "blue-green"
)

// Revision is an immutable snapshot of an endpoint's spec with every reference resolved to a digest.
type Revision struct {
	Tenant   TenantID       `json:"tenant" doc:"Owner."`
	Endpoint EndpointName   `json:"endpoint" doc:"Endpoint that it belongs to."`
	Number   RevisionNumber `json:"number" doc:"From 1."`
	Strategy Strategy       `json:"strategy" doc:"How it is released."`
	Sticky   bool           `json:"sticky" doc:"Whether units stick to a variant."`
	Variants []Variant      `json:"variants" doc:"The arms."`
	Created  Time           `json:"created" doc:"When it was made."`
	By       string         `json:"by" doc:"Name of the key that made it."`
}

// Versions lists what the revision runs: its arms, or the steps of those that are chains. A version may stand twice.
func (r *Revision) Versions() (all []Ref) {
	for i := range r.Variants {
		v := &r.Variants[i]
		if v.Chain == nil {
			all = append(all, Ref{Model: v.Model, Version: v.Version})
			continue
		}
		for _, s := range v.Chain.Steps {
			if s.Version > 0 {
				all = append(all, Ref{Model: s.Model, Version: s.Version})
			}
		}
	}
	return all
}

// Variant is one arm of a revision, resolved.
type Variant struct {
	Name      VariantName   `json:"name" doc:"Arm's name."`
	Model     ModelName     `json:"model" doc:"Model."`
	Version   VersionNumber `json:"version" doc:"Version number."`
	Digest    Digest        `json:"digest" doc:"Manifest digest of the version."`
	Format    string        `json:"format" doc:"Format, chooses the engine."`
	Weight    int64         `json:"weight" doc:"Share relative to the others."`
	Pool      string        `json:"pool,omitempty" doc:"Whose workers hold it alone: a tenant, or TENANT/ENDPOINT; missing: everybody's."`
	Serving   Serving       `json:"serving,omitzero" doc:"Serving settings."`
	Signature Signature     `json:"signature" doc:"Inputs and outputs."`
	Size      int64         `json:"size,omitempty" doc:"Bytes of its files; missing in revisions from before they were counted."`
	Chain     *Chain        `json:"chain,omitempty" doc:"The steps, when it is a chain; model is then empty, version is the revision's number and digest that of the chain."`
}

// Subject names what the variant runs, for people: "fraud@3", or "chain(fraud@3, names@1)".
func (v *Variant) Subject() string {
	if v.Chain != nil {
		return v.Chain.title()
	}
	return Ref{Model: v.Model, Version: v.Version}.String()
}

// LoadOptions is how the variant's instances are held.
func (v *Variant) LoadOptions() LoadOptions {
	o := v.Serving.LoadOptions()
	o.Chain = v.Chain
	return o
}

// Traffic is what serves on an endpoint. Previous is the revision that a plain rollback goes to, 0 when there is none.
type Traffic struct {
	Current  RevisionNumber   `json:"current" doc:"Revision that serves; 0 before the first release."`
	Previous RevisionNumber   `json:"previous" doc:"Revision that a rollback goes to; 0 when there is none."`
	History  []RevisionNumber `json:"history,omitempty" doc:"Revisions that served, oldest first, without those rolled back; the last is current."`
	Warm     []RevisionNumber `json:"warm,omitempty" doc:"Revisions kept loaded beside the current one."`
	Changed  Time             `json:"changed" doc:"When traffic last moved."`
	Unloaded bool             `json:"unloaded,omitempty" doc:"Whether the endpoint was unloaded: its replicas are let go and it answers nothing until it is loaded, deployed or rolled back."`
}

// Status says what the fleet has made of an endpoint's current revision.
type Status struct {
	Ready    bool            `json:"ready" doc:"Whether the current revision can answer."`
	Replicas int             `json:"replicas" doc:"Loaded replicas of all variants."`
	Wanted   int             `json:"wanted" doc:"Replicas that should be loaded."`
	Variants []VariantStatus `json:"variants,omitempty" doc:"What serves: the arms of the current revision."`
	Problems []string        `json:"problems,omitempty" doc:"What is wrong, if anything."`
}

// VariantStatus is one arm of the current revision as it stands.
type VariantStatus struct {
	Name     VariantName `json:"name" doc:"Arm's name."`
	Model    string      `json:"model" doc:"Version that answers, as a reference."`
	Weight   int64       `json:"weight" doc:"Share relative to the others."`
	Replicas int         `json:"replicas" doc:"Loaded replicas."`
	Wanted   int         `json:"wanted" doc:"Replicas that should be loaded."`
	Asleep   bool        `json:"asleep,omitempty" doc:"Not in memory, which is short; the next request loads it."`
	Batch    *BatchPlan  `json:"batch,omitempty" doc:"What loading made of the batching settings."`
}

// ReleaseState is where a release stands.
type ReleaseState string

// The states; all but pending and loading are final.
const (
	ReleasePending   ReleaseState = "pending"
	ReleaseLoading   ReleaseState = "loading"
	ReleaseSucceeded ReleaseState = "succeeded"
	ReleaseFailed    ReleaseState = "failed"
	ReleaseAborted   ReleaseState = "aborted"
)

// Final reports whether the release is over.
func (s ReleaseState) Final() bool {
	return s == ReleaseSucceeded || s == ReleaseFailed || s == ReleaseAborted
}

// ReleaseKind tells a deploy from a rollback.
type ReleaseKind string

// The kinds of release.
const (
	ReleaseDeploy   ReleaseKind = "deploy"
	ReleaseRollback ReleaseKind = "rollback"
)

// Release is the act and record of moving an endpoint from one revision to another.
type Release struct {
	Tenant   TenantID       `json:"tenant" doc:"Owner."`
	Endpoint EndpointName   `json:"endpoint" doc:"Endpoint."`
	Number   int64          `json:"number" doc:"From 1, per endpoint."`
	Kind     ReleaseKind    `json:"kind" doc:"deploy or rollback."`
	From     RevisionNumber `json:"from" doc:"Revision before; 0 for the first."`
	To       RevisionNumber `json:"to" doc:"Revision after."`
	Strategy Strategy       `json:"strategy" doc:"How."`
	State    ReleaseState   `json:"state" doc:"pending, loading, succeeded, failed or aborted."`
	Reason   string         `json:"reason,omitempty" doc:"Why it failed."`
	By       string         `json:"by" doc:"Name of the key."`
	Why      string         `json:"why,omitempty" doc:"Reason given."`
	Started  Time           `json:"started" doc:"When it began."`
	Ended    Time           `json:"ended,omitzero" doc:"When it was over."`
	EffectUS int64          `json:"effect_us,omitempty" doc:"Microseconds from the command to the swapped plan (rollback)."`
	Durable  bool           `json:"durable" doc:"Whether the record is on disk; false only when neither database nor journal could be written."`
}

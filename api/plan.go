package api

// Plan is everything that the data plane may know: compiled by publish, immutable, swapped whole.
type Plan struct {
	Generation uint64
	Compiled   Time
	Endpoints  map[EndpointKey]*PlanEndpoint
	Weights    map[TenantID]int // of tenants, in sharing the workers; those not named have 1
}

// EndpointKey names an endpoint across tenants.
type EndpointKey struct {
	Tenant   TenantID
	Endpoint EndpointName
}

// PlanEndpoint is one endpoint of a plan. Variants is empty when nothing was ever released, and while it is unloaded.
type PlanEndpoint struct {
	Key      EndpointKey
	Revision RevisionNumber
	Salt     string // of the split; constant for the endpoint, so that units stay where they are between revisions
	Sticky   bool
	Unloaded bool // somebody let its replicas go; then there are no variants
	Variants []PlanVariant
}

// PlanVariant is one arm with the set of its replicas, which lives on while the plan stands. Weight 0 takes no traffic
// unless it is forced.
type PlanVariant struct {
	*Variant // the revision's own, so never changed
	Set      *ReplicaSet
}

// Want asks the fleet to hold a version loaded. Instance names it everywhere: wants with the same Instance are one.
type Want struct {
	Instance string
	Tenant   TenantID
	Subject  string // "digits@2", for messages
	Digest   Digest // of the manifest
	Pool     string // whose workers hold it alone: a tenant, or TENANT/ENDPOINT; empty: everybody's
	Format   string
	Replicas int   // 0: one per worker, as far as memory goes
	Size     int64 // bytes of its files; 0: unknown
	Loaded   bool  // it is kept loaded; otherwise it may sleep while memory is short, and requests wake it
	Standby  bool  // a rollback may need it: its files stay on this machine
	Priority int   // doublings of its use that it counts for when memory is short
	Options  LoadOptions
}

// InstanceState is what the fleet has made of a want.
type InstanceState struct {
	Replicas []Replica  // loaded, warm and answering
	Wanted   int        // replicas wanted now, after defaults
	Asleep   bool       // none is wanted now: the next request, or Wake, loads it
	Batch    *BatchPlan // what the last load made of the want's Batching; nil while nothing is known
	Err      *Error     // why it cannot be loaded; final until the want is withdrawn
}

// Worker is one process of the fleet, for people.
type Worker struct {
	Name      string   `json:"name" doc:"Name of the worker."`
	PID       int      `json:"pid" doc:"Process id."`
	Pool      string   `json:"pool,omitempty" doc:"Whose models alone it holds: a tenant, or TENANT/ENDPOINT; missing: everybody's."`
	State     string   `json:"state" doc:"starting, ready or lost."`
	Runtime   string   `json:"runtime" doc:"Name and version of the runtime; empty before the first model."`
	Resident  int64    `json:"resident_bytes" doc:"Resident memory."`
	Restarts  int64    `json:"restarts" doc:"Times it was started again."`
	LastExit  string   `json:"last_exit,omitempty" doc:"How the process before ended; missing while it is the first."`
	Instances []string `json:"instances" doc:"What it holds."`
	Started   Time     `json:"started" doc:"When the present process began."`

	Processors  []int       `json:"processors,omitempty" doc:"Processors that it alone runs on; missing: it shares all of them."`
	Confinement Confinement `json:"confinement,omitzero" doc:"How it is held."`
}

// Confinement says how a worker process is held, each part in words; empty is not at all.
type Confinement struct {
	Network string `json:"network,omitempty" doc:"How it is kept from the network: namespace, seccomp, landlock."`
	Files   string `json:"files,omitempty" doc:"How it is kept to the model cache and the runtime: landlock."`
	Memory  string `json:"memory,omitempty" doc:"How its memory is limited: cgroup, or rlimit and watch."`
	CPU     string `json:"cpu,omitempty" doc:"How its processor time is limited: cgroup, or affinity."`
}

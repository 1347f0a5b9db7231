package api

// Plan is everything that the data plane may know: compiled by publish, immutable, swapped whole.
type Plan struct {
	Generation uint64
	Compiled   Time
	Endpoints  map[EndpointKey]*PlanEndpoint
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

// PlanVariant is one arm with the replicas that can answer now. Weight 0 takes no traffic unless it is forced.
type PlanVariant struct {
	Variant
	Replicas []Replica
	Batch    *BatchPlan // what loading made of Serving.Batching; nil while nothing is known
}

// Replica is one loaded instance of a variant: Instance names it inside the worker.
type Replica struct {
	Worker   string
	Instance string
}

// Want asks the fleet to hold a version loaded. Instance names it everywhere: wants with the same Instance are one.
type Want struct {
	Instance string
	Tenant   TenantID
	Subject  string // "digits@2", for messages
	Digest   Digest // of the manifest
	Format   string
	Replicas int // 0: one per worker
	Options  LoadOptions
}

// InstanceState is what the fleet has made of a want.
type InstanceState struct {
	Replicas []Replica  // loaded, warm and answering
	Wanted   int        // replicas wanted, after defaults
	Batch    *BatchPlan // what the last load made of the want's Batching; nil while nothing is known
	Err      *Error     // why it cannot be loaded; final until the want is withdrawn
}

// Worker is one process of the fleet, for people.
type Worker struct {
	Name      string   `json:"name" doc:"Name of the worker."`
	PID       int      `json:"pid" doc:"Process id."`
	State     string   `json:"state" doc:"starting, ready or lost."`
	Runtime   string   `json:"runtime" doc:"Name and version of the runtime; empty before the first model."`
	Resident  int64    `json:"resident_bytes" doc:"Resident memory."`
	Restarts  int64    `json:"restarts" doc:"Times it was started again."`
	Instances []string `json:"instances" doc:"What it holds."`
	Started   Time     `json:"started" doc:"When the present process began."`

	Processors []int `json:"processors,omitempty" doc:"Processors that it alone runs on; missing: it shares all of them."`
}

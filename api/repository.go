package api

// ModelState is where a version of an endpoint stands in the repository index.
type ModelState string

// The states of the index. What is being let go counts as unavailable at once: nothing is sent to it any more.
const (
	ModelReady       ModelState = "READY"
	ModelLoading     ModelState = "LOADING"
	ModelUnavailable ModelState = "UNAVAILABLE"
)

// ModelIndex is one row of the repository index: a version that an endpoint serves, or would serve when it is loaded.
type ModelIndex struct {
	Endpoint EndpointName
	Version  VersionNumber // 0 when nothing was released yet
	State    ModelState
	Reason   string // why it is not ready
}

// Spent is how often something was done, and how long it took together.
type Spent struct {
	Count uint64 `json:"count"`
	NS    uint64 `json:"ns"`
}

// ModelStatistics counts what one version has answered under one endpoint's name since the server started.
type ModelStatistics struct {
	Tenant    TenantID
	Endpoint  EndpointName
	Version   VersionNumber
	Last      Time   // start of the newest inference that succeeded; 0 for none
	Items     uint64 // inferences, each item of a batch for itself
	Runs      uint64 // runs of the model
	Succeeded Spent  // whole requests, from read to answer
	Failed    Spent  // requests that reached the version and failed
	Queue     Spent
	Compute   Spent
	CacheHit  Spent             // answered without a run: looking up
	CacheMiss Spent             // run although the response cache was asked: looking up, and keeping
	Batches   []BatchStatistics // by size, smallest first
}

// BatchStatistics counts the runs with one size of batch.
type BatchStatistics struct {
	Size    uint64
	Compute Spent
}

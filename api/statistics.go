package api

import "time"

// Statistics is what a tenant's endpoints did lately and hold now, and the workers' state beside it: what `penstock top`
// shows.
type Statistics struct {
	At        Time                 `json:"at" doc:"When it was asked."`
	Window    time.Duration        `json:"window_ns" doc:"Time that the rates and durations are of, nanoseconds; it ends now."`
	Step      time.Duration        `json:"step_ns" doc:"Time between two entries of recent, nanoseconds."`
	Endpoints []EndpointStatistics `json:"endpoints" doc:"Every endpoint of the tenant, by name; one that nobody called has zeros."`
	Workers   []WorkerStatistics   `json:"workers" doc:"Worker processes, which all tenants share; only for keys with the scope admin of tenant default."`
	Memory    *ModelMemory         `json:"memory,omitempty" doc:"What models take together; only for keys with the scope admin of tenant default."`
	Shares    []TenantShare        `json:"shares" doc:"What tenants have of the workers, those that ever asked, by what they had in the last minute; all of them for keys with the scope admin of tenant default, else the key's own."`
}

// TenantShare is what one tenant has of the workers, which all share by weight.
type TenantShare struct {
	Tenant  TenantID         `json:"tenant" doc:"Name."`
	Weight  int              `json:"weight" doc:"Its weight."`
	Part    float64          `json:"part" doc:"Part of all execution time of the last minute, 0 to 1."`
	Spent   time.Duration    `json:"spent_ns" doc:"Execution time in the last minute, nanoseconds."`
	Total   time.Duration    `json:"total_ns" doc:"The same since the server started."`
	Waiting int              `json:"waiting" doc:"Requests that wait for their turn now."`
	Running int              `json:"running" doc:"Requests in workers now."`
	Refused map[string]int64 `json:"refused,omitempty" doc:"Requests refused since the server started, by reason: over_share, too_late, shed. Absent when there were none."`
}

// EndpointStatistics is one endpoint's part. Durations are of requests that reached a version; quantiles are right to about
// five percent.
type EndpointStatistics struct {
	Endpoint     EndpointName  `json:"endpoint" doc:"Name."`
	Rate         float64       `json:"rate" doc:"Requests per second."`
	Errors       float64       `json:"errors" doc:"Failed requests per second."`
	P50          time.Duration `json:"p50_ns" doc:"Half of the requests took at most this, from read to answer; nanoseconds."`
	P95          time.Duration `json:"p95_ns" doc:"The same for 95 %."`
	P99          time.Duration `json:"p99_ns" doc:"The same for 99 %."`
	Queue        time.Duration `json:"queue_ns" doc:"Mean waiting in gateway and worker, nanoseconds."`
	Wait         time.Duration `json:"wait_ns" doc:"Mean waiting for a batch to form, part of queue_ns."`
	Compute      time.Duration `json:"compute_ns" doc:"Mean time inside the runtime, of requests that ran."`
	Rows         float64       `json:"rows" doc:"Mean rows of the batches that requests ran in, their own included."`
	CacheHits    float64       `json:"cache_hits" doc:"Part of the requests that asked the response cache and were answered without a run, 0 to 1."`
	CacheAsked   float64       `json:"cache_asked" doc:"Requests per second that asked the response cache."`
	CacheEntries int64         `json:"cache_entries" doc:"Answers in the response cache."`
	CacheBytes   int64         `json:"cache_bytes" doc:"Memory of the response cache."`
	CacheLimit   int64         `json:"cache_limit" doc:"Most memory that the response cache may have now; 0 without one."`
	BytesIn      float64       `json:"bytes_in" doc:"Tensor bytes received per second."`
	BytesOut     float64       `json:"bytes_out" doc:"Tensor bytes answered per second."`
	Copied       float64       `json:"copied" doc:"Tensor bytes per second copied inside the server."`
	InFlight     int64         `json:"in_flight" doc:"Requests in the gateway now, waiting and running."`
	Recent       []float64     `json:"recent" doc:"Requests per second in each step, oldest first, up to the last step that is over."`
}

// WorkerStatistics is one worker with what it has in hand.
type WorkerStatistics struct {
	Worker
	InFlight int64 `json:"in_flight" doc:"Requests that this gateway has sent to it and waits for."`
}

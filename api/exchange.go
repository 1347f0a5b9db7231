package api

import "time"

// Exchange is the one record written per inference; metrics, logs and traces all read it. It is a plain value, sent
// through a bounded ring; it holds no tensor data.
type Exchange struct {
	RequestID string         `json:"request_id" doc:"Id of the request, also in Penstock-Request-Id."`
	Tenant    TenantID       `json:"tenant" doc:"Tenant."`
	Key       KeyID          `json:"key,omitempty" doc:"Key of the caller."`
	Endpoint  EndpointName   `json:"endpoint" doc:"Endpoint called."`
	Revision  RevisionNumber `json:"revision,omitempty" doc:"Revision that answered."`
	Variant   VariantName    `json:"variant,omitempty" doc:"Arm that answered."`
	Model     ModelName      `json:"model,omitempty" doc:"Model that answered."`
	Version   VersionNumber  `json:"version,omitempty" doc:"Version that answered."`
	Worker    string         `json:"worker,omitempty" doc:"Worker that answered."`
	Protocol  string         `json:"protocol" doc:"oip-http or oip-grpc."`
	Unit      string         `json:"unit,omitempty" doc:"Unit given in Penstock-Unit."`
	Start     Time           `json:"start" doc:"When the request was read."`
	Total     time.Duration  `json:"total_ns" doc:"From read to answer, nanoseconds."`
	Queue     time.Duration  `json:"queue_ns" doc:"Waiting, in gateway and worker, nanoseconds."`
	Compute   time.Duration  `json:"compute_ns" doc:"Inside the runtime, nanoseconds."`
	BytesIn   int64          `json:"bytes_in" doc:"Tensor bytes received."`
	BytesOut  int64          `json:"bytes_out" doc:"Tensor bytes answered."`
	Batch     int64          `json:"batch" doc:"First dimension of the first input, 1 when it has none."`
	Executed  int64          `json:"executed,omitempty" doc:"Rows of the batch in which it was run, its own included; 0 when it was run alone."`
	Wait      time.Duration  `json:"wait_ns,omitempty" doc:"Waiting for a batch to form, part of the queue time, nanoseconds."`
	Priority  int            `json:"priority,omitempty" doc:"Priority that the caller asked for, 1 the highest."`
	Steps     []StepTime     `json:"steps,omitempty" doc:"Where a chain's time went, step by step."`
	Cached    bool           `json:"cached,omitempty" doc:"Whether it was answered without a run of its own: from the response cache, or with the answer of an identical request."`
	Lookup    time.Duration  `json:"lookup_ns,omitempty" doc:"Asking the response cache and keeping the answer in it, nanoseconds; absent when it was not asked."`
	Copied    int64          `json:"copied,omitempty" doc:"Tensor bytes copied inside the server on the way."`
	Retries   int            `json:"retries,omitempty" doc:"Times it was sent again."`
	Unretried bool           `json:"unretried,omitempty" doc:"Whether it was not sent again after its worker was lost because its endpoint's budget for that was spent."`
	Code      Code           `json:"code,omitempty" doc:"Error code; absent on success."`
	Error     string         `json:"error,omitempty" doc:"Message of the error."`
	TraceID   string         `json:"trace_id,omitempty" doc:"W3C trace id, 32 hex digits."`
	SpanID    string         `json:"-"`
	ParentID  string         `json:"-"`
	Sampled   bool           `json:"-"`
}

// Event is something that happened which people want to know about: a push, a release, a worker's death.
type Event struct {
	Seq     int64    `json:"seq" doc:"Rises by one per event of the store."`
	Tenant  TenantID `json:"tenant,omitempty" doc:"Tenant it belongs to; absent for the server's own."`
	At      Time     `json:"at" doc:"When."`
	Kind    string   `json:"kind" doc:"For example version.pushed, release.succeeded, worker.lost."`
	Subject string   `json:"subject" doc:"What it is about."`
	Text    string   `json:"text" doc:"A sentence for people."`
	By      string   `json:"by,omitempty" doc:"Name of the key, when a caller did it."`
}

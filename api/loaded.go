package api

import "time"

// LoadedModel is one instance that is in memory, or on its way in, for people.
type LoadedModel struct {
	Model    string       `json:"model" doc:"Version that is loaded, as a reference."`
	Tenant   TenantID     `json:"tenant" doc:"Owner."`
	Instance string       `json:"instance" doc:"Name of the instance in its workers."`
	Copies   []LoadedCopy `json:"copies" doc:"Where it is."`
	Bytes    int64        `json:"bytes" doc:"Memory that one copy takes: measured, or estimated from its files until it was loaded once."`
	Kept     bool         `json:"kept" doc:"Whether it stays in memory whatever happens: its endpoint says so, or a release waits for it."`
	Priority int          `json:"keep_priority,omitempty" doc:"Steps by which it counts as used more or less than it is."`
	InFlight int64        `json:"in_flight" doc:"Requests that hold it now."`
	Requests int64        `json:"requests" doc:"Requests since the server began."`
	Misses   int64        `json:"misses" doc:"Of these, requests that had to wait for it to be loaded."`
	Load     float64      `json:"load" doc:"Processors that it keeps busy, lately."`
	LastUse  Time         `json:"last_use,omitzero" doc:"When a request held it last; missing when none did."`
}

// LoadedCopy is one copy of a model on one worker.
type LoadedCopy struct {
	Worker string `json:"worker" doc:"Worker."`
	State  string `json:"state" doc:"planned, loading, ready or leaving."`
	Why    string `json:"why" doc:"Why it was loaded: memory (there is enough for all), request, kept, load (it is hot), worker (another worker was lost), renewed, or follows (what usually comes next)."`
	Bytes  int64  `json:"bytes" doc:"Memory that this copy takes; 0 until it was measured."`
	Since  Time   `json:"since,omitzero" doc:"When it was ready."`
}

// ModelMemory is what models take together, and how well they are kept. Budget is what they may take now: the limit less
// what the workers take beside models.
type ModelMemory struct {
	Limit     int64            `json:"limit_bytes" doc:"What all models and what their workers need beside them may take; 0: no limit."`
	Budget    int64            `json:"budget_bytes" doc:"What models may take now: the limit less what workers take beside them; 0: no limit."`
	Used      int64            `json:"used_bytes" doc:"What models take."`
	Beside    int64            `json:"beside_bytes" doc:"What workers take beside models."`
	Mode      string           `json:"mode" doc:"What there is memory for: copies (every copy of every model), all (every model once) or some (what is not asked for sleeps)."`
	Loaded    int              `json:"loaded" doc:"Models in memory."`
	Asleep    int              `json:"asleep" doc:"Models that are deployed and not in memory."`
	Requests  int64            `json:"requests" doc:"Requests since the server began."`
	Misses    int64            `json:"misses" doc:"Of these, requests that had to wait for a model to be loaded."`
	Evictions map[string]int64 `json:"evictions" doc:"Models put to sleep since the server began, by reason."`
}

// LoadedModels is what is in memory.
type LoadedModels struct {
	Memory ModelMemory   `json:"memory" doc:"All tenants' models together; zero for callers who are no admins of tenant default."`
	Items  []LoadedModel `json:"items" doc:"The tenant's models that are in memory, those used last first."`
}

// ColdStart tells how long a model took from when it was asked for until it answered, by phase.
type ColdStart struct {
	Subject string
	Queue   time.Duration // for its worker's turn
	Place   time.Duration // for memory
	Fetch   time.Duration // of its files
	Load    time.Duration // by the runtime
	Warm    time.Duration // with a first request, and the trial of batches
}

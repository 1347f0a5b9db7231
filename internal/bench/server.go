package bench

// Counts are a version's counters as the statistics extension tells them: how often, and how many nanoseconds together.
type Counts struct {
	Version   string
	Requests  uint64 // answered
	RequestNS uint64
	Queued    uint64
	QueueNS   uint64
	Computed  uint64
	ComputeNS uint64
	Rows      uint64 // of all batches
	Runs      uint64 // of the model
	CacheHits uint64
}

// ServerSide is what the server itself counted while a run was measured, all versions of the endpoint together. Times are
// means in microseconds.
type ServerSide struct {
	Requests  uint64   `json:"requests"`
	Versions  []string `json:"versions"`
	Total     float64  `json:"total_us"`
	Queue     float64  `json:"queue_us"`
	Compute   float64  `json:"compute_us"`
	Rows      float64  `json:"rows_per_run"`
	CacheHits uint64   `json:"cache_hits,omitempty"`
}

// Between gives what was counted from before to after; nil when the server answered nothing, or began anew in between.
func Between(before, after []Counts) *ServerSide {
	old := map[string]Counts{}
	for _, c := range before {
		old[c.Version] = c
	}
	var sum Counts
	s := &ServerSide{}
	for _, c := range after {
		was := old[c.Version]
		if c.Requests < was.Requests || c.Runs < was.Runs || c.RequestNS < was.RequestNS || c.QueueNS < was.QueueNS || c.ComputeNS < was.ComputeNS ||
			c.Queued < was.Queued || c.Computed < was.Computed || c.Rows < was.Rows || c.CacheHits < was.CacheHits {
			return nil
		}
		if c.Requests > was.Requests {
			s.Versions = append(s.Versions, c.Version)
		}
		sum.Requests += c.Requests - was.Requests
		sum.RequestNS += c.RequestNS - was.RequestNS
		sum.Queued += c.Queued - was.Queued
		sum.QueueNS += c.QueueNS - was.QueueNS
		sum.Computed += c.Computed - was.Computed
		sum.ComputeNS += c.ComputeNS - was.ComputeNS
		sum.Rows += c.Rows - was.Rows
		sum.Runs += c.Runs - was.Runs
		sum.CacheHits += c.CacheHits - was.CacheHits
	}
	if sum.Requests == 0 {
		return nil
	}
	s.Requests, s.CacheHits = sum.Requests, sum.CacheHits
	s.Total, s.Queue, s.Compute = mean(sum.RequestNS, sum.Requests), mean(sum.QueueNS, sum.Queued), mean(sum.ComputeNS, sum.Computed)
	if sum.Runs > 0 {
		s.Rows = float64(sum.Rows) / float64(sum.Runs)
	}
	return s
}

// mean is in microseconds.
func mean(ns, count uint64) float64 {
	if count == 0 {
		return 0
	}
	return float64(ns) / float64(count) / 1e3
}

package oip

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// Statistics counts what was answered; what ended before the call is in it. An empty endpoint means all of the tenant's.
type Statistics interface {
	Statistics(t api.TenantID, endpoint api.EndpointName) []api.ModelStatistics
}

// modelStats is one version's statistics in JSON. Every figure is a number: clients read them as 64-bit integers, where
// protobuf's own JSON would write strings.
type modelStats struct {
	Name        string         `json:"name"`
	Version     string         `json:"version"`
	Last        uint64         `json:"last_inference"`
	Items       uint64         `json:"inference_count"`
	Runs        uint64         `json:"execution_count"`
	Infer       inferStats     `json:"inference_stats"`
	Responses   map[string]any `json:"response_stats"` // of decoupled models, which there are none of
	Batches     []batchStats   `json:"batch_stats"`
	MemoryUsage []any          `json:"memory_usage"` // not measured per model
}

// inferStats holds the eight durations. Reading inputs and writing outputs are not measured apart from the whole: those have
// counts without time.
type inferStats struct {
	Success       api.Spent `json:"success"`
	Fail          api.Spent `json:"fail"`
	Queue         api.Spent `json:"queue"`
	ComputeInput  api.Spent `json:"compute_input"`
	ComputeInfer  api.Spent `json:"compute_infer"`
	ComputeOutput api.Spent `json:"compute_output"`
	CacheHit      api.Spent `json:"cache_hit"`
	CacheMiss     api.Spent `json:"cache_miss"`
}

type batchStats struct {
	Size          uint64    `json:"batch_size"`
	ComputeInput  api.Spent `json:"compute_input"`
	ComputeInfer  api.Spent `json:"compute_infer"`
	ComputeOutput api.Spent `json:"compute_output"`
}

// versionKey names a version under an endpoint's name.
type versionKey struct{ endpoint, version string }

// counts gives the statistics of the versions that serve: of the one named, of an endpoint, or of the whole tenant. One
// that was never called has zeros.
func (c *controls) counts(p *protocol, who *api.Principal, endpoint, version string) ([]modelStats, error) {
	if c.statistics == nil || c.repository == nil {
		return nil, missing("statistics")
	}
	serving, err := c.serving(p, who, endpoint, version)
	if err != nil {
		return nil, err
	}
	counted := map[versionKey]*api.ModelStatistics{}
	list := c.statistics.Statistics(who.Tenant, api.EndpointName(endpoint))
	for i := range list {
		counted[versionKey{string(list[i].Endpoint), strconv.FormatInt(int64(list[i].Version), 10)}] = &list[i]
	}
	out := make([]modelStats, 0, len(serving))
	for _, key := range serving {
		s := counted[key]
		if s == nil {
			s = &api.ModelStatistics{}
		}
		out = append(out, statsOf(key, s))
	}
	return out, nil
}

// serving lists what the statistics are asked of.
func (c *controls) serving(p *protocol, who *api.Principal, endpoint, version string) ([]versionKey, error) {
	var keys []versionKey
	if endpoint == "" {
		for _, m := range c.repository.Index(who.Tenant) {
			if m.State == api.ModelReady {
				keys = append(keys, versionKey{string(m.Endpoint), strconv.FormatInt(int64(m.Version), 10)})
			}
		}
		return keys, nil
	}
	if err := checkTarget(endpoint, version); err != nil {
		return nil, err
	}
	view, err := p.server.Describe(who, api.EndpointName(endpoint), version)
	if err != nil {
		return nil, named(err, endpoint, version)
	}
	seen := map[string]bool{}
	for _, v := range view.Versions {
		if !seen[v] {
			seen[v] = true
			keys = append(keys, versionKey{endpoint, v})
		}
	}
	return keys, nil
}

func statsOf(key versionKey, s *api.ModelStatistics) modelStats {
	// All three are counted by request, as Triton does; its clients refuse counts that differ. Runs have a count of their own.
	ran := api.Spent{Count: s.Compute.Count}
	out := modelStats{Name: key.endpoint, Version: key.version, Last: uint64(max(0, s.Last)) / 1000, Items: s.Items, Runs: s.Runs,
		Infer: inferStats{Success: s.Succeeded, Fail: s.Failed, Queue: s.Queue, ComputeInput: ran, ComputeInfer: s.Compute,
			ComputeOutput: ran, CacheHit: s.CacheHit, CacheMiss: s.CacheMiss},
		Responses: map[string]any{}, Batches: make([]batchStats, 0, len(s.Batches)), MemoryUsage: []any{}}
	for _, b := range s.Batches {
		ran := api.Spent{Count: b.Compute.Count}
		out.Batches = append(out.Batches, batchStats{Size: b.Size, ComputeInput: ran, ComputeInfer: b.Compute, ComputeOutput: ran})
	}
	return out
}

func (c *controls) statisticsHTTP(p *protocol, who *api.Principal, endpoint, version string) ([]byte, error) {
	list, err := c.counts(p, who, endpoint, version)
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Stats []modelStats `json:"model_stats"`
	}{list})
}

// ModelStatistics counts what was answered.
func (s *service) ModelStatistics(ctx context.Context, r *wire.ModelStatisticsRequest) (*wire.ModelStatisticsResponse, error) {
	if r.GetName() == "" && r.GetVersion() != "" {
		return nil, api.Fail(api.CodeBadRequest, "", "a version needs the model's name beside it")
	}
	list, err := s.p.controls.counts(s.p, gateway.PrincipalOf(ctx), r.GetName(), r.GetVersion())
	if err != nil {
		return nil, err
	}
	out := &wire.ModelStatisticsResponse{ModelStats: make([]*wire.ModelStatistics, 0, len(list))}
	for i := range list {
		out.ModelStats = append(out.ModelStats, statsMessage(&list[i]))
	}
	return out, nil
}

func statsMessage(s *modelStats) *wire.ModelStatistics {
	spent := func(d api.Spent) *wire.StatisticDuration { return &wire.StatisticDuration{Count: d.Count, Ns: d.NS} }
	out := &wire.ModelStatistics{Name: s.Name, Version: s.Version, LastInference: s.Last, InferenceCount: s.Items, ExecutionCount: s.Runs,
		InferenceStats: &wire.InferStatistics{Success: spent(s.Infer.Success), Fail: spent(s.Infer.Fail), Queue: spent(s.Infer.Queue),
			ComputeInput: spent(s.Infer.ComputeInput), ComputeInfer: spent(s.Infer.ComputeInfer), ComputeOutput: spent(s.Infer.ComputeOutput),
			CacheHit: spent(s.Infer.CacheHit), CacheMiss: spent(s.Infer.CacheMiss)}}
	for _, b := range s.Batches {
		out.BatchStats = append(out.BatchStats, &wire.InferBatchStatistics{BatchSize: b.Size, ComputeInput: spent(b.ComputeInput),
			ComputeInfer: spent(b.ComputeInfer), ComputeOutput: spent(b.ComputeOutput)})
	}
	return out
}

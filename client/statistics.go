package client

import (
	"context"
	"net/http"

	"github.com/penstock/penstock/api"
)

// ModelStatistics is what one version has answered since the server started, as the statistics extension tells it.
type ModelStatistics struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	Items      uint64 `json:"inference_count"` // rows of all requests
	Executions uint64 `json:"execution_count"` // runs of the model
	Infer      struct {
		Success      api.Spent `json:"success"`
		Fail         api.Spent `json:"fail"`
		Queue        api.Spent `json:"queue"`
		ComputeInfer api.Spent `json:"compute_infer"`
		CacheHit     api.Spent `json:"cache_hit"`
		CacheMiss    api.Spent `json:"cache_miss"`
	} `json:"inference_stats"`
}

// ModelStatistics tells what the versions that serve an endpoint have answered.
func (c *Client) ModelStatistics(ctx context.Context, e api.EndpointName) ([]ModelStatistics, error) {
	var out struct {
		Stats []ModelStatistics `json:"model_stats"`
	}
	err := c.call(ctx, exchange{method: http.MethodGet, path: inferPath(e) + "/stats"}, &out)
	return out.Stats, err
}

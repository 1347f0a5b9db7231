package registry_test

import (
	"context"

	"github.com/penstock/penstock/api"
)

// The memory store knows no policies and holds a scan report for everything; both are tested with the real one.
func (s *memoryStore) TrustPolicy(context.Context, api.TenantID) (api.TrustPolicy, error) {
	return api.TrustPolicy{}, nil
}

func (s *memoryStore) SaveTrustPolicy(_ context.Context, _ api.TenantID, p api.TrustPolicy, _ int64) (api.TrustPolicy, error) {
	return p, nil
}

func (s *memoryStore) Referrers(context.Context, api.Repository, api.ContentDigest, string, api.ContentDigest, int) ([]api.Manifest, error) {
	return []api.Manifest{{}}, nil
}

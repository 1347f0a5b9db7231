package cloud_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/blob/blobtest"
	"github.com/penstock/penstock/internal/blob/cloud"
	"github.com/penstock/penstock/test/s3"
)

// TestConformance holds the store against a real S3 server.
func TestConformance(t *testing.T) {
	server := s3.Start(t)
	server.Bucket(t, "conformance")
	var places sync.Mutex
	n := 0
	blobtest.Run(t, func(testing.TB) blobtest.Open {
		places.Lock()
		defer places.Unlock()
		n++
		url := s3.URL(server.Endpoint, fmt.Sprintf("conformance/place-%d", n))
		return func(t testing.TB) blob.Store { return open(t, cloud.Config{URL: url}) }
	})
}

func open(t testing.TB, cfg cloud.Config) *cloud.Store {
	t.Helper()
	if cfg.Credentials == nil {
		cfg.Credentials = s3.Credentials()
	}
	if cfg.Spool == "" {
		cfg.Spool = t.TempDir()
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = 20 * time.Millisecond
	}
	s, err := cloud.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

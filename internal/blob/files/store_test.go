package files_test

import (
	"testing"

	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/blob/blobtest"
	"github.com/penstock/penstock/internal/blob/files"
)

func TestConformance(t *testing.T) {
	blobtest.Run(t, func(t testing.TB) blobtest.Open {
		dir := t.TempDir()
		return func(t testing.TB) blob.Store { return open(t, files.Config{Dir: dir}) }
	})
}

func open(t testing.TB, cfg files.Config) *files.Store {
	t.Helper()
	s, err := files.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

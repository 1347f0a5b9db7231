package registry_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/registry"
)

// far hides that blobs lie on this machine.
type far struct{ blob.Store }

// TestTheCacheHasALimit: versions that were not asked for longest go when the cache is over its limit, those in use never,
// and a restart counts what it finds.
func TestTheCacheHasALimit(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	busy := map[api.Digest]bool{}
	limit := int64(0)
	bounded := func(cfg *registry.Config) {
		cfg.Blobs, cfg.CacheMax = far{cfg.Blobs}, limit
		cfg.Now = func() time.Time { at = at.Add(time.Second); return at }
		cfg.Busy = func() map[api.Digest]bool { return busy }
	}
	b := setUp(t, bounded)
	var versions []api.Version
	for i := range 5 {
		w := []byte(weights())
		w[0] = byte(i)
		versions = append(versions, b.mustPush(t, alice, "digits", map[string]string{"m.onnx": net{external: "w.bin"}.onnx(), "w.bin": string(w)}))
	}
	if _, err := b.Materialize(t.Context(), versions[0].Digest); err != nil {
		t.Fatal(err)
	}
	each := int64(0)
	if err := filepath.WalkDir(filepath.Join(b.dir, "cache", versions[0].Digest.Hex()), func(_ string, entry os.DirEntry, err error) error {
		if info, infoErr := entry.Info(); infoErr == nil && !entry.IsDir() {
			each += info.Size()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	limit = 3*each + each/2
	b.open(t, bounded)
	fetch := func(i int) {
		t.Helper()
		if _, err := b.Materialize(t.Context(), versions[i].Digest); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want ...bool) {
		t.Helper()
		for i, there := range want {
			_, err := os.Stat(filepath.Join(b.dir, "cache", versions[i].Digest.Hex()))
			if (err == nil) != there {
				t.Errorf("version %d is there: %v, want %v", i, err == nil, there)
			}
		}
	}
	busy[versions[0].Digest] = true
	for i := range 3 {
		fetch(i)
	}
	expect(true, true, true)
	fetch(1) // asked for later than 2
	fetch(3)
	expect(true, true, false, true)
	b.open(t, bounded)
	delete(busy, versions[0].Digest)
	busy[versions[1].Digest] = true
	fetch(4)
	if _, err := os.Stat(filepath.Join(b.dir, "cache", versions[1].Digest.Hex())); err != nil {
		t.Error("what is in use was taken away after a restart")
	}
	if _, err := os.Stat(filepath.Join(b.dir, "cache", versions[4].Digest.Hex())); err != nil {
		t.Error("what was just filled was taken away")
	}
	entries, err := os.ReadDir(filepath.Join(b.dir, "cache"))
	if err != nil || len(entries) > 3 {
		t.Errorf("%d versions are left, there is room for 3: %v", len(entries), err)
	}
}

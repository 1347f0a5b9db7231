package tenancy_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tenancy"
)

func TestPepper(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets", "pepper")
	var wait sync.WaitGroup
	got := make([][]byte, 8)
	for i := range got {
		wait.Go(func() {
			var err error
			if got[i], err = tenancy.LoadPepper(path); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for _, p := range got {
		if len(p) != 32 || !bytes.Equal(p, got[0]) || bytes.Equal(p, make([]byte, 32)) {
			t.Fatalf("peppers differ or are empty")
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if p, err := tenancy.LoadPepper(path); err != nil || !bytes.Equal(p, got[0]) {
		t.Errorf("after chmod: %v", err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode stays %v", info.Mode())
	}
	for name, content := range map[string][]byte{"empty": {}, "short": make([]byte, 31), "long": make([]byte, 33), "huge": make([]byte, 1<<20)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := tenancy.LoadPepper(path); !api.Is(err, api.CodeStorage) {
			t.Errorf("%s: %v", name, err)
		}
		if now, _ := os.ReadFile(path); !bytes.Equal(now, content) {
			t.Errorf("%s: the file was replaced", name)
		}
	}
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := tenancy.LoadPepper(link); !api.Is(err, api.CodeStorage) {
		t.Errorf("symlink: %v", err)
	}
}

// TestEnsureAdmin brings file and store into every state that a crash or a person can leave.
func TestEnsureAdmin(t *testing.T) {
	read := func(t *testing.T, path string) string {
		t.Helper()
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
		return strings.TrimSuffix(string(content), "\n")
	}
	start := func(t *testing.T, store *memory, path string) (*tenancy.Guard, error) {
		t.Helper()
		g := tenancy.New(store, pepper, false)
		if err := g.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		return g, g.EnsureAdmin(t.Context(), path)
	}
	revoke := func(t *testing.T, store *memory) {
		t.Helper()
		for i := range store.keys {
			store.keys[i].Revoked = 5
		}
	}
	for _, c := range []struct {
		name   string
		spoil  func(t *testing.T, store *memory, path string)
		keys   int  // in the store afterwards
		same   bool // the file's key is the first one
		denied bool // the file's key does not work, on purpose
	}{
		{"nothing happened", func(*testing.T, *memory, string) {}, 1, true, false},
		{"the file is gone", func(_ *testing.T, _ *memory, path string) { _ = os.Remove(path) }, 2, false, false},
		{"the store is new", func(_ *testing.T, store *memory, _ string) { *store = memory{} }, 1, true, false},
		{"the store lost the key", func(_ *testing.T, store *memory, _ string) { store.keys = nil }, 1, true, false},
		{"the file is empty", func(_ *testing.T, _ *memory, path string) { _ = os.WriteFile(path, nil, 0o644) }, 2, false, false},
		{"the file is cut", func(_ *testing.T, _ *memory, path string) { _ = os.Truncate(path, 20) }, 2, false, false},
		{"the only admin was revoked", func(t *testing.T, store *memory, _ string) { revoke(t, store) }, 2, false, false},
		{"revoked, and another admin works", func(t *testing.T, store *memory, _ string) {
			g := newGuard(t, store, false)
			revoke(t, store)
			mustKey(t, g, api.Key{Tenant: api.DefaultTenant, Scopes: []api.Scope{api.ScopeAdmin}})
		}, 2, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			store, path := &memory{}, filepath.Join(t.TempDir(), "secrets", "admin.key")
			if _, err := start(t, store, path); err != nil {
				t.Fatal(err)
			}
			first := read(t, path)
			c.spoil(t, store, path)
			for range 2 { // the second start changes nothing more
				g, err := start(t, store, path)
				if err != nil {
					t.Fatal(err)
				}
				token := read(t, path)
				p, err := g.Authenticate([]string{"Bearer " + token})
				if c.denied != (err != nil) || (token == first) != c.same || len(store.keys) != c.keys {
					t.Fatalf("%v, same %v, %d keys", err, token == first, len(store.keys))
				}
				if err == nil && tenancy.AuthorizeKeys(p, "acme") != nil {
					t.Error("the key does not administer")
				}
				if strings.Contains(store.said.String(), token[4:20]) {
					t.Error("key text reached the store")
				}
			}
		})
	}
	t.Run("crash before the store took it", func(t *testing.T) {
		store, path := &memory{}, filepath.Join(t.TempDir(), "admin.key")
		g := newGuard(t, store, false)
		store.setFail(errors.New("crash"))
		if err := g.EnsureAdmin(t.Context(), path); err == nil {
			t.Fatal("no error")
		}
		written := read(t, path)
		store.setFail(nil)
		g, err := start(t, store, path)
		if err != nil || read(t, path) != written {
			t.Fatalf("%v", err)
		}
		if _, err := g.Authenticate([]string{"Bearer " + written}); err != nil {
			t.Error(err)
		}
	})
}

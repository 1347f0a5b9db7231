package tenancy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

const (
	pepperLength  = 32
	secretFileMax = 4096 // bytes read of a secret's file; more is not one of ours
)

// LoadPepper reads the 32 random bytes at path, and makes them when there is no file. A file of another length is an
// error, never replaced: a new pepper makes every key invalid.
func LoadPepper(path string) ([]byte, error) {
	pepper, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		fresh := make([]byte, pepperLength)
		rand.Read(fresh)
		if err = writeSecret(path, fresh, false); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make the pepper: %w", err)
		}
		pepper, err = readSecret(path) // another process may have been first: both use what is there
	}
	if err != nil {
		return nil, fmt.Errorf("read the pepper: %w", err)
	}
	if len(pepper) != pepperLength {
		return nil, api.Fail(api.CodeStorage, path, "the file has %d bytes, not %d", len(pepper), pepperLength).
			WithCure("Restore it from a backup. Without it every API key is invalid; delete it only to start with new keys.")
	}
	return pepper, nil
}

// EnsureAdmin sees to it that tenant default exists and that the file at path holds an admin key of it that works. Call
// it after Load. The file is written before the store, so a crash between the two leaves a file whose key is stored at
// the next start; a file that is missing or holds no key is written anew. A key that an admin revoked or that expired
// is not brought back: a new one is made only when no other admin key of the tenant works.
func (g *Guard) EnsureAdmin(ctx context.Context, path string) error {
	if _, there := g.known.Load().tenants[api.DefaultTenant]; !there {
		if _, err := g.addTenant(ctx, api.DefaultTenant); err != nil && !api.Is(err, api.CodeExists) {
			return fmt.Errorf("make tenant %s: %w", api.DefaultTenant, err)
		}
	}
	content, err := readSecret(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the admin key: %w", err)
	}
	token := strings.TrimSpace(string(content))
	mac, ok := g.mac(token)
	if ok {
		e := g.known.Load().byMAC[mac]
		if e == nil {
			return g.storeAdmin(ctx, token)
		}
		if _, err := g.admit(e); err == nil || g.hasAdmin() {
			return nil
		}
	} else if err == nil {
		slog.WarnContext(ctx, "the admin key's file holds no key; a new one is written", "path", path)
	}
	token = newToken()
	if err := writeSecret(path, []byte(token+"\n"), true); err != nil {
		return fmt.Errorf("write the admin key: %w", err)
	}
	return g.storeAdmin(ctx, token)
}

func (g *Guard) storeAdmin(ctx context.Context, token string) error {
	mac, _ := g.mac(token)
	now := api.TimeOf(g.Now())
	k := api.Key{ID: newKeyID(uint64(now / 1000)), Tenant: api.DefaultTenant, Name: "admin", Hint: hint(token),
		Scopes: []api.Scope{api.ScopeAdmin}, Created: now}
	if err := g.addKey(ctx, k, mac); err != nil {
		return fmt.Errorf("store the admin key: %w", err)
	}
	return nil
}

// hasAdmin reports whether some admin key of tenant default works.
func (g *Guard) hasAdmin() bool {
	for _, e := range g.known.Load().byMAC {
		if e.key.Tenant == api.DefaultTenant && slices.Contains(e.key.Scopes, api.ScopeAdmin) {
			if _, err := g.admit(e); err == nil {
				return true
			}
		}
	}
	return false
}

// readSecret reads a small regular file and takes away what others could do with it.
func readSecret(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, api.Fail(api.CodeStorage, path, "not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if info.Mode().Perm()&0o077 != 0 {
		slog.Warn("a secret was readable by others; its mode is now 0600", "path", path, "mode", info.Mode().String())
		if err := f.Chmod(0o600); err != nil {
			return nil, err
		}
	}
	content, err := io.ReadAll(io.LimitReader(f, secretFileMax+1))
	if err == nil && len(content) > secretFileMax {
		err = api.Fail(api.CodeStorage, path, "larger than %d bytes", secretFileMax)
	}
	return content, err
}

// writeSecret puts a file of mode 0600 in place whole: a crash leaves the old one or the new one, on disk. Without
// replace, a file that is there already is an error that is fs.ErrExist.
func writeSecret(path string, content []byte, replace bool) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".secret-*") // its mode is 0600 from the start
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already after a rename
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if replace {
		err = os.Rename(f.Name(), path)
	} else {
		err = os.Link(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

package registry

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/penstock/penstock/api"
)

// PutBlob streams one file into the blob store and remembers that this tenant has it. Both are durable when it returns.
func (c *Catalog) PutBlob(ctx context.Context, p *api.Principal, r io.Reader, want api.Digest) (api.Digest, int64, error) {
	if err := mayWrite(p); err != nil {
		return "", 0, err
	}
	info, err := c.blobs.Put(ctx, r, want, c.limits.BlobBytes)
	if err != nil {
		return "", 0, err
	}
	if err := c.grants.add(p.Tenant, info.Digest); err != nil {
		return "", 0, err
	}
	return info.Digest, info.Size, nil
}

// StatBlob says how long a blob is that this tenant uploaded. One that only others have is as absent as one that nobody has.
func (c *Catalog) StatBlob(ctx context.Context, p *api.Principal, d api.Digest) (int64, error) {
	if !p.Allows(api.ScopeWrite) && !p.Allows(api.ScopeRead) {
		return 0, api.Fail(api.CodeForbidden, "", "this needs a key with the scope %q or %q", api.ScopeRead, api.ScopeWrite)
	}
	return c.statBlob(ctx, p.Tenant, d)
}

func (c *Catalog) statBlob(ctx context.Context, t api.TenantID, d api.Digest) (int64, error) {
	if !d.Valid() {
		return 0, api.Fail(api.CodeBadName, "", "this is not a digest; one is sha256: and 64 lower-case hex digits").
			WithCure("Use the digest that the upload of the file answered.")
	}
	granted, err := c.grants.has(t, d)
	if err != nil {
		return 0, err
	}
	if !granted {
		return 0, api.Fail(api.CodeBlobNotFound, string(d), "no such blob")
	}
	info, err := c.blobs.Stat(ctx, d)
	return info.Size, err
}

// grants remembers which tenant uploaded which blob, as one empty file DIR/TENANT/HEX each. Blobs are shared by digest, so
// a digest alone must prove nothing: whoever learned it from a log could else claim another tenant's bytes. To upload the
// bytes is the proof. Plain files, because they need no table, survive a restored database, and cost one look-up; a
// tenant's versions never need more, since every file of a version was uploaded by its tenant.
type grants struct {
	root *os.Root

	mu      sync.Mutex            // guards tenants
	tenants map[api.TenantID]bool // whose folder is durable, as far as this process knows
}

func (g *grants) add(t api.TenantID, d api.Digest) error {
	if err := api.CheckName("tenant", string(t)); err != nil { // it becomes a folder's name
		return err
	}
	if err := g.prepare(t); err != nil {
		return storage("remember the upload", err)
	}
	f, err := g.root.OpenFile(string(t)+"/"+d.Hex(), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return storage("remember the upload", err)
	}
	if err := errors.Join(f.Sync(), f.Close(), g.sync(string(t))); err != nil {
		return storage("remember the upload", err)
	}
	return nil
}

func (g *grants) has(t api.TenantID, d api.Digest) (bool, error) {
	if err := api.CheckName("tenant", string(t)); err != nil {
		return false, err
	}
	info, err := g.root.Lstat(string(t) + "/" + d.Hex())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, storage("look up the upload", err)
	}
	return info.Mode().IsRegular(), nil
}

// prepare makes a tenant's folder durable before the first grant in it is acknowledged.
func (g *grants) prepare(t api.TenantID) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tenants[t] {
		return nil
	}
	if err := g.root.Mkdir(string(t), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := g.sync("."); err != nil {
		return err
	}
	g.tenants[t] = true
	return nil
}

func (g *grants) sync(folder string) error {
	f, err := g.root.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

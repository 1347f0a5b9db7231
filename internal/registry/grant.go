package registry

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/penstock/penstock/api"
)

// adoptGrants takes over what earlier releases kept as files, GrantDir/TENANT/HEX: which tenant uploaded which blob. The
// files go when the database has it all. A backup of such a release brings them too.
func (c *Catalog) adoptGrants(ctx context.Context) error {
	root, err := os.OpenRoot(c.grantDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return storage("open the grants", err)
	}
	defer root.Close()
	tenants, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return storage("list the grants", err)
	}
	for _, tenant := range tenants {
		if !tenant.IsDir() || api.CheckName("tenant", tenant.Name()) != nil {
			continue
		}
		granted, err := fs.ReadDir(root.FS(), tenant.Name())
		if err != nil {
			return storage("list the grants", err)
		}
		for _, g := range granted {
			if err := c.adoptGrant(ctx, api.TenantID(tenant.Name()), api.Digest("sha256:"+g.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.RemoveAll(c.grantDir); err != nil {
		return storage("remove the grants", err)
	}
	return syncFolder(filepath.Dir(c.grantDir))
}

func (c *Catalog) adoptGrant(ctx context.Context, t api.TenantID, d api.Digest) error {
	if !d.Valid() {
		return nil
	}
	info, err := c.blobs.Stat(ctx, d)
	if api.Is(err, api.CodeBlobNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	b := api.RepositoryBlob{Digest: api.ContentDigest(d), Blob: d, Size: info.Size}
	err = c.store.KeepBlob(ctx, api.BlobKeep{Repository: api.Repository{Tenant: t}, Blob: b, At: api.TimeOf(c.now())})
	if api.Is(err, api.CodeNotFound) {
		return nil // the tenant is gone
	}
	return err
}

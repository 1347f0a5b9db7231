package registry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
)

const (
	unfinished   = "new-"          // begins the folders that are being filled
	manifestFile = "manifest.json" // beside the files, so that a cached version explains itself
	filesFolder  = "files"
)

// Materialize gives the path of a version's model file on this machine, with its external data beside it. The first call
// fills CacheDir/HEX from the blobs, verifying every byte; later ones, and those after a restart, look only at names and
// sizes and need neither blobs nor database, so that a rollback works when both are away. The files are read-only.
func (c *Catalog) Materialize(ctx context.Context, digest api.Digest) (entryPath string, err error) {
	if !digest.Valid() {
		return "", api.Fail(api.CodeBadName, "", "this is not the digest of a manifest")
	}
	for {
		if entry, err := c.cached(digest); err == nil {
			c.touch(digest)
			return entry, nil
		}
		c.mu.Lock()
		running, busy := c.filling[digest]
		if !busy {
			mine := make(chan struct{})
			c.filling[digest] = mine
			c.mu.Unlock()
			entry, err := c.fillOnce(ctx, digest)
			c.mu.Lock()
			delete(c.filling, digest)
			c.mu.Unlock()
			close(mine)
			if err == nil {
				c.added(ctx, digest)
			}
			return entry, err
		}
		c.mu.Unlock()
		// Whoever waits looks again afterwards: if the other one gave up, the next takes over.
		select {
		case <-running:
		case <-ctx.Done():
			return "", api.Fail(api.CodeCanceled, "", "waiting for the model's files was broken off").Because(ctx.Err())
		}
	}
}

// fillOnce looks once more before it fills: another caller may have ended between the look and the lock.
func (c *Catalog) fillOnce(ctx context.Context, digest api.Digest) (string, error) {
	if entry, err := c.cached(digest); err == nil {
		return entry, nil
	}
	return c.fill(ctx, digest)
}

// cached checks a version that was materialized before, cheaply.
func (c *Catalog) cached(digest api.Digest) (string, error) {
	dir := filepath.Join(c.cacheDir, digest.Hex())
	body, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return "", err
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != digest.Hex() {
		return "", errors.New("the cached manifest was changed")
	}
	artifacts, err := c.limits.parseManifest(body)
	if err != nil {
		return "", err
	}
	entry := ""
	for _, a := range artifacts {
		if a.Role == api.RoleDoc {
			continue
		}
		name := filepath.Join(dir, filesFolder, filepath.FromSlash(a.Path))
		info, err := os.Lstat(name)
		if err != nil {
			return "", err
		}
		if !info.Mode().IsRegular() || info.Size() != a.Size {
			return "", fmt.Errorf("cached file %s was changed", a.Path)
		}
		if a.Role == api.RoleModel {
			entry = name
		}
	}
	return entry, nil
}

// fill builds the version's folder under another name and renames it when all of it is durable.
func (c *Catalog) fill(ctx context.Context, digest api.Digest) (string, error) {
	body, err := c.readSmall(ctx, digest)
	if err != nil {
		return "", fmt.Errorf("read manifest: %w", err)
	}
	artifacts, err := c.limits.parseManifest(body)
	if err != nil {
		return "", api.Fail(api.CodeModelRefused, digest.Short(), "the version's manifest cannot be used").Because(err)
	}
	temp := filepath.Join(c.cacheDir, unfinished+rand.Text())
	defer func() { _ = os.RemoveAll(temp) }() // a leftover is removed at the next start
	if err := os.MkdirAll(filepath.Join(temp, filesFolder), 0o700); err != nil {
		return "", storage("make a cache folder", err)
	}
	for _, a := range artifacts {
		if a.Role == api.RoleDoc {
			continue // the runtime has no use for papers
		}
		if err := c.place(ctx, filepath.Join(temp, filesFolder), a); err != nil {
			return "", fmt.Errorf("place %s: %w", a.Path, err)
		}
	}
	if err := writeSynced(filepath.Join(temp, manifestFile), body); err != nil {
		return "", storage("write a cached manifest", err)
	}
	if err := syncTree(temp); err != nil {
		return "", storage("sync a cache folder", err)
	}
	final := filepath.Join(c.cacheDir, digest.Hex())
	// Something is there only when it failed its check, or when another process was faster.
	if entry, err := c.cached(digest); err == nil {
		return entry, nil
	}
	if err := os.RemoveAll(final); err != nil {
		return "", storage("remove a damaged cache folder", err)
	}
	if err := os.Rename(temp, final); err != nil {
		if entry, err := c.cached(digest); err == nil {
			return entry, nil
		}
		return "", storage("name a cache folder", err)
	}
	if err := syncFolder(c.cacheDir); err != nil {
		return "", storage("sync the cache", err)
	}
	entry, err := c.cached(digest)
	if err != nil {
		return "", storage("check a cache folder", err)
	}
	return entry, nil
}

// place puts one file of a version below a folder: linked where the blobs are local files of the same filesystem, copied
// otherwise. ONNX Runtime 1.32 follows hard links for the model and for its external data; it refuses symbolic ones.
func (c *Catalog) place(ctx context.Context, dir string, a api.Artifact) error {
	name := filepath.Join(dir, filepath.FromSlash(a.Path))
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return storage("make a cache folder", err)
	}
	source, err := c.blobs.Open(ctx, a.Digest)
	if err != nil {
		return err
	}
	defer source.Close()
	if local, is := c.blobs.(blob.Local); is {
		if held, err := local.Path(ctx, a.Digest); err == nil && os.Link(held, name) == nil {
			return verify(ctx, io.Discard, source, a)
		}
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return storage("write a cached file", err)
	}
	err = verify(ctx, f, source, a)
	if err == nil {
		if syncErr := f.Sync(); syncErr != nil {
			err = storage("sync a cached file", syncErr)
		}
	}
	if closeErr := f.Close(); err == nil && closeErr != nil {
		err = storage("write a cached file", closeErr)
	}
	return err
}

// verify copies a blob and makes sure that the bytes are still those that were pushed.
func verify(ctx context.Context, w io.Writer, r io.Reader, a api.Artifact) error {
	sum := sha256.New()
	buffer := make([]byte, 256<<10)
	var size int64
	for {
		if err := ctx.Err(); err != nil {
			return api.Fail(api.CodeCanceled, "", "reading the model's files was broken off").Because(err)
		}
		n, readErr := r.Read(buffer)
		size += int64(n)
		sum.Write(buffer[:n]) // a hash never fails
		if _, err := w.Write(buffer[:n]); err != nil {
			return storage("write a cached file", err)
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		if ours := (*api.Error)(nil); errors.As(readErr, &ours) {
			return readErr
		}
		if readErr != nil {
			return storage("read a blob", readErr)
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != a.Digest.Hex() || size != a.Size {
		return api.Fail(api.CodeStorage, a.Path, "the stored file was damaged: it no longer has its digest").
			WithCure("Push the version again; the good bytes replace the damaged ones.")
	}
	return nil
}

// dropUnfinished removes what a crash left half filled. Only one process may use a cache directory.
func (c *Catalog) dropUnfinished() error {
	entries, err := os.ReadDir(c.cacheDir)
	if err != nil {
		return storage("list the cache", err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), unfinished) {
			if err := os.RemoveAll(filepath.Join(c.cacheDir, entry.Name())); err != nil {
				return storage("clean the cache", err)
			}
		}
	}
	return nil
}

func writeSynced(name string, body []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	return errors.Join(err, f.Sync(), f.Close())
}

// syncTree makes the names in a folder and all below it durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		return syncFolder(name)
	})
}

func syncFolder(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Trim removes cached versions that keep does not name. It is the cache's bound: versions that may be rolled back to must
// stay, so no count or size could tell what to drop. Call it while nothing is being loaded, such as at start.
func (c *Catalog) Trim(ctx context.Context, keep func(api.Digest) bool) error {
	entries, err := os.ReadDir(c.cacheDir)
	if err != nil {
		return storage("list the cache", err)
	}
	for _, entry := range entries {
		digest := api.Digest("sha256:" + entry.Name())
		if !digest.Valid() || keep(digest) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return api.Fail(api.CodeCanceled, "", "trimming the cache was broken off").Because(err)
		}
		// Under another name first, so that a crash leaves no half version under a good name.
		gone := filepath.Join(c.cacheDir, unfinished+rand.Text())
		if err := errors.Join(os.Rename(filepath.Join(c.cacheDir, entry.Name()), gone), os.RemoveAll(gone)); err != nil {
			return storage("trim the cache", err)
		}
	}
	return nil
}

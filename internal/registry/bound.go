package registry

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/penstock/penstock/api"
)

// kept is one version in the model cache.
type kept struct {
	digest api.Digest
	bytes  int64     // of disk that it takes by itself
	used   time.Time // when it was asked for last
}

// roomAfter is the part of the limit, in percent, that is taken after the cache was over it, so that it is not over it
// again at once.
const roomAfter = 90

// touch notes that a version was asked for.
func (c *Catalog) touch(digest api.Digest) {
	if c.cacheBytes <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.kept[digest]; k != nil {
		k.used = c.now()
	}
}

// added counts a version that was filled, and takes others away when the cache is over its limit: those not asked for
// longest, and none that is in use.
func (c *Catalog) added(ctx context.Context, digest api.Digest) {
	if c.cacheBytes <= 0 {
		return
	}
	c.scanning.Do(c.scan)
	bytes := c.diskBytes(digest)
	c.mu.Lock()
	if old := c.kept[digest]; old != nil {
		c.keptBytes -= old.bytes
	}
	c.kept[digest] = &kept{digest: digest, bytes: bytes, used: c.now()}
	c.keptBytes += bytes
	over := c.keptBytes > c.cacheBytes
	c.mu.Unlock()
	if over {
		c.shrink(ctx, digest)
	}
}

// scan finds what earlier lives of the server left.
func (c *Catalog) scan() {
	entries, err := os.ReadDir(c.cacheDir)
	if err != nil {
		return // then there is nothing to count
	}
	for _, entry := range entries {
		digest := api.Digest("sha256:" + entry.Name())
		info, err := entry.Info()
		if err != nil || !digest.Valid() {
			continue
		}
		k := &kept{digest: digest, bytes: c.diskBytes(digest), used: info.ModTime()}
		c.mu.Lock()
		if c.kept[digest] == nil {
			c.kept[digest] = k
			c.keptBytes += k.bytes
		}
		c.mu.Unlock()
	}
}

// diskBytes is what a version's folder takes: files that are links to blobs take nothing.
func (c *Catalog) diskBytes(digest api.Digest) (sum int64) {
	_ = filepath.WalkDir(filepath.Join(c.cacheDir, digest.Hex()), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil //nolint:nilerr // what cannot be read is not counted
		}
		info, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		if system, ok := info.Sys().(*syscall.Stat_t); !ok || system.Nlink == 1 {
			sum += info.Size()
		}
		return nil
	})
	return sum
}

// shrink takes versions away until there is some room. Only one does so at a time; one that is in use, being filled, or was
// just filled, stays.
func (c *Catalog) shrink(ctx context.Context, fresh api.Digest) {
	c.shrinking.Lock()
	defer c.shrinking.Unlock()
	busy := map[api.Digest]bool{}
	if c.busy != nil {
		busy = c.busy()
	}
	c.mu.Lock()
	var list []*kept
	for digest, k := range c.kept {
		if _, filling := c.filling[digest]; !filling && digest != fresh && !busy[digest] && k.bytes > 0 {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, func(a, b *kept) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.digest, b.digest)) })
	var gone []*kept
	for _, k := range list {
		if c.keptBytes <= c.cacheBytes/100*roomAfter {
			break
		}
		delete(c.kept, k.digest)
		c.keptBytes -= k.bytes
		gone = append(gone, k)
	}
	c.mu.Unlock()
	for _, k := range gone {
		if ctx.Err() != nil {
			return // the next start counts what is left
		}
		// Under another name first, so that a crash leaves no half version under a good name. A fault leaves it there.
		name := filepath.Join(c.cacheDir, unfinished+rand.Text())
		_ = errors.Join(os.Rename(filepath.Join(c.cacheDir, k.digest.Hex()), name), os.RemoveAll(name))
	}
}

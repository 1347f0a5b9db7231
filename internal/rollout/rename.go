package rollout

import (
	"context"

	"github.com/penstock/penstock/api"
)

// Renamed puts a model's new name in the place of the old one in what serves and in what may serve again. The database has
// done so in its revisions already. Digests and instances stay, so nothing is loaded anew and no request notices.
func (c *Controller) Renamed(t api.TenantID, from, to api.ModelName) {
	c.mu.Lock()
	c.renames++
	var touched []api.EndpointKey
	for key, e := range c.endpoints {
		if key.Tenant != t {
			continue
		}
		found := false
		for i, rev := range e.revisions {
			if renamed, changed := rev.Renamed(from, to); changed {
				e.revisions[i], found = &renamed, true
			}
		}
		if found {
			touched = append(touched, key)
		}
	}
	c.mu.Unlock()
	if len(touched) == 0 {
		return
	}
	c.publish()
	for _, key := range touched {
		c.want(key)
	}
}

// renaming counts the renames so far.
func (c *Controller) renaming() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renames
}

// presentNames gives a revision that was just kept as the database has it, where a model was renamed since its references
// were resolved. A database that does not answer leaves the old name in memory, which is a name still.
func (c *Controller) presentNames(ctx context.Context, rev *api.Revision, renames int64) {
	if c.renaming() == renames {
		return
	}
	if kept, err := c.Store.Revision(ctx, rev.Tenant, rev.Endpoint, rev.Number); err == nil {
		*rev = kept
	}
}

package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
)

const (
	blameKey = "blame" // in the loop
	// maxBlames bounds how many crashes wait to be looked at; beyond it they are workers' losses and no more.
	maxBlames = 256
	// servingWindow is how long a crash while serving counts. Two within it quarantine the file for its tenant.
	servingWindow = time.Hour
	// maxStrikes bounds how many files are remembered that crashed once while serving.
	maxStrikes = 1024
)

// blame is one crash while serving whose author is known.
type blame struct {
	api.Replica
	why string
}

// strike is a file's first crash while serving.
type strike struct {
	at  time.Time
	why string
}

// Blame is told that running an instance ended a worker: one request of it crashed two, or one did not end and its worker
// had to be killed. It returns at once.
func (c *Controller) Blame(r api.Replica, why string) {
	c.mu.Lock()
	if len(c.blames) < maxBlames {
		c.blames = append(c.blames, blame{Replica: r, why: why})
	}
	c.mu.Unlock()
	c.hint(blameKey)
}

// judge looks at the crashes while serving.
func (c *Controller) judge(ctx context.Context) {
	c.mu.Lock()
	blames := c.blames
	c.blames = nil
	wants := make([]api.Want, len(blames))
	shared := make([]bool, len(blames))
	for i, b := range blames {
		if w := c.wants[b.Instance]; w != nil && len(w.claims) > 0 && !w.final {
			wants[i], shared[i] = w.Want, w.shared()
		}
	}
	c.mu.Unlock()
	for i, w := range wants {
		if exit := c.lastExit(blames[i].Worker); exit != "" && w.Instance != "" {
			blames[i].why += "; " + blames[i].Worker + " ended: " + exit
		}
		switch {
		case w.Instance == "":
		case shared[i]:
			c.tell("", "model.crashed", w.Subject, "running a file that several tenants share ended a worker: %s", blames[i].why)
		default:
			c.strikes(ctx, w, blames[i].why)
		}
	}
}

// lastExit says how a worker ended last. Where it was lost a moment ago, it waits until that is known, for a bounded time.
func (c *Controller) lastExit(worker string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.slots {
		if s.name != worker {
			continue
		}
		if l := s.life; l != nil && l.lost {
			c.mu.Unlock()
			patience := time.NewTimer(2 * reapPatience)
			select {
			case <-l.gone:
			case <-patience.C:
			}
			patience.Stop()
			c.mu.Lock()
			select {
			case <-l.gone:
				return l.exit
			default:
			}
		}
		return s.exit
	}
	return ""
}

// shared needs Controller.mu. An instance of several tenants is never taken away for what the callers of one did.
func (w *want) shared() bool {
	return slices.ContainsFunc(w.claims, func(k claim) bool { return k.owner.Tenant != w.claims[0].owner.Tenant })
}

// strikes counts one crash against a want's file. The count is the tenant's own: what its callers send must not take a
// file away from others that hold it too.
func (c *Controller) strikes(ctx context.Context, w api.Want, why string) {
	key := served(w.Tenant, c.file(ctx, w.Digest))
	now := time.Now()
	c.mu.Lock()
	first, known := c.struck[key]
	again := known && now.Sub(first.at) < servingWindow
	if again {
		delete(c.struck, key)
	} else {
		if !known && len(c.struck) >= maxStrikes {
			clear(c.struck) // a flood of them; who strikes again will be seen again
		}
		c.struck[key] = strike{at: now, why: why}
	}
	c.mu.Unlock()
	if !again {
		c.tell(w.Tenant, "model.crashed", w.Subject, "running %s ended a worker: %s; a second time within %v quarantines it", w.Subject, why, servingWindow)
		return
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), storePatience)
	defer cancel()
	for _, reason := range []string{first.why, why} {
		if _, err := c.config.Crashes.RecordCrash(limited, key, "while serving: "+reason, api.TimeOf(now)); err != nil {
			c.config.Log.Error("crash not recorded", "subject", w.Subject, "digest", w.Digest, "error", err)
		}
	}
	c.condemn(ctx, w, key, why)
	c.tell(w.Tenant, "model.quarantined", w.Subject, "%s crashed workers twice while serving and is quarantined: %s", w.Subject, why)
}

// condemn takes every instance of the tenant's that holds the file out of service.
func (c *Controller) condemn(ctx context.Context, guilty api.Want, key api.Digest, why string) {
	c.mu.Lock()
	var others []api.Want
	for _, w := range c.wants {
		if w.Tenant == guilty.Tenant && len(w.claims) > 0 && !w.shared() {
			others = append(others, w.Want)
		}
	}
	c.mu.Unlock()
	condemned := slices.DeleteFunc(others, func(w api.Want) bool { return served(w.Tenant, c.file(ctx, w.Digest)) != key })
	c.mu.Lock()
	if len(c.barred) >= maxStrikes {
		clear(c.barred) // the record knows them too
	}
	c.barred[key] = true
	for _, one := range condemned {
		if w := c.wants[one.Instance]; w != nil && w.Digest == one.Digest {
			w.err, w.final, w.condemned = quarantined(one, quarantineAt, "while serving: "+why), true, true
			c.settle(w)
		}
	}
	c.mu.Unlock()
	c.config.Changed()
	c.hintAll()
}

// isBarred reports whether a want's file was quarantined for its tenant in this life, or may have been.
func (c *Controller) isBarred(ctx context.Context, w api.Want) bool {
	c.mu.Lock()
	any := len(c.barred) > 0
	c.mu.Unlock()
	if !any {
		return false
	}
	key := served(w.Tenant, c.file(ctx, w.Digest))
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.barred[key]
}

// file is the digest that crashes are counted under: that of the entry file, so that the same file in another manifest is
// the same. Where it cannot be found, the manifest stands for it.
func (c *Controller) file(ctx context.Context, manifest api.Digest) api.Digest {
	if c.config.Entry == nil {
		return manifest
	}
	c.mu.Lock()
	known := c.entries[manifest]
	c.mu.Unlock()
	if known != "" {
		return known
	}
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	entry, err := c.config.Entry(ctx, manifest)
	if err != nil || entry == "" {
		return manifest
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= maxTrials {
		clear(c.entries) // they can be read again
	}
	c.entries[manifest] = entry
	return entry
}

// served is the name under which a file's crashes while serving a tenant are recorded: a digest like others, of a text that
// is no file.
func served(t api.TenantID, file api.Digest) api.Digest {
	sum := sha256.Sum256([]byte("crashed while serving\x00" + string(t) + "\x00" + string(file)))
	return api.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// record reads what is held against one manifest: its own crashes, those of its entry file under any manifest, and those
// while serving the tenant.
func (c *Controller) record(ctx context.Context, t api.TenantID, manifest api.Digest) (count int, reason string, err error) {
	file := c.file(ctx, manifest)
	names := []api.Digest{manifest, file, served(t, file)}
	if file == manifest {
		names = names[1:]
	}
	for _, name := range names {
		n, why, fault := c.config.Crashes.Crashes(ctx, name)
		if fault != nil {
			err = errors.Join(err, fmt.Errorf("read the crashes of %s: %w", name.Short(), fault))
		}
		if n > count {
			count, reason = n, why
		}
	}
	return count, reason, err
}

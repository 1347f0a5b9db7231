package fleet

import (
	"cmp"
	"maps"
	"slices"

	"github.com/penstock/penstock/api"
)

var stageNames = map[stage]string{planned: "planned", loading: "loading", ready: "ready", leaving: "leaving"}

var plentyNames = map[plenty]string{forSome: "some", forAll: "all", forAllCopies: "copies"}

// Loaded lists what is in memory, or on its way in, of one tenant, or of all when it is empty; used last first.
func (c *Controller) Loaded(tenant api.TenantID) []api.LoadedModel {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := []api.LoadedModel{}
	for _, w := range c.awake() {
		if tenant == "" || slices.ContainsFunc(w.claims, func(k claim) bool { return k.owner.Tenant == tenant }) {
			one := c.describe(w)
			if tenant != "" {
				one.Tenant = tenant
			}
			list = append(list, one)
		}
	}
	slices.SortFunc(list, func(a, b api.LoadedModel) int {
		return cmp.Or(cmp.Compare(b.LastUse, a.LastUse), cmp.Compare(a.Model, b.Model), cmp.Compare(a.Instance, b.Instance))
	})
	return list
}

// awake needs mu: the wants that have a copy in memory, in no order.
func (c *Controller) awake() []*want {
	seen := map[*want]bool{}
	for _, s := range c.slots {
		for _, h := range s.held {
			seen[h.want] = true
		}
	}
	return slices.Collect(maps.Keys(seen))
}

// Files names the versions whose files must stay on this machine: those of models in memory, or on their way in, and those
// that a rollback may need while their store is away.
func (c *Controller) Files() map[api.Digest]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	files := map[api.Digest]bool{}
	for _, w := range c.wants {
		if len(w.copies) == 0 && !w.Standby {
			continue
		}
		files[w.Digest] = true
		if w.Options.Chain != nil {
			for _, m := range w.Options.Chain.Members() {
				files[m.Digest] = true
			}
		}
	}
	return files
}

// describe needs mu.
func (c *Controller) describe(w *want) api.LoadedModel {
	u := w.set.Use()
	one := api.LoadedModel{Model: w.Subject, Tenant: w.Tenant, Instance: w.Instance, Copies: []api.LoadedCopy{}, Bytes: w.size.RAM, Kept: w.Loaded,
		Priority: w.Priority, InFlight: u.Users, Requests: u.Uses, Misses: u.Misses, Load: w.rate}
	if !u.Last.IsZero() {
		one.LastUse = api.TimeOf(u.Last)
	}
	for _, h := range w.copies {
		copied := api.LoadedCopy{Worker: h.slot.name, State: stageNames[h.stage], Why: h.why, Bytes: h.bytes}
		if !h.loaded.IsZero() {
			copied.Since = api.TimeOf(h.loaded)
		}
		if !h.unwanted.IsZero() {
			copied.State = stageNames[leaving]
		}
		one.Copies = append(one.Copies, copied)
	}
	return one
}

// Memory tells what models take together.
func (c *Controller) Memory() api.ModelMemory {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := api.ModelMemory{Used: c.cache.Used().RAM, Mode: plentyNames[c.plenty], Loaded: c.cache.Len(),
		Requests: c.asked, Misses: c.missed, Evictions: maps.Clone(c.evicted)}
	if c.config.Memory != unlimited {
		m.Limit, m.Budget = c.config.Memory.RAM, c.cache.Budget().RAM
	}
	for _, s := range c.slots {
		if s.alive() {
			m.Beside += s.life.beside
		}
	}
	m.Asleep = max(0, len(c.wants)-m.Loaded)
	return m
}

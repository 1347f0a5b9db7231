package rollout

import (
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// Index lists what a tenant's endpoints serve, by endpoint and version, from memory alone.
func (c *Controller) Index(t api.TenantID) []api.ModelIndex {
	type row struct {
		name    api.EndpointName
		rev     *api.Revision
		sets    []*api.ReplicaSet
		off     bool
		loading bool
		refused string
	}
	c.mu.Lock()
	all := c.order(t)
	rows := make([]row, 0, len(all))
	for _, e := range all {
		if e.Generation == 0 {
			continue
		}
		r := row{name: e.Name, rev: e.revisions.get(e.Traffic.Current), off: e.Traffic.Unloaded, refused: e.refused}
		if e.setsOf == r.rev {
			r.sets = e.sets
		}
		r.loading = e.load != nil || e.active != nil && (r.rev == nil || r.off)
		rows = append(rows, r)
	}
	c.mu.Unlock()
	list := make([]api.ModelIndex, 0, len(rows))
	for _, r := range rows {
		if r.rev != nil && !r.off {
			list = c.indexLoaded(list, r.name, r.rev, r.sets)
			continue
		}
		one := api.ModelIndex{Endpoint: r.name, State: api.ModelUnavailable, Reason: "nothing was released yet"}
		if r.off {
			one.Reason = unloaded
		}
		if r.off && r.refused != "" {
			one.Reason = "unloaded; the last load failed: " + r.refused
		}
		if r.loading {
			one.State, one.Reason = api.ModelLoading, ""
		}
		for _, version := range versionsOf(r.rev) {
			one.Version = version
			list = append(list, one)
		}
	}
	return list
}

// order needs mu: a tenant's endpoints by name.
func (c *Controller) order(t api.TenantID) []*endpoint {
	if list, known := c.ordered[t]; known {
		return list
	}
	var list []*endpoint
	for key, e := range c.endpoints {
		if key.Tenant == t {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *endpoint) int { return strings.Compare(string(a.Name), string(b.Name)) })
	c.ordered[t] = list
	return list
}

// indexLoaded adds the rows of an endpoint that serves. Sets are those of the revision's variants, nil when they are not at
// hand.
func (c *Controller) indexLoaded(list []api.ModelIndex, name api.EndpointName, rev *api.Revision, sets []*api.ReplicaSet) []api.ModelIndex {
	if len(sets) == 1 && sets[0] != nil { // by far the most, without any lock
		if s := sets[0].State(); len(s.Replicas) > 0 || s.Asleep {
			return append(list, api.ModelIndex{Endpoint: name, Version: rev.Variants[0].Version, State: api.ModelReady})
		}
	}
	for _, version := range versionsOf(rev) {
		one := api.ModelIndex{Endpoint: name, Version: version, State: api.ModelReady}
		for i := range rev.Variants {
			if rev.Variants[i].Version != version {
				continue
			}
			switch s := c.Fleet.State(Instance(&rev.Variants[i])); {
			case len(s.Replicas) > 0, s.Asleep: // the next request wakes it
			case s.Err != nil:
				one.State, one.Reason = api.ModelUnavailable, s.Err.Error()
			case one.State == api.ModelReady:
				one.State, one.Reason = api.ModelLoading, "no replica is loaded yet"
			}
		}
		list = append(list, one)
	}
	return list
}

// versionsOf lists the versions of a revision once each, in order; the one version 0 when there is no revision.
func versionsOf(rev *api.Revision) []api.VersionNumber {
	if rev == nil {
		return []api.VersionNumber{0}
	}
	list := make([]api.VersionNumber, 0, len(rev.Variants))
	for i := range rev.Variants {
		if !slices.Contains(list, rev.Variants[i].Version) {
			list = append(list, rev.Variants[i].Version)
		}
	}
	slices.Sort(list)
	return list
}

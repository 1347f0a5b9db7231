package serve

import (
	"slices"

	"github.com/penstock/penstock/api"
)

// Endpoints lists the names of the principal's own tenant in order, also of those that have nothing to answer with. It walks
// over the whole plan: it is for people and tools, not for every request.
func (p *Path) Endpoints(principal *api.Principal) []api.EndpointName {
	t := p.table.Load()
	if t == nil || principal == nil {
		return nil
	}
	var names []api.EndpointName
	for key := range t.routes {
		if key.Tenant == principal.Tenant {
			names = append(names, key.Endpoint)
		}
	}
	slices.Sort(names)
	return names
}

package serve

import (
	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/serve/queue"
)

// Usage is what one endpoint holds in this gateway now.
type Usage struct {
	Key          api.EndpointKey
	InFlight     int64 // requests in the gateway, waiting and running
	CacheEntries int64
	CacheBytes   int64 // with answers that were let go and are still written to somebody
	CacheLimit   int64 // what the server gives it, at most what its spec asks for; 0 when it asks for none
}

// Usage lists what a tenant's endpoints hold now, or everybody's when the tenant is empty; in no order. It walks over the
// whole plan: it is for people and tools, not for every request.
func (p *Path) Usage(tenant api.TenantID) []Usage {
	t := p.table.Load()
	if t == nil {
		return nil
	}
	var list []Usage
	for key, r := range t.routes {
		if tenant != "" && key.Tenant != tenant {
			continue
		}
		u := Usage{Key: key, InFlight: r.gate.present.Load()}
		for _, v := range r.variants {
			if v.cache == nil {
				continue
			}
			s := v.cache.Stats()
			u.CacheEntries, u.CacheBytes, u.CacheLimit = u.CacheEntries+int64(s.Entries), u.CacheBytes+s.Bytes, u.CacheLimit+s.Limit
		}
		list = append(list, u)
	}
	return list
}

// Shares lists what each tenant has had of the workers, those that ever asked; by name. It is for people and tools.
func (p *Path) Shares() []queue.Share {
	if p.table.Load() == nil {
		return nil
	}
	return p.fair.Shares()
}

// CacheBytes is what all response caches hold together.
func (p *Path) CacheBytes() int64 { return p.kept.Used() }

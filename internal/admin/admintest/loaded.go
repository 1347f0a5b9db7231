package admintest

import "github.com/penstock/penstock/api"

// Loaded gives one model.
func (r *Rooms) Loaded(t api.TenantID) []api.LoadedModel {
	return []api.LoadedModel{{Model: "digits@1", Tenant: t, Instance: "i", Bytes: 2 << 20, Requests: 7, Misses: 1, LastUse: Clock,
		Copies: []api.LoadedCopy{{Worker: "w1", State: "ready", Why: "request", Bytes: 2 << 20, Since: Clock}}}}
}

// Memory tells of it.
func (r *Rooms) Memory() api.ModelMemory {
	return api.ModelMemory{Limit: 64 << 20, Budget: 32 << 20, Used: 2 << 20, Beside: 32 << 20, Mode: "some", Loaded: 1, Asleep: 9,
		Requests: 100, Misses: 2, Evictions: map[string]int64{"room": 3}}
}

package storetest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

// plain is the store as maps and slices, without a database: as simple as it can be, so that it is right by reading.
type plain struct {
	tenants map[api.TenantID]api.Tenant
	held    map[modelKey]*plainModel
	fronts  map[api.EndpointKey]*plainEndpoint
	crashed map[api.Digest]int
	log     []api.Event
	claims  map[string]*plainClaim
}

type modelKey struct {
	tenant api.TenantID
	model  api.ModelName
}

type plainModel struct {
	created  api.Time
	versions []api.Version // by number, from 1
	aliases  map[api.AliasName]api.Alias
	moves    map[api.AliasName][]api.AliasMove
}

type plainEndpoint struct {
	endpoint  api.Endpoint
	revisions map[api.RevisionNumber]api.Revision
	releases  map[int64]api.Release
}

type plainClaim struct {
	hash  string
	reply *store.Reply
}

func newPlain() *plain {
	return &plain{tenants: map[api.TenantID]api.Tenant{}, held: map[modelKey]*plainModel{},
		fronts: map[api.EndpointKey]*plainEndpoint{}, crashed: map[api.Digest]int{}, claims: map[string]*plainClaim{}}
}

func fail(code api.Code) error { return api.Fail(code, "", "as the model says") }

func (p *plain) putTenant(t api.Tenant) error {
	if _, ok := p.tenants[t.ID]; ok {
		return fail(api.CodeExists)
	}
	p.tenants[t.ID] = t
	return nil
}

func (p *plain) event(e api.Event) {
	e.Seq = int64(len(p.log) + 1)
	p.log = append(p.log, e)
}

func (p *plain) eventsAfter(t api.TenantID, after int64, limit int) []api.Event {
	var all []api.Event
	for _, e := range p.log {
		if (t == "" || e.Tenant == t) && e.Seq > after {
			all = append(all, e)
		}
	}
	if after < 0 {
		return all[max(0, len(all)-limit):]
	}
	return all[:min(limit, len(all))]
}

func (p *plain) commit(v api.Version, aliases []api.AliasName, why string) (api.Version, bool, error) {
	if _, ok := p.tenants[v.Tenant]; !ok {
		return v, false, fail(api.CodeNotFound)
	}
	key := modelKey{v.Tenant, v.Model}
	m := p.held[key]
	if m == nil {
		m = &plainModel{created: v.Created, aliases: map[api.AliasName]api.Alias{}, moves: map[api.AliasName][]api.AliasMove{}}
		p.held[key] = m
	}
	stored := v
	at := slices.IndexFunc(m.versions, func(old api.Version) bool { return old.Digest == v.Digest })
	if at >= 0 {
		stored = m.versions[at]
	} else {
		stored.Number = api.VersionNumber(len(m.versions) + 1)
		m.versions = append(m.versions, stored)
	}
	text := fmt.Sprintf("Version %s was pushed", stored.Ref())
	for i, a := range aliases {
		if i == 0 {
			text += " and is now"
		}
		text += fmt.Sprintf(" %s:%s", v.Model, a)
	}
	if at < 0 {
		p.event(api.Event{Tenant: v.Tenant, At: v.Created, Kind: "version.pushed", Subject: stored.Ref().String(), Text: text + ".", By: v.CreatedBy})
	}
	for _, a := range aliases {
		if _, err := p.moveAlias(v.Tenant, v.Model, a, stored.Number, -1, v.CreatedBy, why, v.Created); err != nil {
			return stored, false, err
		}
	}
	return stored, at < 0, nil
}

func (p *plain) version(t api.TenantID, m api.ModelName, n api.VersionNumber) (none api.Version, _ error) {
	model := p.held[modelKey{t, m}]
	switch {
	case model == nil:
		return none, fail(api.CodeModelNotFound)
	case n < 1 || int(n) > len(model.versions):
		return none, fail(api.CodeVersionNotFound)
	}
	return model.versions[n-1], nil
}

func (p *plain) versions(t api.TenantID, m api.ModelName, before api.VersionNumber, limit int) ([]api.Version, error) {
	model := p.held[modelKey{t, m}]
	if model == nil {
		return nil, fail(api.CodeModelNotFound)
	}
	var all []api.Version
	for _, v := range slices.Backward(model.versions) {
		if (before == 0 || v.Number < before) && len(all) < limit {
			all = append(all, v)
		}
	}
	return all, nil
}

func (p *plain) setTags(t api.TenantID, m api.ModelName, n api.VersionNumber, set map[string]string, remove []string, by string, at api.Time) (api.Version, error) {
	v, err := p.version(t, m, n)
	if err != nil {
		return v, err
	}
	before := v.Tags
	v.Tags = maps.Clone(v.Tags)
	if v.Tags == nil {
		v.Tags = map[string]string{}
	}
	maps.Copy(v.Tags, set)
	for _, name := range remove {
		delete(v.Tags, name)
	}
	p.held[modelKey{t, m}].versions[n-1] = v
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(both(before, v.Tags))) {
		old, was := before[name]
		if now, is := v.Tags[name]; was != is || old != now {
			changed = append(changed, name)
		}
	}
	if len(changed) > 0 {
		p.event(api.Event{Tenant: t, At: at, Kind: "version.tagged", Subject: v.Ref().String(), By: by,
			Text: fmt.Sprintf("Tags of %s changed: %s.", v.Ref(), strings.Join(changed, ", "))})
	}
	return v, nil
}

func both(a, b map[string]string) map[string]string {
	all := maps.Clone(b)
	maps.Copy(all, a)
	return all
}

func (p *plain) moveAlias(t api.TenantID, m api.ModelName, a api.AliasName, to api.VersionNumber, ifMoves int64, by, why string, at api.Time) (none api.Alias, _ error) {
	model := p.held[modelKey{t, m}]
	if model == nil {
		return none, fail(api.CodeModelNotFound)
	}
	old, moves := model.aliases[a], model.moves[a]
	switch {
	case int(to) > len(model.versions):
		return none, fail(api.CodeVersionNotFound)
	case to == 0 && old.Version == 0:
		return none, fail(api.CodeAliasNotFound)
	case ifMoves == 0 && old.Version != 0, ifMoves > 0 && ifMoves != int64(len(moves)):
		return none, fail(api.CodeStale)
	case old.Version == to:
		return old, nil
	}
	now := api.Alias{Name: a, Version: to, Moved: at, MovedBy: by, Moves: int64(len(moves) + 1)}
	model.aliases[a] = now
	model.moves[a] = append(moves, api.AliasMove{Seq: now.Moves, From: old.Version, To: to, At: at, By: by, Why: why})
	kind, text := "alias.moved", fmt.Sprintf("moved from version %d to %d", old.Version, to)
	switch {
	case to == 0:
		kind, text = "alias.deleted", fmt.Sprintf(", which named version %d, was deleted", old.Version)
	case old.Version == 0:
		text = fmt.Sprintf("names version %d", to)
	}
	text = strings.ReplaceAll(fmt.Sprintf("Alias %s:%s %s.", m, a, text), " ,", ",")
	if why != "" {
		text += " " + why
	}
	p.event(api.Event{Tenant: t, At: at, Kind: kind, Subject: fmt.Sprintf("%s:%s", m, a), Text: text, By: by})
	return now, nil
}

func (p *plain) history(t api.TenantID, m api.ModelName, a api.AliasName) ([]api.AliasMove, error) {
	model := p.held[modelKey{t, m}]
	if model == nil {
		return nil, fail(api.CodeModelNotFound)
	}
	moves := slices.Clone(model.moves[a])
	if len(moves) == 0 {
		return nil, fail(api.CodeAliasNotFound)
	}
	slices.Reverse(moves)
	return moves, nil
}

func (p *plain) model(t api.TenantID, m api.ModelName) (api.Model, error) {
	model := p.held[modelKey{t, m}]
	if model == nil {
		return api.Model{}, fail(api.CodeModelNotFound)
	}
	aliases := []api.Alias{}
	for _, name := range slices.Sorted(maps.Keys(model.aliases)) {
		if a := model.aliases[name]; a.Version > 0 {
			aliases = append(aliases, a)
		}
	}
	return api.Model{Tenant: t, Name: m, Created: model.created, Latest: api.VersionNumber(len(model.versions)), Aliases: aliases}, nil
}

func (p *plain) models(t api.TenantID, after api.ModelName, limit int) []api.Model {
	var all []api.Model
	for key := range p.held {
		if key.tenant == t && key.model > after {
			m, _ := p.model(t, key.model) // it is there
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b api.Model) int { return cmp.Compare(a.Name, b.Name) })
	return all[:min(limit, len(all))]
}

func (p *plain) saveSpec(t api.TenantID, e api.EndpointName, spec api.EndpointSpec, ifGeneration int64, at api.Time) (none api.Endpoint, _ error) {
	if _, ok := p.tenants[t]; !ok {
		return none, fail(api.CodeNotFound)
	}
	key := api.EndpointKey{Tenant: t, Endpoint: e}
	front := p.fronts[key]
	switch {
	case front != nil && ifGeneration == 0:
		return none, fail(api.CodeExists)
	case front == nil && ifGeneration > 0, ifGeneration > 0 && ifGeneration != front.endpoint.Generation:
		return none, fail(api.CodeStale)
	case front == nil:
		front = &plainEndpoint{endpoint: api.Endpoint{Tenant: t, Name: e, Created: at},
			revisions: map[api.RevisionNumber]api.Revision{}, releases: map[int64]api.Release{}}
		p.fronts[key] = front
	}
	front.endpoint.Spec = spec
	front.endpoint.Generation++
	return front.endpoint, nil
}

// endpoints lists those of one tenant after a name, or all when the tenant is empty.
func (p *plain) endpoints(t api.TenantID, after api.EndpointName) []api.Endpoint {
	var all []api.Endpoint
	for key, front := range p.fronts {
		if t == "" || key.Tenant == t && key.Endpoint > after {
			all = append(all, front.endpoint)
		}
	}
	slices.SortFunc(all, func(a, b api.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Name, b.Name))
	})
	return all
}

func (p *plain) deleteEndpoint(t api.TenantID, e api.EndpointName, at api.Time, by string) error {
	key := api.EndpointKey{Tenant: t, Endpoint: e}
	if p.fronts[key] == nil {
		return fail(api.CodeEndpointNotFound)
	}
	delete(p.fronts, key)
	p.event(api.Event{Tenant: t, At: at, Kind: "endpoint.deleted", Subject: string(e), Text: fmt.Sprintf("Endpoint %s was deleted.", e), By: by})
	return nil
}

func (p *plain) saveRevision(rev api.Revision, rel api.Release) error {
	front := p.fronts[api.EndpointKey{Tenant: rel.Tenant, Endpoint: rel.Endpoint}]
	if front == nil {
		return fail(api.CodeEndpointNotFound)
	}
	_, revTaken := front.revisions[rev.Number]
	_, relTaken := front.releases[rel.Number]
	if revTaken || relTaken {
		return fail(api.CodeStale)
	}
	front.revisions[rev.Number] = rev
	return p.saveRelease(rel, nil)
}

func (p *plain) saveRelease(rel api.Release, traffic *api.Traffic) error {
	front := p.fronts[api.EndpointKey{Tenant: rel.Tenant, Endpoint: rel.Endpoint}]
	if front == nil {
		return fail(api.CodeEndpointNotFound)
	}
	if traffic != nil {
		front.endpoint.Traffic = *traffic
	}
	old, known := front.releases[rel.Number]
	if known && old.State.Final() && !rel.State.Final() {
		return nil
	}
	front.releases[rel.Number] = rel
	if known && old.State == rel.State {
		return nil
	}
	at := rel.Started
	if rel.State.Final() {
		at = rel.Ended
	}
	p.event(api.Event{Tenant: rel.Tenant, At: at, Kind: "release." + string(rel.State), Subject: string(rel.Endpoint), By: rel.By,
		Text: fmt.Sprintf("Release %d of %s (%s to revision %d): %s", rel.Number, rel.Endpoint, rel.Kind, rel.To, rel.State)})
	return nil
}

func (p *plain) releases(t api.TenantID, e api.EndpointName, before int64, limit int) ([]api.Release, error) {
	front := p.fronts[api.EndpointKey{Tenant: t, Endpoint: e}]
	if front == nil {
		return nil, fail(api.CodeEndpointNotFound)
	}
	return newest(front.releases, before, limit), nil
}

func (p *plain) revisions(t api.TenantID, e api.EndpointName, before api.RevisionNumber, limit int) ([]api.Revision, error) {
	front := p.fronts[api.EndpointKey{Tenant: t, Endpoint: e}]
	if front == nil {
		return nil, fail(api.CodeEndpointNotFound)
	}
	return newest(front.revisions, before, limit), nil
}

// newest lists values by falling number, below the one given.
func newest[N ~int64, T any](from map[N]T, before N, limit int) []T {
	var all []T
	for _, n := range slices.Backward(slices.Sorted(maps.Keys(from))) {
		if (before == 0 || n < before) && len(all) < limit {
			all = append(all, from[n])
		}
	}
	return all
}

func (p *plain) crash(d api.Digest) int {
	p.crashed[d]++
	return p.crashed[d]
}

func (p *plain) claim(t api.TenantID, key, hash string) (*store.Reply, error) {
	c := p.claims[string(t)+"/"+key]
	switch {
	case c == nil:
		p.claims[string(t)+"/"+key] = &plainClaim{hash: hash}
		return nil, nil
	case c.hash != hash:
		return nil, fail(api.CodeIdempotency)
	case c.reply == nil:
		return nil, fail(api.CodeBusy)
	}
	return c.reply, nil
}

func (p *plain) finish(t api.TenantID, key string, reply store.Reply) {
	if c := p.claims[string(t)+"/"+key]; c != nil && c.reply == nil {
		c.reply = &reply
	}
}

func (p *plain) forget(t api.TenantID, key string) {
	if c := p.claims[string(t)+"/"+key]; c != nil && c.reply == nil {
		delete(p.claims, string(t)+"/"+key)
	}
}

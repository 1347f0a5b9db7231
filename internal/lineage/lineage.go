// Package lineage answers what came from what: data sets, training runs, versions and those derived from them, revisions,
// releases and their ends, and who calls them. It reads links that pushes told, revisions and releases as they are stored,
// and sums of exchanges that it keeps itself; it draws the answer too. It decides nothing, and writes nothing but those
// sums. Callers: server, which hands the Desk to admin and the exchanges to Callers.
package lineage

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/penstock/penstock/api"
)

// The limits of one answer.
const (
	nodesMax    = 400
	linksMax    = 200 // links of one node in one direction
	callersMax  = 50  // callers of one revision
	releasesMax = 100 // releases of one endpoint that are looked at
	depthMax    = 64  // steps from what was asked about
)

// Store is what the desk reads.
type Store interface {
	LinksFrom(ctx context.Context, t api.TenantID, kind api.LineageKind, name string, limit int) ([]api.LineageLink, error)
	LinksTo(ctx context.Context, t api.TenantID, kind api.LineageKind, name string, limit int) ([]api.LineageLink, error)
	Version(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber) (api.Version, error)
	RevisionsOf(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber) ([]api.Revision, error)
	Revision(ctx context.Context, t api.TenantID, e api.EndpointName, n api.RevisionNumber) (api.Revision, error)
	Releases(ctx context.Context, t api.TenantID, e api.EndpointName, before int64, limit int) ([]api.Release, error)
	CallersOf(ctx context.Context, t api.TenantID, e api.EndpointName, n api.RevisionNumber, limit int) ([]api.CallerTally, error)
	CallsOf(ctx context.Context, t api.TenantID, key api.KeyID, limit int) ([]api.CallerTally, error)
}

// Catalog finds the version of a reference.
type Catalog interface {
	Resolve(ctx context.Context, t api.TenantID, ref api.Ref) (api.Version, error)
}

// Endpoints says which revision of an endpoint serves.
type Endpoints interface {
	Endpoint(ctx context.Context, t api.TenantID, e api.EndpointName) (api.Endpoint, error)
}

// Keys names keys.
type Keys interface {
	Keys(ctx context.Context, t api.TenantID) ([]api.Key, error)
}

// Direction is where an answer looks.
type Direction string

// The directions. Up is where it came from, down what came of it.
const (
	Both Direction = ""
	Up   Direction = "up"
	Down Direction = "down"
)

// Desk answers questions. All methods may be called from many goroutines.
type Desk struct {
	Store     Store
	Catalog   Catalog
	Endpoints Endpoints
	Keys      Keys
}

// Lineage gives the part of the graph around a thing: a version's reference, or dataset:NAME, run:NAME, revision:ENDPOINT/N,
// endpoint:NAME (its current revision) or key:ID.
func (d *Desk) Lineage(ctx context.Context, t api.TenantID, of string, direction Direction) (api.Lineage, error) {
	w := &walk{ctx: ctx, desk: d, tenant: t, nodes: map[string]int{}, edges: map[string]bool{}, serving: map[api.EndpointName]api.RevisionNumber{}}
	start, err := w.start(of)
	if err != nil {
		return api.Lineage{}, err
	}
	w.out.Of = start.ID
	w.add(start)
	for _, one := range []struct {
		dir    Direction
		expand func(api.LineageNode) ([]step, error)
	}{{Up, w.up}, {Down, w.down}} {
		if direction != Both && direction != one.dir {
			continue
		}
		if err := w.follow(start, one.dir == Up, one.expand); err != nil {
			return api.Lineage{}, err
		}
	}
	return w.out, w.nameCallers()
}

// walk is one question on its way.
type walk struct {
	ctx     context.Context
	desk    *Desk
	tenant  api.TenantID
	out     api.Lineage
	nodes   map[string]int // id to index
	edges   map[string]bool
	serving map[api.EndpointName]api.RevisionNumber
}

// step is a neighbour and how it hangs together.
type step struct {
	node api.LineageNode
	text string
}

func (w *walk) add(n api.LineageNode) bool {
	if _, known := w.nodes[n.ID]; known {
		return false
	}
	if len(w.out.Nodes) >= nodesMax {
		w.out.Truncated = true
		return false
	}
	w.nodes[n.ID] = len(w.out.Nodes)
	w.out.Nodes = append(w.out.Nodes, n)
	return true
}

// follow goes from a node in one direction, breadth first. A node is expanded once in each direction.
func (w *walk) follow(start api.LineageNode, up bool, expand func(api.LineageNode) ([]step, error)) error {
	expanded := map[string]bool{start.ID: true}
	level := []api.LineageNode{start}
	for depth := 0; len(level) > 0 && depth < depthMax; depth++ {
		var next []api.LineageNode
		for _, n := range level {
			steps, err := expand(n)
			if err != nil {
				return err
			}
			for _, s := range steps {
				w.add(s.node)
				if _, there := w.nodes[s.node.ID]; !there {
					continue
				}
				from, to := n.ID, s.node.ID
				if up {
					from, to = to, from
				}
				if !w.edges[from+"\n"+to] {
					w.edges[from+"\n"+to] = true
					w.out.Edges = append(w.out.Edges, api.LineageEdge{From: from, To: to, Text: s.text})
				}
				if !expanded[s.node.ID] {
					expanded[s.node.ID] = true
					next = append(next, s.node)
				}
			}
		}
		level = next
	}
	return nil
}

// start reads what was asked about.
func (w *walk) start(of string) (n api.LineageNode, _ error) {
	kind, name, is := strings.Cut(of, ":")
	switch {
	case is && (kind == "dataset" || kind == "run"):
		from, err := w.desk.Store.LinksFrom(w.ctx, w.tenant, api.LineageKind(kind), name, 1)
		if err == nil && len(from) == 0 {
			err = api.Fail(api.CodeNotFound, of, "no version is known to come from it").WithCure("Name it at push: `penstock push --from-dataset NAME --run NAME`.")
		}
		return node(api.LineageKind(kind), name), err
	case is && kind == "key":
		return node(api.LineageCaller, name), nil
	case is && kind == "endpoint":
		e, err := w.desk.Endpoints.Endpoint(w.ctx, w.tenant, api.EndpointName(name))
		if err != nil {
			return n, err
		}
		return w.revisionNode(api.EndpointName(name), e.Traffic.Current)
	case is && kind == "revision":
		endpoint, number, _ := strings.Cut(name, "/")
		at, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return n, api.Fail(api.CodeBadRequest, of, "a revision is written revision:ENDPOINT/NUMBER")
		}
		return w.revisionNode(api.EndpointName(endpoint), api.RevisionNumber(at))
	case is && kind == "version":
		of = name
	}
	ref, err := api.ParseRef(of)
	if err != nil {
		return n, err
	}
	v, err := w.desk.Catalog.Resolve(w.ctx, w.tenant, ref)
	if err != nil {
		return n, err
	}
	return versionNode(&v), nil
}

func node(kind api.LineageKind, name string) api.LineageNode {
	return api.LineageNode{ID: string(kind) + ":" + name, Kind: kind, Name: name}
}

func versionNode(v *api.Version) api.LineageNode {
	n := node(api.LineageVersion, v.Ref().String())
	n.Text, n.At = v.Format+" "+v.Digest.Short(), v.Created
	return n
}

func (w *walk) versionStep(ref api.Ref, text string) step {
	v, err := w.desk.Store.Version(w.ctx, w.tenant, ref.Model, ref.Version)
	if err != nil { // it was deleted; that it was there is still true
		n := node(api.LineageVersion, ref.String())
		n.Text = "no longer there"
		return step{n, text}
	}
	return step{versionNode(&v), text}
}

func (w *walk) revisionNode(e api.EndpointName, number api.RevisionNumber) (api.LineageNode, error) {
	rev, err := w.desk.Store.Revision(w.ctx, w.tenant, e, number)
	if err != nil {
		return api.LineageNode{}, err
	}
	return w.ofRevision(&rev), nil
}

func (w *walk) ofRevision(rev *api.Revision) api.LineageNode {
	current, asked := w.serving[rev.Endpoint]
	if !asked {
		if e, err := w.desk.Endpoints.Endpoint(w.ctx, w.tenant, rev.Endpoint); err == nil {
			current = e.Traffic.Current
		}
		w.serving[rev.Endpoint] = current
	}
	n := node(api.LineageRevision, fmt.Sprintf("%s/%d", rev.Endpoint, rev.Number))
	n.At, n.Serving = rev.Created, current == rev.Number
	n.Text = "by " + rev.By
	if n.Serving {
		n.Text = "serves now"
	}
	return n
}

// down gives what came of a node.
func (w *walk) down(n api.LineageNode) ([]step, error) {
	switch n.Kind {
	case api.LineageDataset, api.LineageRun:
		return w.linked(n, false)
	case api.LineageVersion:
		steps, err := w.linked(n, false)
		if err != nil {
			return nil, err
		}
		ref, err := api.ParseRef(n.Name)
		if err != nil {
			return nil, err
		}
		revisions, err := w.desk.Store.RevisionsOf(w.ctx, w.tenant, ref.Model, ref.Version)
		for i := range revisions {
			steps = append(steps, step{node: w.ofRevision(&revisions[i])})
		}
		return steps, err
	case api.LineageRevision:
		return w.underRevision(n)
	case api.LineageRelease:
		return w.decision(n)
	}
	return nil, nil
}

// up gives what a node came from.
func (w *walk) up(n api.LineageNode) ([]step, error) {
	switch n.Kind {
	case api.LineageDataset, api.LineageRun, api.LineageVersion:
		return w.linked(n, true)
	case api.LineageRevision:
		endpoint, number := placeOf(n.Name)
		rev, err := w.desk.Store.Revision(w.ctx, w.tenant, endpoint, api.RevisionNumber(number))
		if err != nil {
			return nil, err
		}
		var steps []step
		for _, ref := range rev.Versions() {
			steps = append(steps, w.versionStep(ref, ""))
		}
		return steps, nil
	case api.LineageCaller:
		calls, err := w.desk.Store.CallsOf(w.ctx, w.tenant, api.KeyID(n.Name), linksMax)
		var steps []step
		for _, c := range calls {
			if revision, err := w.revisionNode(c.Endpoint, c.Revision); err == nil { // an endpoint that is gone has none
				steps = append(steps, step{revision, fmt.Sprintf("%d requests", c.Requests)})
			}
		}
		return steps, err
	}
	return nil, nil
}

// linked follows what pushes told.
func (w *walk) linked(n api.LineageNode, up bool) (steps []step, _ error) {
	list := w.desk.Store.LinksFrom
	if up {
		list = w.desk.Store.LinksTo
	}
	links, err := list(w.ctx, w.tenant, n.Kind, n.Name, linksMax)
	if err != nil {
		return nil, err
	}
	if len(links) == linksMax {
		w.out.Truncated = true
	}
	for _, l := range links {
		kind, name := l.ToKind, l.To
		if up {
			kind, name = l.FromKind, l.From
		}
		if kind != api.LineageVersion {
			steps = append(steps, step{node(kind, name), l.Text})
			continue
		}
		ref, err := api.ParseRef(name)
		if err != nil {
			return nil, err
		}
		steps = append(steps, w.versionStep(ref, l.Text))
	}
	return steps, nil
}

func placeOf(name string) (api.EndpointName, int64) {
	endpoint, number, _ := strings.Cut(name, "/")
	n, _ := strconv.ParseInt(number, 10, 64) // it was written here
	return api.EndpointName(endpoint), n
}

// underRevision gives the releases that brought a revision, and who called it.
func (w *walk) underRevision(n api.LineageNode) (steps []step, _ error) {
	endpoint, number := placeOf(n.Name)
	releases, err := w.desk.Store.Releases(w.ctx, w.tenant, endpoint, 0, releasesMax)
	if err != nil {
		return nil, err
	}
	for i := len(releases) - 1; i >= 0; i-- {
		if r := &releases[i]; r.To == api.RevisionNumber(number) {
			rel := node(api.LineageRelease, fmt.Sprintf("%s/%d", r.Endpoint, r.Number))
			rel.Text, rel.At = string(r.Kind)+" by "+r.By, r.Started
			steps = append(steps, step{node: rel})
		}
	}
	callers, err := w.desk.Store.CallersOf(w.ctx, w.tenant, endpoint, api.RevisionNumber(number), callersMax)
	for _, c := range callers {
		key := node(api.LineageCaller, string(c.Key))
		if at, known := w.nodes[key.ID]; known {
			w.out.Nodes[at].Count += c.Requests
			w.out.Nodes[at].At = max(w.out.Nodes[at].At, c.Last)
		}
		key.Count, key.At = c.Requests, c.Last
		text := fmt.Sprintf("%d requests", c.Requests)
		if c.Model != "" {
			text += " of " + api.Ref{Model: c.Model, Version: c.Version}.String()
		}
		w.add(key)
		steps = append(steps, step{key, text})
	}
	return steps, err
}

// decision gives how a release ended, and why.
func (w *walk) decision(n api.LineageNode) ([]step, error) {
	endpoint, number := placeOf(n.Name)
	releases, err := w.desk.Store.Releases(w.ctx, w.tenant, endpoint, number+1, 1)
	if err != nil || len(releases) == 0 || releases[0].Number != number || !releases[0].State.Final() {
		return nil, err
	}
	r := &releases[0]
	d := node(api.LineageDecision, n.Name)
	d.Text, d.At = string(r.State), r.Ended
	for _, why := range []string{r.Why, r.Reason} {
		if why != "" {
			d.Text += ": " + why
		}
	}
	return []step{{node: d}}, nil
}

// nameCallers puts the names of keys in the place of their ids.
func (w *walk) nameCallers() error {
	names := map[string]string{}
	keys, err := w.desk.Keys.Keys(w.ctx, w.tenant)
	if err != nil {
		return err
	}
	for _, k := range keys {
		names[string(k.ID)] = k.Name
	}
	for i := range w.out.Nodes {
		n := &w.out.Nodes[i]
		if n.Kind != api.LineageCaller {
			continue
		}
		n.Text = fmt.Sprintf("key %s, %d requests", n.Name, n.Count)
		if name := names[n.Name]; name != "" {
			n.Name = name
		}
	}
	if w.out.Edges == nil {
		w.out.Edges = []api.LineageEdge{}
	}
	return nil
}

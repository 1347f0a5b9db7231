package queue

import (
	"cmp"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
)

// Flow is one tenant's part in the sharing.
type Flow struct {
	tenant api.TenantID

	// Guarded by Fair.mu.
	weight  float64
	counter float64 // nanoseconds of execution per weight
	waits   int     // requests
	running int     // the same
	turn    uint64  // when it was last granted a place; of two, one is later
	ahead   [bands]int64
	owed    float64 // execution time that Batch has coming
	lines   []*line // with requests that wait
	at      int     // in Fair.waiting
	pool    *Pool   // that it asked last
	seen    int64   // when
	newer   *Flow   // in the order of Fair.recent
	older   *Flow
	spent   minute
	refused [reasons]int64
}

func (f *Flow) order() order { return order{f.counter, f.turn} }
func (f *Flow) place(at int) { f.at = at }

// line is what one tenant has waiting for one pool.
type line struct {
	pool   *Pool
	flow   *Flow
	queues [bands]list
	count  int
	at     int // in pool.lines
}

// order is that of the tenants' counters; of equal ones the tenant that was served longer ago is next.
func (n *line) order() order { return n.flow.order() }
func (n *line) place(at int) { n.at = at }

// head is the tenant's own next request: the most urgent, unless Batch has been passed by for long enough.
func (n *line) head() *Waiter {
	batch := n.queues[Batch].first
	if batch != nil && n.flow.owed >= float64(batch.cost) {
		return batch
	}
	for b := range n.queues {
		if w := n.queues[b].first; w != nil {
			return w
		}
	}
	return nil // cannot be: empty lines are dropped
}

func (f *Fair) newLine(p *Pool, flow *Flow) *line {
	var n *line
	if last := len(f.lines) - 1; last >= 0 {
		n = f.lines[last]
		f.lines = f.lines[:last]
	} else {
		n = new(line)
	}
	n.pool, n.flow = p, flow
	p.byFlow[flow] = n
	return n
}

// dropLine forgets an empty line.
func (f *Fair) dropLine(n *line) {
	p, flow := n.pool, n.flow
	p.lines.remove(n.at)
	delete(p.byFlow, flow)
	if i := slices.Index(flow.lines, n); i >= 0 {
		flow.lines = slices.Delete(flow.lines, i, i+1)
	}
	if len(p.lines) == 0 {
		for _, l := range p.lanes {
			if i := slices.Index(l.pools, p); i >= 0 {
				l.pools = slices.Delete(l.pools, i, i+1)
			}
		}
	}
	*n = line{}
	if len(f.lines) < kept {
		f.lines = append(f.lines, n)
	}
}

// Flow finds a tenant's flow, or makes it with weight 1.
func (f *Fair) Flow(t api.TenantID) *Flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	flow := f.flows[t]
	if flow == nil {
		f.turns++
		flow = &Flow{tenant: t, weight: 1, turn: f.turns}
		f.flows[t] = flow
	}
	return flow
}

// SetWeight changes a tenant's part relative to the others, for all that is granted from now on. At least 1.
func (f *Fair) SetWeight(flow *Flow, weight int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := float64(max(1, weight))
	if flow.waits > 0 {
		f.weights += w - flow.weight
	}
	flow.weight = w
}

// Share is what a tenant has of the workers.
type Share struct {
	Tenant    api.TenantID
	Weight    int
	Spent     time.Duration // execution time in the last minute
	Total     time.Duration // since the start
	Waiting   int
	Running   int
	OverShare int64 // refused since the start, each
	Late      int64
	Shed      int64
}

// Refused counts the requests that were refused since the start, by reason; reasons that never were are left out.
func (s Share) Refused() map[string]int64 {
	all := map[string]int64{}
	for reason, n := range map[string]int64{"over_share": s.OverShare, "too_late": s.Late, "shed": s.Shed} {
		if n > 0 {
			all[reason] = n
		}
	}
	return all
}

// Shares lists every tenant that ever asked for a place, by name.
func (f *Fair) Shares() []Share {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	var all []Share
	for _, flow := range f.flows {
		spent := flow.spent.sum(now)
		if flow.spent.total == 0 && flow.waits == 0 && flow.running == 0 && flow.refused == [reasons]int64{} {
			continue
		}
		all = append(all, Share{Tenant: flow.tenant, Weight: int(flow.weight), Spent: time.Duration(spent), Total: time.Duration(flow.spent.total),
			Waiting: flow.waits, Running: flow.running,
			OverShare: flow.refused[OverShare], Late: flow.refused[Late], Shed: flow.refused[Shed]})
	}
	slices.SortFunc(all, func(a, b Share) int { return cmp.Compare(a.Tenant, b.Tenant) })
	return all
}

// minute sums up the last minute in steps of five seconds.
type minute struct {
	total int64
	steps [13]int64 // the present one, and twelve that are over
	step  int64     // number of the present one
}

const stepLength = int64(5 * time.Second)

func (m *minute) add(now, cost int64) {
	m.move(now)
	m.total += cost
	m.steps[m.step%int64(len(m.steps))] += cost
}

func (m *minute) move(now int64) {
	step := now / stepLength
	if step-m.step >= int64(len(m.steps)) {
		clear(m.steps[:])
		m.step = step
	}
	for m.step < step {
		m.step++
		m.steps[m.step%int64(len(m.steps))] = 0
	}
}

// sum is of the steps that touch the last minute.
func (m *minute) sum(now int64) (sum int64) {
	m.move(now)
	for _, s := range m.steps {
		sum += s
	}
	return sum
}

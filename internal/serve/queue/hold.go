package queue

import "slices"

// looksMax bounds the tenants that are looked at for one to keep a run for.
const looksMax = 8

// see remembers who asked when.
func (f *Fair) see(flow *Flow, p *Pool, now int64) {
	flow.pool, flow.seen = p, now
	if f.recent == flow {
		return
	}
	if flow.newer != nil {
		flow.newer.older = flow.older
	}
	if flow.older != nil {
		flow.older.newer = flow.newer
	}
	flow.newer, flow.older = nil, f.recent
	if f.recent != nil {
		f.recent.newer = flow
	}
	f.recent = flow
}

// held reports that a run is kept for another tenant. Runs are not interrupted: where there are few, a tenant that uses
// less than its share would find all of them taken by one that uses more, and wait for the first to end, every time. So the
// last run of a pool that is free is not given to a tenant while another was here a moment ago that used less and has
// nothing in hand. That costs the others some time, with two runs up to half of what the quiet one leaves; it is nothing while a
// tenant is alone, and little where there are many runs. Short runs are over soon enough.
func (f *Fair) held(l *lane, p *Pool, flow *Flow, need need) bool {
	if need.cost <= int64(f.config.Ahead) || f.recent == flow && flow.older == nil {
		return false
	}
	runs, left := int64(0), int64(0)
	for _, each := range p.lanes {
		runs += each.runs
		left += max(0, each.runs*unit-each.parts)
	}
	if runs < 2 || left-need.part >= unit {
		return false
	}
	now := f.now()
	other := f.recent
	for range looksMax {
		if other == nil || now-other.seen >= together {
			return false
		}
		if other != flow && other.waits == 0 && other.running == 0 && other.counter < flow.counter && slices.Contains(other.pool.lanes, l) {
			return true
		}
		other = other.older
	}
	return false
}

// release looks anew at the lanes beside one that a request has left: what was kept in them may not be needed any more. What
// one lane grants may end what another keeps, so it looks until nothing is granted.
func (f *Fair) release(l *lane) {
	f.heldBack = false
	for again := true; again; {
		again = false
		for i := 0; i < len(l.pools); i++ {
			p := l.pools[i]
			for _, each := range p.lanes {
				if each != l && f.fill(each) {
					again = true
				}
			}
			if i < len(l.pools) && l.pools[i] != p {
				i-- // its last request was granted
			}
		}
	}
}

package queue_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/serve/queue"
)

var (
	seed  = flag.Uint64("seed", 0, "seed of the walk; 0 draws one")
	steps = flag.Int("steps", 30_000, "steps of the walk")
)

// model is the sharing as one would explain it: lists that are searched from end to end.
type model struct {
	now      time.Duration
	runs     int64
	counters map[api.TenantID]float64
	weights  map[api.TenantID]float64
	turns    map[api.TenantID]int
	owed     map[api.TenantID]float64
	last     float64
	switched time.Duration
	latest   api.TenantID
	seen     map[api.TenantID]time.Duration
	asked    map[api.TenantID][]string
	turn     int
	heldBack bool
	holds    int
	isolated int
	waiting  []*request // in the order of their coming
	running  []*request
}

type request struct {
	serial  int
	tenant  api.TenantID
	workers []string
	band    queue.Band
	cost    time.Duration
	part    int64
	alone   bool
	worker  string // where it runs
	place   queue.Place
	waiter  *queue.Waiter
}

const whole = int64(1) << 20

func (m *model) backlog(t api.TenantID) (n int) {
	for _, r := range m.waiting {
		if r.tenant == t {
			n++
		}
	}
	return n
}

// tenants lists those with something that waits.
func (m *model) tenants() (all []api.TenantID) {
	for _, r := range m.waiting {
		if !slices.Contains(all, r.tenant) {
			all = append(all, r.tenant)
		}
	}
	return all
}

func (m *model) room(worker string, r *request) bool {
	var work time.Duration
	var parts int64
	for _, other := range m.running {
		if other.worker == worker {
			work, parts = work+other.cost, parts+other.part
			if other.alone || r.alone {
				return false
			}
		}
	}
	limit := m.runs * whole
	if len(m.tenants()) <= 1 && m.now-m.switched >= time.Second {
		limit += whole
	}
	return parts == 0 || parts+r.part <= limit || work+r.cost <= time.Duration(m.runs)*time.Millisecond
}

func (m *model) charge(t api.TenantID, cost time.Duration) {
	m.counters[t] += float64(cost) / m.weights[t]
	if len(m.waiting) == 0 {
		m.last = max(m.last, m.counters[t])
	}
}

func (m *model) occupy(r *request, worker string) {
	r.worker = worker
	m.turn++
	m.turns[r.tenant] = m.turn
	if r.alone {
		m.isolated++
	}
	m.running = append(m.running, r)
	m.charge(r.tenant, r.cost)
}

// next is who is next in a worker: of the tenant with the lowest counter, the most urgent.
func (m *model) next(worker string) *request {
	var best *request
	for _, r := range m.waiting {
		if !slices.Contains(r.workers, worker) {
			continue
		}
		if best == nil || m.before(r.tenant, best.tenant) {
			best = r
		}
	}
	if best == nil {
		return nil
	}
	// A tenant's requests for one set of workers stand in one line, and its lines are tried in an order that does not matter:
	// the walk lets each tenant use one set at a time.
	var urgent, batch *request
	for _, r := range m.waiting {
		if r.tenant != best.tenant {
			continue
		}
		if urgent == nil || r.band < urgent.band {
			urgent = r
		}
		if r.band == queue.Batch && batch == nil {
			batch = r
		}
	}
	if batch != nil && m.owed[best.tenant] >= float64(batch.cost) {
		return batch
	}
	return urgent
}

func (m *model) before(a, b api.TenantID) bool {
	if m.counters[a] != m.counters[b] {
		return m.counters[a] < m.counters[b]
	}
	return m.turns[a] < m.turns[b]
}

// fill grants what a worker has room for, and tells whom.
func (m *model) fill(worker string) (granted []*request) {
	for r := m.next(worker); r != nil && m.room(worker, r); r = m.next(worker) {
		if m.held(worker, r) {
			m.heldBack = true
			m.holds++
			break
		}
		switch {
		case r.band == queue.Batch:
			m.owed[r.tenant] = max(0, m.owed[r.tenant]-float64(r.cost))
		case slices.ContainsFunc(m.waiting, func(o *request) bool { return o.tenant == r.tenant && o.band == queue.Batch }):
			m.owed[r.tenant] += float64(r.cost) * 0.05 / (1 - 0.05)
		}
		m.drop(r)
		m.occupy(r, worker)
		granted = append(granted, r)
	}
	return granted
}

// held is whether the run is kept for another tenant.
func (m *model) held(worker string, r *request) bool {
	left := int64(0)
	for _, w := range r.workers {
		parts := int64(0)
		for _, o := range m.running {
			if o.worker == w {
				parts += o.part
			}
		}
		left += max(0, m.runs*whole-parts)
	}
	if r.cost <= time.Millisecond || left-r.part >= whole {
		return false
	}
	for t, seen := range m.seen {
		runs := slices.ContainsFunc(m.running, func(o *request) bool { return o.tenant == t })
		if t != r.tenant && m.now-seen < time.Second && m.backlog(t) == 0 && !runs && m.counters[t] < m.counters[r.tenant] &&
			slices.Contains(m.asked[t], worker) {
			return true
		}
	}
	return false
}

// release is what becomes of the workers beside one that a request has left.
func (m *model) release(left string) (granted []*request) {
	if !m.heldBack {
		return nil
	}
	m.heldBack = false
	for again := true; again; {
		again = false
		for _, w := range []string{"a", "b", "c"} {
			shared := slices.ContainsFunc(m.waiting, func(o *request) bool {
				return slices.Contains(o.workers, left) && slices.Contains(o.workers, w)
			})
			if w != left && shared {
				more := m.fill(w)
				granted, again = append(granted, more...), again || len(more) > 0
			}
		}
	}
	return granted
}

func (m *model) fillAll(workers []string) (granted []*request) {
	for _, worker := range workers {
		granted = append(granted, m.fill(worker)...)
	}
	return granted
}

// drop takes a request out of those that wait.
func (m *model) drop(r *request) {
	m.waiting = slices.DeleteFunc(m.waiting, func(o *request) bool { return o == r })
	if m.backlog(r.tenant) == 0 {
		m.owed[r.tenant] = 0
		m.last = max(m.last, m.counters[r.tenant])
	}
}

func (m *model) lift(r *request) {
	if m.backlog(r.tenant) > 0 {
		return
	}
	base := m.last
	for i, t := range m.tenants() {
		if c := m.counters[t]; i == 0 || c < base {
			base = c
		}
	}
	w := m.weights[r.tenant]
	m.counters[r.tenant] = max(m.counters[r.tenant], base-float64(250*time.Millisecond)/w)
	m.counters[r.tenant] = min(m.counters[r.tenant], base+max(float64(time.Second), 4*float64(r.cost)/w))
}

// free is where a request goes at once, or nothing.
func (m *model) free(r *request) string {
	best, least := "", time.Duration(0)
	for _, worker := range r.workers {
		waited := slices.ContainsFunc(m.waiting, func(o *request) bool { return slices.Contains(o.workers, worker) })
		if waited || !m.room(worker, r) || m.held(worker, r) {
			continue
		}
		var work time.Duration
		for _, o := range m.running {
			if o.worker == worker {
				work += o.cost
			}
		}
		if work <= queue.LittleWork {
			return worker
		}
		if best == "" || work < least {
			best, least = worker, work
		}
	}
	return best
}

// TestWalk does the same things at random to the queue and to the model, and wants the same requests granted in the same
// workers at the same time. At the end everything that was let in has left, exactly once.
func TestWalk(t *testing.T) {
	used := *seed
	if used == 0 {
		used = rand.Uint64()
	}
	t.Logf("walk with -seed %d", used)
	random := rand.New(rand.NewPCG(used, 1))
	begin := time.Unix(0, 0)
	m := &model{runs: 2, counters: map[api.TenantID]float64{}, weights: map[api.TenantID]float64{}, turns: map[api.TenantID]int{},
		owed: map[api.TenantID]float64{}, switched: -time.Second,
		seen: map[api.TenantID]time.Duration{}, asked: map[api.TenantID][]string{}}
	f := queue.New(queue.Config{Runs: 2, Waiting: 20, Now: func() time.Time { return begin.Add(m.now) }})
	w := &walk{T: t, f: f, m: m, random: random}
	for i := range 6 {
		f.Flow(w.tenant(i))
		m.turn++
		m.weights[w.tenant(i)], m.turns[w.tenant(i)] = 1, m.turn
	}
	for range *steps {
		w.step()
	}
	for len(m.running)+len(m.waiting) > 0 {
		if len(m.waiting) > 0 && random.IntN(2) == 0 {
			w.cancel()
		} else {
			w.leave()
		}
	}
	for _, s := range f.Shares() {
		if s.Waiting != 0 || s.Running != 0 {
			t.Errorf("left behind: %+v", s)
		}
	}
	if w.granted+w.cancelled+w.evicted != w.admitted || w.waited == 0 || w.evicted == 0 || w.refused == 0 || m.holds == 0 || m.isolated == 0 {
		t.Errorf("%d admitted: %d granted, %d cancelled, %d evicted; %d had to wait, %d refused, %d times a run was kept", w.admitted, w.granted, w.cancelled, w.evicted, w.waited, w.refused, m.holds)
	}
}

type walk struct {
	*testing.T
	f                                                      *queue.Fair
	m                                                      *model
	random                                                 *rand.Rand
	serial                                                 int
	admitted, granted, cancelled, evicted, refused, waited int
}

func (w *walk) tenant(i int) api.TenantID { return api.TenantID(fmt.Sprint("t", i)) }

func (w *walk) step() {
	switch n := w.random.IntN(100); {
	case n < 50:
		w.enter()
	case n < 88:
		w.leave()
	case n < 94:
		w.cancel()
	case n < 97:
		w.evict()
	case n < 98:
		t := w.tenant(w.random.IntN(6))
		weight := 1 + w.random.IntN(4)
		w.m.weights[t] = float64(weight)
		w.f.SetWeight(w.f.Flow(t), weight)
	default:
		w.m.now += time.Duration(w.random.Int64N(int64(700 * time.Millisecond)))
	}
}

func (w *walk) enter() {
	m, i := w.m, w.random.IntN(6)
	w.serial++
	r := &request{serial: w.serial, tenant: w.tenant(i), band: queue.Band(w.random.IntN(3)),
		workers: [][]string{{"a", "b", "c"}, {"a"}, {"b", "a"}}[i%3],
		cost:    []time.Duration{20 * time.Microsecond, 300 * time.Microsecond, 5 * time.Millisecond}[w.random.IntN(3)]}
	q := queue.Request{Flow: w.f.Flow(r.tenant), Pool: w.f.Pool(r.workers), Band: r.band, Cost: r.cost, Owner: r.tenant}
	r.part, r.alone = whole, w.random.IntN(20) == 0
	q.Alone = r.alone
	if w.random.IntN(3) == 0 {
		q.Part = queue.PartOf(1, 8)
		r.part = q.Part
	}
	m.now += time.Duration(w.random.Int64N(int64(time.Millisecond)))
	if m.latest != r.tenant {
		if m.latest != "" {
			m.switched = m.now
		}
		m.latest = r.tenant
	}
	m.seen[r.tenant], m.asked[r.tenant] = m.now, r.workers
	m.lift(r)
	place, waiter, refusal := w.f.Enter(&q)
	if worker := m.free(r); worker != "" {
		if !place.Granted() || place.Worker() != worker {
			w.Fatalf("request %d was not let into %s at once: %+v %+v", r.serial, worker, place, refusal)
		}
		m.occupy(r, worker)
		r.place = place
		w.admitted, w.granted = w.admitted+1, w.granted+1
		return
	}
	if m.backlog(r.tenant) >= 20 && (len(m.tenants()) > 1 || m.now-m.switched < time.Second) {
		if refusal.Reason != queue.OverShare || refusal.Retry <= 0 {
			w.Fatalf("request %d of a tenant with %d waiting: %+v", r.serial, m.backlog(r.tenant), refusal)
		}
		w.refused++
		return
	}
	if waiter == nil {
		w.Fatalf("request %d does not wait: %+v %+v", r.serial, place, refusal)
	}
	r.waiter = waiter
	m.waiting = append(m.waiting, r)
	w.admitted, w.waited = w.admitted+1, w.waited+1
	w.expect(m.fillAll(r.workers))
}

// expect takes the places of those that the model grants; that nobody else got one is found when they do.
func (w *walk) expect(granted []*request) {
	for _, r := range granted {
		select {
		case <-r.waiter.Granted():
		default:
			w.Fatalf("request %d should run in %s, and waits", r.serial, r.worker)
		}
		place, evicted := w.f.Take(r.waiter)
		if evicted || place.Worker() != r.worker {
			w.Fatalf("request %d runs in %+v, not %s", r.serial, place, r.worker)
		}
		r.place, r.waiter = place, nil
		w.granted++
	}
	for _, r := range w.m.waiting {
		select {
		case <-r.waiter.Granted():
			w.Fatalf("request %d of %s, band %d, was granted out of turn", r.serial, r.tenant, r.band)
		default:
		}
	}
}

func (w *walk) leave() {
	m := w.m
	if len(m.running) == 0 {
		return
	}
	i := w.random.IntN(len(m.running))
	r := m.running[i]
	m.running = slices.Delete(m.running, i, i+1)
	took := []time.Duration{-1, 0, r.cost, r.cost / 2, 3 * r.cost}[w.random.IntN(5)]
	w.f.Leave(r.place, took)
	switch {
	case took < 0:
		took = 0
	case took == 0:
		took = r.cost
	}
	if took != r.cost {
		m.charge(r.tenant, took-r.cost)
	}
	granted := m.fill(r.worker)
	w.expect(append(granted, m.release(r.worker)...))
}

func (w *walk) cancel() {
	m := w.m
	if len(m.waiting) == 0 {
		return
	}
	r := m.waiting[w.random.IntN(len(m.waiting))]
	w.f.Cancel(r.waiter)
	w.cancelled++
	m.drop(r)
	w.expect(m.fillAll(r.workers))
}

func (w *walk) evict() {
	m, t := w.m, w.tenant(w.random.IntN(6))
	above := queue.Band(w.random.IntN(3))
	var victim *request
	for _, r := range m.waiting {
		if r.tenant == t && r.band > above && (victim == nil || r.band > victim.band || r.band == victim.band && r.serial > victim.serial) {
			victim = r
		}
	}
	if done := w.f.Evict(w.f.Flow(t), t, above); done != (victim != nil) {
		w.Fatalf("evicted: %v, want %v", done, victim)
	}
	if victim == nil {
		return
	}
	<-victim.waiter.Granted()
	if _, evicted := w.f.Take(victim.waiter); !evicted {
		w.Fatal("the one evicted got a place")
	}
	w.evicted++
	m.drop(victim)
	w.expect(m.fillAll(victim.workers))
}

package observe

import (
	"math"
	"math/bits"
	"time"

	"github.com/penstock/penstock/api"
)

// The recent past is kept in slots of equal length per endpoint; the oldest is used anew.
const (
	slotLength = 2 * time.Second
	slotCount  = 31 // WindowMax, and the slot that is under way

	// WindowMax is the longest time that RecentStatistics looks back.
	WindowMax = (slotCount - 1) * slotLength
)

// A latency's bucket is its octave in microseconds and the three bits below: buckets grow by an eighth, up to two minutes.
const (
	octaveBuckets  = 8
	latencyBuckets = 26 * octaveBuckets
)

// windowKey names what is counted together.
type windowKey struct {
	tenant   api.TenantID
	endpoint api.EndpointName
}

// slot counts what ended in one piece of time.
type slot struct {
	number    int64 // of the piece, since the epoch
	requests  uint64
	errors    uint64
	reached   uint64 // a version, so that the durations count
	ran       uint64
	asked     uint64 // the response cache
	hits      uint64
	rows      uint64
	bytesIn   uint64
	bytesOut  uint64
	copied    uint64
	queue     time.Duration
	wait      time.Duration
	compute   time.Duration
	latencies *[latencyBuckets]uint32 // nil until the first
}

// window is an endpoint's recent past.
type window struct {
	slots [slotCount]slot
	last  int64 // number of the newest slot
	first int64 // number of the slot in which it began
}

// windows holds them by endpoint. Whoever touches it holds the recorder's draining. Its size is bounded: at the limit the one
// of the same tenant, or else of all, that was silent longest is forgotten, and whoever reads lets go of what is over.
type windows struct {
	limit    int
	list     map[windowKey]*window
	perOwner map[api.TenantID]int
}

func newWindows(limit int) *windows {
	return &windows{limit: limit, list: map[windowKey]*window{}, perOwner: map[api.TenantID]int{}}
}

// add counts one exchange at its end. Names that nobody has confirmed count nowhere, as in the metrics.
func (w *windows) add(e *api.Exchange) {
	if keyOf(e).endpoint != e.Endpoint || e.Endpoint == "" || e.Tenant == "" {
		return
	}
	now := numberOf(e.Start.Std().Add(max(0, e.Total)))
	k := windowKey{e.Tenant, e.Endpoint}
	own := w.list[k]
	if own == nil {
		own = w.make(k, now)
	}
	if s := own.at(now); s != nil {
		s.add(e)
	}
}

func numberOf(at time.Time) int64 { return at.UnixNano() / int64(slotLength) }

// at gives the slot of a piece of time; nil when it is too long ago.
func (w *window) at(number int64) *slot {
	if number <= w.last-slotCount {
		return nil
	}
	w.last = max(w.last, number)
	w.first = min(w.first, number)
	s := &w.slots[number%slotCount]
	if s.number != number {
		if s.latencies != nil {
			clear(s.latencies[:])
		}
		*s = slot{number: number, latencies: s.latencies}
	}
	return s
}

func (s *slot) add(e *api.Exchange) {
	s.requests++
	s.bytesIn += uint64(max(0, e.BytesIn))
	if e.Code != "" {
		s.errors++
	}
	if e.Lookup > 0 {
		s.asked++
	}
	if e.Variant == "" {
		return
	}
	s.reached++
	s.bytesOut += uint64(max(0, e.BytesOut))
	s.copied += uint64(max(0, e.Copied))
	s.queue += max(0, e.Queue)
	s.wait += max(0, e.Wait)
	if e.Cached {
		s.hits++
	} else if e.Code == "" {
		s.ran++
		s.compute += max(0, e.Compute)
		s.rows += uint64(max(1, e.Batch, e.Executed))
	}
	if s.latencies == nil {
		s.latencies = new([latencyBuckets]uint32)
	}
	s.latencies[bucketOf(e.Total)]++
}

func bucketOf(d time.Duration) int {
	us := uint64(max(0, d/time.Microsecond))
	if us < octaveBuckets {
		return int(us)
	}
	octave := bits.Len64(us) - 4 // 0 for 8 to 15
	return min((octave+1)*octaveBuckets+int(us>>octave)-octaveBuckets, latencyBuckets-1)
}

// bucketFrom is the least duration of a bucket.
func bucketFrom(i int) time.Duration {
	if i < octaveBuckets {
		return time.Duration(i) * time.Microsecond
	}
	octave := i/octaveBuckets - 1
	return time.Duration(octaveBuckets+i%octaveBuckets) << octave * time.Microsecond
}

func (w *windows) make(k windowKey, now int64) *window {
	if w.perOwner[k.tenant] >= max(1, w.limit/tenantFraction) {
		w.forget(func(o windowKey) bool { return o.tenant == k.tenant })
	} else if len(w.list) >= w.limit {
		w.forget(func(windowKey) bool { return true })
	}
	own := &window{first: now, last: now}
	w.list[k] = own
	w.perOwner[k.tenant]++
	return own
}

func (w *windows) forget(among func(windowKey) bool) {
	var oldest *windowKey
	since := int64(math.MaxInt64)
	for k, own := range w.list {
		if among(k) && own.last < since {
			oldest, since = &k, own.last
		}
	}
	if oldest != nil {
		w.drop(*oldest)
	}
}

func (w *windows) drop(k windowKey) {
	delete(w.list, k)
	if w.perOwner[k.tenant]--; w.perOwner[k.tenant] == 0 {
		delete(w.perOwner, k.tenant)
	}
}

// RecentStatistics gives what the tenant's endpoints did in the time before now, up to WindowMax; an endpoint that did nothing
// is not among them. Only the parts that come from exchanges are filled.
func (r *Recorder) RecentStatistics(t api.TenantID, span time.Duration) api.Statistics {
	now := time.Now()
	r.drain()
	r.draining.Lock()
	defer r.draining.Unlock()
	span = min(max(span, slotLength), WindowMax)
	out := api.Statistics{At: api.TimeOf(now), Window: span, Step: slotLength}
	newest := numberOf(now)
	for k, own := range r.windows.list {
		if own.last <= newest-slotCount {
			r.windows.drop(k)
			continue
		}
		if k.tenant == t {
			one := own.sum(now, span)
			one.Endpoint = k.endpoint
			out.Endpoints = append(out.Endpoints, one)
		}
	}
	return out
}

// sum adds up the slots that the span reaches back to, the one under way included.
func (w *window) sum(now time.Time, span time.Duration) api.EndpointStatistics {
	newest := numberOf(now)
	from := newest - int64(span/slotLength) + 1
	var all slot
	var latencies [latencyBuckets]uint64
	for i := range w.slots {
		s := &w.slots[i]
		if s.number < from || s.number > newest {
			continue
		}
		all.requests, all.errors, all.reached, all.ran = all.requests+s.requests, all.errors+s.errors, all.reached+s.reached, all.ran+s.ran
		all.asked, all.hits, all.rows = all.asked+s.asked, all.hits+s.hits, all.rows+s.rows
		all.bytesIn, all.bytesOut, all.copied = all.bytesIn+s.bytesIn, all.bytesOut+s.bytesOut, all.copied+s.copied
		all.queue, all.wait, all.compute = all.queue+s.queue, all.wait+s.wait, all.compute+s.compute
		if s.latencies != nil {
			for j, n := range s.latencies {
				latencies[j] += uint64(n)
			}
		}
	}
	// An endpoint that began within the span is not thinned by the time before it.
	begin := time.Unix(0, max(from, w.first)*int64(slotLength))
	seconds := max(now.Sub(begin), slotLength/2).Seconds()
	rate := func(n uint64) float64 { return float64(n) / seconds }
	one := api.EndpointStatistics{Rate: rate(all.requests), Errors: rate(all.errors), CacheAsked: rate(all.asked),
		BytesIn: rate(all.bytesIn), BytesOut: rate(all.bytesOut), Copied: rate(all.copied),
		P50: quantile(&latencies, all.reached, .50), P95: quantile(&latencies, all.reached, .95), P99: quantile(&latencies, all.reached, .99),
		Queue: mean(all.queue, all.reached), Wait: mean(all.wait, all.reached), Compute: mean(all.compute, all.ran)}
	if all.ran > 0 {
		one.Rows = float64(all.rows) / float64(all.ran)
	}
	if all.asked > 0 {
		one.CacheHits = float64(all.hits) / float64(all.asked)
	}
	for n := max(newest-slotCount+1, w.first); n < newest; n++ {
		requests := uint64(0)
		if s := &w.slots[n%slotCount]; s.number == n {
			requests = s.requests
		}
		one.Recent = append(one.Recent, float64(requests)/slotLength.Seconds())
	}
	return one
}

func mean(sum time.Duration, n uint64) time.Duration {
	if n == 0 {
		return 0
	}
	return sum / time.Duration(n)
}

// quantile finds the duration that the part q of n stays within: inside its bucket by how far in it stands.
func quantile(latencies *[latencyBuckets]uint64, n uint64, q float64) time.Duration {
	rank := q * float64(n)
	seen := 0.0
	for i, count := range latencies {
		if count == 0 {
			continue
		}
		if seen+float64(count) >= rank {
			from, to := bucketFrom(i), bucketFrom(i+1)
			return from + time.Duration(float64(to-from)*(rank-seen)/float64(count))
		}
		seen += float64(count)
	}
	return 0
}

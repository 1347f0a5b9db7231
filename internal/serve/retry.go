package serve

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
)

// RetryLimits bound how many requests of one endpoint are sent again because a worker was lost under them. Zero means the
// default.
type RetryLimits struct {
	Percent int // of the endpoint's requests that are earned with them; default 20
	Floor   int // that are earned in each second whatever comes; default 3
	Burst   int // that may be saved up; default Limits.Queue, since a worker's death takes no more of one endpoint with it
}

func (l RetryLimits) percent() int {
	if l.Percent > 0 {
		return l.Percent
	}
	return 20
}

func (l RetryLimits) floor() int {
	if l.Floor > 0 {
		return l.Floor
	}
	return 3
}

func (l Limits) burst() int {
	if l.Retry.Burst > 0 {
		return l.Retry.Burst
	}
	return int(l.queue())
}

// once is what sending one request again costs: so a nanosecond earns the floor's number, and everything is whole.
const once = int64(time.Second)

// retries is an endpoint's budget of sending requests again. It begins full. A request costs it one addition; the rest is
// reckoned when something is to be sent again.
type retries struct {
	requests atomic.Int64

	mu      sync.Mutex // guards all below
	spent   int64      // of the burst, in parts of once
	counted int64      // of requests
	at      time.Time  // when it was reckoned last; it never goes back
}

// take pays for sending one request again, or says when there will be something to pay with.
func (r *retries) take(l Limits, now time.Time) (ok bool, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	percent, floor, burst := int64(l.Retry.percent()), int64(l.Retry.floor()), int64(l.burst())*once
	requests := r.requests.Load()
	earned := min(requests-r.counted, burst/once*100) * percent * (once / 100)
	if elapsed := now.Sub(r.at); elapsed > 0 {
		earned += min(int64(elapsed), burst) * floor
		r.at = now
	}
	r.counted = requests
	r.spent = max(0, r.spent-earned)
	if short := r.spent + once - burst; short > 0 {
		return false, time.Duration((short + floor - 1) / floor)
	}
	r.spent += once
	return true, 0
}

// mayRetry pays for sending a request again. Else its error is what the caller gets, who may try again.
func (p *Path) mayRetry(c *Call, v *variant, x *api.Exchange, cause error) error {
	ok, wait := v.gate.retries.take(p.Limits, p.Now())
	if ok {
		return nil
	}
	x.Unretried = true
	l := p.Limits.Retry
	err := api.Fail(api.CodeWorkerLost, string(c.Endpoint),
		"the worker was lost, and the endpoint's requests were sent again too often: limits %d %% of them, %d more each second, %d at once",
		l.percent(), l.floor(), p.Limits.burst()).Because(cause)
	err.RetryAfter = min(max(wait, 100*time.Millisecond), retryMost)
	return err
}

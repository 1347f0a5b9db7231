package serve

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/api"
)

// The bounds of taking a replica out that fails.
const (
	faultsInRow   = 5                // failures one after the other
	faultsWindow  = 10 * time.Second // time in which a rate of failures counts
	faultsAsked   = 20               // least requests of a rate
	ejectFor      = 30 * time.Second // times how often it happened
	ejectMost     = 300 * time.Second
	healthMost    = 4096             // replicas that are remembered
	healthForget  = 10 * time.Minute // after which one that did not fail again is forgotten
	stuckTimes    = 10               // a run that takes so many times what hardly any takes is stuck
	stuckLeast    = time.Second
	ejectNoiseTen = 10 // the time varies by a tenth, so that those ejected together do not come back together
)

// healths remembers the replicas that failed lately. While none did, asking it costs one load of a counter.
type healths struct {
	count atomic.Int64

	mu   sync.Mutex // guards all below
	sick map[api.Replica]*health
}

// health is one replica's. Only failures that are its own count: of the connection, the worker or the engine, and a run that
// does not end; never those of a request that could not be answered anyhow.
type health struct {
	inRow      int
	asked, bad int       // in the window
	begun      time.Time // of the window
	until      time.Time // ejected until then; zero when it is not
	times      int       // it was ejected
	probing    bool      // one request is trying it
	last       time.Time // when it failed last
}

// avoid adds to those that failed a request the ones that are out, at most half of all, and never the last one.
func (h *healths) avoid(replicas, failed []api.Replica, clock func() time.Time) []api.Replica {
	if h.count.Load() == 0 {
		return failed
	}
	now := clock()
	h.mu.Lock()
	defer h.mu.Unlock()
	skip := failed
	for out, i := 0, 0; i < len(replicas) && out < len(replicas)/2 && len(skip)+1 < len(replicas); i++ {
		s := h.sick[replicas[i]]
		if s == nil || s.until.IsZero() || !now.Before(s.until) && !s.probing || slices.Contains(failed, replicas[i]) {
			continue
		}
		skip = append(slices.Clip(skip), replicas[i])
		out++
	}
	return skip
}

// begin marks the request that tries a replica whose time is over: the others wait for what becomes of it.
func (h *healths) begin(r api.Replica, now time.Time) (probe bool) {
	if h.count.Load() == 0 {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sick[r]
	if s == nil || s.until.IsZero() || now.Before(s.until) || s.probing {
		return false
	}
	s.probing = true
	return true
}

// verdict is what a request says about the replica that had it.
type verdict uint8

const (
	fine    verdict = iota
	faulty          // its own failure
	neither         // the caller's failure, or its going away
)

// end takes note of what became of a request.
func (h *healths) end(r api.Replica, v verdict, probe bool, now time.Time) {
	if v != faulty && h.count.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sick[r]
	if s == nil {
		if v != faulty || !h.room(now) {
			return
		}
		s = &health{begun: now}
		h.sick[r] = s
		h.count.Store(int64(len(h.sick)))
	}
	if probe {
		s.probing = false
	}
	if now.Sub(s.begun) >= faultsWindow {
		s.asked, s.bad, s.begun = 0, 0, now
	}
	switch v {
	case neither:
		return
	case fine:
		s.asked++
		s.inRow = 0
		if probe {
			s.until, s.asked, s.bad = time.Time{}, 0, 0
		}
		if s.until.IsZero() && now.Sub(s.last) > healthForget {
			delete(h.sick, r)
			h.count.Store(int64(len(h.sick)))
		}
		return
	}
	s.asked, s.bad, s.inRow, s.last = s.asked+1, s.bad+1, s.inRow+1, now
	out := !s.until.IsZero() && now.Before(s.until)
	if !out && (probe || s.inRow >= faultsInRow || s.asked >= faultsAsked && 2*s.bad >= s.asked) {
		s.times++
		length := min(ejectFor*time.Duration(s.times), ejectMost)
		s.until = now.Add(length + rand.N(length/ejectNoiseTen))
		s.inRow, s.asked, s.bad = 0, 0, 0
	}
}

// room makes sure that there is room to remember one more; those that failed longest ago are forgotten. Needs mu.
func (h *healths) room(now time.Time) bool {
	if h.sick == nil {
		h.sick = map[api.Replica]*health{}
	}
	if len(h.sick) < healthMost {
		return true
	}
	for r, s := range h.sick {
		if now.Sub(s.last) > ejectMost {
			delete(h.sick, r)
		}
	}
	return len(h.sick) < healthMost
}

// judge tells whose fault an end was. took is from sending; usual is what hardly any request takes longer.
func judge(ctx context.Context, err error, took, usual time.Duration) verdict {
	switch {
	case err == nil:
		return fine
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		if took >= max(stuckLeast, stuckTimes*usual) {
			return faulty
		}
		return neither
	case ctx.Err() != nil:
		return neither
	}
	switch api.AsError(err).Code {
	case api.CodeWorkerLost, api.CodeInternal, api.CodeUnavailable:
		return faulty
	}
	return neither
}

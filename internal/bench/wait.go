package bench

import (
	"context"
	"syscall"
	"time"
)

// timerCoarse is by how much a timer of Go's runtime may wake late on Linux, where it waits in whole milliseconds when
// nothing else is to be done.
const timerCoarse = 1200 * time.Microsecond

// await waits until a time since the start; false when ctx ended before. With Plan.Precise the last bit is left to the
// kernel, which wakes within some 60 µs; it takes a thread for that bit, not the whole wait.
func (r *run) await(ctx context.Context, timer *time.Timer, until time.Duration) bool {
	left := until - r.since()
	if r.plan.Precise {
		left -= timerCoarse
	}
	if left > 0 {
		timer.Reset(left)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false
		}
	}
	for r.plan.Precise && ctx.Err() == nil {
		left := until - r.since()
		if left <= 0 {
			break
		}
		rest := syscall.NsecToTimespec(int64(min(left, timerCoarse)))
		_ = syscall.Nanosleep(&rest, nil) // a signal ends it early: then once more
	}
	return ctx.Err() == nil
}

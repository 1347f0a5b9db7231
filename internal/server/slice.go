package server

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// workerSlice is how long the system lets a worker's thread go on when others want its processor, in nanoseconds; the most
// that it takes.
const workerSlice = 100_000_000

// yieldSoon lets whoever wakes up on a processor that a run is on go first. Linux gives every thread a slice of some
// milliseconds, and one that wakes waits for the end of another's, unless its own is the shorter one. A run computes for
// milliseconds; the server, and a caller on the same machine, want some microseconds now, several times a request. What
// each gets of a processor in the end stays the same. It must be called before the runtime makes threads: these inherit it.
func yieldSoon() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	var faults []error
	for _, t := range tasks {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		attr, err := unix.SchedGetAttr(id, 0)
		if errors.Is(err, unix.ESRCH) {
			continue // it ended just now
		}
		if err == nil {
			attr.Runtime = workerSlice // systems before Linux 6.12 do not look at it
			err = unix.SchedSetAttr(id, attr, 0)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

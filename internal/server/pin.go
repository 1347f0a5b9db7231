package server

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// processors shares the processors that this process may use among the workers, without overlap and in order, so that
// neighbours, which often share a cache, stay together. Where the numbers do not divide, some get one more.
// nil: workers are not pinned.
func (c *Config) processors() ([][]int, error) {
	if !c.Pin || c.Workers < 1 {
		return nil, nil
	}
	if c.InProcess {
		return nil, fmt.Errorf("--pin is for workers, and --in-process has none")
	}
	allowed, err := allowedProcessors()
	if err != nil {
		return nil, err
	}
	if len(allowed) < c.Workers {
		return nil, fmt.Errorf("--pin needs a processor for each worker: %d workers, %d processors", c.Workers, len(allowed))
	}
	shares := make([][]int, c.Workers)
	for i := range shares {
		shares[i] = allowed[i*len(allowed)/c.Workers : (i+1)*len(allowed)/c.Workers]
	}
	return shares, nil
}

// allowedProcessors are those that the system lets this process run on, by number.
func allowedProcessors() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("read the processors: %w", err)
	}
	allowed := make([]int, 0, set.Count())
	for n := 0; len(allowed) < set.Count(); n++ {
		if set.IsSet(n) {
			allowed = append(allowed, n)
		}
	}
	return allowed, nil
}

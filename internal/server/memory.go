package server

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// modelPart is the part of the machine's memory, in percent, that models may take when nobody says otherwise: the rest is
// for the server, for requests, and for what the system keeps of files.
const modelPart = 60

// modelMemory is what all loaded models may take together, in bytes.
func (c *Config) modelMemory() int64 {
	if c.ModelMemoryMB > 0 {
		return c.ModelMemoryMB << 20
	}
	return machineMemory() / 100 * modelPart
}

// machineMemory is what this process may use at most: the machine's memory, or what its control group allows; 0 when
// neither can be read, which sets no limit.
func machineMemory() int64 {
	var info unix.Sysinfo_t
	total := int64(0)
	if unix.Sysinfo(&info) == nil {
		total = int64(info.Totalram) * int64(info.Unit)
	}
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		limit, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		if err == nil && limit > 0 && (total == 0 || limit < total) { // "max" is no number
			total = limit
		}
	}
	return total
}

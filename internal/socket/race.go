//go:build race

package socket

// raced says that the race detector is on. It takes what one side wrote before it sent as known to who received, but sees only calls
// of package syscall.
const raced = true

// Package socket reads and writes sockets with fewer wake-ups than package net. Two things cost a small request more than its
// bytes do: a call into the system wakes Go's monitor thread when the program was idle, since it might wait, and a
// socket in Go's poller wakes the program whenever there is room to write, although nobody waits for that. See decision 039.
package socket

// rawMax is the most that is read or written in one call of which Go's scheduler knows nothing: what takes long is to be seen.
const rawMax = 64 << 10

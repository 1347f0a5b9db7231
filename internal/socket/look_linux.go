package socket

import (
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// lookRest is how many looks are left out after some in vain, one after the other: 1 after the first, then 3, 7 and this many.
const lookRest = 15

// several says that who looks and who is looked for may run at the same time. On a single processor one only keeps the other from it.
var several = runtime.NumCPU() > 1

// look is how the next read of a socket begins: by trying again and again for some time before it waits. To wake the thread of a
// reader that waits takes some microseconds, or ten in a virtual machine, of the waker's time too. Other threads that have use
// for the processor go first; goroutines of this process stay behind the reader, and behind one that always finds what it looks
// for until Go's scheduler stops it after 10 ms. It is the reader's.
type look struct {
	most time.Duration
	rest int // looks that are left out
	vain int // how many were after the last look, if that was in vain
}

// allow has the next read look for that long, unless looking was in vain lately.
func (k *look) allow(most time.Duration) {
	k.most = 0
	switch {
	case !several:
	case k.rest > 0:
		k.rest--
	default:
		k.most = most
	}
}

// again reports whether to try once more. begun is the first try's, set here.
func (k *look) again(begun *time.Time) bool {
	switch {
	case k.most <= 0:
		return false
	case begun.IsZero():
		*begun = time.Now()
	case time.Since(*begun) > k.most:
		k.vain = min(2*k.vain+1, lookRest)
		k.most, k.rest = 0, k.vain
		return false
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	return true
}

// found ends a look that came to something.
func (k *look) found() {
	if k.most > 0 {
		k.most, k.vain = 0, 0
	}
}

// Look has the next read of a connection that Poll gave look for bytes for up to most before it waits, unless looking was in vain
// lately. It is the reader's to call, when what it reads is about to come.
func Look(conn net.Conn, most time.Duration) {
	if p, ok := conn.(*polled); ok {
		p.in.look.allow(most)
	}
}

// Look is the same for a Blocking.
func (s *Blocking) Look(most time.Duration) {
	if !raced {
		s.look.allow(most)
	}
}

package process

import (
	"errors"
	"net"
	"os"
	"time"

	"github.com/penstock/penstock/internal/socket"
	"github.com/penstock/penstock/internal/wire/hop"
)

const (
	// laneFrom is the usual length of a run from which its caller reads the answer itself although others wait too. Shorter
	// ones are read together.
	laneFrom = 250 * time.Microsecond
	// laneAlone is how many requests in a row have to find nobody waiting before a shorter run is taken for one of a caller who is
	// alone. One does so at the head of every crowd; an answer of its own would cost the crowd a call and a wake-up more.
	laneAlone = 2
	// laneQuick is the usual length of a run below which a caller who is alone looks for its answer before it waits, for at most
	// laneSoon.
	laneQuick = 50 * time.Microsecond
	laneSoon  = 100 * time.Microsecond
	// laneBudget is the shortest time for an answer with which a caller may be in a lane: until the watch has seen it twice,
	// it does not notice that its time is over.
	laneBudget = 4 * laneLook
	// laneLook is how often callers in lanes are looked at; one seen for the second time goes on without.
	laneLook = 20 * time.Millisecond
	// lanesIdle is how many looks that see nobody end the looking.
	lanesIdle = 50
)

// lane is a socket for one answer at a time, which its caller reads: nobody has to be woken by another goroutine that read
// it. A caller in a lane does not see that its ctx has ended. The watch sends those away who wait for long: from then on a
// goroutine waits in their place.
type lane struct {
	number int
	conn   net.Conn
	reader *hop.Reader

	// Guarded by link.mu.
	uses   uint64 // rising
	seen   uint64 // by the watch
	busy   bool
	kicked bool // its reads end at once
	stayed bool // somebody waits in the caller's place
}

// openLanes begins with the sockets that came with hello's answer, before the first request.
func (l *link) openLanes(conns []net.Conn) {
	for i, conn := range conns {
		l.lanes = append(l.lanes, &lane{number: 1 + i, conn: conn, reader: hop.NewReader(conn, &l.engine.pool, l.engine.config.Limits)})
	}
	l.idle, l.alone = append(l.idle, l.lanes...), laneAlone
	l.watch = time.AfterFunc(time.Hour, l.look)
	l.watch.Stop() // until there is something to watch
}

// take needs mu. It gives a request a lane where that pays; nil is none.
func (l *link) take(m *hop.Message) *lane {
	if m.Kind != hop.KindInfer {
		return nil
	}
	if l.alone = min(l.alone+1, inTurnAfter); len(l.pending) > 0 {
		l.alone = 0
	}
	n := len(l.idle)
	if n == 0 || m.Budget > 0 && m.Budget < laneBudget || l.alone < laneAlone && m.Expect < laneFrom {
		return nil
	}
	ln := l.idle[n-1]
	l.idle = l.idle[:n-1]
	ln.busy = true
	ln.uses++
	if !l.looking {
		l.looking = true
		l.watch.Reset(laneLook)
	}
	return ln
}

// give needs mu. It takes a lane back whose answer has come.
func (l *link) give(ln *lane) {
	if ln == nil {
		return
	}
	if ln.kicked {
		_ = ln.conn.SetReadDeadline(time.Time{}) // fails on a closed connection, as its next read will
	}
	ln.busy, ln.kicked, ln.stayed = false, false, false
	l.idle = append(l.idle, ln)
}

// await waits for a call's answer in its lane, if it comes whole. nil says that it comes by the call's channel, if at all.
func (l *link) await(c *call) *hop.Message {
	ln := c.lane
	if c.quick && l.looks {
		socket.Look(ln.conn, laneSoon)
	}
	err := ln.reader.Await()
	if errors.Is(err, os.ErrDeadlineExceeded) || err == nil && !ln.reader.Whole() { // a worker may stop in the middle of a frame
		l.leave(ln)
		return nil
	}
	var m *hop.Message
	if err == nil {
		m, err = ln.reader.Next()
	}
	if err == nil {
		if c, err = l.arrived(m, ln); c != nil {
			return m
		}
	}
	if err != nil {
		l.engine.end(err)
	}
	return nil
}

// leave has a goroutine wait in a lane for an answer whose caller waits for other things too.
func (l *link) leave(ln *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return
	}
	ln.stayed = true
	if ln.kicked {
		ln.kicked = false
		_ = ln.conn.SetReadDeadline(time.Time{}) // fails on a closed connection, as the read will
	}
	l.engine.readers.Go(func() {
		m, err := ln.reader.Next()
		var c *call
		if err == nil {
			c, err = l.arrived(m, ln)
		}
		if c != nil {
			c.answer <- m
		}
		if err != nil {
			l.engine.end(err)
		}
	})
}

// look is the watch.
func (l *link) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return
	}
	for _, ln := range l.lanes {
		if ln.busy && !ln.stayed && !ln.kicked && ln.seen == ln.uses {
			ln.kicked = true
			_ = ln.conn.SetReadDeadline(past) // fails on a closed connection, whose reads end anyway
		}
		if ln.seen != ln.uses {
			l.quiet = 0
		}
		ln.seen = ln.uses
	}
	if l.quiet++; l.quiet > lanesIdle && len(l.idle) == len(l.lanes) {
		l.looking, l.quiet = false, 0
		return
	}
	l.watch.Reset(laneLook)
}

// past is a deadline that ends a read at once.
var past = time.Unix(1, 0)

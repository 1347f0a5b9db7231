package local

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"
)

// What a child writes is passed on line by line, within these limits. A child that writes more loses lines; one that
// writes without end is also made to wait for its pipe, so that reading it costs little of this process.
const (
	lineLimit   = 8 << 10         // bytes of one line; the rest of it is cut off
	window      = time.Second     // over which the two rates below count
	keepBytes   = 256 << 10       // passed on per window
	drainBytes  = 16 << 20        // read, and thrown away beyond keepBytes, per window
	lastPatient = time.Second     // for what is left in the pipe when the child is gone
	readSize    = 64 << 10        // of one read
	cutMark     = " [line cut]\n" // ends a line that was cut
)

// output carries one child's stdout and stderr to its log.
type output struct {
	pipe *os.File
	to   io.Writer
	stop chan struct{} // closed when the child is gone
	over chan struct{}

	line    []byte
	cut     bool // the present line is over the limit
	start   time.Time
	kept    int // in this window
	read    int // in this window
	dropped int // since the last line that was passed on
}

func follow(pipe *os.File, to io.Writer) *output {
	if to == nil {
		to = io.Discard
	}
	o := &output{pipe: pipe, to: to, stop: make(chan struct{}), over: make(chan struct{}), start: time.Now()}
	go o.run()
	return o
}

// finish takes what is left in the pipe, for a bounded time: a grandchild that left the group may hold it open.
func (o *output) finish() {
	close(o.stop)
	_ = o.pipe.SetReadDeadline(time.Now().Add(lastPatient))
	<-o.over
}

func (o *output) run() {
	defer close(o.over)
	defer func() { _ = o.pipe.Close() }()
	buffer := make([]byte, readSize)
	for {
		n, err := o.pipe.Read(buffer)
		o.take(buffer[:n])
		if err != nil {
			break
		}
		o.throttle()
	}
	if len(o.line) > 0 {
		o.emit()
	}
	o.report()
}

// throttle starts a new window when the present one is over, and waits for it when enough was read in this one.
func (o *output) throttle() {
	passed := time.Since(o.start)
	if passed < window && o.read >= drainBytes {
		rest := time.NewTimer(window - passed)
		select {
		case <-rest.C:
		case <-o.stop: // the child is gone; the pipe holds no more than its capacity
		}
		rest.Stop()
		passed = window
	}
	if passed >= window {
		o.start, o.kept, o.read = time.Now(), 0, 0
		o.report()
	}
}

// take splits what was read into lines.
func (o *output) take(b []byte) {
	o.read += len(b)
	for len(b) > 0 {
		part, rest, ended := bytes.Cut(b, []byte{'\n'})
		room := max(0, min(lineLimit, keepBytes-o.kept)-len(o.line))
		if len(part) > room {
			o.dropped += len(part) - room
			o.cut = true
			part = part[:room]
		}
		o.line = append(o.line, part...)
		if ended {
			o.emit()
		}
		b = rest
	}
}

// emit passes the present line on. A fault of the log is not the child's: the line is lost.
func (o *output) emit() {
	if o.cut && len(o.line) > 0 {
		o.line = append(o.line, cutMark...)
	} else if !o.cut {
		o.line = append(o.line, '\n')
	}
	o.kept += len(o.line)
	if len(o.line) > 0 {
		_, _ = o.to.Write(o.line)
	}
	o.line, o.cut = o.line[:0], false
}

// report says how much was left out.
func (o *output) report() {
	if o.dropped > 0 {
		_, _ = fmt.Fprintf(o.to, "[%d bytes of output left out: limits are %d bytes a line and %d bytes in %v]\n",
			o.dropped, lineLimit, keepBytes, window)
		o.dropped = 0
	}
}

package hop

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxRights is the most descriptors that come with a connection's first bytes; the system closes those beyond.
const maxRights = 2 + 1 + Lanes // shared memory, and the sockets for answers

// Rights reads a unix connection and keeps the descriptors that came with its first bytes. Later ones are dropped by the
// system.
type Rights struct {
	conn  *net.UnixConn
	read  bool
	files []*os.File
}

// NewRights makes the reader of a connection that nothing was read of.
func NewRights(conn *net.UnixConn) *Rights { return &Rights{conn: conn} }

// Read reads the connection.
func (r *Rights) Read(b []byte) (int, error) {
	if r.read {
		return r.conn.Read(b)
	}
	var space [64]byte
	n, control, _, _, err := r.conn.ReadMsgUnix(b, space[:unix.CmsgSpace(4*maxRights)])
	r.read = n > 0
	if fault := r.keep(space[:control]); err == nil {
		err = fault
	}
	return n, err
}

func (r *Rights) keep(control []byte) error {
	if len(control) == 0 {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return fmt.Errorf("%w: control message: %w", ErrMalformed, err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // something else than descriptors
		}
		for _, fd := range fds {
			r.files = append(r.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return nil
}

// Count is how many descriptors came.
func (r *Rights) Count() int { return len(r.files) }

// Take gives the descriptors, which are the caller's then.
func (r *Rights) Take() []*os.File {
	files := r.files
	r.files = nil
	return files
}

// Close closes what nobody took. The connection stays open.
func (r *Rights) Close() {
	for _, f := range r.Take() {
		_ = f.Close()
	}
}

// SendRights writes a frame, the first of its connection, and descriptors with it.
func SendRights(conn *net.UnixConn, f *Frame, files []*os.File) error {
	fds := make([]int, len(files))
	for i, file := range files {
		fds[i] = int(file.Fd())
	}
	frame := f.Bytes()
	n, _, err := conn.WriteMsgUnix(frame, unix.UnixRights(fds...), nil)
	if err == nil && n < len(frame) {
		_, err = conn.Write(frame[n:])
	}
	if err != nil {
		return fmt.Errorf("%w: send descriptors: %w", ErrClosed, err)
	}
	return nil
}

// Package relay moves bytes into files: the next bytes are read while those before are hashed and written, and the disk
// begins to work before the last byte has come. It is a tool, and knows nothing of what the bytes are.
package relay

import "sync"

// BufferBytes is one of the two buffers that a Copy holds.
const BufferBytes = 256 << 10

var pool = sync.Pool{New: func() any { return new([2][BufferBytes]byte) }}

// Copy fills two buffers by turns and hands each to use, which runs beside the next read and never beside itself. read may
// give bytes together with an error, which ends the copy; its error comes back, also io.EOF. An error of use ends it too,
// and goes first. use has returned when Copy does.
func Copy(read func([]byte) (int, error), use func([]byte) error) error {
	buffers := pool.Get().(*[2][BufferBytes]byte)
	defer pool.Put(buffers)
	used := make(chan error, 1)
	used <- nil
	for turn := 0; ; turn = 1 - turn {
		n, err := read(buffers[turn][:])
		if useErr := <-used; useErr != nil {
			return useErr
		}
		if n == 0 && err == nil {
			used <- nil
			continue
		}
		if n > 0 {
			go func() { used <- use(buffers[turn][:n]) }()
		} else {
			used <- nil
		}
		if err != nil {
			if useErr := <-used; useErr != nil {
				return useErr
			}
			return err
		}
	}
}

// Beside runs two things at the same time and gives the first's error.
func Beside(first func() error, second func()) error {
	done := make(chan struct{})
	go func() {
		second()
		close(done)
	}()
	err := first()
	<-done
	return err
}

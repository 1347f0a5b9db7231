package files

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
)

// spare has Go run more threads while several files are synced. A goroutine that waits for a disk keeps one of the
// runtime's processors until the runtime's monitor takes it away, 20 us to 10 ms later, when most syncs are over. On two
// cores, two pushes kept all others waiting, requests too, while both cores were idle. It is the process's, as GOMAXPROCS is.
type spare struct {
	active atomic.Int32 // syncs under way
	mu     sync.Mutex
	lent   bool
	usual  int
}

var spareProcessors spare

// begin is called before a sync, and end after it.
func (s *spare) begin() {
	if s.active.Add(1) >= 2 {
		s.settle()
	}
}

func (s *spare) end() {
	if s.active.Add(-1) == 0 {
		s.settle()
	}
}

// settle lends processors while two syncs or more are under way, and until none is.
func (s *spare) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch active := s.active.Load(); {
	case active >= 2 && !s.lent:
		s.lent, s.usual = true, runtime.GOMAXPROCS(0)
		runtime.GOMAXPROCS(2*s.usual + 4)
	case active == 0 && s.lent:
		s.lent = false
		if os.Getenv("GOMAXPROCS") == "" {
			runtime.SetDefaultGOMAXPROCS() // goes on following the limits of the process's group
		} else {
			runtime.GOMAXPROCS(s.usual)
		}
	}
}

// syncFile waits until what was written to a file, or a folder, is on the disk.
func syncFile(f *os.File) error {
	spareProcessors.begin()
	defer spareProcessors.end()
	return f.Sync()
}

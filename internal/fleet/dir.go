package fleet

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// socketLimit is the system's limit on a socket's path, less room for its name.
	socketLimit = 108 - 24
	// dirPattern names the temporary directories; lockName is the file in each that its owner keeps locked.
	dirPattern = "penstock-fleet-"
	lockName   = "lock"
	// dirYoung is the age from which a directory without a locked file counts as left behind; a younger one may be
	// between its making and its locking.
	dirYoung = time.Minute
)

// makeDir makes the private directory of the sockets. remove takes it away again.
func (c *Controller) makeDir() (dir string, remove func(), err error) {
	if c.config.InProcess != nil {
		return ".", func() {}, nil
	}
	if c.config.Dir != "" {
		if dir, err = filepath.Abs(c.config.Dir); err != nil {
			return "", nil, err
		}
		if len(dir) <= socketLimit {
			return dir, func() {}, os.MkdirAll(dir, 0o700)
		}
	}
	sweep(os.TempDir(), time.Now())
	if dir, err = os.MkdirTemp("", dirPattern); err != nil {
		return "", nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, err
	}
	return dir, func() {
		_ = os.RemoveAll(dir)
		_ = lock.Close()
	}, nil
}

// lockDir takes the lock that says that somebody lives here. The system lets go of it when the process dies, however
// it dies, and it holds between containers that share a disk, where process numbers mean nothing.
func lockDir(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return lock, nil
}

// sweep removes what servers left behind that were killed before they could. Nothing depends on it: faults are passed
// over, and directories of other users cannot be opened.
func sweep(parent string, now time.Time) {
	left, err := filepath.Glob(filepath.Join(parent, dirPattern+"*"))
	if err != nil {
		return
	}
	for _, dir := range left {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || now.Sub(info.ModTime()) < dirYoung {
			continue
		}
		if lock, err := lockDir(dir); err == nil {
			_ = os.RemoveAll(dir)
			_ = lock.Close()
		}
	}
}

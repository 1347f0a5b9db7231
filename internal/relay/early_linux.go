package relay

import (
	"os"

	"golang.org/x/sys/unix"
)

// earlyBytes is after how many written bytes the disk is asked to begin with them.
const earlyBytes = 8 << 20

// Early asks the disk to begin with what was written, so that the sync at the end finds little left. It promises nothing.
type Early struct {
	File  *os.File
	From  int64 // where writing began, or goes on
	begun int64
}

// Wrote tells that the file is written up to that place.
func (e *Early) Wrote(upTo int64) {
	from := max(e.From, e.begun)
	if upTo-from < earlyBytes {
		return
	}
	e.begun = upTo
	_ = unix.SyncFileRange(int(e.File.Fd()), from, upTo-from, unix.SYNC_FILE_RANGE_WRITE) // what it does not do, the sync does
}

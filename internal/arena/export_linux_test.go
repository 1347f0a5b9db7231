package arena

import "syscall"

// Offset is where a block begins, for the model.
func (a *Arena) Offset(b []byte) int64 {
	at, _ := a.offset(b)
	return at
}

// Resident is what the system says that the memory takes.
func (a *Arena) Resident() (int64, error) {
	stat, err := a.file.Stat()
	if err != nil {
		return 0, err
	}
	return stat.Sys().(*syscall.Stat_t).Blocks * 512, nil
}

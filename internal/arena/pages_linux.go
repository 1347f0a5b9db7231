package arena

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// seals keep the memory as large as it is for all times: who maps it can read all of it without a fault.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// pages gives memory back to the system.
type pages struct{ fd int }

// create makes the memory. It has no name, so that nothing is left of it when the last process that has it is gone.
func (a *Arena) create(size int64) error {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("penstock", flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("penstock", flags)
	}
	if err != nil {
		return fmt.Errorf("make memory: %w", err)
	}
	if err = a.arrange(fd, size); err != nil {
		_ = unix.Close(fd)
	}
	return err
}

func (a *Arena) arrange(fd int, size int64) error {
	if err := unix.Ftruncate(fd, size); err != nil {
		return fmt.Errorf("size memory: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal memory: %w", err)
	}
	// Opened anew and read-only: a mapping made of it can never become writable, whatever its process does later.
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open memory read-only: %w", err)
	}
	memory, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return errors.Join(fmt.Errorf("map memory: %w", err), file.Close())
	}
	a.memory, a.file, a.pages = memory, file, pages{fd: fd}
	return nil
}

// drop makes a part of the memory zeros that take no room.
func (p pages) drop(from, size int64) error {
	return unix.Fallocate(p.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, size)
}

// destroy closes what Close has to; unmap says that nobody has memory of it.
func (a *Arena) destroy(all bool) error {
	err := errors.Join(unix.Close(a.pages.fd), a.file.Close())
	if all {
		unmap(a.memory)
	}
	return err
}

// mapped maps a lender's memory. What is not sealed against shrinking could be taken away under a reader.
func mapped(file *os.File, size int64) ([]byte, error) {
	var stat unix.Stat_t
	fd := int(file.Fd())
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("arena: look at borrowed memory: %w", err)
	}
	sealed, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	switch {
	case err != nil:
		return nil, fmt.Errorf("arena: borrowed memory has no seals: %w", err)
	case sealed&unix.F_SEAL_SHRINK == 0 || stat.Size != size || size <= 0:
		return nil, fmt.Errorf("arena: borrowed memory of %d bytes, want %d sealed ones", stat.Size, size)
	}
	memory, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("arena: map borrowed memory: %w", err)
	}
	return memory, nil
}

func unmap(memory []byte) { _ = unix.Munmap(memory) } // fails only on what is no mapping

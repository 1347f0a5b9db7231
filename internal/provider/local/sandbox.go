package local

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/provider"
)

// confine takes from the calling thread, which must be locked and is of no other use afterwards, what a sandboxed workload
// shall not have; what the thread starts inherits that. Each part stands by itself: one that the system forbids is left
// out, and told in missing.
func confine(box *provider.Sandbox) (in provider.Confinement, missing error) {
	var network []string
	spaceErr := unix.Unshare(unix.CLONE_NEWNET) // a network of its own, with nothing in it; for the privileged alone
	if spaceErr == nil {
		network = append(network, "namespace")
	}
	if err := dropPrivileges(); err != nil {
		return in, fmt.Errorf("privileges: %w", err)
	}
	version, err := refuseFiles(box)
	if err == nil {
		in.Files = "landlock"
	} else {
		missing = errors.Join(missing, fmt.Errorf("files: %w", err))
	}
	err = refuseCalls()
	switch {
	case err == nil:
		network = append(network, "seccomp")
	case spaceErr != nil && version >= 4:
		network = append(network, "landlock") // it knows TCP alone
		fallthrough
	default:
		missing = errors.Join(missing, fmt.Errorf("system calls: %w", err))
	}
	in.Network = strings.Join(network, ", ")
	return in, missing
}

// keptCapabilities lets a worker of root's read files of other users, as the server can; Landlock says which.
const keptCapabilities = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH

// dropPrivileges makes sure that nothing that this thread starts gains rights, and takes root's from it.
func dropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		if keptCapabilities&(1<<c) != 0 {
			continue
		}
		// EPERM: there is nothing to drop for who may not drop; EINVAL: the kernel does not know it.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have, keep [2]unix.CapUserData
	if err := unix.Capget(&head, &have[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	keep[0].Permitted = have[0].Permitted & keptCapabilities
	keep[0].Effective = have[0].Effective & keptCapabilities
	_, _, errno := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&keep[0])), 0)
	if errno != 0 {
		return fmt.Errorf("set the capabilities: %w", errno)
	}
	return nil
}

// Abilities tries on a thread that is thrown away how a workload with these limits and a sandbox would be held here, and
// why not better.
func (p *Provider) Abilities(l provider.Limits) (in provider.Confinement, missing error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		in, missing = confine(&provider.Sandbox{})
	}()
	<-done
	limited, err := p.holds(l)
	in.Memory, in.CPU = limited.Memory, limited.CPU
	return in, errors.Join(missing, err)
}

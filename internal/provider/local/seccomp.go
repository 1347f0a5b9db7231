package local

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// denied are the system calls that a sandboxed workload has no use for: those that reach other processes and their memory,
// the kernel's own parts, other namespaces, or, past the filter, the network (io_uring, and clone3, whose flags a filter
// cannot see; libraries then use clone). Connecting is among them: a worker only accepts.
var denied = []uintptr{
	unix.SYS_CONNECT, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD,
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_FSOPEN, unix.SYS_FSMOUNT,
	unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_MOUNT_SETATTR, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF,
	unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME,
}

// newSpaces are clone's flags that make namespaces.
const newSpaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// Offsets in the kernel's struct seccomp_data, little-endian.
const (
	dataNumber   = 0
	dataArch     = 4
	dataArgument = 16 // the first one's low half
)

// filter is the program that the kernel runs before each system call.
func filter() ([]unix.SockFilter, error) {
	var arch uint32
	switch runtime.GOARCH {
	case "amd64":
		arch = unix.AUDIT_ARCH_X86_64
	case "arm64":
		arch = unix.AUDIT_ARCH_AARCH64
	default:
		return nil, fmt.Errorf("no filter is known for %s", runtime.GOARCH)
	}
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		least  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		anyBit = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K
		other  = 0x40000000 // the first number of amd64's second set of calls
	)
	refuse := func(errno unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(errno)}
	}
	allow := unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW}
	program := []unix.SockFilter{
		{Code: load, K: dataArch}, {Code: equal, K: arch, Jt: 1}, refuse(unix.EPERM),
		{Code: load, K: dataNumber}, {Code: least, K: other, Jf: 1}, refuse(unix.ENOSYS),
	}
	for _, number := range denied {
		program = append(program, unix.SockFilter{Code: equal, K: uint32(number), Jf: 1}, refuse(unix.EACCES))
	}
	program = append(program, unix.SockFilter{Code: equal, K: unix.SYS_CLONE3, Jf: 1}, refuse(unix.ENOSYS))
	for _, number := range []uint32{unix.SYS_SOCKET, unix.SYS_SOCKETPAIR} { // none but of the one family that stays on this machine
		program = append(program, unix.SockFilter{Code: equal, K: number, Jf: 4}, unix.SockFilter{Code: load, K: dataArgument},
			unix.SockFilter{Code: equal, K: unix.AF_UNIX, Jt: 1}, refuse(unix.EACCES), allow)
	}
	program = append(program, unix.SockFilter{Code: equal, K: unix.SYS_CLONE, Jf: 3}, unix.SockFilter{Code: load, K: dataArgument},
		unix.SockFilter{Code: anyBit, K: newSpaces, Jf: 1}, refuse(unix.EACCES), allow)
	return program, nil
}

// refuseCalls puts the filter before every later system call of this thread and of what it starts. It needs
// no_new_privs.
func refuseCalls() error {
	program, err := filter()
	if err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

package local_test

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/provider"
	"github.com/penstock/penstock/internal/provider/local"
	"github.com/penstock/penstock/internal/provider/providertest"
)

// proberVariable makes this binary try everything that a sandbox forbids, and what it allows, and say how it went.
const proberVariable = "LOCAL_TEST_PROBER"

// prober tries each act; its environment says where things are.
func prober() {
	address, secret, allowed, sockets, parent := os.Getenv("ADDRESS"), os.Getenv("SECRET"), os.Getenv("ALLOWED"), os.Getenv("SOCKETS"), os.Getenv("PARENT")
	pid, _ := strconv.Atoi(parent)
	try := func(name string, err error) {
		if err == nil {
			fmt.Fprintln(os.Stdout, name+": done")
			return
		}
		fmt.Fprintln(os.Stdout, name+": "+err.Error())
	}
	open := func(path string, flags int) error {
		f, err := os.OpenFile(path, flags, 0o600)
		if err == nil {
			_ = f.Close()
		}
		return err
	}
	call := func(number uintptr, a, b, c uintptr) error {
		if _, _, errno := unix.RawSyscall(number, a, b, c); errno != 0 {
			return errno
		}
		return nil
	}
	_, err := net.Dial("tcp", address)
	try("dial tcp", err)
	_, err = net.Listen("tcp", "127.0.0.1:0")
	try("listen tcp", err)
	_, err = net.Dial("udp", address)
	try("dial udp", err)
	_, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)
	try("netlink socket", err)
	_, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	try("packet socket", err)
	try("read the secret", open(secret, os.O_RDONLY))
	try("write the secret", open(secret, os.O_WRONLY))
	try("read the secret by way of proc", open("/proc/"+parent+"/root"+secret, os.O_RDONLY))
	try("read the parent's environment", open("/proc/"+parent+"/environ", os.O_RDONLY))
	try("read the parent's memory", open("/proc/"+parent+"/mem", os.O_RDONLY))
	try("read the users", open("/etc/passwd", os.O_RDONLY))
	try("write beside what it may read", open(allowed+".new", os.O_CREATE|os.O_WRONLY))
	try("write what it may read", open(allowed, os.O_WRONLY))
	try("write a temporary file", open(filepath.Join(os.TempDir(), "penstock-prober"), os.O_CREATE|os.O_WRONLY))
	try("signal the parent", unix.Kill(pid, 0))
	if os.Getenv("BOXED") != "" { // these would leave something behind where they are not refused
		try("trace the parent", unix.PtraceAttach(pid))
		try("make a namespace", unix.Unshare(unix.CLONE_NEWUSER))
		try("make a namespace by clone", call(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0))
		try("set up io_uring", call(unix.SYS_IO_URING_SETUP, 1, 0, 0))
		try("mount", unix.Mount("none", "/mnt", "tmpfs", 0, ""))
	}
	_, err = net.Dial("unix", os.Getenv("FOREIGN"))
	try("dial a unix socket", err)
	try("read what it may read", open(allowed, os.O_RDONLY))
	listener, err := net.Listen("unix", filepath.Join(sockets, "s"))
	try("listen on a unix socket", err)
	if err == nil {
		_ = listener.Close()
	}
	try("use the null device", open(os.DevNull, os.O_RDWR))
	try("read its own statm", open("/proc/self/statm", os.O_RDONLY))
	done := make(chan struct{})
	go func() { // a thread of its own
		runtime.LockOSThread()
		close(done)
	}()
	<-done
	try("start a thread", nil)
}

// TestSandbox starts a process that tries to reach everything: the network, secrets, the parent.
func TestSandbox(t *testing.T) {
	p := local.New(slog.New(slog.DiscardHandler))
	defer p.Close()
	can, missing := p.Abilities(provider.Limits{})
	t.Logf("here: network %q, files %q; missing: %v", can.Network, can.Files, missing)
	dir := t.TempDir()
	secret, allowed, sockets := filepath.Join(dir, "secret"), filepath.Join(dir, "models", "m"), filepath.Join(dir, "sockets")
	for _, d := range []string{filepath.Dir(allowed), sockets} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{secret, allowed} {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	foreign, err := net.Listen("unix", filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	ask := func(box *provider.Sandbox) (map[string]bool, provider.Confinement) {
		log := new(providertest.Log)
		boxed := ""
		if box != nil {
			boxed = "yes"
		}
		i, err := p.Start(t.Context(), provider.Workload{Name: "prober", Path: os.Args[0], Log: log, Sandbox: box, Env: []string{proberVariable + "=1", "BOXED=" + boxed,
			"ADDRESS=" + server.Addr().String(), "SECRET=" + secret, "ALLOWED=" + allowed, "SOCKETS=" + sockets,
			"FOREIGN=" + foreign.Addr().String(), "PARENT=" + strconv.Itoa(os.Getpid())}})
		if err != nil {
			t.Fatal(err)
		}
		<-i.Done()
		t.Logf("%s:\n%s", i.Exit(), log)
		could := map[string]bool{}
		for line := range strings.Lines(log.String()) {
			act, how, _ := strings.Cut(strings.TrimSpace(line), ": ")
			could[act] = how == "done"
		}
		_ = os.Remove(filepath.Join(sockets, "s"))
		_ = os.Remove(filepath.Join(os.TempDir(), "penstock-prober"))
		_ = os.Remove(allowed + ".new")
		return could, i.(provider.Confined).Confinement()
	}
	free, _ := ask(nil)
	for _, act := range []string{"dial tcp", "listen tcp", "read the secret", "dial a unix socket", "signal the parent", "read the parent's environment"} {
		if !free[act] {
			t.Errorf("without a sandbox it cannot %s: this test shows nothing", act)
		}
	}
	boxed, confinement := ask(&provider.Sandbox{Read: []string{os.Args[0], filepath.Dir(allowed), filepath.Join(dir, "not there")}, Sockets: []string{sockets}})
	must := func(act string, want bool) {
		if got, told := boxed[act]; got != want || !told {
			t.Errorf("in the sandbox %q is %v, want %v", act, got, want)
		}
	}
	for _, act := range []string{"read what it may read", "listen on a unix socket", "use the null device", "read its own statm", "start a thread"} {
		must(act, true)
	}
	if confinement.Network != "" {
		must("dial tcp", false)
	}
	if strings.Contains(confinement.Network, "seccomp") {
		for _, act := range []string{"listen tcp", "dial udp", "netlink socket", "packet socket", "dial a unix socket", "trace the parent",
			"make a namespace", "make a namespace by clone", "set up io_uring", "mount"} {
			must(act, false)
		}
	}
	if confinement.Files != "" {
		for _, act := range []string{"read the secret", "write the secret", "read the secret by way of proc", "read the parent's environment",
			"read the parent's memory", "read the users", "write beside what it may read", "write what it may read", "write a temporary file", "signal the parent"} {
			must(act, false)
		}
	}
	if confinement != can {
		t.Errorf("held by %+v, told before %+v", confinement, can)
	}
	if again, _ := ask(nil); !again["dial tcp"] || !again["read the secret"] {
		t.Error("a later child without a sandbox is in one")
	}
	if f, err := os.Open(secret); err != nil {
		t.Errorf("this process is in the sandbox: %v", err)
	} else {
		_ = f.Close()
	}
}

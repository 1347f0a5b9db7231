package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// readyWithin bounds a child's start.
const readyWithin = time.Minute

// child is a server process that this program started.
type child struct {
	addresses
	pid    int
	ready  time.Duration // from exec to the line with its addresses
	cmd    *exec.Cmd
	exited chan struct{}
	log    bytes.Buffer // read only after exited
}

// start runs this program again in another role and waits for its line.
func start(role string, config any) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return startOf(self, role, config)
}

// startOf is start with another build of this program.
func startOf(program, role string, config any) (*child, error) {
	arg, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	c := &child{exited: make(chan struct{})}
	c.cmd = exec.Command(program, role, string(arg))
	c.cmd.Stderr = &c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	started := make(chan error)
	go func() { // Pdeathsig belongs to the thread that started the child: it must live as long as the child
		runtime.LockOSThread()
		started <- c.cmd.Start()
		<-c.exited
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	c.pid = c.cmd.Process.Pid
	late := time.AfterFunc(readyWithin, func() { _ = c.cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadBytes('\n')
	late.Stop()
	c.ready = time.Since(began)
	go func() {
		_, _ = io.Copy(io.Discard, out)
		_ = c.cmd.Wait() // how it ended does not matter any more
		close(c.exited)
	}()
	if err == nil {
		err = json.Unmarshal(line, &c.addresses)
	}
	if err != nil {
		c.kill()
		return nil, fmt.Errorf("start %s: %w\n%s", role, err, c.log.String())
	}
	return c, nil
}

// kill ends the child and waits until it is gone; its own children end with it.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // gone already is what was wanted
	<-c.exited
}

// stop asks the child to end, so that its data directory is left in order.
func (c *child) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	patience := time.AfterFunc(30*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer patience.Stop()
	<-c.exited
}

// resident is the memory of some processes.
type resident struct {
	What      string  `json:"what"`
	Processes int     `json:"processes"`
	RSS       float64 `json:"rss_mib"`        // of all, shared pages counted in each
	PSS       float64 `json:"pss_mib"`        // of all, shared pages counted once
	Server    float64 `json:"server_rss_mib"` // of the first process alone
}

// memoryOf sums a process and everything below it.
func memoryOf(pid int) (resident, error) {
	var sum resident
	for _, p := range tree(pid) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		if errors.Is(err, os.ErrNotExist) {
			continue // it ended just now
		}
		if err != nil {
			return sum, err
		}
		rss := kib(data, "Rss:") / 1024
		sum.Processes++
		sum.RSS += rss
		sum.PSS += kib(data, "Pss:") / 1024
		if p == pid {
			sum.Server = rss
		}
	}
	return sum, nil
}

func kib(data []byte, field string) float64 {
	for line := range bytes.Lines(data) {
		words := strings.Fields(string(line))
		if len(words) > 1 && words[0] == field {
			n, err := strconv.ParseFloat(words[1], 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

// tree is a process and those that it started, and so on.
func tree(pid int) []int {
	all := []int{pid}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return all
	}
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			continue // the thread ended
		}
		for _, word := range strings.Fields(string(data)) {
			if below, err := strconv.Atoi(word); err == nil {
				all = append(all, tree(below)...)
			}
		}
	}
	return all
}

// ticksPerSecond is the unit of processor time in /proc, the same on every Linux that Go runs on.
const ticksPerSecond = 100

// processorTime is what the processes have spent so far, in user and kernel mode.
func processorTime(pids []int) time.Duration {
	var ticks int64
	for _, pid := range pids {
		text := readText(fmt.Sprintf("/proc/%d/stat", pid))
		// The second field is the program's name in parentheses; the times are the 14th and 15th.
		words := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		for i := 11; i < 13 && i < len(words); i++ {
			n, err := strconv.ParseInt(words[i], 10, 64)
			if err == nil {
				ticks += n
			}
		}
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// foreign is a server of others: a process, those that it starts, and where it answers.
type foreign struct {
	name    string
	address string
	request []byte
	cmd     *exec.Cmd
	log     string // path
	exited  chan struct{}
}

// foreignStop is how long a server of others has to end by itself.
const foreignStop = 15 * time.Second

// startForeign runs a program in a process group of its own and waits for its first good answer.
func startForeign(ctx context.Context, dir string, f *foreign, env []string, program string, args ...string) error {
	f.log = filepath.Join(dir, f.name+".log")
	log, err := os.Create(f.log)
	if err != nil {
		return err
	}
	defer log.Close()
	f.cmd = exec.Command(program, args...)
	f.cmd.Dir, f.cmd.Stdout, f.cmd.Stderr = dir, log, log
	// A home of its own: no configuration of the person who runs this is read, nothing is left in it.
	f.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "PYTHONDONTWRITEBYTECODE=1"}, env...)
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	f.exited = make(chan struct{})
	started := make(chan error)
	go func() { // Pdeathsig belongs to the thread that started it
		runtime.LockOSThread()
		err := f.cmd.Start()
		started <- err
		if err == nil {
			_ = f.cmd.Wait() // how it ended does not matter
		}
		close(f.exited)
	}()
	if err := <-started; err != nil {
		return err
	}
	err = poll(ctx, readyWithin, func() bool {
		k, err := overHTTP(f.address, f.request)(ctx)
		if err != nil {
			return false
		}
		defer k.close()
		return k.ask(ctx) == nil
	})
	if err != nil {
		text := readText(f.log)
		f.stop()
		return fmt.Errorf("%s did not answer: %w\n%s", f.name, err, text[max(0, len(text)-3000):])
	}
	return nil
}

// stop ends the server and everything below it, some of which leave its process group: politely, and then not.
func (f *foreign) stop() {
	all := tree(f.cmd.Process.Pid)
	_ = syscall.Kill(-f.cmd.Process.Pid, syscall.SIGTERM) // gone already is what was wanted
	gone := func() bool { return !slices.ContainsFunc(all, alive) }
	if poll(context.Background(), foreignStop, gone) == nil {
		<-f.exited
		return
	}
	for _, pid := range all {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-f.exited
}

// alive reports a process that has not ended; one that only waits to be collected has.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(text), ") ")
	return state != "" && state[0] != 'Z'
}

// freePort asks the system for a port that nobody uses now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// pythonRequest is what the servers take that have a protocol of their own: one field for each input.
func pythonRequest(input []byte) []byte {
	return post("/predict", "Content-Type: application/json\r\n", fmt.Appendf(nil, `{"image":[%s]}`, floats(input)))
}

// pythonServers are the ways to run one: their settings are those that their own guides recommend for work bound by
// the processor, with as many workers as cores.
func (b *bed) pythonServers(ctx context.Context, m *model, path string) ([]*foreign, error) {
	sources, err := filepath.Abs(b.options.python)
	if err != nil {
		return nil, err
	}
	cores := runtime.NumCPU()
	var all []*foreign
	start := func(f *foreign, port int, env []string, program string, args ...string) error {
		f.address = fmt.Sprintf("127.0.0.1:%d", port)
		if err := startForeign(ctx, b.dir, f, env, program, args...); err != nil {
			return err
		}
		b.ends = append(b.ends, f.stop)
		all = append(all, f)
		return nil
	}
	if env := b.options.envs["mlserver"]; env != "" {
		for _, workers := range []int{cores, 0} {
			f := &foreign{name: "mlserver", request: m.postJSON()}
			if workers == 0 {
				f.name = "mlserver-inline"
			}
			port, folder, err := b.mlserverFolder(f.name, path, workers)
			if err != nil {
				return nil, err
			}
			if err := start(f, port, []string{"PYTHONPATH=" + sources}, filepath.Join(env, "bin", "mlserver"), "start", folder); err != nil {
				return nil, err
			}
		}
	}
	if env := b.options.envs["bentoml"]; env != "" {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		f := &foreign{name: "bentoml", request: pythonRequest(m.input.Data)}
		if err := start(f, port, []string{"PYTHONPATH=" + sources, "MODEL=" + path, "BENTOML_DO_NOT_TRACK=True"}, filepath.Join(env, "bin", "bentoml"),
			"serve", "bentoml_digits:Digits", "--host", "127.0.0.1", "--port", fmt.Sprint(port)); err != nil {
			return nil, err
		}
	}
	if env := b.options.envs["litserve"]; env != "" {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		f := &foreign{name: "litserve", request: pythonRequest(m.input.Data)}
		if err := start(f, port, nil, filepath.Join(env, "bin", "python"), filepath.Join(sources, "litserve_digits.py"),
			path, fmt.Sprint(port), fmt.Sprint(cores)); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no Python environment was given: use test/load/peers.sh")
	}
	return all, nil
}

// mlserverFolder writes the settings of MLServer and of its model.
func (b *bed) mlserverFolder(name, path string, workers int) (port int, folder string, err error) {
	folder = filepath.Join(b.dir, name)
	settings := map[string]any{"debug": false, "host": "127.0.0.1", "parallel_workers": workers}
	for _, key := range []string{"http_port", "grpc_port", "metrics_port"} {
		p, err := freePort()
		if err != nil {
			return 0, "", err
		}
		settings[key] = p
	}
	model := map[string]any{"name": "tiny", "implementation": "mlserver_digits.Digits", "parameters": map[string]string{"uri": path}}
	if err := os.MkdirAll(filepath.Join(folder, "tiny"), 0o700); err != nil {
		return 0, "", err
	}
	for file, value := range map[string]any{"settings.json": settings, "tiny/model-settings.json": model} {
		data, err := json.Marshal(value)
		if err != nil {
			return 0, "", err
		}
		if err := os.WriteFile(filepath.Join(folder, file), data, 0o600); err != nil {
			return 0, "", err
		}
	}
	return settings["http_port"].(int), folder, nil
}

// pythonStage measures the demo model beside servers in Python that run it with the same runtime.
func pythonStage(ctx context.Context, b *bed) error {
	file, err := os.ReadFile(filepath.Join(b.options.demo, "digits-v1.onnx"))
	if err != nil {
		return err
	}
	m := &model{name: "tiny", file: file, input: digitsInput()}
	path, err := pathOf(b.dir, m.name, file)
	if err != nil {
		return err
	}
	if err := b.serve(ctx); err != nil {
		return err
	}
	v, err := push(ctx, b.client, m.name, file)
	if err != nil {
		return err
	}
	if err := b.deploy(ctx, m.name, v, noSettings); err != nil {
		return err
	}
	others, err := b.pythonServers(ctx, m, path)
	if err != nil {
		return err
	}
	var cells []*cell
	for _, n := range clients {
		var peers []string
		for _, f := range others {
			cells = append(cells, line(f.name, n, f.cmd.Process.Pid, overHTTP(f.address, f.request)))
			peers = append(peers, fmt.Sprintf("%s/%d", f.name, n))
		}
		cells = append(cells, line("penstock-json", n, b.server.pid, overHTTP(b.server.HTTP, m.postJSON()), peers...),
			line("penstock-binary", n, b.server.pid, overHTTP(b.server.HTTP, m.postBinary()), peers...))
	}
	b.report.note("every server runs demo/digits-v1.onnx with ONNX Runtime and one thread per worker, %d workers; mlserver-inline runs it in its own process (parallel_workers 0)", runtime.NumCPU())
	if err := b.measure(ctx, cells); err != nil {
		return err
	}
	for _, f := range others {
		m, err := memoryOf(f.cmd.Process.Pid)
		if err != nil {
			return err
		}
		m.What = f.name
		b.report.Memory = append(b.report.Memory, m)
	}
	if err := b.weigh("penstock"); err != nil {
		return err
	}
	b.report.Memory = append(b.report.Memory, b.memory...)
	b.pythonFloors(others)
	return nil
}

// pythonFloors hold the JSON row, whose request MLServer takes too.
func (b *bed) pythonFloors(others []*foreign) {
	for _, f := range others {
		add := func(check floor) {
			if f.name == "mlserver-inline" {
				check.Remark = "not the recommended settings: faster for so small a model"
			}
			b.report.Floors = append(b.report.Floors, check)
		}
		if a, ok := b.report.versus("penstock-json/16", f.name+"/16"); ok {
			add(atLeast("throughput, 16 clients, against "+f.name, 10, a.Throughput, "x"))
			add(atMost("p50, 16 clients, against "+f.name, 0.2, a.P50, "x"))
		}
		if a, ok := b.report.versus("penstock-json/1", f.name+"/1"); ok {
			add(atMost("p50, 1 client, against "+f.name, 0.2, a.P50, "x"))
		}
	}
}

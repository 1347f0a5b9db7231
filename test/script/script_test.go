// Package script_test runs the binary as people and scripts run it: the README's page, and the stories in the *.txtar
// files beside this one, which are also the tutorial.
package script_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func absolute(t testing.TB, path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "penstock-script-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "penstock")
	out, err := exec.Command("go", "build", "-o", path, "../../cmd/penstock").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build penstock: %w\n%s", err, out)
	}
	return path, nil
})

// binary is the program under test, built from this tree.
func binary(t testing.TB) string {
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := build(); err == nil {
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}

// running is a server of a script.
type running struct {
	HTTP, GRPC, Metrics, OCI string

	cmd *exec.Cmd
	log bytes.Buffer
}

// startServer starts the binary on free ports and waits until it is ready.
func startServer(t testing.TB, path, data string, args []string) *running {
	s, err := launch(path, data, args)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func launch(path, data string, args []string) (*running, error) {
	s := &running{}
	all := append([]string{"serve", "--dev", "--data", data, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--oci", "127.0.0.1:0",
		"--cache", filepath.Join(os.TempDir(), fmt.Sprintf("penstock-test-%d", os.Getuid())), "--log-level", "warn", "--print-addresses"}, args...)
	s.cmd = exec.Command(path, all...)
	s.cmd.Stderr = &s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, s)
	}
	if err != nil {
		ended := s.cmd.Wait()
		return nil, fmt.Errorf("the server did not start: %w\n%s", ended, s.log.Bytes())
	}
	return s, nil
}

func (s *running) stop(t testing.TB) {
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

func (s *running) end() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // gone already is found by Wait
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("the server ended badly: %w\n%s", err, s.log.Bytes())
	}
	return nil
}

// TestStories runs the *.txtar files. Beside testscript's own commands they have:
//
//	server start [ARGS]   start a server on $WORK/data; sets $PENSTOCK_SERVER, $METRICS, $GRPC and $OCI
//	server stop           stop it
//	server kill           end it at once, as kill -9 does
func TestStories(t *testing.T) {
	path := binary(t)
	demo := absolute(t, "../../demo")
	var mu sync.Mutex // guards servers
	servers := map[string]*running{}
	testscript.Run(t, testscript.Params{
		Dir:                 ".",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("PENSTOCK_REWRITE") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", filepath.Dir(path)+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("DEMO", demo)
			env.Setenv("HOME", env.WorkDir)
			env.Defer(func() {
				mu.Lock()
				defer mu.Unlock()
				if s := servers[env.WorkDir]; s != nil {
					delete(servers, env.WorkDir)
					if err := s.end(); err != nil {
						t.Error(err)
					}
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"server": func(ts *testscript.TestScript, neg bool, args []string) {
				mu.Lock()
				defer mu.Unlock()
				key := ts.Getenv("WORK")
				if neg || len(args) == 0 {
					ts.Fatalf("usage: server start|stop|kill")
				}
				switch args[0] {
				case "start":
					s, err := launch(path, ts.MkAbs("data"), args[1:])
					ts.Check(err)
					servers[key] = s
					ts.Setenv("PENSTOCK_SERVER", "http://"+s.HTTP)
					ts.Setenv("METRICS", s.Metrics)
					ts.Setenv("GRPC", s.GRPC)
					ts.Setenv("OCI", s.OCI)
				case "stop":
					ts.Check(servers[key].end())
					delete(servers, key)
				case "kill":
					ts.Check(servers[key].cmd.Process.Kill())
					_ = servers[key].cmd.Wait() // killed is what it should be
					delete(servers, key)
				}
			},
		},
	})
}

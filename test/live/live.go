// Package live runs a whole Penstock server as a process of its own for tests that load it, kill it and start it again.
// The program is the test binary itself: call Main from TestMain. It is for tests only.
package live

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/crash"
	"github.com/penstock/penstock/internal/server"
)

// Main runs the tests, or the server or worker that this process was started as.
func Main(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if file := os.Getenv("PENSTOCK_CRASH_FILE"); file != "" {
		dieAt(file)
	}
	var err error
	switch {
	case len(os.Args) == 4 && os.Args[1] == "worker":
		cfg := server.WorkerConfig{Socket: os.Args[3]}
		if filepath.Base(os.Args[0]) == Faulty {
			cfg.Listen = listenFaulty
		}
		err = server.RunWorker(ctx, cfg, os.Stderr)
	case len(os.Args) == 3 && os.Args[1] == "serve":
		var cfg server.Config
		if err = json.Unmarshal([]byte(os.Args[2]), &cfg); err == nil {
			err = server.Run(ctx, cfg, os.Stdout, os.Stderr)
		}
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// dieAt ends this process, as kill -9 does, at the first point whose name is in a file. The test writes the file when it wants
// a death, and takes it away before it starts the next process.
func dieAt(file string) {
	crash.At(func(name string) {
		if wanted, err := os.ReadFile(file); err == nil && string(wanted) == name {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
}

// Server is a running server process.
type Server struct {
	*client.Client
	HTTP, GRPC, Metrics string
	OCI                 string
	Dir                 string
	PID                 int

	cmd    *exec.Cmd
	exited chan struct{}
	mu     sync.Mutex // guards log
	log    bytes.Buffer
}

// Start runs a server with worker processes on a data directory, and waits until it is ready. It is killed when the test
// ends, if it still runs.
func Start(t testing.TB, dir string, mods ...func(*server.Config)) *Server {
	t.Helper()
	cfg := server.Config{Data: dir, Cache: filepath.Join(os.TempDir(), fmt.Sprintf("penstock-test-%d", os.Getuid())),
		HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0", Metrics: "127.0.0.1:0", OCI: "127.0.0.1:0", Dev: true, PrintAddresses: true, LogLevel: "info", Grace: 10 * time.Second}
	for _, m := range mods {
		m(&cfg)
	}
	arg, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Dir: dir, exited: make(chan struct{})}
	s.cmd = exec.Command(os.Args[0], "serve", string(arg))
	s.cmd.Stderr = s
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go func() { // Pdeathsig belongs to the thread that started the child: it must live as long as the child
		runtime.LockOSThread()
		started <- s.cmd.Start()
		<-s.exited
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	s.PID = s.cmd.Process.Pid
	line, err := bufio.NewReader(out).ReadBytes('\n')
	go func() {
		_, _ = io.Copy(io.Discard, out)
		_ = s.cmd.Wait() // how it ended is in the state
		close(s.exited)
	}()
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.Log())
		}
	})
	var a struct{ HTTP, GRPC, Metrics, OCI string }
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err != nil {
		t.Fatalf("the server did not start: %v\n%s", err, s.Log())
	}
	s.HTTP, s.GRPC, s.Metrics, s.OCI = a.HTTP, a.GRPC, a.Metrics, a.OCI
	if s.Client, err = client.New(client.Config{Server: a.HTTP, Tenant: api.DefaultTenant}); err != nil {
		t.Fatal(err)
	}
	return s
}

// Write takes the server's log.
func (s *Server) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	const limit = 1 << 20
	if s.log.Len() > limit {
		s.log.Next(limit / 2)
	}
	return s.log.Write(b)
}

// Log is the end of what the server logged.
func (s *Server) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	const tail = 8 << 10
	text := s.log.String()
	return text[max(0, len(text)-tail):]
}

// Kill ends the server at once, as kill -9 does, and waits until it is gone.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // gone already is what was wanted
	<-s.exited
}

// Signal is kill(2) for one process. The number 0, which a worker that is being started has, would there mean every
// process of the group that runs the tests, so it is refused as a process that is gone.
func Signal(pid int, s syscall.Signal) error {
	if pid <= 0 {
		return syscall.ESRCH
	}
	return syscall.Kill(pid, s)
}

// Stop asks the server to end and reports whether it ended well.
func (s *Server) Stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	<-s.exited
	if !s.cmd.ProcessState.Success() {
		return fmt.Errorf("the server ended with %s", s.cmd.ProcessState)
	}
	return nil
}

// Exited is closed when the process is gone.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// Model gives the bytes of a demo model with a note in it, so that equal models can be told apart by digest.
func Model(t testing.TB, name, note string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "demo", name))
	if err != nil {
		t.Fatal(err)
	}
	if note == "" {
		return data
	}
	const metadataProps = 14 // ModelProto.metadata_props: a key and a value
	var entry []byte
	entry = protowire.AppendTag(entry, 1, protowire.BytesType)
	entry = protowire.AppendString(entry, "note")
	entry = protowire.AppendTag(entry, 2, protowire.BytesType)
	entry = protowire.AppendString(entry, note)
	data = protowire.AppendTag(data, metadataProps, protowire.BytesType)
	return protowire.AppendBytes(data, entry)
}

// Push uploads and commits a model as the CLI does.
func (s *Server) Push(ctx context.Context, model string, data []byte) (api.Version, error) {
	sum := sha256.Sum256(data)
	digest := api.Digest("sha256:" + hex.EncodeToString(sum[:]))
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	if _, err := s.PutBlob(ctx, client.Blob{Digest: digest, Size: int64(len(data)), Open: open}); err != nil {
		return api.Version{}, err
	}
	return s.Commit(ctx, api.ModelName(model), api.Upload{Files: []api.UploadFile{{Path: "model.onnx", Digest: digest, Size: int64(len(data))}}})
}

// Release deploys a reference and waits until it is in effect.
func (s *Server) Release(ctx context.Context, endpoint, ref string) (api.Release, error) {
	spec := api.EndpointSpec{Variants: []api.VariantSpec{{Model: ref}}}
	rel, err := s.Deploy(ctx, api.EndpointName(endpoint), api.DeployRequest{EndpointSpec: spec}, 0, time.Minute)
	if err == nil && rel.State != api.ReleaseSucceeded {
		err = fmt.Errorf("release %d is %s: %s", rel.Number, rel.State, rel.Reason)
	}
	return rel, err
}

// Ask sends one JSON inference and gives the version that answered and the first number of its first output.
func Ask(ctx context.Context, h *http.Client, address, endpoint string, body []byte) (version string, label float64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/v2/models/"+endpoint+"/infer", bytes.NewReader(body))
	if err != nil {
		return "", 0, err
	}
	resp, err := h.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return "", 0, fmt.Errorf("status %d: %s", resp.StatusCode, data)
	}
	var answer client.InferResponse
	if err := json.Unmarshal(data, &answer); err != nil {
		return "", 0, err
	}
	var values []float64
	if err := json.Unmarshal(answer.Outputs[0].Data, &values); err != nil {
		return "", 0, err
	}
	return answer.ModelVersion, values[0], nil
}

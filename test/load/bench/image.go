package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/ort/orttest"
)

// imageBytes is one picture of 3 x 224 x 224 floats.
const imageBytes = 3 * 224 * 224 * 4

var imageShape = []any{1, 3, 224, 224}

// imageModels move bytes and compute next to nothing: one reads the picture and answers with an average per channel, the
// other answers with the picture itself.
func imageModels() []*model {
	values := make([]float32, imageBytes/4)
	for i := range values {
		values[i] = float32(i%251) / 251
	}
	input := ort.Tensor{Name: "x", Type: ort.Float32, Shape: []int64{1, 3, 224, 224}, Data: orttest.Floats(values...)}
	build := func(op string, out []any) []byte {
		return orttest.Model{Graph: orttest.Graph{Nodes: []orttest.Node{{Op: op, Inputs: []string{"x"}, Outputs: []string{"y"}}},
			Inputs:  []orttest.Value{{Name: "x", Type: orttest.Float, Shape: imageShape}},
			Outputs: []orttest.Value{{Name: "y", Type: orttest.Float, Shape: out}}}}.Encode()
	}
	return []*model{
		{name: "average", file: build("GlobalAveragePool", []any{1, 3, 1, 1}), input: input},
		{name: "identity", file: build("Identity", imageShape), input: input},
	}
}

// imageStage measures how many bytes a second go through, and whether memory stays flat under it.
func imageStage(ctx context.Context, b *bed) (err error) {
	if b.peer, err = start("sink", nil); err != nil {
		return err
	}
	if err := b.serve(ctx); err != nil {
		return err
	}
	models := imageModels()
	input := models[0].input.Data
	for _, m := range models {
		if m.session, err = b.runtime.LoadBytes(ctx, m.file, ort.SessionOptions{}); err != nil {
			return err
		}
		b.ends = append(b.ends, m.session.Close)
		v, err := push(ctx, b.client, m.name, m.file)
		if err != nil {
			return err
		}
		if err := b.deploy(ctx, m.name, v, noSettings); err != nil {
			return err
		}
	}
	b.report.note("memcpy of pictures, one thread: %.1f GB/s; all cores: %.1f GB/s", memcpy(1), memcpy(runtime.NumCPU()))
	var cells []*cell
	for _, n := range clients {
		at := func(name string) string { return fmt.Sprintf("%s/%d", name, n) }
		raw := &rawSocket{address: b.peer.GRPC, picture: input}
		cells = append(cells, line("socket", n, b.peer.pid, raw.dial),
			line("nethttp", n, b.peer.pid, overHTTP(b.peer.HTTP, post("/sink", "", input)), at("socket")),
			line("nethttp-echo", n, b.peer.pid, overHTTP(b.peer.HTTP, post("/echo", "", input))))
		for _, m := range models {
			bare := "nethttp"
			if m.name == "identity" {
				bare = "nethttp-echo"
			}
			cells = append(cells, line("penstock-"+m.name, n, b.server.pid, overHTTP(b.server.HTTP, m.postBinary()), at(bare)))
		}
	}
	for _, m := range models {
		took, err := runtimeOf(m)
		if err != nil {
			return err
		}
		b.report.note("%s alone in the bare runtime: %.0f us", m.name, took)
	}
	return b.measureImages(ctx, cells)
}

// measureImages weighs the server after every pass: each brought thousands of pictures, and none may stay.
func (b *bed) measureImages(ctx context.Context, cells []*cell) error {
	b.afterPass = func(n int) error { return b.weigh(fmt.Sprintf("penstock, after pass %d", n)) }
	if err := b.measure(ctx, cells); err != nil {
		return err
	}
	b.report.Memory = b.memory
	for i := range b.report.Rows {
		e := &b.report.Rows[i]
		e.Note = fmt.Sprintf("%.2f GB/s in", e.Rate*imageBytes/1e9)
		if strings.Contains(e.Name, "identity") || strings.Contains(e.Name, "echo") {
			e.Note += fmt.Sprintf(" and as much out, %.2f in all", 2*e.Rate*imageBytes/1e9)
		}
	}
	b.imageFloors()
	return nil
}

func (b *bed) imageFloors() {
	for _, n := range clients {
		if e := b.report.row(fmt.Sprintf("penstock-average/%d", n)); e != nil {
			b.report.Floors = append(b.report.Floors, atLeast(fmt.Sprintf("picture in, small answer, clients: %d", n), 1.5, e.Rate*imageBytes/1e9, "GB/s"))
		}
	}
	// The buffers and the collector's heap reach their size within the first passes; from then on nothing may come on top.
	middle, last := b.memory[len(b.memory)/2], b.memory[len(b.memory)-1]
	b.report.Floors = append(b.report.Floors, atMost("memory after the last pass against the middle one (PSS of server and workers)", 1.1, last.PSS/middle.PSS, "x"))
}

// runtimeOf is the median time of a run in microseconds.
func runtimeOf(m *model) (float64, error) {
	var took []float64
	input := []ort.Tensor{m.input}
	for range 101 {
		began := time.Now()
		result, err := m.session.Run(input, nil, nil)
		if err != nil {
			return 0, err
		}
		took = append(took, float64(time.Since(began).Nanoseconds())/1e3)
		result.Release()
	}
	return median(took), nil
}

// memcpy is how many bytes a second that many threads copy together, in GB/s, between pictures that no cache of theirs
// holds all of.
func memcpy(threads int) float64 {
	const pictures, rounds = 64, 20
	var group sync.WaitGroup
	from, to := make([][]byte, threads), make([][]byte, threads)
	for i := range threads {
		from[i], to[i] = make([]byte, pictures*imageBytes), make([]byte, pictures*imageBytes)
		for page := 0; page < len(from[i]); page += 4096 { // pages that nobody wrote are all the same one
			from[i][page], to[i][page] = 1, 1
		}
	}
	began := time.Now()
	for i := range threads {
		group.Go(func() {
			for range rounds {
				copy(to[i], from[i])
			}
		})
	}
	group.Wait()
	return float64(threads) * pictures * rounds * imageBytes / 1e9 / time.Since(began).Seconds()
}

// rawSocket sends a picture over a bare connection and waits for one byte: what loopback gives at most.
type rawSocket struct {
	address string
	picture []byte
	conn    net.Conn
}

func (r *rawSocket) dial(ctx context.Context) (caller, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.address)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return &rawSocket{picture: r.picture, conn: conn}, nil
}

func (r *rawSocket) ask(context.Context) error {
	if _, err := r.conn.Write(r.picture); err != nil {
		return err
	}
	var answer [1]byte
	_, err := io.ReadFull(r.conn, answer[:])
	return err
}

func (r *rawSocket) close() { _ = r.conn.Close() } // nothing is left to be told

// runSink is the child beside which the image stage puts Penstock: net/http handlers that read a body and answer with a
// few bytes or with the body, and a bare socket that acknowledges pictures.
func runSink(ctx context.Context, out io.Writer) error {
	listenHTTP, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	listenRaw, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("POST /sink", &sink{})
	mux.Handle("POST /echo", &sink{echo: true})
	if err := json.NewEncoder(out).Encode(addresses{HTTP: listenHTTP.Addr().String(), GRPC: listenRaw.Addr().String()}); err != nil {
		return err
	}
	plain := &http.Server{Handler: mux}
	failed := make(chan error, 2)
	go func() { failed <- plain.Serve(listenHTTP) }()
	go func() {
		for {
			conn, err := listenRaw.Accept()
			if err != nil {
				failed <- err
				return
			}
			go acknowledge(conn)
		}
	}()
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	return errors.Join(err, listenRaw.Close(), plain.Close())
}

// acknowledge answers each picture with one byte until the caller goes away.
func acknowledge(conn net.Conn) {
	defer conn.Close()
	picture := make([]byte, imageBytes)
	for {
		if _, err := io.ReadFull(conn, picture); err != nil {
			return
		}
		if _, err := conn.Write(picture[:1]); err != nil {
			return
		}
	}
}

// sink reads a body into a buffer of its own and does nothing with it.
type sink struct {
	echo    bool
	buffers sync.Pool
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, ok := s.buffers.Get().(*[]byte)
	if !ok || int64(cap(*body)) < r.ContentLength {
		fresh := make([]byte, r.ContentLength)
		body = &fresh
	}
	defer s.buffers.Put(body)
	data := (*body)[:r.ContentLength]
	if _, err := io.ReadFull(r.Body, data); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !s.echo {
		data = data[:12]
	}
	w.Header()["Content-Type"] = []string{"application/octet-stream"}
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(data))}
	_, _ = w.Write(data) // a caller who went away needs no answer
}

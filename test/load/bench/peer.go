package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"

	"google.golang.org/grpc"

	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/wire/oip"
)

// peerConfig is what the bare servers' process is started with.
type peerConfig struct {
	Cache  string               // of the runtime's library
	Models map[string]peerModel // by the path below /
}

// peerModel is one model that a bare handler runs.
type peerModel struct {
	Path  string // of the file
	Input string
	Shape []int64
}

// addresses is the line that a child prints when it is ready.
type addresses struct {
	HTTP    string `json:"http"`
	GRPC    string `json:"grpc"`
	Metrics string `json:"metrics"`
}

// runPeer serves what one would write without Penstock: a net/http handler around the runtime, and a gRPC echo. Errors
// are as short as they can be, and there are no limits, keys, versions, metrics or logs.
func runPeer(ctx context.Context, cfg peerConfig, out io.Writer) error {
	runtime, err := ort.Open(cfg.Cache, ort.Options{IntraThreads: 1})
	if err != nil {
		return err
	}
	defer runtime.Close()
	mux := http.NewServeMux()
	for path, m := range cfg.Models {
		session, err := runtime.LoadFile(ctx, m.Path, ort.SessionOptions{})
		if err != nil {
			return err
		}
		defer session.Close()
		mux.Handle("POST /"+path, &bare{session: session, model: m})
	}
	listenHTTP, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	listenGRPC, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	echoes := grpc.NewServer()
	oip.RegisterGRPCInferenceServiceServer(echoes, &echo{})
	if err := json.NewEncoder(out).Encode(addresses{HTTP: listenHTTP.Addr().String(), GRPC: listenGRPC.Addr().String()}); err != nil {
		return err
	}
	failed := make(chan error, 2)
	plain := &http.Server{Handler: mux}
	go func() { failed <- plain.Serve(listenHTTP) }()
	go func() { failed <- echoes.Serve(listenGRPC) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	echoes.Stop()
	return errors.Join(err, plain.Close())
}

// bare answers raw input bytes with raw output bytes.
type bare struct {
	session *ort.Session
	model   peerModel
	buffers sync.Pool
}

func (b *bare) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, ok := b.buffers.Get().(*[]byte)
	if !ok || int64(cap(*body)) < r.ContentLength {
		fresh := make([]byte, r.ContentLength)
		body = &fresh
	}
	defer b.buffers.Put(body)
	data := (*body)[:r.ContentLength]
	if _, err := io.ReadFull(r.Body, data); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	result, err := b.session.Run([]ort.Tensor{{Name: b.model.Input, Type: ort.Float32, Shape: b.model.Shape, Data: data}}, nil, nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer result.Release()
	size := 0
	for i := range result.Outputs {
		size += len(result.Outputs[i].Data)
	}
	w.Header()["Content-Type"] = []string{"application/octet-stream"}
	w.Header()["Content-Length"] = []string{strconv.Itoa(size)}
	for i := range result.Outputs {
		_, _ = w.Write(result.Outputs[i].Data) // a caller who went away needs no answer
	}
}

// echo answers the messages of Penstock's gRPC service with as many bytes, and runs nothing.
type echo struct {
	oip.UnimplementedGRPCInferenceServiceServer
}

// ModelInfer answers with the outputs of the digits model.
func (*echo) ModelInfer(_ context.Context, r *oip.ModelInferRequest) (*oip.ModelInferResponse, error) {
	return &oip.ModelInferResponse{ModelName: r.GetModelName(), ModelVersion: "1",
		Outputs: []*oip.ModelInferResponse_InferOutputTensor{
			{Name: "label", Datatype: "INT64", Shape: []int64{1}}, {Name: "probabilities", Datatype: "FP32", Shape: []int64{1, 10}}},
		RawOutputContents: [][]byte{make([]byte, 8), make([]byte, 40)}}, nil
}

// pathOf writes a model file for a child.
func pathOf(dir, name string, file []byte) (string, error) {
	path := dir + "/" + name + ".onnx"
	return path, os.WriteFile(path, file, 0o600)
}

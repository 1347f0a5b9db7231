package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	load "github.com/penstock/penstock/internal/bench"
	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/oip"
)

// caller asks one request after the other on a connection of its own, and is used by one goroutine.
type caller interface {
	ask(ctx context.Context) error
	close()
}

// inProcess runs the model in this process.
type inProcess struct {
	model *model
	input []ort.Tensor
}

func (c *inProcess) ask(context.Context) error {
	result, err := c.model.session.Run(c.input, nil, nil)
	result.Release()
	return err
}

func (*inProcess) close() {}

// generated is a client of the load generator that users have, too (internal/bench): this table and `penstock bench`
// measure with one instrument.
type generated struct{ load.Caller }

func (g generated) ask(ctx context.Context) error { return g.Ask(ctx, 0) }

func (g generated) close() { g.Close() }

// asked shows a caller of this program to the generator.
type asked struct{ caller }

// Ask sends the only request.
func (a asked) Ask(ctx context.Context, _ int) error { return a.ask(ctx) }

// Close ends the caller.
func (a asked) Close() { a.close() }

// askWithin bounds one request: a server that hangs is an error of the run.
const askWithin = time.Minute

// dialPlain asks over HTTP, on one kept connection.
func dialPlain(ctx context.Context, address string, request []byte) (caller, error) {
	c, err := load.DialHTTP(ctx, load.HTTP{Address: address, Requests: [][]byte{request}, Timeout: askWithin})
	return generated{c}, err
}

// dialRemote asks over gRPC, on one connection.
func dialRemote(address string, m *model) (caller, error) {
	request := oip.Request{Model: m.name, Inputs: []tensor.Tensor{{Name: m.input.Name, Type: tensor.FP32, Shape: m.input.Shape, Data: m.input.Data}}}
	c, err := load.DialGRPC(load.GRPC{Address: address, Requests: [][]byte{request.EncodeProto()}, Timeout: askWithin})
	return generated{c}, err
}

// post is a whole HTTP request with a body.
func post(path, headers string, body []byte) []byte {
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n%s\r\n", path, len(body), headers)
	return append([]byte(head), body...)
}

// postRaw is what the bare handler takes.
func (m *model) postRaw() []byte { return post("/"+m.name, "", m.input.Data) }

// postBinary is an infer request with binary tensors both ways.
func (m *model) postBinary() []byte {
	head := fmt.Appendf(nil, `{"inputs":[{"name":%q,"datatype":"FP32","shape":%s,"parameters":{"binary_data_size":%d}}],"parameters":{"binary_data_output":true}}`,
		m.input.Name, shape(m.input.Shape), len(m.input.Data))
	headers := fmt.Sprintf("Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n", len(head))
	return post("/v2/models/"+m.name+"/infer", headers, append(head, m.input.Data...))
}

// postJSON is the same request with numbers as text.
func (m *model) postJSON() []byte {
	body := fmt.Appendf(nil, `{"inputs":[{"name":%q,"datatype":"FP32","shape":%s,"data":%s}]}`, m.input.Name, shape(m.input.Shape), floats(m.input.Data))
	return post("/v2/models/"+m.name+"/infer", "Content-Type: application/json\r\n", body)
}

func shape(s []int64) []byte {
	b, _ := json.Marshal(s) // integers always marshal
	return b
}

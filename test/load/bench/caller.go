package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/internal/ort"
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

// plain speaks HTTP/1.1 by hand over a kept connection: the load generator shares the processors with what it measures,
// so it does no more than it must.
type plain struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
}

func dialPlain(ctx context.Context, address string, request []byte) (*plain, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &plain{conn: conn, in: bufio.NewReaderSize(conn, 32<<10), request: request}, nil
}

var okay = []byte("HTTP/1.1 200 OK\r\n")

func (c *plain) ask(context.Context) error {
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	status, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	good := bytes.Equal(status, okay)
	words := string(status[:min(len(status), 64)*btoi(!good)])
	size := -1
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		const field = "Content-Length:"
		if len(line) > len(field) && line[0] == 'C' && string(line[:len(field)]) == field {
			if size, err = strconv.Atoi(string(bytes.TrimSpace(line[len(field):]))); err != nil {
				return err
			}
		}
	}
	if size < 0 {
		return errors.New("the answer has no length")
	}
	if !good {
		text, _ := io.ReadAll(io.LimitReader(c.in, int64(min(size, 500)))) // the status is the error anyway
		return fmt.Errorf("%s%s", words, text)
	}
	_, err = c.in.Discard(size)
	return err
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (c *plain) close() { _ = c.conn.Close() } // nothing is left to be told

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

// remote asks over gRPC, one connection each.
type remote struct {
	conn    *grpc.ClientConn
	client  oip.GRPCInferenceServiceClient
	request *oip.ModelInferRequest
}

func dialRemote(address string, m *model) (*remote, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	request := &oip.ModelInferRequest{ModelName: m.name, RawInputContents: [][]byte{m.input.Data},
		Inputs: []*oip.ModelInferRequest_InferInputTensor{{Name: m.input.Name, Datatype: "FP32", Shape: m.input.Shape}}}
	return &remote{conn: conn, client: oip.NewGRPCInferenceServiceClient(conn), request: request}, nil
}

func (c *remote) ask(ctx context.Context) error {
	answer, err := c.client.ModelInfer(ctx, c.request)
	if err != nil {
		return err
	}
	if len(answer.GetRawOutputContents()) != len(answer.GetOutputs()) {
		return errors.New("the answer lacks outputs")
	}
	return nil
}

func (c *remote) close() { _ = c.conn.Close() } // nothing is left to be told

package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/penstock/penstock/api"
)

// InferRequest is an inference request of the Open Inference Protocol in JSON.
type InferRequest struct {
	ID         string         `json:"id,omitempty"`
	Parameters map[string]any `json:"parameters,omitempty"`
	Inputs     []Tensor       `json:"inputs"`
	Outputs    []Output       `json:"outputs,omitempty"`
}

// Tensor is an input or output with its data as JSON: a flat or nested array.
type Tensor struct {
	Name       string          `json:"name"`
	Shape      []int64         `json:"shape"`
	Datatype   string          `json:"datatype"`
	Parameters map[string]any  `json:"parameters,omitempty"`
	Data       json.RawMessage `json:"data"`
}

// Output asks for one output.
type Output struct {
	Name       string         `json:"name"`
	Parameters map[string]any `json:"parameters,omitempty"`
}

// InferResponse is the answer.
type InferResponse struct {
	ModelName    string         `json:"model_name"`
	ModelVersion string         `json:"model_version,omitempty"`
	ID           string         `json:"id,omitempty"`
	Parameters   map[string]any `json:"parameters,omitempty"`
	Outputs      []Tensor       `json:"outputs"`
}

// Metadata is what an endpoint takes and gives.
type Metadata struct {
	Name     string           `json:"name"`
	Versions []string         `json:"versions"`
	Platform string           `json:"platform"`
	Inputs   []api.TensorSpec `json:"inputs"`
	Outputs  []api.TensorSpec `json:"outputs"`
}

// InferOptions steer one call.
type InferOptions struct {
	Unit    string // keeps a caller on one variant
	Variant string // forces a variant; needs a scope
}

// Infer calls an endpoint. It is never repeated by itself.
func (c *Client) Infer(ctx context.Context, e api.EndpointName, in InferRequest, options InferOptions) (out InferResponse, err error) {
	return out, c.call(ctx, exchange{method: http.MethodPost, path: inferPath(e) + "/infer", json: in, header: options.header()}, &out)
}

func (o InferOptions) header() http.Header {
	header := make(http.Header)
	if o.Unit != "" {
		header.Set("Penstock-Unit", o.Unit)
	}
	if o.Variant != "" {
		header.Set("Penstock-Variant", o.Variant)
	}
	return header
}

// InferFile calls an endpoint that has one input of bytes with the content of a file, as it is.
func (c *Client) InferFile(ctx context.Context, e api.EndpointName, input string, content []byte, options InferOptions) (out InferResponse, err error) {
	head, err := json.Marshal(map[string]any{"inputs": []any{map[string]any{"name": input, "datatype": "BYTES", "shape": []int64{1},
		"parameters": map[string]any{"binary_data_size": 4 + len(content)}}}})
	if err != nil {
		return out, fmt.Errorf("write the request: %w", err)
	}
	header := options.header()
	header.Set("Inference-Header-Content-Length", strconv.Itoa(len(head)))
	header.Set("Content-Type", "application/octet-stream")
	body := binary.LittleEndian.AppendUint32(head, uint32(len(content)))
	body = append(body, content...)
	return out, c.call(ctx, exchange{method: http.MethodPost, path: inferPath(e) + "/infer", header: header, length: int64(len(body)),
		stream: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }}, &out)
}

// Metadata shows what an endpoint takes and gives.
func (c *Client) Metadata(ctx context.Context, e api.EndpointName) (out Metadata, err error) {
	return out, c.call(ctx, exchange{method: http.MethodGet, path: inferPath(e)}, &out)
}

func inferPath(e api.EndpointName) string { return "/v2/models/" + url.PathEscape(string(e)) }

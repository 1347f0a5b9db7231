package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const lengthHeader = "Inference-Header-Content-Length"

// The JSON forms of the protocol.
type (
	request struct {
		ID         string         `json:"id,omitempty"`
		Parameters map[string]any `json:"parameters,omitempty"`
		Inputs     []tensor       `json:"inputs"`
		Outputs    []wanted       `json:"outputs,omitempty"`
	}
	wanted struct {
		Name       string         `json:"name"`
		Parameters map[string]any `json:"parameters,omitempty"`
	}
	tensor struct {
		Name       string          `json:"name"`
		Shape      []int64         `json:"shape"`
		Datatype   string          `json:"datatype"`
		Parameters map[string]any  `json:"parameters,omitempty"`
		Data       json.RawMessage `json:"data,omitempty"`
	}
	response struct {
		ModelName string   `json:"model_name"`
		ID        string   `json:"id"`
		Outputs   []tensor `json:"outputs"`
		Error     string   `json:"error"`
	}
)

func (w *world) httpChecks() []check {
	return []check{
		{"HTTP health", w.health},
		{"HTTP accuracy with JSON tensors", w.jsonAccuracy},
		{"HTTP accuracy with binary tensors", w.binaryAccuracy},
		{"HTTP mixture of binary and JSON outputs", w.mixture},
		{"HTTP raw binary request", w.rawRequest},
		{"HTTP id and requested outputs", w.identity},
		{"HTTP errors", w.httpErrors},
		{"HTTP many at once", w.manyAtOnce},
	}
}

// image is the demo's input as a JSON tensor.
func image(pixels []float32) tensor {
	data, err := json.Marshal(pixels)
	if err != nil {
		panic(err) // the demo's pixels are finite
	}
	return tensor{Name: "image", Shape: []int64{int64(len(pixels) / pixelsPerRow), pixelsPerRow}, Datatype: "FP32", Data: data}
}

// packed is the demo's input as a binary tensor, and its bytes.
func packed(pixels []float32) (tensor, []byte) {
	t := image(pixels)
	data, err := binary.Append(nil, binary.LittleEndian, pixels)
	if err != nil {
		panic(err) // floats have a size
	}
	t.Data, t.Parameters = nil, map[string]any{"binary_data_size": len(data)}
	return t, data
}

// send does one exchange. The header is left out when length is negative.
func (w *world) send(ctx context.Context, method, path string, body []byte, length int) (int, http.Header, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, w.http+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	if length >= 0 {
		r.Header.Set(lengthHeader, strconv.Itoa(length))
	}
	answer, err := w.client.Do(r)
	if err != nil {
		return 0, nil, nil, err
	}
	defer answer.Body.Close()
	found, err := io.ReadAll(answer.Body)
	return answer.StatusCode, answer.Header, found, err
}

// infer asks a model; tail is what follows the JSON. It gives the JSON answer and the bytes of each binary output.
func (w *world) infer(ctx context.Context, q request, tail []byte) (*response, map[string][]byte, error) {
	head, err := json.Marshal(q)
	if err != nil {
		return nil, nil, err
	}
	length := -1
	if tail != nil {
		length = len(head)
	}
	status, header, body, err := w.send(ctx, http.MethodPost, "/models/digits/infer", append(head, tail...), length)
	if err != nil {
		return nil, nil, err
	}
	if status != http.StatusOK {
		return nil, nil, fmt.Errorf("status %d: %.300s", status, body)
	}
	return unpack(header, body)
}

func unpack(header http.Header, body []byte) (*response, map[string][]byte, error) {
	var tail []byte
	if text := header.Get(lengthHeader); text != "" {
		length, err := strconv.Atoi(text)
		if err != nil || length < 0 || length > len(body) {
			return nil, nil, fmt.Errorf("%s is %q of %d bytes", lengthHeader, text, len(body))
		}
		body, tail = body[:length], body[length:]
	}
	var found response
	if err := json.Unmarshal(body, &found); err != nil {
		return nil, nil, err
	}
	packed := map[string][]byte{}
	for _, t := range found.Outputs {
		size, is := t.Parameters["binary_data_size"].(float64)
		if !is {
			continue
		}
		if int(size) > len(tail) {
			return nil, nil, fmt.Errorf("output %s has %v bytes, %d are left", t.Name, size, len(tail))
		}
		packed[t.Name], tail = tail[:int(size)], tail[int(size):]
	}
	if len(tail) > 0 {
		return nil, nil, fmt.Errorf("%d bytes too many", len(tail))
	}
	return &found, packed, nil
}

// output finds a JSON output and decodes its data.
func output[T any](r *response, name string) ([]T, error) {
	at := slices.IndexFunc(r.Outputs, func(t tensor) bool { return t.Name == name })
	if at < 0 {
		return nil, fmt.Errorf("no output %s", name)
	}
	var data []T
	return data, json.Unmarshal(r.Outputs[at].Data, &data)
}

// numbers decodes the bytes of a tensor.
func numbers[T int64 | float32](data []byte) ([]T, error) {
	found := make([]T, len(data)/binary.Size(T(0)))
	_, err := binary.Decode(data, binary.LittleEndian, found)
	return found, err
}

func (w *world) health(ctx context.Context) error {
	for path, want := range map[string]bool{"/health/live": true, "/health/ready": true, "/models/digits/ready": true, "/models/nobody/ready": false, "": true, "/models/digits": true} {
		status, _, body, err := w.send(ctx, http.MethodGet, path, nil, -1)
		if err != nil {
			return err
		}
		if (status == http.StatusOK) != want {
			return fmt.Errorf("%s: status %d: %.300s", path, status, body)
		}
	}
	return nil
}

func (w *world) jsonAccuracy(ctx context.Context) error {
	answer, _, err := w.infer(ctx, request{Inputs: []tensor{image(w.pixels)}}, nil)
	if err != nil {
		return err
	}
	labels, err := output[int64](answer, "label")
	if err != nil {
		return err
	}
	return w.recognised(labels)
}

func (w *world) binaryAccuracy(ctx context.Context) error {
	input, data := packed(w.pixels)
	_, tensors, err := w.infer(ctx, request{Inputs: []tensor{input}, Parameters: map[string]any{"binary_data_output": true}}, data)
	if err != nil {
		return err
	}
	labels, err := numbers[int64](tensors["label"])
	if err != nil {
		return err
	}
	if got, want := len(tensors["probabilities"]), len(w.labels)*10*4; got != want {
		return fmt.Errorf("probabilities have %d bytes, expected %d", got, want)
	}
	return w.recognised(labels)
}

func (w *world) mixture(ctx context.Context) error {
	plain, _, err := w.infer(ctx, request{Inputs: []tensor{image(w.rows(3))}}, nil)
	if err != nil {
		return err
	}
	want, err := output[float32](plain, "probabilities")
	if err != nil {
		return err
	}
	input, data := packed(w.rows(3))
	mixed, tensors, err := w.infer(ctx, request{Inputs: []tensor{input}, Parameters: map[string]any{"binary_data_output": true},
		Outputs: []wanted{{Name: "probabilities"}, {Name: "label", Parameters: map[string]any{"binary_data": false}}}}, data)
	if err != nil {
		return err
	}
	labels, err := output[int64](mixed, "label")
	if err != nil {
		return err
	}
	if len(labels) != 3 {
		return fmt.Errorf("labels %v", labels)
	}
	found, err := numbers[float32](tensors["probabilities"])
	if err == nil && !slices.Equal(found, want) {
		err = fmt.Errorf("as binary %v, as JSON %v", found, want)
	}
	return err
}

func (w *world) rawRequest(ctx context.Context) error {
	_, data := packed(w.rows(1))
	status, header, body, err := w.send(ctx, http.MethodPost, "/models/digits/infer", data, 0)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %.300s", status, body)
	}
	_, tensors, err := unpack(header, body)
	if err == nil && (len(tensors["label"]) != 8 || len(tensors["probabilities"]) != 40) {
		err = fmt.Errorf("outputs are not all binary: %v", tensors)
	}
	return err
}

func (w *world) identity(ctx context.Context) error {
	answer, _, err := w.infer(ctx, request{ID: "go-1", Inputs: []tensor{image(w.rows(1))}, Outputs: []wanted{{Name: "label"}}}, nil)
	if err != nil {
		return err
	}
	if answer.ID != "go-1" || answer.ModelName != "digits" || len(answer.Outputs) != 1 || answer.Outputs[0].Name != "label" {
		return fmt.Errorf("answer %+v", answer)
	}
	return nil
}

func (w *world) httpErrors(ctx context.Context) error {
	good, err := json.Marshal(request{Inputs: []tensor{image(w.rows(1))}})
	if err != nil {
		return err
	}
	for _, c := range []struct {
		path, body string
		status     int
		says       string
	}{
		{"/models/nobody/infer", string(good), http.StatusNotFound, "nobody"},
		{"/models/digits/infer", strings.Replace(string(good), "[1,64]", "[2,64]", 1), http.StatusBadRequest, "image"},
		{"/models/digits/infer", strings.Replace(string(good), "FP32", "INT8", 1), http.StatusBadRequest, "image"},
		{"/models/digits/infer", strings.Replace(string(good), `"image"`, `"x"`, 1), http.StatusBadRequest, "x"},
		{"/models/digits/infer", `{"inputs":[],"inputs":[]}`, http.StatusBadRequest, ""},
		{"/models/digits/infer", `[]`, http.StatusBadRequest, ""},
	} {
		status, _, body, err := w.send(ctx, http.MethodPost, c.path, []byte(c.body), -1)
		if err != nil {
			return err
		}
		var found response
		if err := json.Unmarshal(body, &found); err != nil {
			return fmt.Errorf("%w in %.300s", err, body)
		}
		if status != c.status || found.Error == "" || !strings.Contains(found.Error, c.says) {
			return fmt.Errorf("%s %.60s: status %d: %.300s", c.path, c.body, status, body)
		}
	}
	return nil
}

func (w *world) manyAtOnce(ctx context.Context) error {
	failed := make(chan error, 64)
	var all sync.WaitGroup
	for i := range cap(failed) {
		all.Go(func() {
			id := strconv.Itoa(i)
			answer, _, err := w.infer(ctx, request{ID: id, Inputs: []tensor{image(w.rows(1 + i%5))}}, nil)
			if err == nil && answer.ID != id {
				err = fmt.Errorf("request %s has the answer of %s", id, answer.ID)
			}
			failed <- err
		})
	}
	all.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

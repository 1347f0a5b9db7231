package bench

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// ParseShape reads NAME:1,64.
func ParseShape(text string) (name string, shape []int64, err error) {
	at := strings.LastIndexByte(text, ':')
	if at <= 0 {
		return "", nil, fmt.Errorf("%q is not NAME:1,64", text)
	}
	for _, part := range strings.Split(text[at+1:], ",") {
		n, err := strconv.ParseInt(strings.TrimSpace(part), 10, 64)
		if err != nil || n < 0 {
			return "", nil, fmt.Errorf("%q is not NAME:1,64: %q is no size", text, part)
		}
		shape = append(shape, n)
	}
	_, err = tensor.Elements(shape)
	return text[:at], shape, err
}

// Describe tells what a request holds.
func Describe(r *Request) string {
	parts := make([]string, 0, len(r.Inputs))
	for i := range r.Inputs {
		t := &r.Inputs[i]
		parts = append(parts, fmt.Sprintf("%s %s %s", t.Name, t.Type, strings.ReplaceAll(fmt.Sprint(t.Shape), " ", ",")))
	}
	return strings.Join(parts, ", ")
}

// ReadFile reads requests: a JSON request, JSON lines, or arrays of numbers, by the file's name.
func ReadFile(path string, specs []api.TensorSpec, sizes Sizes) ([]*Request, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	switch ext := strings.ToLower(filepath.Ext(path)); {
	case info.IsDir(), ext == ".npz", ext == ".npy":
		arrays, err := readArrays(path, info.IsDir(), specs)
		if err != nil {
			return nil, err
		}
		return rowsOf(arrays, specs, sizes)
	default:
		text, err := readBounded(path)
		if err != nil {
			return nil, err
		}
		return ParseRequests(text)
	}
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, dataMax+1))
	if err == nil && len(text) > dataMax {
		return nil, api.Fail(api.CodeTooLarge, path, "the file is over %d MiB", dataMax>>20).WithCure("Give fewer requests; they are sent in turn.")
	}
	return text, err
}

// ParseRequests reads one JSON request, over as many lines as it takes, or one on each line.
func ParseRequests(text []byte) ([]*Request, error) {
	whole := &Request{}
	first := whole.DecodeHTTP(text, -1)
	if first == nil {
		return checked([]*Request{whole})
	}
	lines := bytes.Split(text, []byte{'\n'})
	var all []*Request
	for i, line := range lines {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		r := &Request{}
		if err := r.DecodeHTTP(line, -1); err != nil {
			if len(all) == 0 { // no JSON lines: what is wrong with the text as one request says more
				err = first
			}
			e := api.AsError(err)
			return nil, api.Fail(e.Code, fmt.Sprintf("line %d", i+1), "%s", e.Message).WithCure("%s", e.Cure)
		}
		if all = append(all, r); len(all) > requestsMax {
			return nil, api.Fail(api.CodeTooLarge, "", "there are more than %d requests", requestsMax).WithCure("Give fewer; they are sent in turn.")
		}
	}
	if len(all) == 0 {
		return nil, first
	}
	return checked(all)
}

func checked(all []*Request) ([]*Request, error) {
	for i, r := range all {
		if len(r.Inputs) == 0 {
			return nil, api.Fail(api.CodeBadJSON, "$.inputs", "request %d has no inputs", i+1).WithCure(`Write {"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}.`)
		}
	}
	return all, nil
}

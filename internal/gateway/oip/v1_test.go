package oip_test

import (
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/serve"
	"github.com/penstock/penstock/internal/tensor"
)

func TestPredict(t *testing.T) {
	b := start(t, nil)
	two := func(c *serve.Call) []tensor.Tensor {
		n := c.Inputs[0].Shape[0]
		names := tensor.Tensor{Name: "label", Type: tensor.Bytes, Shape: []int64{n}}
		for i := range n {
			names.Data = tensor.AppendBytes(names.Data, []byte(fmt.Sprint("c", i)))
		}
		return []tensor.Tensor{c.Inputs[0], names}
	}
	for _, c := range []struct {
		name, body string
		output     func(*serve.Call) []tensor.Tensor
		status     int
		want       string
	}{
		{"rows", `{"instances":[[1,2,3,4],[5,6,7,8.5]]}`, nil, 200, `{"predictions":[[1.0,2.0,3.0,4.0],[5.0,6.0,7.0,8.5]]}`},
		{"named rows", `{"signature_name":"serving_default","instances":[{"x":[1,2,3,4]}]}`, nil, 200, `{"predictions":[[1.0,2.0,3.0,4.0]]}`},
		{"columns", `{"inputs":{"x":[[1,2,3,4]]}}`, nil, 200, `{"predictions":[[1.0,2.0,3.0,4.0]]}`},
		{"one column", `{"inputs":[[1,2,3,4]]}`, nil, 200, `{"predictions":[[1.0,2.0,3.0,4.0]]}`},
		{"two outputs in rows", `{"instances":[[1,2,3,4]]}`, two, 200, `{"predictions":[{"x":[1.0,2.0,3.0,4.0],"label":"c0"}]}`},
		{"two outputs in columns", `{"inputs":[[1,2,3,4]]}`, two, 200, `{"predictions":{"x":[[1.0,2.0,3.0,4.0]],"label":["c0"]}}`},
		{"ragged", `{"instances":[[1,2,3,4],[5]]}`, nil, 400, "shape"},
		{"neither", `{}`, nil, 400, "either instances or inputs"},
		{"both", `{"instances":[[1]],"inputs":[[1]]}`, nil, 400, "either"},
		{"unknown input", `{"inputs":{"y":[1]}}`, nil, 400, `no input`},
		{"unknown field", `{"instances":[[1,2,3,4]],"x":1}`, nil, 400, "no field"},
		{"text", `{"instances":[["a","b","c","d"]]}`, nil, 400, "number"},
		{"empty", ``, nil, 400, "ends"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.walk.output = c.output
			for _, path := range []string{"/v1/models/echo:predict", "/v1/models/echo/versions/3:predict"} {
				answer, body := send(t, b.request(t, "POST", path, c.body))
				if answer.StatusCode != c.status || c.status == 200 && body != c.want || !strings.Contains(body, c.want) {
					t.Errorf("%s: %d %s, want %d %s", path, answer.StatusCode, body, c.status, c.want)
				}
				if c.status == 200 && (answer.Header.Get("Penstock-Version") != "3" || answer.Header.Get("Content-Type") != "application/json") {
					t.Errorf("header %v", answer.Header)
				}
			}
		})
	}
	b.walk.output = nil
	if answer, body := send(t, b.request(t, "POST", "/v1/models/echo:predict", "{}", "Authorization", "")); answer.StatusCode != 401 {
		t.Errorf("no key: %d %s", answer.StatusCode, body)
	}
}

func TestClassification(t *testing.T) {
	b := start(t, nil)
	body := strings.Replace(echoBody, `"inputs"`, `"outputs":[{"name":"x","parameters":{"classification":2}}],"inputs"`, 1)
	answer, got := send(t, b.request(t, "POST", "/v2/models/echo/infer", body))
	want := `"outputs":[{"name":"x","datatype":"BYTES","shape":[1,2],"data":["4.000000:3","2.500000:1"]}]}`
	if answer.StatusCode != 200 || !strings.HasSuffix(got, want) {
		t.Errorf("%d %s", answer.StatusCode, got)
	}
	body = strings.Replace(echoBody, `"inputs"`, `"parameters":{"sequence_id":9,"sequence_start":true},"inputs"`, 1)
	if answer, got := send(t, b.request(t, "POST", "/v2/models/echo/infer", body)); answer.StatusCode != 501 || !strings.Contains(got, "sequences") {
		t.Errorf("sequence: %d %s", answer.StatusCode, got)
	}
}

// TestCompressedAnswers asks in all ways; only a large answer to who asks is compressed, binary tensors included.
func TestCompressedAnswers(t *testing.T) {
	b := start(t, nil)
	count := 4000
	head := fmt.Sprintf(`{"inputs":[{"name":"x","shape":[1,%d],"datatype":"FP32","parameters":{"binary_data_size":%d}}],"parameters":{"binary_data_output":true}}`, count, 4*count)
	body := head + string(make([]byte, 4*count))
	for _, c := range []struct {
		accept, body, want string
	}{
		{"gzip", body, "gzip"}, {"deflate", body, "deflate"}, {"deflate, gzip;q=0.5", body, "gzip"}, {"gzip;q=0, deflate", body, "deflate"},
		{"br", body, ""}, {"identity", body, ""}, {"gzip", echoBody, ""},
	} {
		for range 2 { // the second time with memory from the first
			r := b.request(t, "POST", "/v2/models/echo/infer", c.body, "Accept-Encoding", c.accept)
			if c.body == body {
				r.Header.Set("Inference-Header-Content-Length", fmt.Sprint(len(head)))
			}
			answer, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			var plain io.Reader = answer.Body
			switch answer.Header.Get("Content-Encoding") {
			case "gzip":
				plain, err = gzip.NewReader(answer.Body)
			case "deflate":
				plain, err = zlib.NewReader(answer.Body)
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(plain)
			answer.Body.Close()
			if err != nil || answer.StatusCode != 200 || answer.Header.Get("Content-Encoding") != c.want {
				t.Fatalf("%s: %d %v %v", c.accept, answer.StatusCode, answer.Header, err)
			}
			if c.body != body {
				continue
			}
			var n int
			if _, err := fmt.Sscan(answer.Header.Get("Inference-Header-Content-Length"), &n); err != nil || len(got) != n+4*count || got[n-1] != '}' {
				t.Errorf("%s: %d bytes, header %d, %v", c.accept, len(got), n, err)
			}
		}
	}
}

package oip_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	wire "github.com/penstock/penstock/internal/wire/oip"
)

// discard is a ResponseWriter that keeps nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkHandler measures the HTTP door without net/http's own part.
func BenchmarkHandler(b *testing.B) {
	t := start(b, nil)
	t.walk.quiet = true
	large := make([]byte, 600<<10)
	head := fmt.Sprintf(`{"inputs":[{"name":"x","shape":[1,3,224,228],"datatype":"FP32","parameters":{"binary_data_size":%d}}],"outputs":[{"name":"x","parameters":{"binary_data":true}}]}`, 4*3*224*228)
	for name, body := range map[string][]byte{"json": []byte(echoBody), "binary": append([]byte(head), large[:4*3*224*228]...)} {
		b.Run(name, func(b *testing.B) {
			reader := bytes.NewReader(body)
			r := httptest.NewRequest("POST", "/v2/models/echo/infer", nil)
			r.Header.Set("Authorization", "Bearer acme-key")
			if name == "binary" {
				r.Header.Set("Inference-Header-Content-Length", fmt.Sprint(len(head)))
			}
			r.ContentLength = int64(len(body))
			w := &discard{header: http.Header{}}
			h := t.gateway.Handler()
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				reader.Reset(body)
				r.Body = io.NopCloser(reader)
				clear(w.header)
				h.ServeHTTP(w, r)
			}
			if w.header.Get("Penstock-Version") != "3" {
				b.Fatal(w.header)
			}
		})
	}
}

// BenchmarkHTTP and BenchmarkGRPC go through the loopback, one request after the other.
func BenchmarkHTTP(b *testing.B) {
	t := start(b, nil)
	t.walk.quiet = true
	b.ReportAllocs()
	for b.Loop() {
		answer, _ := send(b, t.request(b, "POST", "/v2/models/echo/infer", echoBody))
		if answer.StatusCode != 200 {
			b.Fatal(answer.Status)
		}
	}
}

func BenchmarkGRPC(b *testing.B) {
	t := start(b, nil)
	t.walk.quiet = true
	client := wire.NewGRPCInferenceServiceClient(t.dial(b, "acme-key"))
	request := inferRequest("echo")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.ModelInfer(b.Context(), request); err != nil {
			b.Fatal(err)
		}
	}
}

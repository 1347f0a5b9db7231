package oip_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
	"github.com/penstock/penstock/internal/serve"
	"github.com/penstock/penstock/internal/tensor"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

const echoBody = `{"id":"a1","inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2.5,-3e-2,4]}]}`

func send(tb testing.TB, r *http.Request) (*http.Response, string) {
	tb.Helper()
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		tb.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return answer, string(body)
}

func TestRoutes(t *testing.T) {
	b := start(t, nil)
	for _, c := range []struct {
		name, method, path string
		status             int
		want               string // whole body, or what it must contain when it does not begin with '{'
	}{
		{"live", "GET", "/v2/health/live", 200, `{"live":true}`},
		{"ready", "GET", "/v2/health/ready?x=1", 200, `{"ready":true}`},
		{"server", "GET", "/v2", 200, `{"name":"penstock","version":"1.0","extensions":["binary_tensor_data","classification","model_configuration","parameters"]}`},
		{"server slash", "GET", "/v2/", 200, `"penstock"`},
		{"model", "GET", "/v2/models/echo?a=b", 200, `{"name":"echo","versions":["3"],"platform":"onnxruntime_onnx","inputs":[{"name":"x","datatype":"FP32","shape":[-1,4]}],"outputs":[{"name":"x","datatype":"FP32","shape":[-1,4]}]}`},
		{"model version", "GET", "/v2/models/echo/versions/3", 200, `"echo"`},
		{"model ready", "GET", "/v2/models/echo/ready", 200, `{"name":"echo","ready":true}`},
		{"version ready", "GET", "/v2/models/echo/versions/3/ready", 200, `"ready":true`},
		{"loading", "GET", "/v2/models/loading/ready", 400, `{"error":"model 'loading' is not ready"}`},
		{"models", "GET", "/v2/models", 200, `{"models":["echo","loading"]}`},
		{"config", "GET", "/v2/models/echo/config", 200, `"max_batch_size":0,"input":[{"name":"x","data_type":"TYPE_FP32","dims":[-1,4],`},
		{"config of a version", "GET", "/v2/models/echo/versions/3/config", 200, `"model_transaction_policy":{"decoupled":false},"response_cache":{"enable":false}`},
		{"config of nothing", "GET", "/v2/models/nosuch/config", 404, `{"error":"Request for unknown model: 'nosuch' is not found"}`},
		{"post config", "POST", "/v2/models/echo/config", 405, `{"error":"Method Not Allowed"}`},
		{"V1 models", "GET", "/v1/models", 200, `{"models":["echo","loading"]}`},
		{"V1 model", "GET", "/v1/models/echo", 200, `{"name":"echo","ready":true}`},
		{"V1 version", "GET", "/v1/models/echo/versions/3", 200, `{"name":"echo","ready":true}`},
		{"V1 loading", "GET", "/v1/models/loading", 503, `model 'loading' is not ready`},
		{"V1 foreign", "GET", "/v1/models/secret", 404, `{"error":"Request for unknown model: 'secret' is not found"}`},
		{"V1 foreign predict", "POST", "/v1/models/secret:predict", 404, `{"error":"Request for unknown model: 'secret' is not found"}`},
		{"V1 get predict", "GET", "/v1/models/echo:predict", 405, `{"error":"Method Not Allowed"}`},
		{"V1 post model", "POST", "/v1/models/echo", 405, `{"error":"Method Not Allowed"}`},
		{"V1 no name", "POST", "/v1/models/:predict", 404, `{"error":"Not Found"}`},
		{"V1 dots", "POST", "/v1/models/a..b:predict", 400, `'..'`},
		{"V1 another act", "POST", "/v1/models/echo:explain", 405, `{"error":"Method Not Allowed"}`},
		{"V1 unknown path", "GET", "/v1/chat", 404, `{"error":"Not Found"}`},
		{"missing version", "GET", "/v2/models/echo/versions/4", 404, `{"error":"Request for unknown model: 'echo' version 4 is not found"}`},
		{"missing", "GET", "/v2/models/nosuch", 404, `{"error":"Request for unknown model: 'nosuch' is not found"}`},
		{"foreign", "GET", "/v2/models/secret", 404, `{"error":"Request for unknown model: 'secret' is not found"}`},
		{"foreign infer", "POST", "/v2/models/secret/infer", 404, `{"error":"Request for unknown model: 'secret' is not found"}`},
		{"missing infer", "POST", "/v2/models/nosuch/infer", 404, `{"error":"Request for unknown model: 'nosuch' is not found"}`},
		{"unknown path", "GET", "/v2/nothing", 404, `{"error":"Not Found"}`},
		{"unknown act", "GET", "/v2/models/echo/fly", 404, `{"error":"Not Found"}`},
		{"get infer", "GET", "/v2/models/echo/infer", 405, `{"error":"Method Not Allowed"}`},
		{"post model", "POST", "/v2/models/echo", 405, `{"error":"Method Not Allowed"}`},
		{"negative version", "GET", "/v2/models/echo/versions/-1", 400, `version must be a number`},
		{"word version", "GET", "/v2/models/echo/versions/latest", 400, `version must be a number`},
		{"dots in a name", "GET", "/v2/models/a..b", 400, `'..'`},
		{"space in a name", "GET", "/v2/models/a%20b", 400, `letters`},
		{"long name", "GET", "/v2/models/" + strings.Repeat("a", 300), 400, `255`},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer, body := send(t, b.request(t, c.method, c.path, echoBody))
			if answer.StatusCode != c.status || c.want[0] == '{' && body != c.want || !strings.Contains(body, c.want) {
				t.Errorf("%d %s\nwant %d %s", answer.StatusCode, body, c.status, c.want)
			}
			if answer.Header.Get("Content-Type") != "application/json" || len(answer.Header.Get("Penstock-Request-Id")) != 26 {
				t.Errorf("header %v", answer.Header)
			}
			var document map[string]any
			if err := json.Unmarshal([]byte(body), &document); err != nil {
				t.Errorf("body %s: %v", body, err)
			}
		})
	}
}

func TestKeys(t *testing.T) {
	b := start(t, nil)
	for _, path := range []string{"/v2", "/v2/models/echo", "/v2/models/echo/ready", "/v2/models/echo/infer", "/v2/models/nosuch/infer"} {
		method := "GET"
		if strings.HasSuffix(path, "infer") {
			method = "POST"
		}
		for _, authorization := range []string{"", "Bearer", "Bearer wrong", "Basic YTpi"} {
			answer, body := send(t, b.request(t, method, path, echoBody, "Authorization", authorization))
			if answer.StatusCode != 401 || answer.Header.Get("Www-Authenticate") == "" || !strings.HasPrefix(body, `{"error":"`) {
				t.Errorf("%s %q: %d %s", path, authorization, answer.StatusCode, body)
			}
		}
	}
	for _, path := range []string{"/v2/health/live", "/v2/health/ready"} {
		if answer, _ := send(t, b.request(t, "GET", path, "", "Authorization", "")); answer.StatusCode != 200 {
			t.Errorf("%s without a key: %d", path, answer.StatusCode)
		}
	}
	b.walk.ready = false
	if answer, body := send(t, b.request(t, "GET", "/v2/health/ready", "")); answer.StatusCode != 400 || !strings.Contains(body, `"error"`) {
		t.Errorf("not ready: %d %s", answer.StatusCode, body)
	}
}

func TestInferJSON(t *testing.T) {
	b := start(t, nil)
	body := strings.Replace(echoBody, `"id"`, `"parameters":{"timeout":2000000,"custom":"x"},"id"`, 1)
	answer, got := send(t, b.request(t, "POST", "/v2/models/echo/versions/3/infer?q=1", body, "Penstock-Unit", "user 7",
		"Penstock-Variant", "b", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
	want := `{"model_name":"echo","model_version":"3","id":"a1","outputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1.0,2.5,-0.03,4.0]}]}`
	if answer.StatusCode != 200 || got != want {
		t.Fatalf("%d %s\nwant %s", answer.StatusCode, got, want)
	}
	if h := answer.Header; h.Get("Penstock-Variant") != "main" || h.Get("Penstock-Version") != "3" || len(h["Inference-Header-Content-Length"]) > 0 {
		t.Errorf("header %v", h)
	}
	call := b.walk.last
	if call.Unit != "user 7" || call.Variant != "b" || call.Version != "3" || call.Protocol != "oip-http" ||
		call.TraceID != "0af7651916cd43dd8448eb211c80319c" || call.ParentID != "b7ad6b7169203331" || !call.Sampled ||
		call.RequestID != answer.Header.Get("Penstock-Request-Id") || call.Principal.Tenant != "acme" || !b.walk.dead {
		t.Errorf("call %+v, deadline %v", call, b.walk.dead)
	}
}

func TestLabels(t *testing.T) {
	b := start(t, nil)
	for _, c := range []struct {
		name, header, value string
		status              int
	}{
		{"long unit", "Penstock-Unit", strings.Repeat("u", 257), 400},
		{"longest unit", "Penstock-Unit", strings.Repeat("u", 256), 200},
		{"unit not ASCII", "Penstock-Unit", "ü", 400},
		{"variant with a slash", "Penstock-Variant", "a/b", 400},
		{"broken trace", "Traceparent", "00-xyz", 200},
		{"empty trace", "Traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01", 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer, body := send(t, b.request(t, "POST", "/v2/models/echo/infer", echoBody, c.header, c.value))
			if answer.StatusCode != c.status || b.walk.last.TraceID != "" {
				t.Errorf("%d %s", answer.StatusCode, body)
			}
		})
	}
	r := b.request(t, "POST", "/v2/models/echo/infer", echoBody)
	r.Header["Penstock-Unit"] = []string{"a", "b"}
	if answer, body := send(t, r); answer.StatusCode != 400 {
		t.Errorf("two units: %d %s", answer.StatusCode, body)
	}
}

func floats(values ...float32) []byte {
	t := tensor.FromFloat32("", nil, values)
	return t.Data
}

func TestInferBinary(t *testing.T) {
	b := start(t, nil)
	b.walk.output = func(c *serve.Call) []tensor.Tensor {
		var out []tensor.Tensor
		for _, in := range c.Inputs {
			if c.Outputs == nil || strings.Contains(strings.Join(c.Outputs, ","), in.Name) {
				out = append(out, in)
			}
		}
		return out
	}
	head := `{"inputs":[{"name":"a","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}},` +
		`{"name":"j","shape":[2],"datatype":"INT64","data":[7,-8]},` +
		`{"name":"b","shape":[1],"datatype":"FP16","parameters":{"binary_data_size":2}}],` +
		`"outputs":[{"name":"a","parameters":{"binary_data":true}},{"name":"j","parameters":{"binary_data":false}},{"name":"b"}],` +
		`"parameters":{"binary_data_output":true}}`
	tail := string(floats(1, float32(math.NaN()))) + "\x01\x02"
	r := b.request(t, "POST", "/v2/models/echo/infer", head+tail, "Inference-Header-Content-Length", fmt.Sprint(len(head)), "Content-Type", "application/octet-stream")
	answer, got := send(t, r)
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "application/octet-stream" {
		t.Fatalf("%d %s", answer.StatusCode, got)
	}
	var n int
	if _, err := fmt.Sscan(answer.Header.Get("Inference-Header-Content-Length"), &n); err != nil {
		t.Fatal(err)
	}
	want := `{"model_name":"echo","model_version":"3","outputs":[{"name":"a","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8}},` +
		`{"name":"j","datatype":"INT64","shape":[2],"data":[7,-8]},{"name":"b","datatype":"FP16","shape":[1],"parameters":{"binary_data_size":2}}]}`
	if got[:n] != want || got[n:] != tail {
		t.Errorf("%s | %x\nwant %s | %x", got[:n], got[n:], want, tail)
	}
}

func TestInferRawBody(t *testing.T) {
	b := start(t, nil)
	raw := floats(1, 2, 3, 4)
	answer, got := send(t, b.request(t, "POST", "/v2/models/echo/infer", string(raw), "Inference-Header-Content-Length", "0"))
	if answer.StatusCode != 200 || !strings.HasSuffix(got, string(raw)) {
		t.Fatalf("%d %q", answer.StatusCode, got)
	}
	answer, got = send(t, b.request(t, "POST", "/v2/models/echo/infer", string(raw[:15]), "Inference-Header-Content-Length", "0"))
	if answer.StatusCode != 400 {
		t.Fatalf("15 bytes: %d %q", answer.StatusCode, got)
	}
}

func TestBinaryHeader(t *testing.T) {
	b := start(t, nil)
	head := `{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","parameters":{"binary_data_size":16}}]}`
	tail := string(floats(1, 2, 3, 4))
	for _, c := range []struct {
		name, header, body string
		status             int
	}{
		{"right", fmt.Sprint(len(head)), head + tail, 200},
		{"over the body", fmt.Sprint(len(head) + 17), head + tail, 400},
		{"into the JSON", fmt.Sprint(len(head) - 1), head + tail, 400},
		{"into the tensors", fmt.Sprint(len(head) + 1), head + tail, 400},
		{"negative", "-1", head + tail, 400},
		{"plus", "+95", head + tail, 400},
		{"not a number", "x", head + tail, 400},
		{"empty", " ", head + tail, 400},
		{"20 digits", "18446744073709551617", head + tail, 400},
		{"over the limit for JSON", "99999999999", head + tail, 413},
		{"short tail", fmt.Sprint(len(head)), head + tail[:15], 400},
		{"long tail", fmt.Sprint(len(head)), head + tail + "x", 400},
		{"no header", "", head + tail, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := b.request(t, "POST", "/v2/models/echo/infer", c.body)
			if c.header != "" {
				r.Header["Inference-Header-Content-Length"] = []string{c.header}
			}
			if answer, body := send(t, r); answer.StatusCode != c.status {
				t.Errorf("%d %q, want %d", answer.StatusCode, body, c.status)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	b := start(t, nil)
	for _, c := range []struct {
		err    error
		status int
		retry  string
	}{
		{api.Fail(api.CodeQueueFull, "", "queue of echo is full (limit 256)"), 503, "1"},
		{&api.Error{Code: api.CodeQueueFull, Message: "full", RetryAfter: 2500 * time.Millisecond}, 503, "3"},
		{api.Fail(api.CodeForbidden, "", "needs scope variant"), 403, ""},
		{api.Fail(api.CodeDeadline, "", "deadline"), 504, ""},
		{api.Fail(api.CodeNotReady, "", "nothing"), 503, "1"},
		{api.Fail(api.CodeSignatureMismatch, "", "unknown input"), 400, ""},
		{fmt.Errorf("secret path /srv/x"), 500, ""},
	} {
		b.walk.fail = c.err
		answer, body := send(t, b.request(t, "POST", "/v2/models/echo/infer", echoBody))
		if answer.StatusCode != c.status || answer.Header.Get("Retry-After") != c.retry || !strings.HasPrefix(body, `{"error":"`) || strings.Contains(body, "secret") {
			t.Errorf("%v: %d %q %s", c.err, answer.StatusCode, answer.Header.Get("Retry-After"), body)
		}
	}
	b.walk.fail = nil
	b.walk.output = func(*serve.Call) []tensor.Tensor {
		return []tensor.Tensor{tensor.FromFloat32("y", []int64{1}, []float32{float32(math.Inf(1))})}
	}
	if answer, body := send(t, b.request(t, "POST", "/v2/models/echo/infer", echoBody)); answer.StatusCode != 400 || !strings.Contains(body, "binary_data") {
		t.Errorf("infinity: %d %s", answer.StatusCode, body)
	}
	b.walk.output = func(*serve.Call) []tensor.Tensor { panic("broken") }
	if answer, body := send(t, b.request(t, "POST", "/v2/models/echo/infer", echoBody)); answer.StatusCode != 500 || strings.Contains(body, "broken") {
		t.Errorf("panic: %d %s", answer.StatusCode, body)
	}
}

func TestCallEnds(t *testing.T) {
	b := start(t, nil)
	b.walk.wait = make(chan error, 1)
	// By hand: net/http's client tells that it wrote a request before the last of it has left.
	c, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\nContent-Length: %d\r\n\r\n%s", len(echoBody), echoBody)
	c.Close()
	select { // a minute is for a call that never ends
	case err := <-b.walk.wait:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("hang-up: %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("the call never ended")
	}
	answer, body := send(t, b.request(t, "POST", "/v2/models/echo/infer", `{"parameters":{"timeout":1000},`+echoBody[1:]))
	if err := <-b.walk.wait; answer.StatusCode != 504 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("timeout: %d %s, %v", answer.StatusCode, body, err)
	}
	timed := inferRequest("echo")
	timed.Parameters = map[string]*wire.InferParameter{"timeout": {ParameterChoice: &wire.InferParameter_Int64Param{Int64Param: 1000}}}
	_, err = wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key")).ModelInfer(t.Context(), timed)
	if ended := <-b.walk.wait; status.Code(err) != codes.DeadlineExceeded || !errors.Is(ended, context.DeadlineExceeded) {
		t.Errorf("gRPC timeout: %v, %v", err, ended)
	}
}

func zipped(data []byte) string {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(data)
	_ = z.Close()
	return out.String()
}

func TestBodyLimits(t *testing.T) {
	b := start(t, func(c *gateway.Config) { c.JSONBytes, c.TensorBytes = 4<<20, 8<<20 })
	large := `{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4` + strings.Repeat(" ", 5<<20) + `]}]}`
	zeros := make([]byte, 3<<20)
	inner := zipped([]byte(echoBody))
	for _, c := range []struct {
		name, body, encoding string
		chunked              bool
		status               int
		want                 string
	}{
		{"over the limit", large, "", false, 413, "4194304"},
		{"over the limit in chunks", large, "", true, 413, "4194304"},
		{"in chunks", echoBody, "", true, 200, ""},
		{"gzip", inner, "gzip", false, 200, ""},
		{"gzip in chunks", inner, "gzip", true, 200, ""},
		{"bomb", zipped(zeros), "gzip", false, 413, "100 times"},
		{"twice", zipped([]byte(inner)), "gzip, gzip", false, 400, "once"},
		{"not gzip", echoBody, "gzip", false, 400, "valid gzip"},
		{"something behind gzip", inner + "x", "gzip", false, 400, "follows"},
		{"two members", inner + inner, "gzip", false, 400, "follows"},
		{"cut off", inner[:len(inner)-6], "gzip", false, 400, ""},
		{"unknown", echoBody, "br", false, 400, "gzip"},
		{"empty", "", "", false, 400, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := b.request(t, "POST", "/v2/models/echo/infer", c.body)
			if c.chunked {
				r.ContentLength = -1
			}
			if c.encoding != "" {
				r.Header.Set("Content-Encoding", c.encoding)
			}
			answer, body := send(t, r)
			if answer.StatusCode != c.status || !strings.Contains(body, c.want) {
				t.Errorf("%d %s, want %d with %q", answer.StatusCode, body, c.status, c.want)
			}
		})
	}
}

func TestLargeBinaryIsAligned(t *testing.T) {
	b := start(t, nil)
	data := make([]byte, 4<<20)
	for i := range len(data) / 4 {
		binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(float32(i)))
	}
	head := fmt.Sprintf(`{"inputs":[{"name":"x","shape":[%d],"datatype":"FP32","parameters":{"binary_data_size":%d}}],"parameters":{"binary_data_output":true}}`, len(data)/4, len(data))
	for pad := range 3 {
		head := head + strings.Repeat(" ", pad)
		answer, got := send(t, b.request(t, "POST", "/v2/models/echo/infer", head+string(data), "Inference-Header-Content-Length", fmt.Sprint(len(head))))
		if answer.StatusCode != 200 || !strings.HasSuffix(got, string(data)) {
			t.Fatalf("pad %d: %d %.200s", pad, answer.StatusCode, got)
		}
	}
}

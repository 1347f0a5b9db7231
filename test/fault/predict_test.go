package fault_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/test/live"
)

func TestBadPrediction(t *testing.T) {
	t.Parallel()
	s := newSite(t, live.Start(t, t.TempDir()))
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	s.good(t, "digits", 1)
	base := s.footprint(t)
	h := &http.Client{Transport: &http.Transport{}}
	for _, c := range append(badJSONPredictions(), badBinaryPredictions()...) {
		t.Run(c.name, func(t *testing.T) {
			resp, body, err := c.send(t.Context(), h, s.HTTP)
			if err != nil {
				t.Fatal(err)
			}
			c.check(t, resp, body)
			s.good(t, "digits", 1)
		})
	}
	t.Run("a stream over the limit", func(t *testing.T) { endlessBody(t, h, s) })
	conn := dial(t, s.GRPC)
	for _, c := range badMessages() {
		t.Run("grpc: "+c.name, func(t *testing.T) {
			c.check(t, conn)
			s.good(t, "digits", 1)
		})
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	h.CloseIdleConnections()
	s.nothingLeft(t, []string{"digits@1"}, []string{"digits#1"})
	s.returns(t, base)
}

// image is an input with 64 numbers, then what is to be wrong about it.
func image(name, datatype, shape, data string) string {
	return fmt.Sprintf(`{"name":%q,"datatype":%q,"shape":%s,"data":%s}`, name, datatype, shape, data)
}

func badJSONPredictions() []badCall {
	numbers := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]" }
	good := image("image", "FP32", "[1,64]", numbers(64))
	inputs := func(list string) string { return `{"inputs":[` + list + `]}` }
	list := []badCall{
		{name: "nothing", body: "", says: "JSON"},
		{name: "cut text", body: `{"inputs":[{"name":"image"`, says: "byte"},
		{name: "null", body: "null", says: "'{'"},
		{name: "a list", body: "[" + good + "]", says: "'{'"},
		{name: "no inputs", body: "{}", says: "inputs"},
		{name: "empty inputs", body: inputs(""), says: `"image" is missing`},
		{name: "trailing data", body: inputs(good) + "{}", says: "byte"},
		{name: "inputs twice", body: `{"inputs":[` + good + `],"inputs":[` + good + `]}`, says: "inputs"},
		{name: "one input twice", body: inputs(good + "," + good), says: `"image"`},
		{name: "a doubled field of an input", body: inputs(strings.Replace(good, `"datatype"`, `"name":"image","datatype"`, 1)), says: "name"},
		{name: "inputs in capitals", body: `{"Inputs":[` + good + `]}`, says: "Inputs"},
		{name: "a field in capitals", body: inputs(strings.Replace(good, `"data"`, `"Data"`, 1)), says: "Data"},
		{name: "an unknown input", body: inputs(image("picture", "FP32", "[1,64]", numbers(64))), says: `"picture"`},
		{name: "an input in capitals", body: inputs(image("Image", "FP32", "[1,64]", numbers(64))), says: `"Image"`},
		{name: "one input too many", body: inputs(good + "," + image("more", "FP32", "[1,64]", numbers(64))), says: `"more"`},
		{name: "an unknown datatype", body: inputs(image("image", "FP128", "[1,64]", numbers(64))), says: "FP128"},
		{name: "a wrong datatype", body: inputs(image("image", "INT64", "[1,64]", numbers(64))), says: "FP32"},
		{name: "half precision as JSON", body: inputs(image("image", "FP16", "[1,64]", numbers(64))), says: "FP16"},
		{name: "a wrong shape", body: inputs(image("image", "FP32", "[1,63]", numbers(63))), says: "63"},
		{name: "a wrong rank", body: inputs(image("image", "FP32", "[64]", numbers(64))), says: "[64]"},
		{name: "a rank of 100", body: inputs(image("image", "FP32", numbers(100), numbers(1))), says: "dimensions"},
		{name: "too few numbers", body: inputs(image("image", "FP32", "[1,64]", numbers(63))), says: "64 elements"},
		{name: "too many numbers", body: inputs(image("image", "FP32", "[1,64]", numbers(65))), says: "64 elements"},
		{name: "nested in another shape", body: inputs(image("image", "FP32", "[1,64]", "["+numbers(32)+","+numbers(32)+"]")), says: "image"},
		{name: "a dimension below 0", body: inputs(image("image", "FP32", "[-1,64]", numbers(64))), says: "shape"},
		{name: "a dimension of text", body: inputs(image("image", "FP32", `["1",64]`, numbers(64))), says: "byte 54"},
		{name: "a dimension with a fraction", body: inputs(image("image", "FP32", `[1.5,64]`, numbers(64))), says: "1.5"},
		{name: "a vast shape", body: inputs(image("image", "FP32", "[1099511627776,64]", numbers(64))), says: "image"},
		{name: "a shape over 64 bits", body: inputs(image("image", "FP32", "[4611686018427387904,64]", numbers(64))), says: "image"},
		{name: "a dimension over 64 bits", body: inputs(image("image", "FP32", "[9223372036854775808,64]", numbers(64))), says: "9223372036854775808"},
		{name: "NaN", body: inputs(image("image", "FP32", "[1,64]", "[NaN"+strings.Repeat(",1", 63)+"]")), says: "byte 68"},
		{name: "a number over FP32", body: inputs(image("image", "FP32", "[1,64]", strings.Replace(numbers(64), "1", "1e39", 1))), says: "1e39"},
		{name: "a text as number", body: inputs(image("image", "FP32", "[1,64]", strings.Replace(numbers(64), "1", `"1"`, 1))), says: "byte 68"},
		{name: "null as number", body: inputs(image("image", "FP32", "[1,64]", strings.Replace(numbers(64), "1", `null`, 1))), says: "byte 68"},
		{name: "a number with a leading zero", body: inputs(image("image", "FP32", "[1,64]", strings.Replace(numbers(64), "1", `01`, 1))), says: "byte 68"},
		{name: "bad UTF-8", body: "{\"id\":\"\xff\",\"inputs\":[" + good + "]}", says: "UTF-8"},
		{name: "a lone surrogate", body: `{"id":"\ud800","inputs":[` + good + `]}`, says: "surrogate"},
		{name: "a control character", body: "{\"id\":\"\x01\",\"inputs\":[" + good + "]}", says: "byte"},
		{name: "depth 65", body: `{"parameters":{"a":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + `},"inputs":[` + good + "]}", says: `"a"`},
		{name: "depth 10001", body: `{"parameters":` + strings.Repeat(`{"a":`, 10001) + "1" + strings.Repeat("}", 10001) + `,"inputs":[` + good + "]}", says: `"a"`},
		{name: "an unknown output", body: `{"inputs":[` + good + `],"outputs":[{"name":"nosuch"}]}`, says: `"nosuch"`},
		{name: "a timeout of text", body: `{"parameters":{"timeout":"soon"},"inputs":[` + good + `]}`, says: "timeout"},
		{name: "an unknown endpoint", path: "/v2/models/nosuch/infer", body: inputs(good), status: 404, says: "'nosuch' is not found"},
		{name: "an endpoint in capitals", path: "/v2/models/Digits/infer", body: inputs(good), status: 404, says: "'Digits' is not found"},
		{name: "an unknown version", path: "/v2/models/digits/versions/2/infer", body: inputs(good), status: 404, says: "version 2 is not found"},
		{name: "a version of text", path: "/v2/models/digits/versions/latest/infer", body: inputs(good), says: "version must be a number"},
		{name: "an unknown variant", header: []string{"Penstock-Variant", "nosuch"}, body: inputs(good), status: 404, says: "nosuch"},
		{name: "an odd variant", header: []string{"Penstock-Variant", "a/b"}, body: inputs(good), says: "a/b"},
		{name: "a long unit", header: []string{"Penstock-Unit", strings.Repeat("u", 257)}, body: inputs(good), says: "257"},
		{name: "a coding that is none", header: []string{"Content-Encoding", "br"}, body: "x", says: "Content-Encoding"},
		{name: "a coding that lies", header: []string{"Content-Encoding", "gzip"}, body: inputs(good), says: "gzip"},
		{name: "wrong method", method: "GET", body: "", status: 405, says: "Method Not Allowed"},
		{name: "unknown path", path: "/v2/models/digits/explain", body: inputs(good), status: 404, says: "Not Found"},
		{name: "dots in the path", path: "/v2/models/../models/digits/infer", body: inputs(good), says: "dot segment"},
		{name: "an escaped slash", path: "/v2/models/a%2fb/infer", body: inputs(good), says: "escape"},
	}
	for i := range list {
		if list[i].method == "" {
			list[i].method = "POST"
		}
		if list[i].path == "" {
			list[i].path = "/v2/models/digits/infer"
		}
		if list[i].status == 0 {
			list[i].status = 400
		}
	}
	return list
}

func badBinaryPredictions() []badCall {
	head := func(size string) string {
		return `{"inputs":[{"name":"image","datatype":"FP32","shape":[1,64],"parameters":{"binary_data_size":` + size + `}}]}`
	}
	tensor := strings.Repeat("\x00", 256)
	list := []badCall{
		{name: "a header over the body", header: []string{"Inference-Header-Content-Length", "9999"}, body: head("256") + tensor, says: "9999"},
		{name: "a header below 0", header: []string{"Inference-Header-Content-Length", "-1"}, body: head("256") + tensor, says: "Inference-Header-Content-Length"},
		{name: "a header over the limit", header: []string{"Inference-Header-Content-Length", "99999999999"}, body: head("256") + tensor, status: 413, says: "33554432"},
		{name: "a header over 64 bits", header: []string{"Inference-Header-Content-Length", "18446744073709551617"}, body: head("256") + tensor, says: "number of bytes"},
		{name: "a short tensor", body: head("256") + tensor[1:], says: "binary_data_size is 256"},
		{name: "a long tensor", body: head("256") + tensor + "x", says: "1 bytes follow"},
		{name: "a size that does not fit the shape", body: head("255") + tensor[1:], says: "image"},
		{name: "a size below 0", body: head("-1") + tensor, says: "binary_data_size"},
		{name: "a size over 64 bits", body: head("18446744073709551872") + tensor, says: "binary_data_size"},
		{name: "a size of text", body: head(`"256"`) + tensor, says: "binary_data_size"},
		{name: "raw bytes of another size", header: []string{"Inference-Header-Content-Length", "0"}, body: tensor[1:], says: "image"},
	}
	for i := range list {
		c := &list[i]
		c.method, c.path, c.name = "POST", "/v2/models/digits/infer", "binary: "+c.name
		if c.status == 0 {
			c.status = 400
		}
		if c.header == nil {
			c.header = []string{"Inference-Header-Content-Length", fmt.Sprint(strings.Index(c.body, "]}") + 2)}
		}
		c.header = append(c.header, "Content-Type", binaryType)
	}
	return list
}

// zeros is a body without end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// endlessBody sends bodies that go on: plain ones without a length, and one that grows when it is unpacked.
func endlessBody(t *testing.T, h *http.Client, s *site) {
	for name, c := range map[string]struct {
		path   string
		body   io.Reader
		header []string
		status int
		says   string
	}{
		"JSON without an end":        {"/v2/models/digits/infer", zeros{}, []string{"Content-Type", jsonType}, 413, "limit of 33554432 bytes"},
		"JSON to control, no end":    {tenantPath + "/endpoints/digits/rollback", zeros{}, []string{"Content-Type", jsonType}, 413, "JSONBytesMax"},
		"a body packed a 1000 times": {"/v2/models/digits/infer", strings.NewReader(gzipped(t, 64<<20)), []string{"Content-Encoding", "gzip"}, 413, "100 times"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.HTTP+c.path, c.body)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(c.header); i += 2 {
			req.Header.Set(c.header[i], c.header[i+1])
		}
		resp, err := h.Do(req)
		if err != nil {
			t.Errorf("%s: no answer: %v", name, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || !strings.Contains(string(body), c.says) {
			t.Errorf("%s: %d %s %v, want %d and %q", name, resp.StatusCode, body, err, c.status, c.says)
		}
		s.good(t, "digits", 1)
	}
}

// rawCodec sends bytes as they are, so that a message can be wrong.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

var _ encoding.CodecV2 = rawCodec{}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

const inferMethod = "/inference.GRPCInferenceService/ModelInfer"

// invoke sends one raw message.
func invoke(ctx context.Context, conn *grpc.ClientConn, method string, body []byte, options ...grpc.CallOption) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var answer []byte
	err := conn.Invoke(ctx, method, &body, &answer, append(options, grpc.ForceCodecV2(rawCodec{}))...)
	return answer, err
}

type badMessage struct {
	name, method string
	body         []byte
	metadata     []string
	options      []grpc.CallOption
	code         codes.Code
	says         string
}

func (c badMessage) check(t *testing.T, conn *grpc.ClientConn) {
	ctx := metadata.AppendToOutgoingContext(t.Context(), c.metadata...)
	answer, err := invoke(ctx, conn, c.method, c.body, c.options...)
	if got := status.Convert(err); got.Code() != c.code || !strings.Contains(got.Message(), c.says) {
		t.Errorf("%s %q and %d bytes, want %s and %q", got.Code(), got.Message(), len(answer), c.code, c.says)
	}
}

// tensorOf is an InferInputTensor; contents may be nil.
func tensorOf(name, datatype string, shape []int64, contents message) message {
	m := message{}.text(1, name).text(2, datatype)
	for _, n := range shape {
		m = m.num(3, n)
	}
	if contents != nil {
		m = m.sub(5, contents)
	}
	return m
}

// inferOf is a ModelInferRequest for digits.
func inferOf(inputs []message, raw ...[]byte) message {
	m := message{}.text(1, "digits")
	for _, in := range inputs {
		m = m.sub(5, in)
	}
	for _, data := range raw {
		m = m.sub(7, data)
	}
	return m
}

func badMessages() []badMessage {
	pixels := make([]byte, 256)
	one := []message{tensorOf("image", "FP32", []int64{1, 64}, nil)}
	good := inferOf(one, pixels)
	few := message{}.sub(6, binary.LittleEndian.AppendUint32(nil, math.Float32bits(1)))
	list := []badMessage{
		{name: "nothing", code: codes.InvalidArgument, says: "model name"},
		{name: "a cut message", body: good[:len(good)-1], code: codes.InvalidArgument, says: "message"},
		{name: "no message", body: bytes.Repeat([]byte{0xff}, 64), code: codes.InvalidArgument, says: "message"},
		{name: "a wrong wire type", body: message{}.num(1, 5), code: codes.InvalidArgument, says: "field 1"},
		{name: "an unknown endpoint", body: message{}.text(1, "nosuch").sub(5, one[0]).sub(7, pixels), code: codes.NotFound, says: "'nosuch' is not found"},
		{name: "an unknown version", body: good[:len(good):len(good)].text(2, "2"), code: codes.NotFound, says: "version 2"},
		{name: "a version of text", body: good[:len(good):len(good)].text(2, "latest"), code: codes.InvalidArgument, says: "number"},
		{name: "a name of bad UTF-8", body: message{}.text(1, "\xff"), code: codes.InvalidArgument, says: "UTF-8"},
		{name: "a name with dots", body: message{}.text(1, "../digits").sub(5, one[0]).sub(7, pixels), code: codes.InvalidArgument, says: "model name"},
		{name: "no input", body: inferOf(nil), code: codes.InvalidArgument, says: `"image" is missing`},
		{name: "one input twice", body: inferOf([]message{one[0], one[0]}, pixels, pixels), code: codes.InvalidArgument, says: `"image"`},
		{name: "an unknown input", body: inferOf([]message{tensorOf("picture", "FP32", []int64{1, 64}, nil)}, pixels), code: codes.InvalidArgument, says: `"picture"`},
		{name: "an unknown datatype", body: inferOf([]message{tensorOf("image", "FP128", []int64{1, 64}, nil)}, pixels), code: codes.InvalidArgument, says: "FP128"},
		{name: "a wrong datatype", body: inferOf([]message{tensorOf("image", "INT32", []int64{1, 64}, nil)}, pixels), code: codes.InvalidArgument, says: "FP32"},
		{name: "a wrong shape", body: inferOf([]message{tensorOf("image", "FP32", []int64{1, 63}, nil)}, pixels[4:]), code: codes.InvalidArgument, says: "63"},
		{name: "a dimension below 0", body: inferOf([]message{tensorOf("image", "FP32", []int64{-1, 64}, nil)}, pixels), code: codes.InvalidArgument, says: "image"},
		{name: "a vast shape", body: inferOf([]message{tensorOf("image", "FP32", []int64{1 << 40, 64}, nil)}, pixels), code: codes.InvalidArgument, says: "image"},
		{name: "a shape over 64 bits", body: inferOf([]message{tensorOf("image", "FP32", []int64{1 << 62, 64}, nil)}, pixels), code: codes.InvalidArgument, says: "image"},
		{name: "a short tensor", body: inferOf(one, pixels[1:]), code: codes.InvalidArgument, says: "image"},
		{name: "a long tensor", body: inferOf(one, append(pixels[:256:256], 0)), code: codes.InvalidArgument, says: "image"},
		{name: "one tensor too many", body: inferOf(one, pixels, pixels), code: codes.InvalidArgument, says: "raw_input_contents"},
		{name: "one tensor too few", body: inferOf(one), code: codes.InvalidArgument, says: "image"},
		{name: "both contents", body: inferOf([]message{tensorOf("image", "FP32", []int64{1, 64}, few)}, pixels), code: codes.InvalidArgument, says: "raw_input_contents"},
		{name: "too few contents", body: inferOf([]message{tensorOf("image", "FP32", []int64{1, 64}, few)}), code: codes.InvalidArgument, says: "image"},
		{name: "contents of another type", body: inferOf([]message{tensorOf("image", "FP32", []int64{1, 64}, message{}.num(3, 1))}), code: codes.InvalidArgument, says: "image"},
		{name: "an unknown output", body: good[:len(good):len(good)].sub(6, message{}.text(1, "nosuch")), code: codes.InvalidArgument, says: `"nosuch"`},
		{name: "a long unit", body: good, metadata: []string{"penstock-unit", strings.Repeat("u", 257)}, code: codes.InvalidArgument, says: "257"},
		{name: "an unknown variant", body: good, metadata: []string{"penstock-variant", "nosuch"}, code: codes.NotFound, says: "nosuch"},
		{name: "an unknown method", method: "/inference.GRPCInferenceService/NoSuchMethod", code: codes.Unimplemented},
		{name: "an unknown service", method: "/nosuch.Service/Method", code: codes.Unimplemented},
		{name: "metadata of nothing", method: "/inference.GRPCInferenceService/ModelMetadata", body: message{}.text(1, "nosuch"), code: codes.NotFound, says: "'nosuch' is not found"},
	}
	if !testing.Short() {
		list = append(list, badMessage{name: "a message over the limit", body: make([]byte, 257<<20), options: []grpc.CallOption{grpc.UseCompressor("gzip")},
			code: codes.ResourceExhausted, says: "message"})
	}
	for i := range list {
		if list[i].method == "" {
			list[i].method = inferMethod
		}
	}
	return list
}

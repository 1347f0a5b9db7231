package fault_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/test/live"
)

const (
	tenantPath = "/api/v1/tenants/default"
	binaryType = "application/octet-stream"
	jsonType   = "application/json"
)

// badCall is one request that must be refused: what is sent, and how the refusal reads.
type badCall struct {
	name, method, path string
	body               string
	header             []string // names and values in turn; a Content-Type of JSON is set when there is none
	status             int
	code               api.Code // of the control API's problem; the data plane has none
	says               string   // what the message must name
}

// send makes the request with its path as it stands: net/url would tidy an odd one.
func (c badCall) send(ctx context.Context, h *http.Client, address string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, c.method, "http://"+address, strings.NewReader(c.body))
	if err != nil {
		return nil, nil, err
	}
	path, query, _ := strings.Cut(c.path, "?")
	req.URL = &url.URL{Scheme: "http", Host: address, Opaque: path, RawQuery: query}
	req.Header.Set("Content-Type", jsonType)
	for i := 0; i < len(c.header); i += 2 {
		req.Header.Set(c.header[i], c.header[i+1])
	}
	resp, err := h.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

// check holds a refusal against what is wanted.
func (c badCall) check(t *testing.T, resp *http.Response, body []byte) {
	t.Helper()
	if resp.StatusCode != c.status {
		t.Fatalf("status %d, want %d: %s", resp.StatusCode, c.status, body)
	}
	if c.code == "" {
		var refusal map[string]string
		if err := json.Unmarshal(body, &refusal); err != nil || len(refusal) != 1 || !strings.Contains(refusal["error"], c.says) || refusal["error"] == "" {
			t.Errorf("body %s, want one error that says %q: %v", body, c.says, err)
		}
		return
	}
	var problem api.Problem
	if err := json.Unmarshal(body, &problem); err != nil {
		t.Fatalf("body %s: %v", body, err)
	}
	if problem.Code != c.code || problem.Status != c.status || problem.Type != "urn:penstock:error:"+string(c.code) ||
		resp.Header.Get("Content-Type") != "application/problem+json" || problem.RequestID == "" ||
		problem.RequestID != resp.Header.Get("Penstock-Request-Id") {
		t.Errorf("problem %s, want code %s", body, c.code)
	}
	if !strings.Contains(problem.Subject+": "+problem.Detail, c.says) || c.says == "" {
		t.Errorf("problem %s does not say %q", body, c.says)
	}
	if problem.Cure == "" {
		t.Errorf("problem %s has no cure", body)
	}
	if strings.Contains(string(body), os.TempDir()) || strings.Contains(string(body), "goroutine ") {
		t.Errorf("problem %s shows the server's inside", body)
	}
}

// site is a server with one endpoint that answers.
type site struct {
	*live.Server
	three []byte
}

func newSite(t *testing.T, s *live.Server) *site {
	t.Helper()
	three, err := os.ReadFile("../../demo/three.json")
	if err != nil {
		t.Fatal(err)
	}
	return &site{Server: s, three: three}
}

func (s *site) pushAndRelease(t *testing.T, endpoint string, data []byte) api.Version {
	t.Helper()
	v, err := s.Push(t.Context(), endpoint, data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Release(t.Context(), endpoint, fmt.Sprintf("%s@%d", endpoint, v.Number)); err != nil {
		t.Fatal(err)
	}
	return v
}

// good fails the test when a good request is not answered well.
func (s *site) good(t *testing.T, endpoint string, version api.VersionNumber) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got, label, err := live.Ask(ctx, http.DefaultClient, s.HTTP, endpoint, s.three)
	if err != nil || label != 3 || got != strconv.FormatInt(int64(version), 10) {
		t.Fatalf("a good request on %s: version %s, label %v, want version %d and label 3: %v", endpoint, got, label, version, err)
	}
}

// footprint is what a server holds of the machine.
type footprint struct{ goroutines, descriptors, megabytes int }

var firstNumber = regexp.MustCompile(`\d+`)

func (s *site) footprint(t *testing.T) (f footprint) {
	t.Helper()
	http.DefaultClient.CloseIdleConnections()
	// What nobody holds any more is collected first; else it could lie there for minutes.
	if heap, err := http.Get("http://" + s.Metrics + "/debug/pprof/heap?gc=1"); err == nil {
		_, _ = io.Copy(io.Discard, heap.Body)
		heap.Body.Close()
	}
	resp, err := http.Get("http://" + s.Metrics + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("profile: %d %q %v", resp.StatusCode, line, err)
	}
	f.goroutines, _ = strconv.Atoi(firstNumber.FindString(line))
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.PID))
	if err != nil {
		t.Fatal(err)
	}
	f.descriptors = len(open)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	kilobytes, _ := strconv.Atoi(firstNumber.FindString(after))
	f.megabytes = kilobytes >> 10
	return f
}

// returns waits until the server holds no more than before. The slack is for pools that keep memory, and for the
// connection that asks.
func (s *site) returns(t *testing.T, base footprint) {
	t.Helper()
	const goroutines, descriptors, megabytes = 4, 4, 192
	deadline := time.After(20 * time.Second)
	for {
		now := s.footprint(t)
		if now.goroutines <= base.goroutines+goroutines && now.descriptors <= base.descriptors+descriptors && now.megabytes <= base.megabytes+megabytes {
			t.Logf("footprint before %+v, after %+v", base, now)
			return
		}
		select {
		case <-deadline:
			t.Fatalf("footprint before %+v, after %+v: something is left behind", base, now)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// nothingLeft fails the test when a refused request made a model, a version or an endpoint.
func (s *site) nothingLeft(t *testing.T, models, endpoints []string) {
	t.Helper()
	var got []string
	for m, err := range client.All(t.Context(), s.Models) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s@%d", m.Name, m.Latest))
	}
	if fmt.Sprint(got) != fmt.Sprint(models) {
		t.Errorf("models %v, want %v", got, models)
	}
	got = nil
	for e, err := range client.All(t.Context(), s.Endpoints) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s#%d", e.Name, e.Generation))
	}
	if fmt.Sprint(got) != fmt.Sprint(endpoints) {
		t.Errorf("endpoints %v, want %v", got, endpoints)
	}
}

func TestBadControlInput(t *testing.T) {
	t.Parallel()
	s := newSite(t, live.Start(t, t.TempDir()))
	model := live.Model(t, "digits-v1.onnx", "")
	s.pushAndRelease(t, "digits", model)
	s.good(t, "digits", 1)
	calls := append(append(badPushes(model), badCommits()...), badDeploys()...)
	calls = append(calls, badPaths()...)
	base := s.footprint(t)
	h := &http.Client{Transport: &http.Transport{}}
	for _, c := range calls {
		t.Run(c.name, func(t *testing.T) {
			resp, body, err := c.send(t.Context(), h, s.HTTP)
			if err != nil {
				t.Fatal(err)
			}
			c.check(t, resp, body)
			s.good(t, "digits", 1)
		})
	}
	for _, c := range cutShort(model) {
		t.Run(c.name, func(t *testing.T) {
			c.raw(t, s.HTTP)
			s.good(t, "digits", 1)
		})
	}
	t.Run("Idempotency-Key of another request", func(t *testing.T) { reusedKey(t, h, s) })
	h.CloseIdleConnections()
	s.nothingLeft(t, []string{"digits@1"}, []string{"digits#1"})
	s.returns(t, base)
}

// reusedKey sends two different requests with one Idempotency-Key, and the first once more.
func reusedKey(t *testing.T, h *http.Client, s *site) {
	ask := func(why string) (*http.Response, []byte) {
		c := badCall{method: "POST", path: tenantPath + "/keys", body: `{"name":"` + why + `","scopes":["read"]}`,
			header: []string{"Idempotency-Key", "the-same"}}
		resp, body, err := c.send(t.Context(), h, s.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		return resp, body
	}
	if resp, body := ask("one"); resp.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	resp, body := ask("two")
	badCall{status: 409, code: api.CodeIdempotency, says: "another request"}.check(t, resp, body)
	resp, body = ask("one")
	if resp.StatusCode != http.StatusCreated || resp.Header.Get("Idempotency-Replayed") != "true" || !strings.Contains(string(body), `"secret":""`) {
		t.Errorf("repeated: %d %s", resp.StatusCode, body)
	}
	keys, err := s.Keys(t.Context())
	made := 0
	for _, k := range keys {
		if k.Name == "one" || k.Name == "two" {
			made++
		}
	}
	if err != nil || made != 1 {
		t.Errorf("%d keys were made by three requests with one Idempotency-Key, want 1: %v", made, err)
	}
}

// cut is a request whose body ends before its announced length.
type cut struct {
	badCall
	announced int64
}

func cutShort(model []byte) []cut {
	push := tenantPath + "/models/bad/versions?filename=model.onnx"
	return []cut{
		{badCall{name: "push broken off", method: "POST", path: push, body: string(model[:1000]), header: []string{"Content-Type", binaryType},
			status: 400, code: api.CodeBadRequest, says: "could not be read to its end"}, int64(len(model))},
		{badCall{name: "blob broken off", method: "POST", path: tenantPath + "/blobs", body: "abc", header: []string{"Content-Type", binaryType},
			status: 400, code: api.CodeBadRequest, says: "could not be read to its end"}, 10},
		{badCall{name: "JSON broken off", method: "PUT", path: tenantPath + "/endpoints/bad", body: `{"variants":`, header: []string{"Content-Type", jsonType},
			status: 400, code: api.CodeBadRequest, says: "could not be read to its end"}, 100},
		{badCall{name: "push announced over the limit", method: "POST", path: push, header: []string{"Content-Type", binaryType},
			status: 413, code: api.CodeTooLarge, says: "UploadBytesMax"}, 9 << 30},
		{badCall{name: "prediction broken off", method: "POST", path: "/v2/models/digits/infer", body: `{"inputs":[`, header: []string{"Content-Type", jsonType},
			status: 400, says: "ended before its announced length"}, 100},
		{badCall{name: "prediction announced over the limit", method: "POST", path: "/v2/models/digits/infer", header: []string{"Content-Type", jsonType},
			status: 413, says: "limit of 33554432 bytes"}, 1 << 40},
		{badCall{name: "tensor announced over the limit", method: "POST", path: "/v2/models/digits/infer",
			header: []string{"Content-Type", binaryType, "Inference-Header-Content-Length", "10"}, status: 413, says: "limit of 268435456 bytes"}, 1 << 40},
	}
}

// raw writes the request by hand, since no client sends such a one, and ends its half of the connection.
func (c cut) raw(t *testing.T, address string) {
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", c.method, c.path, address, c.announced)
	for i := 0; i < len(c.header); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", c.header[i], c.header[i+1])
	}
	b.WriteString("\r\n" + c.body)
	if _, err := conn.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	c.check(t, resp, body)
}

// externalModel keeps a tensor's content in a file of the given name.
func externalModel(location string) []byte {
	var g graph
	g.input("x", onnxFloat, 1)
	entry := func(key, value string) message { return message{}.sub(13, message{}.text(1, key).text(2, value)) }
	g.initializer("w", onnxFloat, []int64{1}, nil, entry("location", location), entry("length", "4"), message{}.num(14, 1))
	g.node("Add", []string{"x", "w"}, "y")
	g.output("y", onnxFloat, 1)
	return g.model()
}

func badPushes(model []byte) []badCall {
	var custom, vast graph
	custom.input("x", onnxFloat, 1)
	custom.body = custom.body.sub(1, message{}.text(1, "x").text(2, "y").text(4, "Run").text(7, "my.domain"))
	custom.output("y", onnxFloat, 1)
	vast.input("x", onnxFloat, 1)
	vast.initializer("w", onnxFloat, []int64{1 << 40, 1 << 40}, float32s(1))
	vast.node("Add", []string{"x", "w"}, "y")
	vast.output("y", onnxFloat, 1)
	const pickle = "\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94."
	push := tenantPath + "/models/bad/versions"
	list := []badCall{
		{name: "push nothing", code: api.CodeFormatRefused, says: "empty"},
		{name: "push half a model", body: string(model[:len(model)/2]), code: api.CodeModelRefused, says: "model.onnx"},
		{name: "push a model and more", body: string(model) + "more", code: api.CodeFormatRefused, says: "model.onnx"},
		{name: "push random bytes", body: "\x00\x01\x02\x03nothing", code: api.CodeFormatRefused, says: "model.onnx"},
		{name: "push a pickle", body: pickle, code: api.CodeFormatRefused, says: "pickle"},
		{name: "push a pickle of protocol 0", body: "cos\nsystem\n(S'id'\ntR.", code: api.CodeFormatRefused, says: "pickle"},
		{name: "push a model behind a pickle", body: pickle + string(model), code: api.CodeFormatRefused, says: "pickle"},
		{name: "push a PyTorch archive", body: "PK\x03\x04" + strings.Repeat("\x00", 22) + "\x10\x00\x00\x00archive/data.pkl", code: api.CodeFormatRefused, says: "model.onnx"},
		{name: "push a script", body: "#!/bin/sh\nid\n", code: api.CodeFormatRefused, says: "model.onnx"},
		{name: "push HDF5", body: "\x89HDF\r\n\x1a\n" + strings.Repeat("\x00", 64), code: api.CodeFormatRefused, says: "model.onnx"},
		{name: "push with data outside", body: string(externalModel("../../etc/passwd")), code: api.CodeModelRefused, says: "../../etc/passwd"},
		{name: "push with data at a path", body: string(externalModel("/etc/passwd")), code: api.CodeModelRefused, says: "/etc/passwd"},
		{name: "push with data that is missing", body: string(externalModel("weights.data")), code: api.CodeModelRefused, says: "weights.data"},
		{name: "push a custom operator", body: string(custom.model()), code: api.CodeModelRefused, says: "my.domain"},
		{name: "push branches 20 deep", body: string(nestedIf(20)), code: api.CodeModelRefused, says: "limit GraphDepth = 16"},
		{name: "push a vast tensor", body: string(vast.model()), code: api.CodeModelRefused, says: `"w"`},
		{name: "push what the runtime refuses", body: string(dividingModel("Div", onnxInt32, int32s(1), int32s(0))), code: api.CodeLoadFailed, says: "bad@"},
		{name: "push under a name with dots", path: push + "?filename=..%2Fmodel.onnx", body: string(model), code: api.CodeBadName, status: 400, says: "../model.onnx"},
		{name: "push under a name of Windows", path: push + "?filename=C:%5Cmodel.onnx", body: string(model), code: api.CodeBadName, status: 400, says: `C:\\model.onnx`},
		{name: "push under a name with NUL", path: push + "?filename=a%00.onnx", body: string(model), code: api.CodeBadName, status: 400, says: "file path"},
		{name: "push to a name in capitals", path: tenantPath + "/models/Digits/versions", body: string(model), code: api.CodeBadName, status: 400, says: "Digits"},
		{name: "push to a long name", path: tenantPath + "/models/" + strings.Repeat("a", 64) + "/versions", body: string(model), code: api.CodeBadName, status: 400, says: "model name"},
		{name: "push with an odd alias", path: push + "?alias=no%20alias", body: string(model), code: api.CodeBadName, status: 400, says: "no alias"},
		{name: "push with an alias that is a number", path: push + "?alias=7", body: string(model), code: api.CodeBadName, status: 400, says: "7"},
		{name: "push with an unknown parameter", path: push + "?filname=x", body: string(model), code: api.CodeBadRequest, status: 400, says: "filname"},
		{name: "push with two file names", path: push + "?filename=a.onnx&filename=b.onnx", body: string(model), code: api.CodeBadRequest, status: 400, says: "filename"},
		{name: "push in a coding", header: []string{"Content-Type", binaryType, "Content-Encoding", "gzip"}, body: "x", code: api.CodeBadRequest, status: 400, says: "Content-Encoding"},
		{name: "push of another type", header: []string{"Content-Type", "text/plain"}, body: "x", code: api.CodeBadRequest, status: 400, says: "text/plain"},
		{name: "blob of another digest", path: tenantPath + "/blobs?digest=sha256:" + strings.Repeat("0", 64), body: "x", code: api.CodeDigestMismatch, status: 400, says: "sha256:0000"},
		{name: "blob of an odd digest", path: tenantPath + "/blobs?digest=md5:1", body: "x", code: api.CodeBadRequest, status: 400, says: "md5:1"},
	}
	for i := range list {
		c := &list[i]
		c.method = "POST"
		if c.path == "" {
			c.path = push + "?filename=model.onnx"
		}
		if c.header == nil {
			c.header = []string{"Content-Type", binaryType}
		}
		if c.status == 0 {
			c.status = 422
		}
	}
	return list
}

func badCommits() []badCall {
	file := func(path, size string) string {
		return `{"path":"` + path + `","digest":"sha256:` + strings.Repeat("0", 64) + `","size":` + size + `}`
	}
	files := func(list string) string { return `{"files":[` + list + `]}` }
	list := []badCall{
		{name: "commit nothing", body: "", says: "no JSON value"},
		{name: "commit a cut text", body: `{"files":[`, says: "files[0]"},
		{name: "commit null", body: "null", says: "null"},
		{name: "commit a list", body: "[]", says: "an object is wanted"},
		{name: "commit no file", body: `{"files":[]}`, says: "files"},
		{name: "commit without files", body: `{}`, says: "files"},
		{name: "commit more than one value", body: `{"files":[]} {}`, says: "something follows"},
		{name: "commit a doubled field", body: `{"files":[],"files":[]}`, says: "files"},
		{name: "commit a field in capitals", body: `{"Files":[]}`, says: `it is written "files"`},
		{name: "commit an unknown field", body: `{"files":[],"pickle":true}`, says: "pickle"},
		{name: "commit a number as name", body: `{"files":[{"path":7}]}`, says: "files[0].path"},
		{name: "commit a text as size", body: files(file("a.onnx", `"1"`)), says: "files[0].size"},
		{name: "commit a size with a fraction", body: files(file("a.onnx", "1.5")), says: "files[0].size"},
		{name: "commit a size over 64 bits", body: files(file("a.onnx", "9223372036854775808")), says: "files[0].size"},
		{name: "commit a size of 1e400", body: files(file("a.onnx", "1e400")), says: "files[0].size"},
		{name: "commit NaN", body: `{"files":[],"metrics":{"a":NaN}}`, says: "metrics.a"},
		{name: "commit a metric of 1e400", body: `{"files":[],"metrics":{"a":1e400}}`, says: "metrics.a"},
		{name: "commit bad UTF-8", body: "{\"files\":[],\"card\":\"\xff\"}", says: "UTF-8"},
		{name: "commit a lone surrogate", body: `{"files":[],"card":"\ud800"}`, says: "lone surrogate"},
		{name: "commit a control character", body: "{\"files\":[],\"card\":\"\x01\"}", says: "control character"},
		{name: "commit JSON of depth 65", body: `{"tags":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + "}", says: "tags"},
		{name: "commit JSON of depth 10001", body: strings.Repeat(`{"a":`, 10001) + "1" + strings.Repeat("}", 10001), says: `"a"`},
		{name: "commit JSON of depth 10001, open", body: strings.Repeat("[", 10001), says: "an object is wanted"},
		{name: "commit JSON over the limit", body: `{"card":"` + strings.Repeat("x", 1<<20) + `"}`, status: 413, code: api.CodeTooLarge, says: "JSONBytesMax"},
		{name: "commit a blob that is not there", body: files(file("a.onnx", "4")), status: 404, code: api.CodeBlobNotFound, says: "a.onnx"},
		{name: "commit a file twice", body: files(file("a.onnx", "4") + "," + file("A.onnx", "4")), code: api.CodeBadName, says: "A.onnx"},
		{name: "commit a path with dots", body: files(file("../a.onnx", "4")), code: api.CodeBadName, says: "../a.onnx"},
		{name: "commit a negative size", body: files(file("a.onnx", "-1")), status: 413, code: api.CodeTooLarge, says: "a.onnx"},
		{name: "commit a tag of two lines", body: `{"files":[` + file("a.onnx", "4") + `],"tags":{"a":"b\nc"}}`, code: api.CodeBadRequest, says: `"a"`},
	}
	for i := range list {
		list[i].method, list[i].path = "POST", tenantPath+"/models/bad/versions"
		if list[i].status == 0 {
			list[i].status = 400
		}
		if list[i].code == "" {
			list[i].code = api.CodeBadJSON
		}
	}
	return list
}

func badDeploys() []badCall {
	one := func(variant string) string { return `{"variants":[` + variant + `]}` }
	good := one(`{"model":"digits@1"}`)
	list := []badCall{
		{name: "deploy nothing", body: "", code: api.CodeBadJSON, says: "no JSON value"},
		{name: "deploy no variant", body: `{"variants":[]}`, code: api.CodeBadJSON, says: "variants"},
		{name: "deploy 17 variants", body: one(strings.Repeat(`{"model":"digits@1"},`, 16) + `{"model":"digits@1"}`), code: api.CodeBadJSON, says: "variants"},
		{name: "deploy a doubled field", body: one(`{"model":"digits@1","model":"digits@1"}`), code: api.CodeBadJSON, says: "variants[0].model"},
		{name: "deploy a field in capitals", body: one(`{"Model":"digits@1"}`), code: api.CodeBadJSON, says: `it is written "model"`},
		{name: "deploy an unknown field", body: `{"variants":[{"model":"digits@1"}],"canary":5}`, code: api.CodeBadJSON, says: "canary"},
		{name: "deploy null", body: one(`null`), code: api.CodeBadJSON, says: "variants[0]"},
		{name: "deploy trailing data", body: good + "]", code: api.CodeBadJSON, says: "something follows"},
		{name: "deploy a weight of text", body: one(`{"model":"digits@1","weight":"1"}`), code: api.CodeBadJSON, says: "variants[0].weight"},
		{name: "deploy a weight below 0", body: one(`{"model":"digits@1","weight":-1}`), code: api.CodeBadJSON, says: "weight"},
		{name: "deploy a weight over the most", body: one(`{"model":"digits@1","weight":1000001}`), code: api.CodeBadJSON, says: "weight"},
		{name: "deploy a weight of NaN", body: one(`{"model":"digits@1","weight":NaN}`), code: api.CodeBadJSON, says: "weight"},
		{name: "deploy 65 replicas", body: one(`{"model":"digits@1","serving":{"replicas":65}}`), code: api.CodeBadJSON, says: "replicas"},
		{name: "deploy an unknown strategy", body: `{"variants":[{"model":"digits@1"}],"strategy":"canary"}`, code: api.CodeBadJSON, says: "strategy"},
		{name: "deploy two variants of one name", body: one(`{"name":"a","model":"digits@1"},{"name":"a","model":"digits@1","weight":1}`), code: api.CodeBadRequest, says: `"a"`},
		{name: "deploy a variant with a slash", body: one(`{"name":"a/b","model":"digits@1"}`), code: api.CodeBadName, says: "a/b"},
		{name: "deploy an unknown model", body: one(`{"model":"nosuch@1"}`), status: 404, code: api.CodeModelNotFound, says: "nosuch"},
		{name: "deploy an unknown version", body: one(`{"model":"digits@2"}`), status: 404, code: api.CodeVersionNotFound, says: "digits@2"},
		{name: "deploy an unknown alias", body: one(`{"model":"digits:champion"}`), status: 404, code: api.CodeAliasNotFound, says: "champion"},
		{name: "deploy an unknown digest", body: one(`{"model":"digits@sha256:` + strings.Repeat("0", 64) + `"}`), status: 404, code: api.CodeVersionNotFound, says: "digits"},
		{name: "deploy version 0", body: one(`{"model":"digits@0"}`), code: api.CodeBadName, says: "digits@0"},
		{name: "deploy version 01", body: one(`{"model":"digits@01"}`), code: api.CodeBadName, says: "digits@01"},
		{name: "deploy another tenant's", body: one(`{"model":"other/digits@1"}`), status: 404, code: api.CodeModelNotFound, says: "no such model"},
		{name: "deploy to a name in capitals", path: tenantPath + "/endpoints/Digits", body: good, code: api.CodeBadName, says: "Digits"},
		{name: "deploy with an odd wait", path: tenantPath + "/endpoints/bad?wait=soon", body: good, code: api.CodeBadRequest, says: "soon"},
		{name: "deploy with a long wait", path: tenantPath + "/endpoints/bad?wait=6m", body: good, code: api.CodeBadRequest, says: "6m"},
		{name: "deploy on a stale ETag", path: tenantPath + "/endpoints/digits", body: good, header: []string{"If-Match", `"7"`}, status: 412, code: api.CodeStale, says: "7"},
		{name: "deploy on no ETag of ours", path: tenantPath + "/endpoints/digits", body: good, header: []string{"If-Match", `"x"`}, status: 412, code: api.CodeStale, says: `x`},
		{name: "deploy on a bare ETag", path: tenantPath + "/endpoints/digits", body: good, header: []string{"If-Match", `1`}, code: api.CodeBadRequest, says: "If-Match"},
		{name: "deploy on a weak ETag", path: tenantPath + "/endpoints/digits", body: good, header: []string{"If-Match", `W/"1"`}, code: api.CodeBadRequest, says: "If-Match"},
		{name: "deploy on two conditions", path: tenantPath + "/endpoints/digits", body: good, header: []string{"If-Match", `"1"`, "If-None-Match", "*"}, code: api.CodeBadRequest, says: "condition"},
		{name: "deploy on what must be there", body: good, header: []string{"If-Match", "*"}, status: 404, code: api.CodeEndpointNotFound, says: "bad"},
		{name: "deploy on what must not be there", path: tenantPath + "/endpoints/digits", body: good, header: []string{"If-None-Match", "*"}, status: 409, code: api.CodeExists, says: "digits"},
		{name: "deploy as text", body: good, header: []string{"Content-Type", "text/plain"}, code: api.CodeBadRequest, says: "text/plain"},
		{name: "alias to nothing", path: tenantPath + "/models/digits/aliases/champion", body: `{}`, code: api.CodeBadJSON, says: "version"},
		{name: "alias to version 0", path: tenantPath + "/models/digits/aliases/champion", body: `{"version":0}`, code: api.CodeBadJSON, says: "version"},
		{name: "alias to an unknown version", path: tenantPath + "/models/digits/aliases/champion", body: `{"version":9}`, status: 404, code: api.CodeVersionNotFound, says: "9"},
		{name: "alias on a stale ETag", path: tenantPath + "/models/digits/aliases/champion", body: `{"version":1}`, header: []string{"If-Match", `"3"`}, status: 412, code: api.CodeStale, says: "champion"},
		{name: "alias named latest", path: tenantPath + "/models/digits/aliases/latest", body: `{"version":1}`, code: api.CodeBadName, says: "latest"},
		{name: "alias named as a number", path: tenantPath + "/models/digits/aliases/7", body: `{"version":1}`, code: api.CodeBadName, says: "7"},
	}
	for i := range list {
		list[i].method = "PUT"
		if list[i].path == "" {
			list[i].path = tenantPath + "/endpoints/bad"
		}
		if list[i].status == 0 {
			list[i].status = 400
		}
	}
	return list
}

func badPaths() []badCall {
	return []badCall{
		{name: "roll back nothing", method: "POST", path: tenantPath + "/endpoints/nosuch/rollback", body: "{}", status: 404, code: api.CodeEndpointNotFound, says: "nosuch"},
		{name: "roll back the first", method: "POST", path: tenantPath + "/endpoints/digits/rollback", body: "{}", status: 409, code: api.CodeNothingEarlier, says: "digits"},
		{name: "roll back to what never was", method: "POST", path: tenantPath + "/endpoints/digits/rollback", body: `{"to":9}`, status: 404, code: api.CodeRevisionNotFound, says: "9"},
		{name: "roll back to what serves", method: "POST", path: tenantPath + "/endpoints/digits/rollback", body: `{"to":1}`, status: 409, code: api.CodeExists, says: "revision 1"},
		{name: "roll back below 0", method: "POST", path: tenantPath + "/endpoints/digits/rollback", body: `{"to":-1}`, status: 400, code: api.CodeBadJSON, says: "to"},
		{name: "roll back without a body", method: "POST", path: tenantPath + "/endpoints/digits/rollback", status: 400, code: api.CodeBadJSON, says: "no JSON value"},
		{name: "abort nothing", method: "POST", path: tenantPath + "/endpoints/digits/abort", status: 409, code: api.CodeNoRelease, says: "no release is under way"},
		{name: "delete nothing", method: "DELETE", path: tenantPath + "/endpoints/nosuch", status: 404, code: api.CodeEndpointNotFound, says: "nosuch"},
		{name: "unknown release", method: "GET", path: tenantPath + "/endpoints/digits/releases/9", status: 404, code: api.CodeNotFound, says: "9"},
		{name: "release of text", method: "GET", path: tenantPath + "/endpoints/digits/releases/last", status: 404, code: api.CodeNotFound, says: "last"},
		{name: "unknown model", method: "GET", path: tenantPath + "/models/nosuch", status: 404, code: api.CodeModelNotFound, says: "nosuch"},
		{name: "unknown version", method: "GET", path: tenantPath + "/models/digits/versions/9", status: 404, code: api.CodeVersionNotFound, says: "9"},
		{name: "version below 0", method: "GET", path: tenantPath + "/models/digits/versions/-1", status: 404, code: api.CodeVersionNotFound, says: "-1"},
		{name: "version over 64 bits", method: "GET", path: tenantPath + "/models/digits/versions/9223372036854775808", status: 404, code: api.CodeAliasNotFound, says: "9223372036854775808"},
		{name: "unknown artifact", method: "GET", path: tenantPath + "/models/digits/versions/1/artifacts/passwd", status: 404, code: api.CodeNotFound, says: "passwd"},
		{name: "a limit of text", method: "GET", path: tenantPath + "/models?limit=all", status: 400, code: api.CodeBadRequest, says: "limit"},
		{name: "a limit over the most", method: "GET", path: tenantPath + "/models?limit=1001", status: 400, code: api.CodeBadRequest, says: "1000"},
		{name: "a query that is none", method: "GET", path: tenantPath + "/models?%zz", status: 400, code: api.CodeBadRequest, says: "query"},
		{name: "wrong method", method: "DELETE", path: tenantPath + "/models", status: 405, code: api.CodeUnsupported, says: "DELETE"},
		{name: "unknown path", method: "GET", path: "/api/v1/nosuch", status: 404, code: api.CodeNotFound, says: "path"},
		{name: "long key", method: "POST", path: tenantPath + "/endpoints/digits/rollback", body: "{}", header: []string{"Idempotency-Key", strings.Repeat("k", 256)}, status: 400, code: api.CodeBadRequest, says: "Idempotency-Key"},
		{name: "key with a space", method: "POST", path: tenantPath + "/endpoints/digits/rollback", body: "{}", header: []string{"Idempotency-Key", "a b"}, status: 400, code: api.CodeBadRequest, says: "Idempotency-Key"},
		{name: "another origin", method: "POST", path: tenantPath + "/endpoints/digits/rollback", body: "{}", header: []string{"Origin", "https://evil.example"}, status: 403, code: api.CodeForbidden, says: "origin"},
		// The door in front of both planes answers these, in the control plane's form.
		{name: "dots in the path", method: "GET", path: tenantPath + "/models/../keys", status: 400, code: api.CodeBadRequest, says: "dot segment"},
		{name: "escaped dots in the path", method: "GET", path: tenantPath + "/models/%2e%2e/keys", status: 400, code: api.CodeBadRequest, says: "escape"},
		{name: "an escaped slash", method: "GET", path: tenantPath + "/models/a%2Fb", status: 400, code: api.CodeBadRequest, says: "escape"},
		{name: "an empty segment", method: "GET", path: "/api/v1//tenants", status: 400, code: api.CodeBadRequest, says: "empty segment"},
		{name: "a parameter in the path", method: "GET", path: tenantPath + "/models;x=1", status: 400, code: api.CodeBadRequest, says: "character"},
		{name: "NUL in the path", method: "GET", path: tenantPath + "/models/a%00", status: 400, code: api.CodeBadRequest, says: "escape"},
		{name: "a method of nobody's", method: "TRACE", path: tenantPath + "/models", status: 405, code: api.CodeBadRequest, says: "Method Not Allowed"},
	}
}

func gzipped(t *testing.T, size int) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for range size >> 20 {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

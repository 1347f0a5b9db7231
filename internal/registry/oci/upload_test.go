package oci_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/blob/files"
	"github.com/penstock/penstock/internal/registry/oci"
)

// left lists what lies in the directory of unfinished uploads.
func (b *bench) left() []string {
	b.t.Helper()
	entries, err := os.ReadDir(filepath.Join(b.dir, "uploads"))
	if err != nil {
		b.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (b *bench) pulled(as, repo, digest string, want []byte) {
	b.t.Helper()
	if a := b.do(http.StatusOK, as, "GET", "/v2/"+repo+"/blobs/"+digest, nil); !bytes.Equal(a.body, want) {
		b.t.Errorf("%s: %d bytes came back, want %d", digest, len(a.body), len(want))
	} else if got := a.Header.Get("Docker-Content-Digest"); got != digest {
		b.t.Errorf("Docker-Content-Digest is %q, want %q", got, digest)
	}
}

// TestUploads sends blobs in every way that the specification has, by both digests.
func TestUploads(t *testing.T) {
	b := setUp(t, nil)
	digests := map[string]func([]byte) string{"sha256": sha, "sha512": sha2}
	for algorithm, digestOf := range digests {
		for name, send := range map[string]func(body []byte, digest string) answer{
			"in one request": func(body []byte, digest string) answer {
				return b.do(http.StatusCreated, "acme", "POST", "/v2/acme/m/blobs/uploads/?digest="+digest, body)
			},
			"post and put": func(body []byte, digest string) answer {
				return b.do(http.StatusCreated, "acme", "PUT", b.begin("acme", "acme/m")+"?digest="+digest, body)
			},
			"streamed": func(body []byte, digest string) answer {
				at := b.do(http.StatusAccepted, "acme", "PATCH", b.begin("acme", "acme/m"), body).Header.Get("Location")
				return b.do(http.StatusCreated, "acme", "PUT", at+"?digest="+digest, nil)
			},
			"in chunks": func(body []byte, digest string) answer {
				at, cut := b.begin("acme", "acme/m"), len(body)/3
				a := b.do(http.StatusAccepted, "acme", "PATCH", at, body[:cut], "Content-Range", fmt.Sprintf("0-%d", cut-1))
				if got := a.Header.Get("Range"); got != fmt.Sprintf("0-%d", cut-1) {
					t.Errorf("after the first chunk the range is %q", got)
				}
				b.do(http.StatusAccepted, "acme", "PATCH", at, body[cut:2*cut], "Content-Range", fmt.Sprintf("%d-%d", cut, 2*cut-1))
				return b.do(http.StatusCreated, "acme", "PUT", at+"?digest="+digest, body[2*cut:], "Content-Range", fmt.Sprintf("%d-%d", 2*cut, len(body)-1))
			},
		} {
			body := content(100_001, algorithm+name)
			a := send(body, digestOf(body))
			if want := "/v2/acme/m/blobs/" + digestOf(body); a.Header.Get("Location") != want {
				t.Errorf("%s %s: location %q, want %q", algorithm, name, a.Header.Get("Location"), want)
			}
			b.pulled("acme", "acme/m", digestOf(body), body)
			// The same upload again is as good.
			send(body, digestOf(body))
		}
	}
	empty := []byte{}
	b.do(http.StatusCreated, "acme", "PUT", b.begin("acme", "acme/m")+"?digest="+sha(empty), nil)
	b.pulled("acme", "acme/m", sha(empty), empty)
	if left := b.left(); len(left) > 0 {
		t.Errorf("finished uploads left %v", left)
	}
}

// TestRefusedUploads sends what is wrong.
func TestRefusedUploads(t *testing.T) {
	b := setUp(t, func(b *bench) { b.limits.BlobBytes = 1 << 20 })
	body, other := content(1000, "body"), content(1000, "other")
	at := b.begin("acme", "acme/m")
	b.do(http.StatusAccepted, "acme", "PATCH", at, body[:500], "Content-Range", "0-499")
	for name, c := range map[string]struct {
		method, path string
		body         []byte
		headers      []string
		status       int
		code         string
	}{
		"a chunk ahead":               {"PATCH", at, body[600:], []string{"Content-Range", "600-999"}, 416, "BLOB_UPLOAD_INVALID"},
		"a chunk behind":              {"PATCH", at, body[:500], []string{"Content-Range", "0-499"}, 416, "BLOB_UPLOAD_INVALID"},
		"a last chunk ahead":          {"PUT", at + "?digest=" + sha(body), body[600:], []string{"Content-Range", "600-999"}, 416, "BLOB_UPLOAD_INVALID"},
		"a range with a unit":         {"PATCH", at, body[500:], []string{"Content-Range", "bytes 500-999/1000"}, 416, "BLOB_UPLOAD_INVALID"},
		"a range that goes back":      {"PATCH", at, body[500:], []string{"Content-Range", "500-400"}, 416, "BLOB_UPLOAD_INVALID"},
		"a range of 30 digits":        {"PATCH", at, body[500:], []string{"Content-Range", strings.Repeat("9", 30) + "-" + strings.Repeat("9", 30)}, 416, "BLOB_UPLOAD_INVALID"},
		"a chunk of another length":   {"PATCH", at, body[500:600], []string{"Content-Range", "500-999"}, 400, "SIZE_INVALID"},
		"an encoded chunk":            {"PATCH", at, body[500:], []string{"Content-Encoding", "gzip"}, 400, "BLOB_UPLOAD_INVALID"},
		"no digest":                   {"PUT", at, nil, nil, 400, "DIGEST_INVALID"},
		"a digest of no length":       {"PUT", at + "?digest=sha256:", nil, nil, 400, "DIGEST_INVALID"},
		"a digest in capitals":        {"PUT", at + "?digest=" + strings.ToUpper(sha(body)), nil, nil, 400, "DIGEST_INVALID"},
		"a digest that is a path":     {"PUT", at + "?digest=sha256:../../../../../etc/passwd", nil, nil, 400, "DIGEST_INVALID"},
		"a digest of another kind":    {"PUT", at + "?digest=md5:d41d8cd98f00b204e9800998ecf8427e", nil, nil, 400, "DIGEST_INVALID"},
		"two digests":                 {"PUT", at + "?digest=" + sha(body) + "&digest=" + sha(other), nil, nil, 400, "UNSUPPORTED"},
		"another blob in one":         {"POST", "/v2/acme/m/blobs/uploads/?digest=" + sha(body), other, nil, 400, "DIGEST_INVALID"},
		"another blob by sha512":      {"POST", "/v2/acme/m/blobs/uploads/?digest=" + sha2(body), other, nil, 400, "DIGEST_INVALID"},
		"too large in one":            {"POST", "/v2/acme/m/blobs/uploads/?digest=" + sha(body), make([]byte, 2<<20), nil, 413, "SIZE_INVALID"},
		"too large by and by":         {"PATCH", b.begin("acme", "acme/m"), make([]byte, 1<<20+1), nil, 413, "SIZE_INVALID"},
		"no such upload":              {"PATCH", "/v2/acme/m/blobs/uploads/AAAAAAAAAAAAAAAAAAAAAAAAAA", body, nil, 404, "BLOB_UPLOAD_UNKNOWN"},
		"an upload that is a path":    {"PATCH", "/v2/acme/m/blobs/uploads/..%2f..%2fpepper", body, nil, 400, ""},
		"an upload named as a file":   {"GET", at + ".json", nil, nil, 404, "BLOB_UPLOAD_UNKNOWN"},
		"another repository":          {"PATCH", strings.Replace(at, "acme/m", "acme/n", 1), body, nil, 404, "BLOB_UPLOAD_UNKNOWN"},
		"an unknown digest-algorithm": {"POST", "/v2/acme/m/blobs/uploads/?digest-algorithm=md5", nil, nil, 400, "DIGEST_INVALID"},
		"a method for nothing":        {"PUT", "/v2/acme/m/blobs/uploads/", nil, nil, 405, "UNSUPPORTED"},
	} {
		if a := b.do(c.status, "acme", c.method, c.path, c.body, c.headers...); a.code() != c.code {
			t.Errorf("%s: code %q, want %q: %s", name, a.code(), c.code, a.body)
		}
	}
	// After all that the upload goes on where it was.
	if got := b.do(http.StatusNoContent, "acme", "GET", at, nil).Header.Get("Range"); got != "0-499" {
		t.Errorf("the range is %q", got)
	}
	b.do(http.StatusNoContent, "acme", "DELETE", at, nil)
	b.do(http.StatusNotFound, "acme", "GET", at, nil)
	// A wrong digest at the end takes the upload with it.
	at = b.do(http.StatusAccepted, "acme", "PATCH", b.begin("acme", "acme/m"), body).Header.Get("Location")
	b.do(http.StatusBadRequest, "acme", "PUT", at+"?digest="+sha(other), nil)
	b.do(http.StatusNotFound, "acme", "GET", at, nil)
	if left := b.left(); len(left) != 2 { // the one that was too large can still be finished
		t.Errorf("refused uploads left %v", left)
	}
}

// TestUploadGoesOn breaks a stream off, starts the server again, and goes on from what it says.
func TestUploadGoesOn(t *testing.T) {
	for _, digestOf := range []func([]byte) string{sha, sha2} {
		b := setUp(t, func(b *bench) { b.limits.Checkpoint = 64 << 10 })
		body := content(1<<20, "going on")
		at := b.begin("acme", "acme/m")
		b.sendPart(at, body[:400_000], len(body))
		received := b.settled(at)
		if received == 0 || received > 400_000 {
			t.Fatalf("after 400000 bytes and a broken connection the upload holds %d", received)
		}
		b.close()
		b.open()
		// What a crash leaves beside: bytes that no note vouches for, a note half written, a part without a note.
		id := at[strings.LastIndex(at, "/")+1:]
		b.close()
		b.litter(id)
		b.open()
		if again := b.settled(at); again != received {
			t.Fatalf("before the restart it held %d bytes, now %d", received, again)
		}
		b.do(http.StatusAccepted, "acme", "PATCH", at, body[received:900_000], "Content-Range", fmt.Sprintf("%d-%d", received, 899_999))
		b.do(http.StatusCreated, "acme", "PUT", at+"?digest="+digestOf(body), body[900_000:])
		b.pulled("acme", "acme/m", digestOf(body), body)
		if left := b.left(); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	}
}

// litter adds what a crash may leave.
func (b *bench) litter(id string) {
	b.t.Helper()
	f, err := os.OpenFile(filepath.Join(b.dir, "uploads", id+".part"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("not acknowledged")
		f.Close()
	}
	for name, text := range map[string]string{"." + id + ".json": `{"tenant":`, "LOST.part": "x", "BROKEN.json": "{", "BROKEN.part": "x",
		"SHORT.json": `{"tenant":"acme","repository":"m","size":10,"sha256":""}`, "SHORT.part": "x"} {
		if err == nil {
			err = os.WriteFile(filepath.Join(b.dir, "uploads", name), []byte(text), 0o600)
		}
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// sendPart announces more than it sends, and hangs up.
func (b *bench) sendPart(at string, body []byte, announced int) {
	b.t.Helper()
	c, err := net.Dial("tcp", b.server.Listener.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "PATCH %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", at, b.keys["acme"], announced)
	if _, err := c.Write(body); err != nil {
		b.t.Fatal(err)
	}
	// The answer tells that the end of the sending half was seen.
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		b.t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		b.t.Errorf("a body that broke off answers %d", response.StatusCode)
	}
}

// settled asks how much has come.
func (b *bench) settled(at string) int {
	b.t.Helper()
	var last int
	a := b.do(http.StatusNoContent, "acme", "GET", at, nil)
	if _, err := fmt.Sscanf(a.Header.Get("Range"), "0-%d", &last); err != nil {
		b.t.Fatalf("range %q: %v", a.Header.Get("Range"), err)
	}
	return last + 1
}

// TestTruncatedBodies cuts bodies short everywhere that one is read, and nothing may be kept of them.
func TestTruncatedBodies(t *testing.T) {
	b := setUp(t, nil)
	body := content(50_000, "cut")
	for name, path := range map[string]string{
		"in one":         "POST /v2/acme/m/blobs/uploads/?digest=" + sha(body),
		"in one, sha512": "POST /v2/acme/m/blobs/uploads/?digest=" + sha2(body),
		"put":            "PUT " + b.begin("acme", "acme/m") + "?digest=" + sha(body),
		"manifest":       "PUT /v2/acme/m/manifests/v1",
	} {
		c, err := net.Dial("tcp", b.server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", path, b.keys["acme"], len(body), body[:40_000])
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d", name, response.StatusCode)
		}
		response.Body.Close()
		c.Close()
	}
	b.do(http.StatusNotFound, "acme", "HEAD", "/v2/acme/m/blobs/"+sha(body), nil)
	b.do(http.StatusNotFound, "acme", "HEAD", "/v2/acme/m/manifests/v1", nil)
}

// TestUploadLimits fills up what may be unfinished, and waits by the clock until it is swept away.
func TestUploadLimits(t *testing.T) {
	b := setUp(t, func(b *bench) {
		b.limits = oci.Limits{Uploads: 5, TenantUploads: 3, StagedBytes: 1000}
	})
	first := b.begin("acme", "acme/m")
	b.begin("acme", "acme/m")
	b.begin("acme", "acme/n")
	if a := b.do(http.StatusTooManyRequests, "acme", "POST", "/v2/acme/m/blobs/uploads/", nil); a.code() != "TOOMANYREQUESTS" {
		t.Errorf("code %q", a.code())
	}
	b.begin("evil", "evil/m")
	b.begin("evil", "evil/m")
	b.do(http.StatusTooManyRequests, "evil", "POST", "/v2/evil/m/blobs/uploads/", nil)
	b.do(http.StatusTooManyRequests, "acme", "PATCH", first, make([]byte, 1001))
	if n := b.settled(first); n != 1 {
		t.Errorf("a body over the room left %d bytes", n)
	}
	b.do(http.StatusAccepted, "acme", "PATCH", first, make([]byte, 900))
	// A day later, after a restart: the sweeper removes them, and there is room again.
	b.close()
	b.ahead = 25 * time.Hour
	b.open()
	ctx, cancel := b.sweeping()
	defer cancel()
	for ctx.Err() == nil && len(b.left()) > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	if left := b.left(); len(left) > 0 {
		t.Fatalf("old uploads are still there: %v", left)
	}
	b.do(http.StatusNotFound, "acme", "PATCH", first, make([]byte, 1))
	at := b.begin("acme", "acme/m")
	b.do(http.StatusAccepted, "acme", "PATCH", at, make([]byte, 900))
}

// TestOneUploadAtOnce lets many write to one upload together. One at a time gets in, and what comes out is what went in.
func TestOneUploadAtOnce(t *testing.T) {
	b := setUp(t, nil)
	at := b.begin("acme", "acme/m")
	const chunk, chunks = 1000, 40
	body := content(chunk*chunks, "together ")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := 0; i < chunks; {
				a, err := b.try("acme", "PATCH", at, body[i*chunk:(i+1)*chunk], "Content-Range", fmt.Sprintf("%d-%d", i*chunk, (i+1)*chunk-1))
				if err != nil {
					t.Error(err)
					return
				}
				switch a.StatusCode {
				case http.StatusAccepted, http.StatusConflict:
				case http.StatusRequestedRangeNotSatisfiable:
				default:
					t.Errorf("status %d: %s", a.StatusCode, a.body)
					return
				}
				status, err := b.try("acme", "GET", at, nil)
				if err != nil {
					t.Error(err)
					return
				}
				var last int
				if _, err := fmt.Sscanf(status.Header.Get("Range"), "0-%d", &last); err == nil && status.StatusCode == http.StatusNoContent {
					i = (last + 1) / chunk
				}
			}
		})
	}
	wg.Wait()
	b.do(http.StatusCreated, "acme", "PUT", at+"?digest="+sha(body), nil)
	b.pulled("acme", "acme/m", sha(body), body)
}

// TestRanges asks for parts of a blob.
func TestRanges(t *testing.T) {
	b := setUp(t, nil)
	body := content(5000, "0123456789")
	path := "/v2/acme/m/blobs/" + b.blob("acme", "acme/m", body)
	for name, c := range map[string]struct {
		ask    string
		status int
		want   []byte
	}{
		"a middle":        {"bytes=500-1499", 206, body[500:1500]},
		"an end":          {"bytes=4000-", 206, body[4000:]},
		"a suffix":        {"bytes=-100", 206, body[4900:]},
		"over the end":    {"bytes=4990-9000", 206, body[4990:]},
		"one byte":        {"bytes=0-0", 206, body[:1]},
		"beyond":          {"bytes=5000-", 416, nil},
		"backwards":       {"bytes=500-0", 416, nil},
		"nonsense":        {"bytes=a-b", 416, nil},
		"a thousand":      {"bytes=" + strings.Repeat("0-0,", 999) + "0-0", 200, body},
		"everything, 9 x": {"bytes=" + strings.Repeat("0-,", 8) + "0-", 200, body},
	} {
		a := b.do(c.status, "acme", "GET", path, nil, "Range", c.ask)
		if c.want != nil && !bytes.Equal(a.body, c.want) {
			t.Errorf("%s: %d bytes, want %d", name, len(a.body), len(c.want))
		}
	}
	a := b.do(http.StatusPartialContent, "acme", "GET", path, nil, "Range", "bytes=0-1,10-11")
	if !strings.HasPrefix(a.Header.Get("Content-Type"), "multipart/byteranges") || !bytes.Contains(a.body, []byte("bytes 10-11/5000")) {
		t.Errorf("two ranges answer %s: %s", a.Header.Get("Content-Type"), a.body)
	}
	b.do(http.StatusNotModified, "acme", "GET", path, nil, "If-None-Match", `"`+sha(body)+`"`)
	head := b.do(http.StatusOK, "acme", "HEAD", path, nil)
	if head.ContentLength != 5000 || len(head.body) > 0 {
		t.Errorf("HEAD gives the length %d and %d bytes", head.ContentLength, len(head.body))
	}
}

// TestSlowBody holds a sender against the least rate.
func TestSlowBody(t *testing.T) {
	// The bytes that do come go out in two writes: the window leaves a busy machine time for both.
	b := setUp(t, func(b *bench) { b.limits = oci.Limits{BodyWindow: time.Second, BodyLeast: 1 << 20} })
	at := b.begin("acme", "acme/m")
	r, w := io.Pipe()
	done := make(chan answer, 1)
	go func() {
		request, err := http.NewRequestWithContext(t.Context(), "PATCH", b.server.URL+at, r)
		if err != nil {
			t.Error(err)
		}
		request.Header.Set("Authorization", "Bearer "+b.keys["acme"])
		response, err := b.server.Client().Do(request)
		if err != nil {
			t.Error(err)
			done <- answer{}
			return
		}
		defer response.Body.Close()
		done <- answer{Response: response}
	}()
	if _, err := w.Write([]byte("slow")); err != nil {
		t.Fatal(err)
	}
	if a := <-done; a.Response != nil && a.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("status %d", a.StatusCode)
	}
	w.Close()
	if n := b.settled(at); n != 4 {
		t.Errorf("the upload holds %d bytes, want the 4 that came", n)
	}
}

// TestFullDisk fills the blob store's disk up at each of its steps. Callers hear 507, what came of an upload stays, and when
// there is room again the same request goes through.
// TestHalfKept: the store took an upload's file, and the repository was not told. What was acknowledged of the upload is not
// lost: finishing it once more, or a restart, completes it.
func TestHalfKept(t *testing.T) {
	b := setUp(t, nil)
	for _, digestOf := range []func([]byte) string{sha, sha2} {
		for _, restart := range []bool{false, true} {
			body := content(10_000, fmt.Sprint(digestOf(nil), restart))
			upload := b.do(http.StatusAccepted, "acme", "PATCH", b.begin("acme", "acme/m"), body).Header.Get("Location")
			b.halfway = true
			b.do(http.StatusInsufficientStorage, "acme", "PUT", upload+"?digest="+digestOf(body), nil)
			b.halfway = false
			b.do(http.StatusNotFound, "acme", "PATCH", upload, []byte("more"))
			b.do(http.StatusNotFound, "acme", "HEAD", "/v2/acme/m/blobs/"+digestOf(body), nil)
			if restart {
				b.close()
				b.open()
			} else {
				b.do(http.StatusCreated, "acme", "PUT", upload+"?digest="+digestOf(body), nil)
			}
			b.pulled("acme", "acme/m", digestOf(body), body)
		}
	}
	if left := b.left(); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestFullDisk(t *testing.T) {
	var at atomic.Pointer[files.Step]
	b := setUp(t, func(b *bench) {
		b.fault = func(step files.Step) error {
			if failing := at.Load(); failing != nil && *failing == step {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	for _, step := range []files.Step{files.StepCreate, files.StepWrite, files.StepSync, files.StepRename} {
		body := content(10_000, string(step))
		whole := "/v2/acme/m/blobs/uploads/?digest=" + sha(body)
		upload := b.do(http.StatusAccepted, "acme", "PATCH", b.begin("acme", "acme/m"), body).Header.Get("Location")
		at.Store(&step)
		b.do(http.StatusInsufficientStorage, "acme", "POST", whole, body)
		b.do(http.StatusNotFound, "acme", "HEAD", "/v2/acme/m/blobs/"+sha(body), nil)
		if step == files.StepRename { // the one step that taking a file over has in common with copying
			b.do(http.StatusInsufficientStorage, "acme", "PUT", upload+"?digest="+sha(body), nil)
		}
		at.Store(nil)
		if n := b.settled(upload); n != len(body) {
			t.Errorf("%s: the upload holds %d bytes", step, n)
		}
		b.do(http.StatusCreated, "acme", "PUT", upload+"?digest="+sha(body), nil)
		b.do(http.StatusCreated, "acme", "POST", whole, body)
		b.pulled("acme", "acme/m", sha(body), body)
	}
	if left := b.left(); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

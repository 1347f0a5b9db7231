package mirror_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/egress"
	"github.com/penstock/penstock/internal/mirror"
)

// TestHostile imports from registries that lie, stall, fail and lead astray. Nothing of them is kept.
func TestHostile(t *testing.T) {
	body := []byte(content(300_000, "layer-"))
	empty := []byte("{}")
	config := describe(mediaEmpty, empty)
	layer := describe("application/octet-stream", body)
	layer.Annotations = map[string]string{"org.opencontainers.image.title": "data.bin"}
	whole := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"application/vnd.example.data","config":{"mediaType":%q,"digest":%q,"size":2},"layers":[{"mediaType":"application/octet-stream","digest":%q,"size":%d}]}`,
		mediaManifest, mediaEmpty, config.Digest, layer.Digest, layer.Size)
	nested := func(inner []byte, size int) []byte {
		return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, mediaIndex, mediaIndex, sha(inner), size)
	}
	manifests := map[string][]byte{"v1": whole, sha(whole): whole}
	deep := whole
	for range 12 {
		deep = nested(deep, len(deep))
		manifests[sha(deep)] = deep
	}
	many := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[%s]}`, mediaManifest, mediaEmpty, config.Digest,
		strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"digest":%q,"size":2},`, config.Digest), 1100), ","))
	cyclic := nested([]byte("x"), 10)
	serve := func(w http.ResponseWriter, media, digest string, body []byte) {
		w.Header().Set("Content-Type", media)
		w.Header().Set("Docker-Content-Digest", digest)
		_, _ = w.Write(body)
	}
	// honest answers what everybody would; the cases answer before it.
	honest := func(w http.ResponseWriter, r *http.Request) {
		_, reference, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/acme/m/"), "/")
		switch {
		case strings.Contains(r.URL.Path, "/manifests/") && manifests[reference] != nil:
			m := manifests[reference]
			serve(w, map[bool]string{true: mediaIndex, false: mediaManifest}[strings.Contains(string(m), `"manifests"`)], sha(m), m)
		case reference == sha(body):
			serve(w, "application/octet-stream", reference, body)
		case reference == sha(empty):
			serve(w, "application/octet-stream", reference, empty)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}
	isBlob := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/blobs/"+sha(body)) }
	isManifest := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/manifests/v1") }
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request) bool // whether it did
		from   string                                            // what is imported; v1
		code   api.Code
		says   string
	}{
		"a manifest of other bytes than its digest": {func(w http.ResponseWriter, r *http.Request) bool {
			if isManifest(r) {
				serve(w, mediaManifest, sha([]byte("other")), whole)
			}
			return isManifest(r)
		}, "", api.CodeDigestMismatch, "hash to"},
		"a blob of other bytes": {func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				serve(w, "application/octet-stream", sha(body), []byte(content(len(body), "lies-")))
			}
			return isBlob(r)
		}, "", api.CodeDigestMismatch, "hash to"},
		"a blob that is longer": {func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				serve(w, "application/octet-stream", sha(body), append(body, 'x'))
			}
			return isBlob(r)
		}, "", api.CodeRemoteRefused, "more than the 300000 bytes"},
		"a blob that never ends": {func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				for r.Context().Err() == nil {
					if _, err := w.Write(body); err != nil {
						break
					}
				}
			}
			return isBlob(r)
		}, "", api.CodeRemoteRefused, "more than the 300000 bytes"},
		"a blob that is shorter": {func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				serve(w, "application/octet-stream", sha(body), body[:100_000])
			}
			return isBlob(r)
		}, "", api.CodeRemoteAway, "broke off after"},
		"a stall at 99 %": {func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				_, _ = w.Write(body[:297_000])
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}
			return isBlob(r)
		}, "", api.CodeRemoteAway, "fewer than"},
		"no answer at all": {func(_ http.ResponseWriter, r *http.Request) bool {
			if isManifest(r) {
				<-r.Context().Done()
			}
			return isManifest(r)
		}, "", api.CodeRemoteAway, "fewer than"},
		"500": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}, "", api.CodeRemoteAway, "500"},
		"503 with a page": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, strings.Repeat("<h1>away</h1>\x1b[31m", 100_000))
			return true
		}, "", api.CodeRemoteAway, "503"},
		"403 with a long reason": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"%s"}]}`, strings.Repeat(`no\u001b[31m `, 2000))
			return true
		}, "", api.CodeRemoteRefused, "403 DENIED: no"},
		"a redirect inside": {func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusTemporaryRedirect)
			}
			return isBlob(r)
		}, "", api.CodeEgress, "inside the network"},
		"a redirect to another scheme": {func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				http.Redirect(w, r, "file:///etc/passwd", http.StatusTemporaryRedirect)
			}
			return isBlob(r)
		}, "", api.CodeRemoteRefused, ""},
		"a redirect to itself": {func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
			}
			return isBlob(r)
		}, "", api.CodeRemoteRefused, "redirects more than"},
		"tokens inside": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://10.0.0.1/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}, "", api.CodeEgress, "inside the network"},
		"a manifest of 5 MiB": {func(w http.ResponseWriter, r *http.Request) bool {
			if isManifest(r) {
				big := append([]byte(`{"schemaVersion":2,"x":"`), []byte(content(5<<20, "y"))...)
				serve(w, mediaManifest, sha(big), big)
			}
			return isManifest(r)
		}, "", api.CodeTooLarge, "over the limit"},
		"a manifest that is none": {func(w http.ResponseWriter, r *http.Request) bool {
			if isManifest(r) {
				serve(w, mediaManifest, sha([]byte("[1]")), []byte("[1]"))
			}
			return isManifest(r)
		}, "", api.CodeRemoteRefused, "not JSON"},
		"a list that leads to itself": {func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") { // whatever is asked for: the same again
				serve(w, mediaIndex, r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:], cyclic)
			}
			return strings.Contains(r.URL.Path, "/manifests/")
		}, "@" + sha(cyclic), api.CodeDigestMismatch, "hash to"},
		"lists in lists": {nil, "@" + sha(deep), api.CodeTooLarge, "8 times"},
		"1,100 layers": {func(w http.ResponseWriter, r *http.Request) bool {
			if isManifest(r) {
				serve(w, mediaManifest, sha(many), many)
			}
			return isManifest(r)
		}, "", api.CodeTooLarge, "1024 parts"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			here := newSite(t, func(c *mirror.Config) { c.Tries, c.Pace = 1, 300*time.Millisecond })
			liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.answer == nil || !c.answer(w, r) {
					honest(w, r)
				}
			}))
			t.Cleanup(func() { liar.CloseClientConnections(); liar.Close() })
			from := c.from
			if from == "" {
				from = ":v1"
			}
			got := here.ends(here.imports("m", api.ImportRequest{From: "oci://" + strings.TrimPrefix(liar.URL, "http://") + "/acme/m" + from,
				RemoteLogin: api.RemoteLogin{PlainHTTP: true}}), api.TransferFailed)
			if got.Code != c.code || !strings.Contains(got.Error, c.says) || len(got.Error) > 400 || strings.ContainsRune(got.Error, 0x1b) {
				t.Errorf("%s: %s; want %s with %q", got.Code, got.Error, c.code, c.says)
			}
			if names, err := here.catalog.Repositories(t.Context(), "acme", "", 10); err != nil || len(names) > 0 {
				t.Errorf("kept %v, %v", names, err)
			}
		})
	}
}

// TestInside asks for copies from names and numbers that lead inside.
func TestInside(t *testing.T) {
	here := newSite(t, func(c *mirror.Config) { c.Egress, c.Tries = egress.Policy{}, 1 })
	for _, host := range []string{"127.0.0.1:1", "localhost:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "169.254.169.254", "0.0.0.0:1", "10.0.0.1"} {
		got := here.ends(here.imports("m", api.ImportRequest{From: "oci://" + host + "/acme/m:v1", RemoteLogin: api.RemoteLogin{PlainHTTP: true}}), api.TransferFailed)
		if got.Code != api.CodeEgress {
			t.Errorf("%s: %s %s", host, got.Code, got.Error)
		}
	}
	for _, text := range []string{"oci://a\\@b/m:v1", "oci://user:word@host/m:v1", "oci://host/../m:v1", "oci://host/m?x=1", "oci://host/m#x", "oci://host/M:v1", "oci://host", "oci:///m",
		"file:///etc/passwd", "oci://host/m:-x", "oci://host/m@sha256:00", "gopher://host/m", "oci://ho st/m", "oci://host%2f/m", "oci://0x7f.1:99999999/m"} {
		if _, err := here.mirror.Import(t.Context(), acme, "m", api.ImportRequest{From: text}); !api.Is(err, api.CodeBadName) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

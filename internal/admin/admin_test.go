package admin_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/admin"
	"github.com/penstock/penstock/internal/admin/admintest"
)

// bench is a served API with one model of two versions and one endpoint.
type bench struct {
	*testing.T
	rooms *admintest.Rooms
	url   string
}

func start(t *testing.T, change func(*admin.Config)) bench {
	t.Helper()
	b := bench{t, admintest.New(), ""}
	cfg := b.rooms.Config()
	cfg.Logger = slog.New(slog.DiscardHandler)
	if change != nil {
		change(&cfg)
	}
	server, _ := b.rooms.Start(t, cfg)
	b.url = server.URL + "/api/v1"
	for _, content := range []string{"one", "two"} {
		b.want(b.send("POST", "/tenants/default/models/digits/versions", content, "Content-Type", "application/octet-stream"), 201)
	}
	b.want(b.send("PUT", "/tenants/default/models/digits/aliases/champion", `{"version":1}`), 200)
	b.want(b.send("PUT", "/tenants/default/endpoints/digits?wait=1s", `{"variants":[{"model":"digits@1"}]}`), 200)
	return b
}

// answer is a response read to its end.
type answer struct {
	*http.Response
	body []byte
}

func (a answer) problem() (p api.Problem) {
	_ = json.Unmarshal(a.body, &p)
	return p
}

// send makes a request as the admin of tenant default, with JSON as the type of a body, unless headers say otherwise.
func (b bench) send(method, path, body string, headers ...string) answer {
	b.Helper()
	request, err := http.NewRequestWithContext(b.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+admintest.AdminKey)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			request.Host = headers[i+1]
		}
		request.Header.Del(headers[i])
		if headers[i+1] != "" {
			request.Header.Set(headers[i], headers[i+1])
		}
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		b.Fatal(err)
	}
	return answer{response, text}
}

func (b bench) want(a answer, status int) answer {
	b.Helper()
	if a.StatusCode != status {
		b.Fatalf("%s %s: status %d, want %d: %s", a.Request.Method, a.Request.URL, a.StatusCode, status, a.body)
	}
	return a
}

func (b bench) wantCode(a answer, status int, code api.Code) api.Problem {
	b.Helper()
	p := a.problem()
	if a.StatusCode != status || p.Code != code || p.Status != status || p.Type != "urn:penstock:error:"+string(code) ||
		p.RequestID == "" || p.RequestID != a.Header.Get("Penstock-Request-Id") || a.Header.Get("Content-Type") != "application/problem+json" {
		b.Errorf("%s %s: %d %s, want %d %s", a.Request.Method, a.Request.URL, a.StatusCode, a.body, status, code)
	}
	return p
}

const zeroDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

// everyRoute is one good request per operation of the OpenAPI document, in an order in which all succeed.
var everyRoute = []struct{ id, method, path, body, media string }{
	{"openapi", "GET", "/openapi.json", "", ""},
	{"version", "GET", "/version", "", ""},
	{"whoami", "GET", "/whoami", "", ""},
	{"listWorkers", "GET", "/workers", "", ""},
	{"listLoaded", "GET", "/tenants/default/loaded", "", ""},
	{"getStatistics", "GET", "/tenants/default/statistics?window=30s", "", ""},
	{"listEvents", "GET", "/events?after=0&limit=5", "", ""},
	{"backup", "GET", "/backup", "", ""},
	{"collect", "POST", "/collections", `{"dry_run": true}`, ""},
	{"listCollections", "GET", "/collections", "", ""},
	{"getCollection", "GET", "/collections/01COLLECTION", "", ""},
	{"getQuota", "GET", "/tenants/default/quota", "", ""},
	{"setQuota", "PUT", "/tenants/default/quota", `{"bytes": 1000000}`, ""},
	{"listTrash", "GET", "/tenants/default/trash", "", ""},
	{"restoreManifest", "POST", "/tenants/default/trash", `{"repository": "team/notes", "digest": "` + zeroDigest + `"}`, ""},
	{"listTenants", "GET", "/tenants", "", ""},
	{"createTenant", "POST", "/tenants", `{"id":"umbrella"}`, ""},
	{"getTenant", "GET", "/tenants/acme", "", ""},
	{"setTenant", "PATCH", "/tenants/acme", `{"weight":4}`, ""},
	{"listKeys", "GET", "/tenants/acme/keys", "", ""},
	{"createKey", "POST", "/tenants/acme/keys", `{"name":"ops","scopes":["admin"]}`, ""},
	{"revokeKey", "DELETE", "/tenants/acme/keys/K1", "", ""},
	{"putBlob", "POST", "/tenants/default/blobs", "bytes", "application/octet-stream"},
	{"statBlob", "HEAD", "/tenants/default/blobs/sha256:277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9", "", ""},
	{"listModels", "GET", "/tenants/default/models?limit=1", "", ""},
	{"getModel", "GET", "/tenants/default/models/digits", "", ""},
	{"commitVersion", "POST", "/tenants/default/models/digits/versions", `{"files":[{"path":"m.onnx","digest":"sha256:277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9","size":5}]}`, ""},
	{"listVersions", "GET", "/tenants/default/models/digits/versions?before=3&limit=1", "", ""},
	{"getVersion", "GET", "/tenants/default/models/digits/versions/champion", "", ""},
	{"setTags", "PATCH", "/tenants/default/models/digits/versions/1/tags", `{"set":{"a":"b"}}`, ""},
	{"getRetention", "GET", "/tenants/default/models/digits/retention", "", ""},
	{"setRetention", "PUT", "/tenants/default/models/digits/retention", `{"keep_last": 3}`, ""},
	{"applyRetention", "POST", "/tenants/default/models/digits/retention/apply", `{"dry_run": true}`, ""},
	{"deleteVersion", "DELETE", "/tenants/default/models/digits/versions/1?why=old&for_good=1", "", ""},
	{"restoreVersion", "POST", "/tenants/default/models/digits/versions/1/restore", "", ""},
	{"deleteModel", "DELETE", "/tenants/default/models/digits?aliases=1", "", ""},
	{"getArtifact", "GET", "/tenants/default/models/digits/versions/latest/artifacts/m.onnx", "", ""},
	{"listReferrers", "GET", "/tenants/default/models/digits/versions/1/referrers?type=application/spdx%2Bjson&limit=5", "", ""},
	{"attachReferrer", "POST", "/tenants/default/models/digits/versions/1/referrers", `{"type":"application/spdx+json","digest":"sha256:277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9","size":5}`, ""},
	{"getReferrer", "GET", "/tenants/default/models/digits/versions/1/referrers/" + string(admintest.Paper), "", ""},
	{"getSBOM", "GET", "/tenants/default/models/digits/versions/1/sbom?format=spdx", "", ""},
	{"getLineage", "GET", "/tenants/default/lineage?of=digits@1&direction=up", "", ""},
	{"drawLineage", "GET", "/tenants/default/lineage.svg?of=dataset:d", "", ""},
	{"getTrust", "GET", "/tenants/default/trust", "", ""},
	{"setTrust", "PUT", "/tenants/default/trust", `{"require":false}`, ""},
	{"getAlias", "GET", "/tenants/default/models/digits/aliases/champion", "", ""},
	{"moveAlias", "PUT", "/tenants/default/models/digits/aliases/champion", `{"version":2,"why":"better"}`, ""},
	{"search", "GET", "/tenants/default/search?q=digits&sort=-size&limit=3", "", ""},
	{"searchFields", "GET", "/tenants/default/search/fields", "", ""},
	{"searchValues", "GET", "/tenants/default/search/values?field=name&prefix=d", "", ""},
	{"setMetadata", "PATCH", "/tenants/default/models/digits/versions/1/metadata", `{"task":"classification","label":"1.0.0"}`, ""},
	{"writeGate", "POST", "/tenants/default/models/digits/versions/1/gates", `{"name":"accuracy","passed":true}`, ""},
	{"protectAlias", "PUT", "/tenants/default/models/digits/aliases/champion/rule", `{"scopes":["admin"],"gates":["accuracy"]}`, ""},
	{"listAliasRules", "GET", "/tenants/default/models/digits/rules", "", ""},
	{"diffVersions", "GET", "/tenants/default/models/digits/versions/1/diff?with=digits@2", "", ""},
	{"shareModel", "PUT", "/tenants/default/models/digits/readers/acme", "", ""},
	{"listReaders", "GET", "/tenants/default/models/digits/readers", "", ""},
	{"unshareModel", "DELETE", "/tenants/default/models/digits/readers/acme", "", ""},
	{"copySharedVersion", "POST", "/tenants/default/models/digits-copy/copies", `{"tenant":"default","ref":"digits@1"}`, ""},
	{"renameModel", "POST", "/tenants/default/models/digits-copy/rename", `{"to":"numbers","why":"clearer"}`, ""},
	{"listRedirects", "GET", "/tenants/default/redirects?limit=9", "", ""},
	{"forgetRedirect", "DELETE", "/tenants/default/redirects/digits-copy", "", ""},
	{"aliasHistory", "GET", "/tenants/default/models/digits/aliases/champion/history", "", ""},
	{"deleteAlias", "DELETE", "/tenants/default/models/digits/aliases/champion?why=old", "", ""},
	{"listEndpoints", "GET", "/tenants/default/endpoints", "", ""},
	{"getEndpoint", "GET", "/tenants/default/endpoints/digits", "", ""},
	{"deploy", "PUT", "/tenants/default/endpoints/digits", `{"variants":[{"model":"digits@2"}],"why":"v2"}`, ""},
	{"rollback", "POST", "/tenants/default/endpoints/digits/rollback", `{}`, ""},
	{"listRevisions", "GET", "/tenants/default/endpoints/digits/revisions", "", ""},
	{"listReleases", "GET", "/tenants/default/endpoints/digits/releases", "", ""},
	{"getRelease", "GET", "/tenants/default/endpoints/digits/releases/1?wait=1s", "", ""},
	{"listExchanges", "GET", "/tenants/default/logs?endpoint=digits&errors=1", "", ""},
	{"abort", "POST", "/tenants/default/endpoints/digits/abort", "", ""},
	{"createWebhook", "POST", "/tenants/default/webhooks", `{"url":"https://ci.example/hook","kinds":["release.*"]}`, ""},
	{"listWebhooks", "GET", "/tenants/default/webhooks", "", ""},
	{"getWebhook", "GET", "/tenants/default/webhooks/W1", "", ""},
	{"changeWebhook", "PATCH", "/tenants/default/webhooks/W1", `{"subjects":["digits"]}`, ""},
	{"rotateWebhook", "POST", "/tenants/default/webhooks/W1/rotate", `{"keep_seconds":60}`, ""},
	{"testWebhook", "POST", "/tenants/default/webhooks/W1/test?wait=1s", "", ""},
	{"listDeliveries", "GET", "/tenants/default/webhooks/W1/deliveries?state=delivered&limit=5", "", ""},
	{"redeliver", "POST", "/tenants/default/webhooks/W1/redeliver", `{"dead":true}`, ""},
	{"deleteWebhook", "DELETE", "/tenants/default/webhooks/W1", "", ""},
	{"listAudit", "GET", "/audit?action=moveAlias&since=2020-01-01T00:00:00Z&limit=5", "", ""},
	{"verifyAudit", "GET", "/audit/verify", "", ""},
	{"deleteEndpoint", "DELETE", "/tenants/default/endpoints/digits", "", ""},
}

func TestEveryRouteIsDocumentedAndGuarded(t *testing.T) {
	b := start(t, nil)
	var document struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			OperationID string         `json:"operationId"`
			Summary     string         `json:"summary"`
			Responses   map[string]any `json:"responses"`
			Parameters  []struct{ Name, In string }
		} `json:"paths"`
	}
	if err := json.Unmarshal(b.want(b.send("GET", "/openapi.json", "", "Authorization", ""), 200).body, &document); err != nil || document.OpenAPI != "3.1.0" {
		t.Fatal(err, document.OpenAPI)
	}
	documented := make(map[string]bool)
	for path, operations := range document.Paths {
		for method, op := range operations {
			documented[op.OperationID] = true
			if op.Summary == "" || op.Responses["400"] == nil || op.Responses["500"] == nil || op.OperationID != "openapi" && op.Responses["401"] == nil {
				t.Errorf("%s %s: summary %q, responses %v", method, path, op.Summary, op.Responses)
			}
			if strings.Count(path, "{") > 0 && len(op.Parameters) < strings.Count(path, "{") {
				t.Errorf("%s %s: parameters %v", method, path, op.Parameters)
			}
		}
	}
	release := b.rooms
	for _, r := range everyRoute {
		if !documented[r.id] {
			t.Errorf("%s is not in the document", r.id)
		}
		delete(documented, r.id)
		media := r.media
		if media == "" && r.body != "" {
			media = "application/json"
		}
		if r.id != "openapi" {
			if a := b.send(r.method, r.path, r.body, "Content-Type", media, "Authorization", "Bearer wrong"); a.StatusCode != 401 || a.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s with a wrong key: %d", r.id, a.StatusCode)
			}
			if !strings.Contains("openapi version whoami", r.id) {
				if a := b.send(r.method, r.path, r.body, "Content-Type", media, "Authorization", "Bearer "+admintest.InferKey); a.StatusCode != 403 && !strings.HasPrefix(r.path, "/tenants/acme") {
					t.Errorf("%s without its scope: %d %s", r.id, a.StatusCode, a.body)
				}
			}
			if strings.HasPrefix(r.path, "/tenants/default/") {
				b.sameAsMissing(r.method, r.path, r.body, media)
			}
		}
		if r.id == "abort" {
			release.ReleaseState = api.ReleasePending
			b.want(b.send("PUT", "/tenants/default/endpoints/digits", `{"variants":[{"model":"digits@1"}]}`), 202)
		}
		a := b.send(r.method, r.path, r.body, "Content-Type", media)
		if a.StatusCode/100 != 2 {
			t.Errorf("%s: %d %s", r.id, a.StatusCode, a.body)
		}
		if r.method != "HEAD" && a.StatusCode != 204 && a.Header.Get("Content-Type") == "application/json" && bytes.Contains(a.body, []byte(":null")) {
			t.Errorf("%s answers with null: %s", r.id, a.body)
		}
		if regexp.MustCompile(`^[0-9A-Z]{26}$`).FindString(a.Header.Get("Penstock-Request-Id")) == "" {
			t.Errorf("%s: request id %q", r.id, a.Header.Get("Penstock-Request-Id"))
		}
	}
	for id := range documented {
		t.Errorf("%s is documented but not tried here", id)
	}
}

// sameAsMissing checks that a foreign tenant's things look like those of a tenant that does not exist, whatever the scope.
func (b bench) sameAsMissing(method, path, body, media string) {
	b.Helper()
	foreign := b.send(method, path, body, "Content-Type", media, "Authorization", "Bearer "+admintest.AcmeKey)
	missing := b.send(method, strings.Replace(path, "/default/", "/nowhere/", 1), body, "Content-Type", media, "Authorization", "Bearer "+admintest.AcmeKey)
	plain := func(a answer) string {
		return strings.ReplaceAll(string(a.body), a.Header.Get("Penstock-Request-Id"), "ID")
	}
	if foreign.StatusCode != 404 || missing.StatusCode != 404 || plain(foreign) != plain(missing) {
		b.Errorf("%s %s: foreign %d %s, missing %d %s", method, path, foreign.StatusCode, foreign.body, missing.StatusCode, missing.body)
	}
}

func TestBadRequests(t *testing.T) {
	b := start(t, func(c *admin.Config) { c.UploadBytesMax = 100 })
	const endpoint, model = "/tenants/default/endpoints/digits", "/tenants/default/models/digits"
	cases := []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		code                     api.Code
		says                     string
	}{
		{"duplicate key", "PUT", endpoint, `{"variants":[{"model":"mine@1","model":"theirs@1"}]}`, nil, 400, api.CodeBadJSON, "stands twice"},
		{"case variant", "PUT", endpoint, `{"variants":[{"MODEL":"digits@1"}]}`, nil, 400, api.CodeBadJSON, `"model"`},
		{"unknown field", "PUT", endpoint, `{"variants":[{"model":"digits@1"}],"canary":1}`, nil, 400, api.CodeBadJSON, "canary"},
		{"trailing data", "PUT", endpoint, `{"variants":[{"model":"digits@1"}]}{}`, nil, 400, api.CodeBadJSON, "follows"},
		{"no UTF-8", "PUT", endpoint, "{\"why\":\"\xff\"}", nil, 400, api.CodeBadJSON, "UTF-8"},
		{"too deep", "PUT", endpoint, strings.Repeat(`{"variants":[`, 70), nil, 400, api.CodeBadJSON, "no field"},
		{"empty", "PUT", endpoint, "", []string{"Content-Type", "application/json"}, 400, api.CodeBadJSON, "no JSON value"},
		{"no variants", "PUT", endpoint, `{"variants":[]}`, nil, 400, api.CodeBadJSON, ""},
		{"variants left out", "PUT", endpoint, `{}`, nil, 400, api.CodeBadJSON, "variants"},
		{"weight too large", "PUT", endpoint, `{"variants":[{"model":"digits@1","weight":1000001}]}`, nil, 400, api.CodeBadJSON, ""},
		{"unknown strategy", "PUT", endpoint, `{"variants":[{"model":"digits@1"}],"strategy":"canary"}`, nil, 400, api.CodeBadJSON, ""},
		{"unknown scope", "POST", "/tenants/default/keys", `{"name":"x","scopes":["root"]}`, nil, 400, api.CodeBadJSON, ""},
		{"wrong type", "PUT", endpoint, `{}`, []string{"Content-Type", "text/plain"}, 400, api.CodeBadRequest, "Content-Type"},
		{"compressed", "PUT", endpoint, `{}`, []string{"Content-Encoding", "gzip"}, 400, api.CodeBadRequest, "Content-Encoding"},
		{"too large", "PUT", endpoint, `{"why":"` + strings.Repeat("x", 1<<20) + `"}`, nil, 413, api.CodeTooLarge, "1048576"},
		{"upload too large", "POST", "/tenants/default/blobs", strings.Repeat("x", 101), []string{"Content-Type", "application/octet-stream"}, 413, api.CodeTooLarge, "100 bytes"},
		{"upload damaged", "POST", "/tenants/default/blobs?digest=" + zeroDigest, "x", []string{"Content-Type", "application/octet-stream"}, 400, api.CodeDigestMismatch, ""},
		{"bad digest", "POST", "/tenants/default/blobs?digest=md5:1", "x", []string{"Content-Type", "application/octet-stream"}, 400, api.CodeBadRequest, "sha256"},
		{"bad name", "PUT", "/tenants/default/endpoints/Digits", `{"variants":[{"model":"digits@1"}]}`, nil, 400, api.CodeBadName, "Digits"},
		{"slash in a name", "GET", "/tenants/default/models/a%2Fb", "", nil, 400, api.CodeBadName, ""},
		{"dots in the path", "GET", "/tenants/default/models/../models", "", nil, 404, api.CodeNotFound, ""},
		{"encoded dots", "GET", "/tenants/default/%2e%2e/default/models", "", nil, 404, api.CodeNotFound, ""},
		{"double slash", "GET", "//version", "", nil, 404, api.CodeNotFound, ""},
		{"path parameter", "GET", "/version;a=b", "", nil, 404, api.CodeNotFound, ""},
		{"upper case", "GET", "/Version", "", nil, 404, api.CodeNotFound, ""},
		{"wrong method", "DELETE", "/version", "", nil, 405, api.CodeUnsupported, "GET"},
		{"unknown query", "GET", "/tenants/default/models?limt=1", "", nil, 400, api.CodeBadRequest, "limt"},
		{"query twice", "GET", "/tenants/default/models?limit=1&limit=2", "", nil, 400, api.CodeBadRequest, "twice"},
		{"semicolon in the query", "GET", "/tenants/default/models?limit=1;after=b", "", nil, 400, api.CodeBadRequest, ""},
		{"limit too large", "GET", "/tenants/default/models?limit=1001", "", nil, 400, api.CodeBadRequest, "1000"},
		{"wait too long", "GET", endpoint + "/releases/1?wait=6m", "", nil, 400, api.CodeBadRequest, "5m"},
		{"version zero", "GET", model + "/versions/0", "", nil, 404, api.CodeVersionNotFound, ""},
		{"huge version", "GET", model + "/versions/99999999999999999999", "", nil, 404, api.CodeAliasNotFound, ""},
		{"release of a word", "GET", endpoint + "/releases/x", "", nil, 404, api.CodeNotFound, ""},
		{"missing model", "GET", "/tenants/default/models/absent", "", nil, 404, api.CodeModelNotFound, ""},
		{"other origin", "GET", "/version", "", []string{"Origin", "https://evil.example"}, 403, api.CodeForbidden, "origin"},
		{"null origin", "GET", "/version", "", []string{"Origin", "null"}, 403, api.CodeForbidden, "origin"},
		{"other site", "GET", "/version", "", []string{"Sec-Fetch-Site", "cross-site"}, 403, api.CodeForbidden, "site"},
		{"rebound name without a key", "GET", "/version", "", []string{"Host", "evil.example", "Authorization", ""}, 403, api.CodeForbidden, "known host"},
		{"key without its word", "GET", "/version", "", []string{"Authorization", ""}, 401, api.CodeUnauthenticated, ""},
		{"expired already", "POST", "/tenants/default/keys", `{"name":"x","scopes":["read"],"expires":"2001-01-01T00:00:00Z"}`, nil, 400, api.CodeBadRequest, "expired"},
		{"keys of another tenant", "GET", "/tenants/default/keys", "", []string{"Authorization", "Bearer " + admintest.AcmeKey}, 404, api.CodeNotFound, ""},
		{"tenants from another tenant", "GET", "/tenants", "", []string{"Authorization", "Bearer " + admintest.AcmeKey}, 403, api.CodeForbidden, ""},
		{"all events from another tenant", "GET", "/events?all=1", "", []string{"Authorization", "Bearer " + admintest.AcmeKey}, 403, api.CodeForbidden, ""},
		{"reader writes", "PUT", endpoint, `{}`, []string{"Authorization", "Bearer " + admintest.ReaderKey}, 403, api.CodeForbidden, "write"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sub := bench{t, b.rooms, b.url}
			p := sub.wantCode(sub.send(c.method, c.path, c.body, c.headers...), c.status, c.code)
			if !strings.Contains(p.Detail+p.Subject, c.says) || p.Cure == "" {
				t.Errorf("%+v, want %q in it and a cure", p, c.says)
			}
		})
	}
	if e := b.want(b.send("GET", endpoint, ""), 200); !bytes.Contains(e.body, []byte(`"generation":1`)) {
		t.Errorf("a bad request changed the endpoint: %s", e.body)
	}
}

func TestConditions(t *testing.T) {
	b := start(t, nil)
	const alias, endpoint = "/tenants/default/models/digits/aliases/champion", "/tenants/default/endpoints/digits"
	tag := b.want(b.send("GET", alias, ""), 200).Header.Get("ETag")
	if tag != `"1"` || b.send("GET", endpoint, "").Header.Get("ETag") != `"1"` {
		t.Fatalf("ETag %q", tag)
	}
	spec := `{"variants":[{"model":"digits@2"}]}`
	b.wantCode(b.send("PUT", alias, `{"version":2}`, "If-Match", `"7"`), 412, api.CodeStale)
	b.wantCode(b.send("PUT", alias, `{"version":2}`, "If-None-Match", "*"), 412, api.CodeStale)
	b.wantCode(b.send("PUT", alias, `{"version":2}`, "If-Match", `W/"1"`), 400, api.CodeBadRequest)
	b.wantCode(b.send("PUT", alias, `{"version":2}`, "If-Match", `"x"`), 412, api.CodeStale)
	if a := b.want(b.send("PUT", alias, `{"version":2}`, "If-Match", tag), 200); a.Header.Get("ETag") != `"2"` {
		t.Errorf("ETag after the move %q", a.Header.Get("ETag"))
	}
	b.wantCode(b.send("DELETE", alias, "", "If-Match", tag), 412, api.CodeStale)
	b.want(b.send("DELETE", alias, "", "If-Match", "*"), 204)
	b.wantCode(b.send("PUT", alias, `{"version":2}`, "If-Match", "*"), 404, api.CodeAliasNotFound)
	b.wantCode(b.send("PUT", endpoint, spec, "If-Match", `"2"`), 412, api.CodeStale)
	b.wantCode(b.send("PUT", endpoint, spec, "If-None-Match", "*"), 412, api.CodeStale)
	b.want(b.send("PUT", endpoint, spec, "If-Match", `"1"`), 200)
	b.want(b.send("PUT", "/tenants/default/endpoints/fresh", spec, "If-None-Match", "*"), 200)
	b.wantCode(b.send("DELETE", endpoint, "", "If-Match", `"1"`), 412, api.CodeStale)
	b.want(b.send("DELETE", endpoint, "", "If-Match", `"2"`), 204)
}

func TestIdempotency(t *testing.T) {
	b := start(t, nil)
	const path = "/tenants/default/endpoints/digits/rollback"
	b.want(b.send("PUT", "/tenants/default/endpoints/digits", `{"variants":[{"model":"digits@2"}]}`), 200)
	one := b.want(b.send("POST", path, `{}`, "Idempotency-Key", "k1"), 200)
	again := b.want(b.send("POST", path, `{}`, "Idempotency-Key", "k1"), 200)
	if !bytes.Equal(one.body, again.body) || again.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%s, then %s", one.body, again.body)
	}
	b.wantCode(b.send("POST", path, `{"why":"x"}`, "Idempotency-Key", "k1"), 409, api.CodeIdempotency)
	b.wantCode(b.send("POST", path, `{}`, "Idempotency-Key", strings.Repeat("x", 256)), 400, api.CodeBadRequest)

	// What failed changed nothing and is not remembered.
	b.rooms.Fail["Rollback"] = api.Fail(api.CodeNotReady, "", "not now")
	b.wantCode(b.send("POST", path, `{}`, "Idempotency-Key", "k2"), 503, api.CodeNotReady)
	delete(b.rooms.Fail, "Rollback")
	b.want(b.send("POST", path, `{}`, "Idempotency-Key", "k2"), 200)

	// A secret is shown once and stored nowhere.
	key := b.want(b.send("POST", "/tenants/default/keys", `{"name":"x","scopes":["read"]}`, "Idempotency-Key", "k3"), 201)
	replay := b.want(b.send("POST", "/tenants/default/keys", `{"name":"x","scopes":["read"]}`, "Idempotency-Key", "k3"), 201)
	if !bytes.Contains(key.body, []byte("secret-1")) || bytes.Contains(replay.body, []byte("secret-1")) || strings.Contains(fmt.Sprint(b.rooms.Remembered()), "secret-1") {
		t.Errorf("the secret: %s, then %s", key.body, replay.body)
	}

	// With the database away a rollback goes on, and nothing else does.
	b.rooms.Fail["ClaimIdempotency"] = api.Fail(api.CodeStorage, "", "the database is away")
	b.want(b.send("POST", path, `{}`, "Idempotency-Key", "k4"), 200)
	b.wantCode(b.send("POST", "/tenants", `{"id":"x"}`, "Idempotency-Key", "k5"), 507, api.CodeStorage)
}

func TestStreams(t *testing.T) {
	b := start(t, func(c *admin.Config) { c.StreamsMax = 1; c.EventPoll = time.Millisecond })
	b.rooms.Logs = []api.Exchange{{RequestID: "r1", Tenant: "default", Endpoint: "digits", Start: 1}, {RequestID: "r0", Tenant: "default", Endpoint: "other", Start: 2}}
	request, err := http.NewRequestWithContext(t.Context(), "GET", b.url+"/tenants/default/logs?follow=1&endpoint=digits", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+admintest.AdminKey)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	next := func() (x api.Exchange) {
		for lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(text), &x); err != nil {
					t.Fatal(err)
				}
				return x
			}
		}
		t.Fatal("the stream ended")
		return x
	}
	if x := next(); x.RequestID != "r1" {
		t.Errorf("first is %q", x.RequestID)
	}
	for _, x := range []api.Exchange{{RequestID: "r1", Endpoint: "digits"}, {RequestID: "r2", Endpoint: "other"}, {RequestID: "r3", Endpoint: "digits"}} {
		b.rooms.Live <- x
	}
	if x := next(); x.RequestID != "r3" {
		t.Errorf("second is %q: repeated or not of the endpoint", x.RequestID)
	}
	b.wantCode(b.send("GET", "/events?after=0&wait=1s", ""), 429, api.CodeQueueFull)
}

func TestWaiting(t *testing.T) {
	b := start(t, func(c *admin.Config) { c.EventPoll = time.Millisecond })
	done := make(chan answer)
	go func() { done <- b.send("GET", "/events?after=0&wait=1m", "") }()
	b.rooms.AppendEvent(api.Event{Tenant: "acme", Kind: "version.pushed", Subject: "theirs"})
	b.rooms.AppendEvent(api.Event{Tenant: "default", Kind: "version.pushed", Subject: "digits@1"})
	if a := <-done; !bytes.Contains(a.body, []byte("digits@1")) || bytes.Contains(a.body, []byte("theirs")) || !bytes.Contains(a.body, []byte(`"next":"2"`)) {
		t.Errorf("%s", a.body)
	}
	b.rooms.ReleaseState = api.ReleaseLoading
	if a := b.want(b.send("PUT", "/tenants/default/endpoints/digits?wait=1ms", `{"variants":[{"model":"digits@2"}]}`), 202); !bytes.Contains(a.body, []byte(`"loading"`)) {
		t.Errorf("%s", a.body)
	}
	b.want(b.send("GET", "/tenants/default/endpoints/digits/releases/2", ""), 200)
}

func TestBackupAndArtifacts(t *testing.T) {
	b := start(t, nil)
	b.rooms.BackupBytes = bytes.Repeat([]byte("tar"), 100_000)
	if a := b.want(b.send("GET", "/backup", ""), 200); len(a.body) != 300_000 || a.Trailer.Get("Penstock-Backup-Size") != "300000" || !api.Digest(a.Trailer.Get("Penstock-Backup-Digest")).Valid() {
		t.Errorf("%d bytes, trailers %v", len(a.body), a.Trailer)
	}
	b.rooms.BackupErr = errors.New("disk")
	request := httptest.NewRequest("GET", b.url+"/backup", nil).WithContext(context.Background())
	request.RequestURI = ""
	request.Header.Set("Authorization", "Bearer "+admintest.AdminKey)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err == nil {
		t.Error("a backup that failed on the way ended like a whole one")
	}
	b.rooms.BackupBytes = nil
	b.wantCode(b.send("GET", "/backup", ""), 500, api.CodeInternal)

	const artifact = "/tenants/default/models/digits/versions/1/artifacts/model.onnx"
	if a := b.want(b.send("GET", artifact, "", "Range", "bytes=1-"), 206); string(a.body) != "ne" {
		t.Errorf("range: %q", a.body)
	}
	if a := b.want(b.send("GET", artifact, "", "Range", "bytes=0-1,0-1,0-1"), 200); string(a.body) != "one" {
		t.Errorf("many ranges: %q", a.body)
	}
	b.wantCode(b.send("GET", strings.Replace(artifact, "model.onnx", "absent", 1), ""), 404, api.CodeNotFound)
}

func TestPanicIsAProblem(t *testing.T) {
	b := start(t, nil)
	b.rooms.Panic = true
	if p := b.wantCode(b.send("GET", "/workers", ""), 500, api.CodeInternal); strings.Contains(p.Detail, "broke") {
		t.Errorf("the panic's text is shown: %+v", p)
	}
	b.want(b.send("GET", "/version", ""), 200)
}

func TestPages(t *testing.T) {
	b := start(t, nil)
	var seen []api.VersionNumber
	for cursor := ""; ; {
		var page api.List[api.Version]
		a := b.want(b.send("GET", "/tenants/default/models/digits/versions?limit=1"+cursor, ""), 200)
		if err := json.Unmarshal(a.body, &page); err != nil {
			t.Fatal(err)
		}
		for _, v := range page.Items {
			seen = append(seen, v.Number)
		}
		if page.Next == "" {
			break
		}
		cursor = "&before=" + page.Next
	}
	if fmt.Sprint(seen) != "[2 1]" {
		t.Errorf("versions %v", seen)
	}
}

package fault_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/server"
	"github.com/penstock/penstock/test/live"
)

// operation is one row of the API as this test knows it: who may call it, and how it ends for who may. The rows stand in
// an order in which they can be done.
type operation struct {
	id     string
	scope  api.Scope // "" for any key
	wide   bool      // for administrators of tenant default alone
	open   bool      // without a key
	body   string    // with {digest} and {size} of the secret file
	binary bool
	query  string
	makes  bool // what its path names
	good   int  // status for a key that may
}

const deploySecret = `{"variants":[{"model":"secret-model@1"}]}`

var operations = []operation{
	{id: "openapi", open: true, good: 200},
	{id: "version", good: 200},
	{id: "whoami", good: 200},
	{id: "listWorkers", scope: api.ScopeAdmin, wide: true, good: 200},
	{id: "listTenants", scope: api.ScopeAdmin, wide: true, good: 200},
	{id: "createTenant", scope: api.ScopeAdmin, wide: true, body: `{"id":"third"}`, good: 201},
	{id: "backup", scope: api.ScopeAdmin, wide: true, good: 200},
	{id: "listEvents", scope: api.ScopeRead, good: 200},
	{id: "listKeys", scope: api.ScopeAdmin, good: 200},
	{id: "createKey", scope: api.ScopeAdmin, body: `{"name":"made","scopes":["read"]}`, good: 201},
	{id: "listModels", scope: api.ScopeRead, good: 200},
	{id: "getModel", scope: api.ScopeRead, good: 200},
	{id: "listVersions", scope: api.ScopeRead, good: 200},
	{id: "getVersion", scope: api.ScopeRead, good: 200},
	{id: "getArtifact", scope: api.ScopeRead, good: 200},
	{id: "getAlias", scope: api.ScopeRead, good: 200},
	{id: "aliasHistory", scope: api.ScopeRead, good: 200},
	{id: "listEndpoints", scope: api.ScopeRead, good: 200},
	{id: "getEndpoint", scope: api.ScopeRead, good: 200},
	{id: "listRevisions", scope: api.ScopeRead, good: 200},
	{id: "listReleases", scope: api.ScopeRead, good: 200},
	{id: "getRelease", scope: api.ScopeRead, good: 200},
	{id: "listExchanges", scope: api.ScopeRead, good: 200},
	{id: "getStatistics", scope: api.ScopeRead, good: 200},
	{id: "statBlob", scope: api.ScopeWrite, good: 200},
	{id: "putBlob", scope: api.ScopeWrite, body: "x", binary: true, good: 201},
	{id: "commitVersion", scope: api.ScopeWrite, body: `{"files":[{"path":"model.onnx","digest":"{digest}","size":{size}}]}`, good: 200},
	{id: "setTags", scope: api.ScopeWrite, body: `{"set":{"a":"b"}}`, good: 200},
	{id: "moveAlias", scope: api.ScopeWrite, body: `{"version":1}`, good: 200},
	{id: "rollback", scope: api.ScopeWrite, body: `{}`, good: 200},
	{id: "abort", scope: api.ScopeWrite, good: 409}, // nothing is under way
	{id: "deploy", scope: api.ScopeWrite, body: deploySecret, query: "?wait=60s", good: 200},
	{id: "deleteAlias", scope: api.ScopeWrite, good: 204},
	{id: "deleteEndpoint", scope: api.ScopeWrite, good: 204},
	{id: "collect", scope: api.ScopeAdmin, wide: true, body: `{"dry_run":true}`, query: "?wait=60s", good: 200},
	{id: "listCollections", scope: api.ScopeAdmin, wide: true, good: 200},
	{id: "getCollection", scope: api.ScopeAdmin, wide: true, good: 404}, // none of that name
	{id: "getQuota", scope: api.ScopeRead, good: 200},
	{id: "setQuota", scope: api.ScopeAdmin, body: `{"bytes":1000000000}`, good: 403}, // a tenant does not set its own
	{id: "getRetention", scope: api.ScopeRead, good: 200},
	{id: "setRetention", scope: api.ScopeWrite, body: `{"keep_last":5}`, good: 200},
	{id: "applyRetention", scope: api.ScopeWrite, body: `{"dry_run":true}`, good: 200},
	{id: "search", scope: api.ScopeRead, query: "?q=name~model", good: 200},
	{id: "searchFields", scope: api.ScopeRead, good: 200},
	{id: "searchValues", scope: api.ScopeRead, query: "?field=name&prefix=s", good: 200},
	{id: "diffVersions", scope: api.ScopeRead, query: "?with=secret-model@2", good: 200},
	{id: "setMetadata", scope: api.ScopeWrite, body: `{"task":"classification"}`, good: 200},
	{id: "writeGate", scope: api.ScopeGate, body: `{"name":"accuracy","passed":true}`, good: 200},
	{id: "protectAlias", scope: api.ScopeAdmin, body: `{"scopes":["admin"]}`, good: 200},
	{id: "listAliasRules", scope: api.ScopeRead, good: 200},
	{id: "shareModel", scope: api.ScopeAdmin, good: 204},
	{id: "listReaders", scope: api.ScopeRead, good: 200},
	{id: "unshareModel", scope: api.ScopeAdmin, good: 204},
	{id: "renameModel", scope: api.ScopeWrite, body: `{"to":"secret-model"}`, good: 200}, // the name that it has
	{id: "listRedirects", scope: api.ScopeRead, good: 200},
	{id: "forgetRedirect", scope: api.ScopeAdmin, good: 404},                                                                     // nothing was renamed
	{id: "copySharedVersion", scope: api.ScopeWrite, makes: true, body: `{"tenant":"globex","ref":"secret-model@1"}`, good: 404}, // globex shares nothing
	{id: "getTenant", scope: api.ScopeAdmin, good: 200},
	{id: "setTenant", scope: api.ScopeAdmin, body: `{"weight":2}`, good: 403}, // a tenant does not set its own
	{id: "listLoaded", scope: api.ScopeRead, good: 200},
	{id: "listAudit", scope: api.ScopeAdmin, good: 200},
	{id: "verifyAudit", scope: api.ScopeAdmin, wide: true, good: 200},
	{id: "getTrust", scope: api.ScopeRead, good: 200},
	{id: "setTrust", scope: api.ScopeAdmin, body: `{"require":false}`, good: 200},
	{id: "listReferrers", scope: api.ScopeRead, good: 200},
	{id: "attachReferrer", scope: api.ScopeWrite, body: `{"type":"application/vnd.example.note","digest":"{digest}","size":{size}}`, good: 201},
	{id: "getReferrer", scope: api.ScopeRead, good: 404}, // that digest is a file's
	{id: "getSBOM", scope: api.ScopeRead, good: 200},
	{id: "getLineage", scope: api.ScopeRead, query: "?of=secret-model@1", good: 200},
	{id: "drawLineage", scope: api.ScopeRead, query: "?of=secret-model@1", good: 200},
	{id: "listWebhooks", scope: api.ScopeAdmin, good: 200},
	{id: "createWebhook", scope: api.ScopeAdmin, body: `{"url":"https://hooks.example/made","kinds":["version.*"]}`, good: 201},
	{id: "getWebhook", scope: api.ScopeAdmin, good: 200},
	{id: "changeWebhook", scope: api.ScopeAdmin, body: `{"subjects":["none"]}`, good: 200},
	{id: "rotateWebhook", scope: api.ScopeAdmin, body: `{}`, good: 200},
	{id: "testWebhook", scope: api.ScopeAdmin, good: 202},
	{id: "listDeliveries", scope: api.ScopeAdmin, good: 200},
	{id: "redeliver", scope: api.ScopeAdmin, body: `{"dead":true}`, good: 200},
	{id: "deleteWebhook", scope: api.ScopeAdmin, good: 204},
	{id: "listMirrors", scope: api.ScopeRead, good: 200},
	{id: "createMirror", scope: api.ScopeWrite, body: `{"name":"made","remote":"oci://127.0.0.1:1","match":["none"]}`, good: 201},
	{id: "getMirror", scope: api.ScopeRead, good: 200},
	{id: "runMirror", scope: api.ScopeWrite, good: 202},
	{id: "deleteMirror", scope: api.ScopeWrite, good: 204},
	{id: "listTransfers", scope: api.ScopeRead, good: 200},
	{id: "importModel", scope: api.ScopeWrite, makes: true, body: `{"from":"oci://127.0.0.1:1/a:b"}`, good: 202},
	{id: "copyVersion", scope: api.ScopeWrite, body: `{"to":"oci://127.0.0.1:1/a:b"}`, good: 202},
	{id: "getTransfer", scope: api.ScopeRead, good: 200},
	{id: "cancelTransfer", scope: api.ScopeWrite, good: 200},
	{id: "deleteVersion", scope: api.ScopeWrite, good: 204},
	{id: "listTrash", scope: api.ScopeRead, good: 200},
	{id: "restoreVersion", scope: api.ScopeWrite, good: 200},
	{id: "restoreManifest", scope: api.ScopeWrite, body: `{"repository":"secret-model","digest":"{digest}"}`, good: 404}, // that is a file's
	{id: "deleteModel", scope: api.ScopeWrite, good: 204},
	{id: "revokeKey", scope: api.ScopeAdmin, good: 204},
}

// estate is a server with two tenants: acme has things whose names begin with secret, globex has nothing.
type estate struct {
	s       *live.Server
	root    string                           // key of an administrator of tenant default
	keys    map[string]string                // "acme write" to its secret
	ids     map[string]api.KeyID             // the same to its id
	digest  string                           // of acme's file
	size    int64                            // of the same
	hook    string                           // acme's webhook
	copied  string                           // acme's transfer
	routes  map[string]struct{ m, p string } // by operation: method and path
	clients map[api.TenantID]*client.Client
}

func newEstate(t *testing.T) *estate {
	t.Helper()
	s := live.Start(t, t.TempDir(), func(c *server.Config) { c.Dev = false })
	root, err := os.ReadFile(filepath.Join(s.Dir, "secrets", "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	e := &estate{s: s, root: strings.TrimSpace(string(root)), keys: map[string]string{}, ids: map[string]api.KeyID{},
		clients: map[api.TenantID]*client.Client{}, routes: map[string]struct{ m, p string }{}}
	ctx := t.Context()
	overseer := e.client(t, e.root, api.DefaultTenant)
	for _, tenant := range []api.TenantID{"acme", "globex"} {
		if _, err := overseer.CreateTenant(ctx, tenant); err != nil {
			t.Fatal(err)
		}
		for _, scope := range append(slices.Clone(api.Scopes), "spare") {
			in := api.KeyRequest{Name: "secret-" + string(scope), Scopes: []api.Scope{scope}}
			if scope == "spare" {
				in.Scopes[0] = api.ScopeRead
			}
			k, err := e.client(t, e.root, tenant).CreateKey(ctx, in)
			if err != nil {
				t.Fatal(err)
			}
			e.keys[string(tenant)+" "+string(scope)], e.ids[string(tenant)+" "+string(scope)] = k.Secret, k.ID
		}
		e.clients[tenant] = e.client(t, e.keys[string(tenant)+" admin"], tenant)
	}
	e.furnish(t)
	return e
}

// furnish gives acme a model, an alias and an endpoint that can be rolled back, and reads the list of routes.
func (e *estate) furnish(t *testing.T) {
	t.Helper()
	acme := &live.Server{Client: e.clients["acme"]}
	for i, data := range [][]byte{live.Model(t, "digits-v1.onnx", ""), live.Model(t, "digits-v2.onnx", "")} {
		v, err := acme.Push(t.Context(), "secret-model", data)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := acme.Release(t.Context(), "secret-endpoint", fmt.Sprintf("secret-model@%d", v.Number)); err != nil {
			t.Fatal(err)
		}
		if file, _ := v.Entry(); i == 0 {
			e.digest, e.size = string(file.Digest), file.Size
		}
	}
	if _, err := acme.MoveAlias(t.Context(), "secret-model", "secret-alias", api.AliasRequest{Version: 1}, 0); err != nil {
		t.Fatal(err)
	}
	e.connect(t)
	_, body, _ := e.ask(t, "", "GET", "/api/v1/openapi.json", "", false)
	var document struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal(body, &document); err != nil {
		t.Fatal(err)
	}
	for path, methods := range document.Paths {
		for method, op := range methods {
			e.routes[op.OperationID] = struct{ m, p string }{strings.ToUpper(method), path}
		}
	}
}

// connect gives acme a mirror, a transfer and a webhook. Nothing is reached by them.
func (e *estate) connect(t *testing.T) {
	t.Helper()
	made := func(path, body string) string {
		code, text, _ := e.ask(t, e.keys["acme admin"], "POST", "/api/v1/tenants/acme/"+path, body, false)
		var out struct{ ID string }
		if err := json.Unmarshal(text, &out); err != nil || code >= 300 {
			t.Fatalf("%s: %d %s", path, code, text)
		}
		return out.ID
	}
	made("mirrors", `{"name":"secret-mirror","remote":"oci://127.0.0.1:1","match":["none"]}`)
	e.copied = made("models/secret-model/imports", `{"from":"oci://127.0.0.1:1/secret:b"}`)
	e.hook = made("webhooks", `{"url":"https://hooks.example/secret","kinds":["release.*"]}`)
}

func (e *estate) client(t *testing.T, key string, tenant api.TenantID) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Server: e.s.HTTP, Key: key, Tenant: tenant})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var requestID = regexp.MustCompile(`"request_id":"[0-9A-Z]{26}"`)

// ask makes a request; the request's id is taken out of the body.
func (e *estate) ask(t *testing.T, key, method, path, body string, binary bool) (int, []byte, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+e.s.HTTP+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	switch {
	case binary:
		req.Header.Set("Content-Type", binaryType)
	case body != "":
		req.Header.Set("Content-Type", jsonType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, requestID.ReplaceAll(text, []byte(`"request_id":""`)), resp.Header
}

// call does an operation on names of a tenant: kind is secret for what acme has, absent for what nobody has.
func (e *estate) call(t *testing.T, op operation, key string, tenant api.TenantID, kind string) (int, string) {
	t.Helper()
	digest, id, hook, copied := e.digest, string(e.ids["acme spare"]), e.hook, e.copied
	if kind == "absent" {
		digest, id = "sha256:"+strings.Repeat("0", 64), strings.Repeat("0", len(id))
		hook, copied = strings.Repeat("0", len(hook)), strings.Repeat("0", len(copied))
	}
	names := strings.NewReplacer("{tenant}", string(tenant), "{model}", kind+"-model", "{endpoint}", kind+"-endpoint", "{alias}", kind+"-alias",
		"{version}", "1", "{release}", "1", "{path}", "model.onnx", "{id}", id, "{digest}", digest, "{size}", fmt.Sprint(e.size),
		"{reader}", "third", "{mirror}", kind+"-mirror", "{webhook}", hook, "{transfer}", copied, "secret-model", kind+"-model")
	route := e.routes[op.id]
	code, body, header := e.ask(t, key, route.m, names.Replace(route.p+op.query), names.Replace(op.body), op.binary)
	text := string(body) + "\n" + header.Get("Content-Type") + header.Get("Etag") + header.Get("Location")
	// What the caller itself named may stand in the answer.
	return code, strings.NewReplacer("absent-", "secret-", digest, "DIGEST", id, "ID", hook, "ID", copied, "ID").Replace(text)
}

func TestTenants(t *testing.T) {
	t.Parallel()
	e := newEstate(t)
	for id := range e.routes {
		if !slices.ContainsFunc(operations, func(o operation) bool { return o.id == id }) {
			t.Errorf("operation %s is not in this test's table", id)
		}
	}
	for _, op := range operations {
		if e.routes[op.id].m == "" {
			t.Errorf("operation %s is not in the API", op.id)
			continue
		}
		t.Run(op.id, func(t *testing.T) { e.refused(t, op) })
	}
	if t.Failed() {
		return
	}
	for _, op := range operations {
		t.Run(op.id+" with a good key", func(t *testing.T) {
			key, kind := e.keys["acme "+string(op.scope)], "secret"
			if op.wide {
				key = e.root
			} else if op.scope == "" {
				key = e.keys["acme infer"]
			}
			if code, body := e.call(t, op, key, "acme", kind); code != op.good {
				t.Errorf("%d %s, want %d", code, body, op.good)
			}
		})
	}
}

// refused tries an operation with every key that must not do it.
func (e *estate) refused(t *testing.T, op operation) {
	for name, key := range map[string]string{"no key": "", "a wrong key": "psk_wrong", "a changed key": e.keys["acme admin"][:len(e.keys["acme admin"])-1] + "!"} {
		code, body := e.call(t, op, key, "acme", "secret")
		if op.open && code == http.StatusOK {
			continue
		}
		if code != http.StatusUnauthorized || e.routes[op.id].m != "HEAD" && !strings.Contains(body, `"code":"unauthenticated"`) || strings.Contains(body, "secret") {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	for _, scope := range api.Scopes {
		if scope == op.scope && !op.wide || scope == api.ScopeAdmin && !op.wide || op.scope == "" {
			continue
		}
		code, body := e.call(t, op, e.keys["acme "+string(scope)], "acme", "secret")
		named := strings.Contains(body, fmt.Sprintf("lacks the scope \\%q", string(op.scope)+`\`)) || strings.Contains(body, string(op.scope))
		if code != http.StatusForbidden || e.routes[op.id].m != "HEAD" && (!strings.Contains(body, `"code":"forbidden"`) || !named) {
			t.Errorf("scope %s: %d %s", scope, code, body)
		}
	}
	if op.wide || op.open || op.scope == "" {
		return
	}
	path := e.routes[op.id].p
	for _, scope := range api.Scopes { // every key of another tenant sees the tenant as one that is not there
		key := e.keys["globex "+string(scope)]
		if !strings.Contains(path, "{tenant}") {
			continue
		}
		code, body := e.call(t, op, key, "acme", "secret")
		missingCode, missing := e.call(t, op, key, "nobody", "secret")
		if code != http.StatusNotFound || code != missingCode || body != missing || strings.Contains(body, "acme") {
			t.Errorf("globex %s on acme: %d %s\nand on nobody: %d %s", scope, code, body, missingCode, missing)
		}
	}
	if op.makes {
		return // what acme has does not keep globex from having one of that name
	}
	if strings.ContainsAny(strings.ReplaceAll(path, "{tenant}", ""), "{") || op.query != "" && strings.Contains(op.query, "secret") { // acme's names in globex are as absent as any
		key := e.keys["globex admin"]
		code, body := e.call(t, op, key, "globex", "secret")
		missingCode, missing := e.call(t, op, key, "globex", "absent")
		if code < 400 || code != missingCode || body != missing || strings.Contains(body, "acme") {
			t.Errorf("acme's name in globex: %d %s\nand nobody's: %d %s", code, body, missingCode, missing)
		}
		return
	}
	if op.scope == api.ScopeRead {
		if code, body := e.call(t, op, e.keys["globex read"], "globex", "secret"); code != op.good || strings.Contains(body, "secret") || strings.Contains(body, "acme") {
			t.Errorf("in globex: %d %s", code, body)
		}
	}
}

// TestTenantsOfModels refers to another tenant's model by every kind of reference.
func TestTenantsOfModels(t *testing.T) {
	t.Parallel()
	e := newEstate(t)
	for _, ref := range []string{"acme/%s-model@1", "%s-model@1", "%s-model:%s-alias", "%s-model", "acme/%s-model:%s-alias"} {
		ask := func(kind string) (int, string) {
			body := fmt.Sprintf(`{"variants":[{"model":%q}]}`, strings.ReplaceAll(ref, "%s", kind))
			code, text, _ := e.ask(t, e.keys["globex write"], "PUT", "/api/v1/tenants/globex/endpoints/mine", body, false)
			return code, strings.ReplaceAll(string(text), "absent-", "secret-")
		}
		code, body := ask("secret")
		missingCode, missing := ask("absent")
		if code != http.StatusNotFound || code != missingCode || body != missing {
			t.Errorf("%s: %d %s\nand a missing one: %d %s", ref, code, body, missingCode, missing)
		}
	}
}

// TestTenantsPredict calls acme's endpoint with keys of nobody, of globex, and of acme without the scope.
func TestTenantsPredict(t *testing.T) {
	t.Parallel()
	e := newEstate(t)
	three, err := os.ReadFile("../../demo/three.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/infer", "", "/ready", "/versions/1", "/versions/1/infer", "/versions/2/infer"} {
		method, body := "GET", ""
		if strings.HasSuffix(path, "infer") {
			method, body = "POST", string(three)
		}
		ask := func(key, name string) (int, string) {
			code, text, _ := e.ask(t, key, method, "/v2/models/"+name+path, body, false)
			return code, strings.ReplaceAll(string(text), "absent-", "secret-")
		}
		for _, key := range []string{"", "psk_wrong"} {
			if code, text := ask(key, "secret-endpoint"); code != http.StatusUnauthorized || strings.Contains(text, "secret") {
				t.Errorf("%s with key %q: %d %s", path, key, code, text)
			}
		}
		for _, scope := range api.Scopes {
			code, text := ask(e.keys["globex "+string(scope)], "secret-endpoint")
			missingCode, missing := ask(e.keys["globex "+string(scope)], "absent-endpoint")
			if code != missingCode || text != missing || code != http.StatusNotFound && code != http.StatusForbidden {
				t.Errorf("%s with globex %s: %d %s\nand a missing one: %d %s", path, scope, code, text, missingCode, missing)
			}
		}
	}
	if code, text, _ := e.ask(t, e.keys["acme read"], "POST", "/v2/models/secret-endpoint/infer", string(three), false); code != http.StatusForbidden || !strings.Contains(string(text), `infer`) {
		t.Errorf("acme read: %d %s", code, text)
	}
	if code, text, _ := e.ask(t, e.keys["acme infer"], "POST", "/v2/models/secret-endpoint/infer", string(three), false); code != http.StatusOK {
		t.Errorf("acme infer: %d %s", code, text)
	}
	e.predictGRPC(t)
}

func (e *estate) predictGRPC(t *testing.T) {
	conn := dial(t, e.s.GRPC)
	defer conn.Close()
	inferBody := func(name string) []byte {
		return message{}.text(1, name).sub(5, tensorOf("image", "FP32", []int64{1, 64}, nil)).sub(7, make([]byte, 256))
	}
	ask := func(key, method, name string) (codes.Code, string, []byte) {
		body := []byte(message{}.text(1, name))
		if method == "ModelInfer" {
			body = inferBody(name)
		}
		answer, err := invoke(withKey(t.Context(), key), conn, "/inference.GRPCInferenceService/"+method, body)
		s := status.Convert(err)
		return s.Code(), strings.ReplaceAll(s.Message(), "absent-", "secret-"), answer
	}
	for _, method := range []string{"ModelInfer", "ModelMetadata", "ModelReady", "ServerMetadata"} {
		for _, key := range []string{"", "psk_wrong"} {
			if code, text, _ := ask(key, method, "secret-endpoint"); code != codes.Unauthenticated {
				t.Errorf("%s with key %q: %s %s", method, key, code, text)
			}
		}
		for _, scope := range api.Scopes {
			code, text, answer := ask(e.keys["globex "+string(scope)], method, "secret-endpoint")
			missingCode, missing, missingAnswer := ask(e.keys["globex "+string(scope)], method, "absent-endpoint")
			if code != missingCode || text != missing || string(answer) != string(missingAnswer) {
				t.Errorf("%s with globex %s: %s %s %x\nand a missing one: %s %s %x", method, scope, code, text, answer, missingCode, missing, missingAnswer)
			}
		}
	}
	if code, text, _ := ask(e.keys["acme read"], "ModelInfer", "secret-endpoint"); code != codes.PermissionDenied {
		t.Errorf("acme read: %s %s", code, text)
	}
	if code, text, _ := ask(e.keys["acme infer"], "ModelInfer", "secret-endpoint"); code != codes.OK {
		t.Errorf("acme infer: %s %s", code, text)
	}
}

func withKey(ctx context.Context, key string) context.Context {
	if key == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
}

// TestKeyRevoked revokes a key whose connections are open: the next request on each is refused.
func TestKeyRevoked(t *testing.T) {
	t.Parallel()
	e := newEstate(t)
	key, err := e.clients["acme"].CreateKey(t.Context(), api.KeyRequest{Name: "short-lived", Scopes: []api.Scope{api.ScopeInfer, api.ScopeRead}})
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	defer h.CloseIdleConnections()
	reused := false
	get := func(path string) int {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.s.HTTP+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key.Secret)
		resp, err := h.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	conn := dial(t, e.s.GRPC)
	defer conn.Close()
	metadataOf := func() codes.Code {
		_, err := invoke(withKey(t.Context(), key.Secret), conn, "/inference.GRPCInferenceService/ModelMetadata", message{}.text(1, "secret-endpoint"), grpc.WaitForReady(true))
		return status.Code(err)
	}
	for _, path := range []string{"/v2/models/secret-endpoint", "/api/v1/tenants/acme/models"} {
		if code := get(path); code != http.StatusOK {
			t.Fatalf("%s before: %d", path, code)
		}
	}
	if code := metadataOf(); code != codes.OK {
		t.Fatalf("gRPC before: %s", code)
	}
	if err := e.clients["acme"].RevokeKey(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	if code := metadataOf(); code != codes.Unauthenticated {
		t.Errorf("gRPC after the key was revoked: %s", code)
	}
	for _, path := range []string{"/v2/models/secret-endpoint", "/api/v1/tenants/acme/models"} {
		if code := get(path); code != http.StatusUnauthorized || !reused {
			t.Errorf("%s after the key was revoked: %d, same connection %v", path, code, reused)
		}
	}
}

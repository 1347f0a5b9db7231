package oci_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
)

func basic(password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("anybody:"+password))
}

// token asks for one, as clients do.
func (b *bench) token(password string, scopes ...string) string {
	b.t.Helper()
	a := b.do(http.StatusOK, "", "GET", "/token?"+url.Values{"service": {"penstock"}, "scope": scopes}.Encode(), nil, "Authorization", basic(password))
	var t struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if err := json.Unmarshal(a.body, &t); err != nil || t.Token == "" || t.Token != t.AccessToken || t.ExpiresIn != 300 {
		b.t.Fatalf("%v: %s", err, a.body)
	}
	return "Bearer " + t.Token
}

// TestKeys goes through the ways to show a key, and what each key may.
func TestKeys(t *testing.T) {
	b := setUp(t, nil)
	m := b.artifact("acme", "acme/m", "application/example", "a.txt", "a")
	b.put(http.StatusCreated, "acme", "acme/m", "v1", m)
	const get = "/v2/acme/m/manifests/v1"
	for name, c := range map[string]struct {
		authorization string
		pull, push    int
	}{
		"none":                  {"", 401, 401},
		"a key":                 {"Bearer " + b.keys["acme"], 200, 202},
		"a key as password":     {basic(b.keys["acme"]), 200, 202},
		"a key that reads":      {basic(b.keys["reader"]), 200, 403},
		"a key that writes":     {basic(b.keys["writer"]), 200, 202},
		"a key for inference":   {basic(b.keys["infer"]), 403, 403},
		"another tenant's":      {basic(b.keys["evil"]), 404, 404},
		"another tenant's, too": {"Bearer " + b.keys["evil"], 404, 404},
		"a wrong key":           {basic(b.keys["acme"][:39] + "x"), 401, 401},
		"half a Basic":          {"Basic !!!", 401, 401},
		"no password":           {basic(""), 401, 401},
		"a token of nobody":     {"Bearer psp_AAAA", 401, 401},
		"a long token":          {"Bearer psp_" + strings.Repeat("A", 8000), 401, 401},
		"another scheme":        {"Digest x", 401, 401},
	} {
		headers := []string{}
		if c.authorization != "" {
			headers = []string{"Authorization", c.authorization}
		}
		pull, push := b.do(c.pull, "", "GET", get, nil, headers...), b.do(c.push, "", "POST", "/v2/acme/m/blobs/uploads/", nil, headers...)
		for want, a := range map[int]answer{c.pull: pull, c.push: push} {
			if challenge := a.Header.Get("WWW-Authenticate"); (want == 401) != strings.HasPrefix(challenge, `Bearer realm="`+b.server.URL+`/token",service="penstock",scope="repository:acme/m:pull`) {
				t.Errorf("%s: challenge %q", name, challenge)
			}
		}
	}
	// The root tells whether a key is good.
	b.do(http.StatusUnauthorized, "", "GET", "/v2/", nil)
	b.do(http.StatusOK, "infer", "GET", "/v2/", nil)
}

// TestTokens narrows a key down.
func TestTokens(t *testing.T) {
	b := setUp(t, nil)
	m := b.artifact("acme", "acme/m", "application/example", "a.txt", "a")
	b.put(http.StatusCreated, "acme", "acme/m", "v1", m)
	b.artifact("acme", "acme/other", "application/example", "a.txt", "a")
	for name, c := range map[string]struct {
		key               string
		scopes            []string
		pull, push, other int // what GET and POST at acme/m, and GET at acme/other answer
		remove            int // what DELETE of an absent tag answers
	}{
		"nothing asked":       {"acme", nil, 401, 401, 401, 401},
		"to pull":             {"acme", []string{"repository:acme/m:pull"}, 200, 401, 401, 401},
		"to push":             {"acme", []string{"repository:acme/m:pull,push"}, 200, 202, 401, 401},
		"everything":          {"acme", []string{"repository:acme/m:*"}, 200, 202, 401, 404},
		"two in one text":     {"acme", []string{"repository:acme/m:pull repository:acme/other:pull"}, 200, 401, 404, 401},
		"two texts":           {"acme", []string{"repository:acme/m:pull", "repository:acme/other:pull"}, 200, 401, 404, 401},
		"more than it may":    {"reader", []string{"repository:acme/m:pull,push,delete"}, 200, 403, 401, 403},
		"of another tenant":   {"evil", []string{"repository:acme/m:pull,push,delete"}, 404, 404, 404, 404},
		"nonsense":            {"acme", []string{"registry:catalog:*", "repository:acme/m", "x", "repository:../m:pull"}, 401, 401, 401, 401},
		"none of the actions": {"acme", []string{"repository:acme/m:frobnicate"}, 401, 401, 401, 401},
	} {
		token := b.token(b.keys[c.key], c.scopes...)
		get := func(want int, method, path string) {
			if a, err := b.try("", method, path, nil, "Authorization", token); err != nil || a.StatusCode != want {
				t.Errorf("%s: %s %s answers %d, want %d", name, method, path, a.StatusCode, want)
			}
		}
		get(c.pull, "GET", "/v2/acme/m/manifests/v1")
		get(c.push, "POST", "/v2/acme/m/blobs/uploads/")
		get(c.other, "GET", "/v2/acme/other/manifests/v1")
		get(c.remove, "DELETE", "/v2/acme/m/manifests/absent")
	}
	// A mount needs to pull from the other repository; the challenge asks for both.
	layer := m.Layers[0].Digest
	mount := "/v2/acme/new/blobs/uploads/?mount=" + layer + "&from=acme/m"
	push := b.token(b.keys["acme"], "repository:acme/new:pull,push")
	a := b.do(http.StatusUnauthorized, "", "POST", mount, nil, "Authorization", push)
	if got := a.Header.Get("WWW-Authenticate"); !strings.Contains(got, `scope="repository:acme/new:pull,push repository:acme/m:pull"`) {
		t.Errorf("challenge %q", got)
	}
	b.do(http.StatusCreated, "", "POST", mount, nil, "Authorization", b.token(b.keys["acme"], "repository:acme/new:pull,push repository:acme/m:pull"))
	// A token is of its key: it ends with it, with its time, and with every changed letter.
	token := b.token(b.keys["acme"], "repository:acme/m:pull")
	for i := len("Bearer psp_"); i < len(token); i += 7 {
		changed := []byte(token)
		changed[i] ^= 1
		if a, err := b.try("", "GET", "/v2/acme/m/manifests/v1", nil, "Authorization", string(changed)); err != nil || a.StatusCode != http.StatusUnauthorized {
			t.Errorf("a token changed at %d answers %d", i, a.StatusCode)
		}
	}
	b.do(http.StatusUnauthorized, "", "GET", "/token", nil, "Authorization", token) // it makes no further one
	admin := &api.Principal{Tenant: "default", Scopes: []api.Scope{api.ScopeAdmin}}
	keys, err := b.guard.Keys(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if k.Name == "acme" {
			if err := b.guard.RevokeKey(t.Context(), admin, "acme", k.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.do(http.StatusUnauthorized, "", "GET", "/v2/acme/m/manifests/v1", nil, "Authorization", token)
	token = b.token(b.keys["reader"], "repository:acme/m:pull")
	b.do(http.StatusOK, "", "GET", "/v2/acme/m/manifests/v1", nil, "Authorization", token)
	now := time.Now()
	b.guard.Now = func() time.Time { return now.Add(301 * time.Second) }
	b.do(http.StatusUnauthorized, "", "GET", "/v2/acme/m/manifests/v1", nil, "Authorization", token)
}

// TestTokenForms asks in the ways of OAuth2, and in wrong ones.
func TestTokenForms(t *testing.T) {
	b := setUp(t, nil)
	form := func(v url.Values) []byte { return []byte(v.Encode()) }
	for name, c := range map[string]struct {
		form url.Values
		want int
	}{
		"password":     {url.Values{"grant_type": {"password"}, "username": {"x"}, "password": {b.keys["acme"]}, "scope": {"repository:acme/m:pull"}}, 200},
		"wrong":        {url.Values{"grant_type": {"password"}, "username": {"x"}, "password": {"x"}}, 401},
		"another kind": {url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}}, 400},
		"many scopes":  {url.Values{"grant_type": {"password"}, "password": {b.keys["acme"]}, "scope": {strings.Repeat("repository:acme/m:pull ", 17)}}, 413},
	} {
		a := b.do(c.want, "", "POST", "/token", form(c.form), "Content-Type", "application/x-www-form-urlencoded")
		if strings.Contains(string(a.body), b.keys["acme"]) {
			t.Errorf("%s: the key is in the answer", name)
		}
	}
	b.do(http.StatusMethodNotAllowed, "", "DELETE", "/token", nil)
	b.do(http.StatusUnauthorized, "", "GET", "/token", nil)
	if a := b.do(http.StatusOK, "", "GET", "/token", nil, "Authorization", basic(b.keys["acme"])); a.Header.Get("Cache-Control") != "no-store" {
		t.Error("a token may be cached")
	}
}

// TestDev lets callers without a key in as tenant default, and no further.
func TestDev(t *testing.T) {
	b := setUp(t, func(b *bench) { b.dev = true })
	m := b.artifact("", "m", "application/example", "a.txt", "a")
	b.put(http.StatusCreated, "", "m", "v1", m)
	b.do(http.StatusOK, "", "GET", "/v2/m/manifests/v1", nil)
	b.do(http.StatusNotFound, "", "GET", "/v2/acme/m/manifests/v1", nil)
	b.do(http.StatusUnauthorized, "", "GET", "/v2/m/manifests/v1", nil, "Authorization", "Bearer wrong")
	// Web pages of others are kept out, also those that have bound a name of theirs to this address.
	for _, headers := range [][]string{{"Origin", "http://evil.example"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}} {
		b.do(http.StatusForbidden, "", "POST", "/v2/m/blobs/uploads/?digest="+sha([]byte("x")), []byte("x"), headers...)
	}
	request, err := http.NewRequestWithContext(t.Context(), "GET", b.server.URL+"/v2/m/manifests/v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = "evil.example:8003"
	response, err := b.server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("a foreign host name answers %d", response.StatusCode)
	}
	a := b.do(http.StatusOK, "", "GET", "/token?scope=repository:m:pull", nil)
	var token struct{ Token string }
	if err := json.Unmarshal(a.body, &token); err != nil {
		t.Fatal(err)
	}
	b.do(http.StatusOK, "", "GET", "/v2/default/m/manifests/v1", nil, "Authorization", "Bearer "+token.Token)
}

// TestTenantsApart lets one tenant reach for another's things by everything that can be guessed. A thing that is there and
// one that is not must answer alike.
func TestTenantsApart(t *testing.T) {
	b := setUp(t, nil)
	secret := []byte("acme's own bytes")
	digest := b.blob("acme", "acme/m", secret)
	absent := sha([]byte("nobody's bytes"))
	m := b.artifact("acme", "acme/m", "application/example", "a.txt", "a")
	_, body := b.put(http.StatusCreated, "acme", "acme/m", "v1", m)
	upload := b.begin("acme", "acme/m")
	id := upload[strings.LastIndex(upload, "/")+1:]
	for name, c := range map[string]struct{ method, known, unknown string }{
		"a blob":             {"GET", "/v2/acme/m/blobs/" + digest, "/v2/acme/none/blobs/" + absent},
		"a blob at home":     {"GET", "/v2/evil/m/blobs/" + digest, "/v2/evil/m/blobs/" + absent},
		"a manifest":         {"GET", "/v2/acme/m/manifests/v1", "/v2/acme/none/manifests/v1"},
		"a manifest at home": {"GET", "/v2/evil/m/manifests/" + sha(body), "/v2/evil/m/manifests/" + absent},
		"tags":               {"GET", "/v2/acme/m/tags/list", "/v2/acme/none/tags/list"},
		"referrers":          {"GET", "/v2/acme/m/referrers/" + sha(body), "/v2/acme/none/referrers/" + absent},
		"an upload":          {"PATCH", upload, "/v2/acme/none/blobs/uploads/" + id},
		"an upload at home":  {"PATCH", "/v2/evil/m/blobs/uploads/" + id, "/v2/evil/m/blobs/uploads/AAAA"},
		"its end":            {"PUT", "/v2/evil/m/blobs/uploads/" + id + "?digest=" + digest, "/v2/evil/m/blobs/uploads/AAAA?digest=" + digest},
		"a deletion":         {"DELETE", "/v2/acme/m/blobs/" + digest, "/v2/acme/none/blobs/" + digest},
		"a deletion at home": {"DELETE", "/v2/evil/m/blobs/" + digest, "/v2/evil/m/blobs/" + absent},
		"a tag":              {"DELETE", "/v2/acme/m/manifests/v1", "/v2/acme/none/manifests/v1"},
	} {
		known, unknown := b.do(http.StatusNotFound, "evil", c.method, c.known, nil), b.do(http.StatusNotFound, "evil", c.method, c.unknown, nil)
		same := strings.NewReplacer(digest, "D", absent, "D", sha(body), "D")
		if same.Replace(string(known.body)) != same.Replace(string(unknown.body)) {
			t.Errorf("%s: what is there answers %s, what is not %s", name, known.body, unknown.body)
		}
	}
	// A mount of what another tenant has, named or guessed, is an upload like any other.
	for _, query := range []string{"?mount=" + digest, "?mount=" + digest + "&from=acme/m", "?mount=" + digest + "&from=evil/x", "?mount=" + digest + "&from=../acme/m", "?mount=" + absent} {
		b.do(http.StatusAccepted, "evil", "POST", "/v2/evil/m/blobs/uploads/"+query, nil)
	}
	b.do(http.StatusNotFound, "evil", "HEAD", "/v2/evil/m/blobs/"+digest, nil)
	// Who sends the very bytes has them, and nobody's deletion takes them from the other.
	b.blob("evil", "evil/m", secret)
	b.do(http.StatusAccepted, "evil", "DELETE", "/v2/evil/m/blobs/"+digest, nil)
	b.pulled("acme", "acme/m", digest, secret)
	// A manifest cannot name blobs into its repository.
	own := b.artifact("evil", "evil/m", "application/example", "a.txt", "a")
	own.Layers = append(own.Layers, describe("application/octet-stream", secret))
	b.put(http.StatusNotFound, "evil", "evil/m", "v1", own)
	// Nor can a repository of the same tenant: what is mounted must be asked for.
	b.do(http.StatusNotFound, "acme", "GET", "/v2/acme/other/blobs/"+digest, nil)
	b.do(http.StatusCreated, "acme", "POST", "/v2/acme/other/blobs/uploads/?mount="+digest, nil)
	b.pulled("acme", "acme/other", digest, secret)
}

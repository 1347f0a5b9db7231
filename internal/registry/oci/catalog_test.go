package oci_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestCatalog lists repositories by key and by token, page by page: each tenant sees its own.
func TestCatalog(t *testing.T) {
	b := setUp(t, nil)
	for _, repo := range []string{"acme/a", "acme/b", "acme/team/c"} {
		b.put(http.StatusCreated, "acme", repo, "One", b.artifact("acme", repo, "application/example", "note.txt", "hello"))
	}
	b.put(http.StatusCreated, "evil", "evil/x", "One", b.artifact("evil", "evil/x", "application/example", "note.txt", "hello"))
	list := func(a answer) []string {
		t.Helper()
		var body struct{ Repositories []string }
		if err := json.Unmarshal(a.body, &body); err != nil {
			t.Fatal(err)
		}
		return body.Repositories
	}
	all := []string{"acme/a", "acme/b", "acme/team/c"}
	if got := list(b.do(http.StatusOK, "reader", "GET", "/v2/_catalog", nil)); !slices.Equal(got, all) {
		t.Errorf("%q", got)
	}
	if got := list(b.do(http.StatusOK, "evil", "GET", "/v2/_catalog", nil)); !slices.Equal(got, []string{"evil/x"}) {
		t.Errorf("%q", got)
	}
	var paged []string
	for at := "/v2/_catalog?n=2"; at != ""; {
		a := b.do(http.StatusOK, "reader", "GET", at, nil)
		paged = append(paged, list(a)...)
		at, _, _ = strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
	}
	if !slices.Equal(paged, all) {
		t.Errorf("in pages %q", paged)
	}
	token := func(scope string) string {
		var told struct{ Token string }
		a := b.do(http.StatusOK, "reader", "GET", "/token?service=penstock&scope="+scope, nil)
		if err := json.Unmarshal(a.body, &told); err != nil {
			t.Fatal(err)
		}
		return told.Token
	}
	b.do(http.StatusOK, "", "GET", "/v2/_catalog", nil, "Authorization", "Bearer "+token("registry:catalog:*"))
	a := b.do(http.StatusUnauthorized, "", "GET", "/v2/_catalog", nil, "Authorization", "Bearer "+token("repository:acme/a:pull"))
	if !strings.Contains(a.Header.Get("WWW-Authenticate"), `scope="registry:catalog:*"`) {
		t.Errorf("%q", a.Header.Get("WWW-Authenticate"))
	}
	b.do(http.StatusUnauthorized, "", "GET", "/v2/_catalog", nil)
	b.do(http.StatusForbidden, "infer", "GET", "/v2/_catalog", nil)
	b.do(http.StatusMethodNotAllowed, "reader", "DELETE", "/v2/_catalog", nil)
	b.do(http.StatusBadRequest, "reader", "GET", "/v2/_catalog?n=0", nil)
}

package admin_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/admin/admintest"
)

// TestRename: who may, what is refused, and that the audit names both names whatever comes of it.
func TestRename(t *testing.T) {
	b := start(t, nil)
	const path = "/tenants/default/models/digits/rename"
	last := func() api.AuditRecord {
		all := b.rooms.Audited()
		return all[len(all)-1]
	}
	b.wantCode(b.send("POST", path, `{"to":"numbers"}`, "Authorization", "Bearer "+admintest.ReaderKey), 403, api.CodeForbidden)
	b.wantCode(b.send("POST", path, `{"name":"numbers"}`), 400, api.CodeBadJSON)
	b.wantCode(b.send("POST", "/tenants/default/models/nothing/rename", `{"to":"numbers"}`), 404, api.CodeModelNotFound)
	b.wantCode(b.send("POST", path, `{"to":"digits"}`), 409, api.CodeExists)
	if r := last(); r.Subject != "digits to digits" || r.Outcome != string(api.CodeExists) || r.Action != "renameModel" {
		t.Errorf("record of a refusal %+v", r)
	}
	var m api.Model
	read(t, b.want(b.send("POST", path, `{"to":"numbers","why":"clearer"}`), 200).body, &m)
	if r := last(); m.Name != "numbers" || r.Subject != "digits to numbers" || r.Outcome != "ok" || r.Before != `"digits"` || !strings.Contains(r.After, `"numbers"`) || r.Reason != "clearer" {
		t.Errorf("model %+v, record %+v", m, r)
	}
	var page api.List[api.Redirect]
	read(t, b.want(b.send("GET", "/tenants/default/redirects", ""), 200).body, &page)
	if len(page.Items) != 1 || page.Items[0].Name != "digits" || page.Items[0].Model != "numbers" {
		t.Errorf("redirects %+v", page)
	}
	const redirect = "/tenants/default/redirects/digits"
	b.wantCode(b.send("DELETE", redirect, "", "Authorization", "Bearer "+admintest.ReaderKey), 403, api.CodeForbidden)
	b.want(b.send("DELETE", redirect, ""), 204)
	if r := last(); r.Action != "forgetRedirect" || r.Subject != "digits" || !strings.Contains(r.Before, `"numbers"`) {
		t.Errorf("record %+v", r)
	}
	b.wantCode(b.send("DELETE", redirect, ""), 404, api.CodeNotFound)
}

func read(t *testing.T, body []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
}

package admin_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/admin/admintest"
)

// TestEveryChangeIsRecorded goes through every operation of the OpenAPI document: those that change something, and the
// backup, have a record before and one before the answer; those that only read have none.
func TestEveryChangeIsRecorded(t *testing.T) {
	b := start(t, nil)
	var document struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		}
	}
	if err := json.Unmarshal(b.want(b.send("GET", "/openapi.json", ""), 200).body, &document); err != nil {
		t.Fatal(err)
	}
	left := map[string]string{}
	for _, methods := range document.Paths {
		for method, operation := range methods {
			left[operation.OperationID] = method
		}
	}
	recorded := 0
	for _, r := range everyRoute {
		seen := len(b.rooms.Audited())
		var headers []string
		if r.media != "" {
			headers = []string{"Content-Type", r.media}
		}
		a := b.send(r.method, r.path, r.body, headers...)
		if a.StatusCode >= 400 && r.id != "abort" {
			t.Errorf("%s: %d %s", r.id, a.StatusCode, a.body)
		}
		delete(left, r.id)
		fresh := b.rooms.Audited()[seen:]
		if (r.method == "GET" || r.method == "HEAD") && r.id != "backup" {
			if len(fresh) != 0 {
				t.Errorf("%s only reads, and is recorded: %+v", r.id, fresh)
			}
			continue
		}
		recorded++
		wanted := 2
		if r.id == "rollback" {
			wanted = 1 // it takes effect first
		}
		if len(fresh) != wanted {
			t.Errorf("%s has %d records: %+v", r.id, len(fresh), fresh)
			continue
		}
		end := fresh[wanted-1]
		outcome := "ok"
		if a.StatusCode >= 400 {
			outcome = string(a.problem().Code)
		}
		if end.Phase != api.AuditEnded || end.Action != r.id || end.Outcome != outcome || end.RequestID != a.Header.Get("Penstock-Request-Id") || end.Actor != "admin" ||
			end.Key != "k-admin" || end.Tenant != "default" || end.Door != "api" || end.Remote == "" || wanted == 2 && end.Begun != fresh[0].Seq {
			t.Errorf("%s: %+v", r.id, end)
		}
		if end.Subject == "" && r.id != "backup" {
			t.Errorf("%s says nothing of what it is about: %+v", r.id, end)
		}
	}
	for id, method := range left {
		t.Errorf("%s %s is in no request of this test", method, id)
	}
	t.Logf("%d operations recorded", recorded)
}

// TestRecordsSayWhat looks at what is kept of single changes.
func TestRecordsSayWhat(t *testing.T) {
	b := start(t, nil)
	last := func() api.AuditRecord {
		all := b.rooms.Audited()
		return all[len(all)-1]
	}
	b.want(b.send("PUT", "/tenants/default/models/digits/aliases/champion", `{"version":2,"why":"better"}`), 200)
	if r := last(); r.Subject != "digits:champion" || r.Reason != "better" || !strings.Contains(r.Before, `"version":1`) || !strings.Contains(r.After, `"version":2`) {
		t.Errorf("%+v", r)
	}
	b.want(b.send("DELETE", "/tenants/default/models/digits/aliases/champion?why=old", ""), 204)
	if r := last(); r.Reason != "old" || !strings.Contains(r.Before, `"version":2`) || r.After != "" {
		t.Errorf("%+v", r)
	}
	b.want(b.send("PATCH", "/tenants/default/models/digits/versions/1/tags", `{"set":{"a":"b"}}`), 200)
	if r := last(); r.Subject != "digits@1" || !strings.Contains(r.After, `"tags":{"a":"b"}`) || strings.Contains(r.Before, "tags") {
		t.Errorf("%+v", r)
	}
	made := b.want(b.send("POST", "/tenants/default/keys", `{"name":"ops","scopes":["read"]}`), 201)
	var key api.NewKey
	if err := json.Unmarshal(made.body, &key); err != nil || key.Secret == "" {
		t.Fatal(err)
	}
	if r := last(); r.Subject != string(key.ID) || strings.Contains(r.After, key.Secret) || !strings.Contains(r.After, `"name":"ops"`) {
		t.Errorf("%+v", r)
	}
	again := []string{"Idempotency-Key", "one"}
	b.want(b.send("POST", "/tenants/default/endpoints/digits/rollback", `{}`, append(again, "Authorization", "Bearer "+admintest.AdminKey)...), 409)
	b.want(b.send("PUT", "/tenants/default/endpoints/digits?wait=1s", `{"variants":[{"model":"digits@2"}]}`), 200)
	b.want(b.send("POST", "/tenants/default/endpoints/digits/rollback", `{"why":"bad"}`, again...), 200)
	if r := last(); r.Subject != "digits" || r.Reason != "bad" || !strings.Contains(r.After, `"kind":"rollback","from":2,"to":1`) {
		t.Errorf("%+v", r)
	}
	b.want(b.send("POST", "/tenants/default/endpoints/digits/rollback", `{"why":"bad"}`, again...), 200)
	if r := last(); r.Outcome != "replayed" {
		t.Errorf("%+v", r)
	}
}

// TestRefusedCallersAreRecorded: who has no key, or not the scope.
func TestRefusedCallersAreRecorded(t *testing.T) {
	b := start(t, nil)
	seen := len(b.rooms.Audited())
	b.want(b.send("GET", "/whoami", "", "Authorization", "Bearer nonsense"), 401)
	b.want(b.send("PUT", "/tenants/default/models/digits/aliases/x", `{"version":1}`, "Authorization", "Bearer "+admintest.ReaderKey), 403)
	fresh := b.rooms.Audited()[seen:]
	if len(fresh) != 2 || fresh[0].Action != api.AuditRefusedKey || fresh[0].Actor != "" || fresh[0].Outcome != "unauthenticated" || fresh[0].Subject != "GET /api/v1/whoami" ||
		fresh[1].Actor != "reader" || fresh[1].Outcome != "forbidden" {
		t.Errorf("%+v", fresh)
	}
	if text, _ := json.Marshal(fresh); strings.Contains(string(text), "nonsense") {
		t.Error("the key is in the audit")
	}
}

// TestNoAuditNoChange: a change whose record cannot be kept is not made; a rollback is.
func TestNoAuditNoChange(t *testing.T) {
	b := start(t, nil)
	b.want(b.send("PUT", "/tenants/default/endpoints/digits?wait=1s", `{"variants":[{"model":"digits@2"}]}`), 200)
	full := api.Fail(api.CodeAuditUnavailable, "", "the change was not made, because its record cannot be kept")
	b.rooms.Fail["Begin"], b.rooms.Fail["End"] = full, full
	b.wantCode(b.send("PUT", "/tenants/default/models/digits/aliases/champion", `{"version":2}`), 507, api.CodeAuditUnavailable)
	b.wantCode(b.send("GET", "/backup", ""), 507, api.CodeAuditUnavailable)
	if a := b.want(b.send("GET", "/tenants/default/models/digits/aliases/champion", ""), 200); !strings.Contains(string(a.body), `"version":1`) {
		t.Errorf("the alias moved: %s", a.body)
	}
	if a := b.want(b.send("POST", "/tenants/default/endpoints/digits/rollback", `{}`), 200); a.Header.Get("Penstock-Audit") != "late" {
		t.Errorf("the rollback's answer says %v", a.Header)
	}
	delete(b.rooms.Fail, "Begin") // its end alone fails: the answer goes out all the same
	if a := b.want(b.send("PUT", "/tenants/default/models/digits/aliases/champion", `{"version":2}`), 200); a.Header.Get("Penstock-Audit") != "late" {
		t.Errorf("the answer says %v", a.Header)
	}
}

// TestAuditOfOthers: an admin of another tenant sees its own records, and nobody else's.
func TestAuditOfOthers(t *testing.T) {
	b := start(t, nil)
	acme := []string{"Authorization", "Bearer " + admintest.AcmeKey}
	b.want(b.send("POST", "/tenants/acme/models/fraud/versions", "bytes", append(acme, "Content-Type", "application/octet-stream")...), 201)
	list := func(path string, headers ...string) (page api.List[api.AuditRecord]) {
		if err := json.Unmarshal(b.want(b.send("GET", path, "", headers...), 200).body, &page); err != nil {
			t.Fatal(err)
		}
		return page
	}
	for _, r := range list("/audit", acme...).Items {
		if r.Tenant != "acme" {
			t.Errorf("acme sees %+v", r)
		}
	}
	for _, r := range list("/audit").Items {
		if r.Tenant != "default" {
			t.Errorf("without all=1: %+v", r)
		}
	}
	tenants := map[api.TenantID]bool{}
	page := list("/audit?all=1&limit=2")
	for {
		for _, r := range page.Items {
			tenants[r.Tenant] = true
		}
		if page.Next == "" {
			break
		}
		page = list("/audit?all=1&limit=2&before=" + page.Next)
	}
	if !tenants["acme"] || !tenants["default"] {
		t.Errorf("all=1 sees %v", tenants)
	}
	b.wantCode(b.send("GET", "/audit?all=1", "", acme...), 403, api.CodeForbidden)
	b.wantCode(b.send("GET", "/audit/verify", "", acme...), 403, api.CodeForbidden)
	b.wantCode(b.send("GET", "/audit", "", "Authorization", "Bearer "+admintest.ReaderKey), 403, api.CodeForbidden)
	b.wantCode(b.send("GET", "/audit?since=yesterday", ""), 400, api.CodeBadRequest)
	b.wantCode(b.send("GET", "/audit?subject=*****", ""), 400, api.CodeBadRequest)
}

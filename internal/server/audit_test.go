package server_test

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/server"
)

// audited lists the records of an action, newest first.
func (l *live) audited(t *testing.T, action string) []api.AuditRecord {
	t.Helper()
	var page api.List[api.AuditRecord]
	if code := l.do(t, "GET", "/api/v1/audit?all=1&limit=1000&action="+action, "", nil, &page); code != 200 {
		t.Fatalf("audit: %d", code)
	}
	return page.Items
}

// TestAuditFull: with no room for the audit, changes are refused before anything is done, through every door; inference
// goes on, and so does rollback, whose record is made up for by the next start.
func TestAuditFull(t *testing.T) {
	var full atomic.Bool
	l := start(t, t.TempDir(), func(c *server.Config) {
		c.FailAudit(func(operation string) error {
			if full.Load() && operation != "truncate" {
				return errors.New("no space left on device")
			}
			return nil
		})
	})
	l.push(t, "../../demo/digits-v1.onnx", "digits")
	l.push(t, "../../demo/digits-v2.onnx", "digits")
	l.deploy(t, "digits", "digits@1")
	l.deploy(t, "digits", "digits@2")
	body, err := os.ReadFile("../../demo/three.json")
	if err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	var problem api.Problem
	if code := l.do(t, "PUT", "/api/v1/tenants/default/models/digits/aliases/champion", "application/json", []byte(`{"version":1}`), &problem); code != 507 {
		t.Errorf("an alias moved: %d", code)
	}
	if code := l.do(t, "GET", "/api/v1/tenants/default/models/digits/aliases/champion", "", nil, &problem); code != 404 {
		t.Errorf("the alias is there: %d", code)
	}
	for _, path := range []string{"/v2/repository/models/digits/unload", "/v2/logging"} {
		if code := l.do(t, "POST", path, "application/json", []byte(`{}`), &problem); code < 500 && path != "/v2/logging" {
			t.Errorf("%s: %d", path, code)
		}
	}
	version := func() string {
		var answer struct {
			ModelVersion string `json:"model_version"`
		}
		if code := l.do(t, "POST", "/v2/models/digits/infer", "application/json", body, &answer); code != 200 {
			t.Fatalf("infer: %d", code)
		}
		return answer.ModelVersion
	}
	if v := version(); v != "2" {
		t.Errorf("version %s answers", v)
	}
	request, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+l.HTTP+"/api/v1/tenants/default/endpoints/digits/rollback", strings.NewReader(`{"why":"bad"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if v := version(); response.StatusCode != 200 || response.Header.Get("Penstock-Audit") != "late" || v != "1" {
		t.Errorf("rollback: %d, audit %q, version %s answers", response.StatusCode, response.Header.Get("Penstock-Audit"), v)
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second start adds nothing
		l = start(t, l.dir)
		var found []api.AuditRecord
		l.until(t, func() bool { found = l.audited(t, "rollback"); return len(found) > 0 })
		if r := found[0]; len(found) != 1 || !r.Late || r.Subject != "digits" || r.Reason != "bad" || r.Actor != "dev" || !strings.Contains(r.After, `"from":2,"to":1`) {
			t.Errorf("%+v", found)
		}
		var report api.AuditReport
		if code := l.do(t, "GET", "/api/v1/audit/verify", "", nil, &report); code != 200 || !report.OK {
			t.Errorf("%d %+v %+v", code, report, report.Fault)
		}
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// until asks again and again, as long as the test may last.
func (l *live) until(t *testing.T, holds func() bool) {
	t.Helper()
	for !holds() {
		if t.Context().Err() != nil {
			t.Fatal("never came about")
		}
	}
}

package server_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/penstock/penstock/api"
)

// TestRenameUnderLoad renames a model to and fro while it answers, alone and as a step of a chain: no request fails and no
// replica is loaded anew. Afterwards old references resolve, endpoints say the new name, also after a restart, and event and
// audit name both.
func TestRenameUnderLoad(t *testing.T) {
	l := start(t, t.TempDir())
	l.push(t, adding(t, 1, false), "sum")
	l.push(t, adding(t, 2, false), "sum")
	l.deploy(t, "sum", "sum@1")
	l.deploy(t, "sum", "sum@2")
	const chain = `{"variants":[{"chain":{"inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}],"steps":[{"name":"add","model":"sum@1","inputs":{"x":"x"}}],"outputs":[{"name":"y","from":"add.y"}]}}]}`
	var rel api.Release
	if code := l.do(t, "PUT", "/api/v1/tenants/default/endpoints/chained?wait=60s", "application/json", []byte(chain), &rel); code != 200 || rel.State != api.ReleaseSucceeded {
		t.Fatalf("deploy the chain: %d %+v", code, rel)
	}
	rename := func(from, to string) int {
		return l.do(t, "POST", "/api/v1/tenants/default/models/"+from+"/rename", "application/json", fmt.Appendf(nil, `{"to":%q,"why":"clearer"}`, to), nil)
	}
	body := `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,1]}]}`
	loads := func() string {
		t.Helper()
		_, after, found := strings.Cut(l.metrics(t), "\npenstock_model_load_duration_seconds_count")
		if !found {
			t.Fatal("the metrics do not count loads")
		}
		line, _, _ := strings.Cut(after, "\n")
		return line
	}
	loaded := loads()
	answers, done := make(chan struct{}, 2), make(chan struct{})
	var callers sync.WaitGroup
	for _, endpoint := range []string{"sum", "chained"} {
		callers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				resp, err := http.Post("http://"+l.HTTP+"/v2/models/"+endpoint+"/infer", "application/json", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				if resp.StatusCode != 200 {
					t.Errorf("%s answers %d", endpoint, resp.StatusCode)
					return
				}
				select {
				case answers <- struct{}{}:
				default: // enough were counted since the last rename
				}
			}
		})
	}
	ended := make(chan struct{})
	go func() { callers.Wait(); close(ended) }()
	for n := range 11 {
		from, to := "sum", "total"
		if n%2 == 1 {
			from, to = to, from
		}
		if code := rename(from, to); code != 200 {
			t.Errorf("rename %d: %d", n, code)
		}
		// However slow the machine is, requests are answered between one rename and the next: the channel holds two at most,
		// and a third came after the rename.
		for range cap(answers) + 1 {
			select {
			case <-answers:
			case <-ended:
				t.Fatal("no caller is left")
			}
		}
	}
	close(done)
	<-ended
	if now := loads(); now != loaded {
		t.Errorf("loads are %s, and were %s before", now, loaded)
	}
	shown := func() {
		t.Helper()
		for endpoint, want := range map[string]string{"sum": "total@2", "chained": "chain(total@1)"} {
			var e api.Endpoint
			if code := l.do(t, "GET", "/api/v1/tenants/default/endpoints/"+endpoint, "", nil, &e); code != 200 || e.Status.Variants[0].Model != want {
				t.Errorf("endpoint %s: %d, %+v, want %s", endpoint, code, e.Status.Variants, want)
			}
		}
	}
	shown()
	events := l.renamed(t)
	if len(events) != 11 || events[10].Subject != "sum" || events[10].Text != "Model sum was renamed to total: clearer." {
		t.Errorf("events %+v", events)
	}
	records := l.audited(t, "renameModel")
	if r := records[0]; r.Subject != "sum to total" || r.Outcome != "ok" || r.Before != `"sum"` || !strings.Contains(r.After, `"name":"total"`) || r.Reason != "clearer" {
		t.Errorf("record %+v", r)
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	l = start(t, l.dir)
	shown()
	if code := l.do(t, "POST", "/api/v1/tenants/default/endpoints/sum/rollback", "application/json", []byte(`{}`), &rel); code != 200 {
		t.Errorf("rollback: %d", code)
	}
	l.deploy(t, "sum", "sum@2")
	file, err := os.ReadFile(adding(t, 3, false))
	if err != nil {
		t.Fatal(err)
	}
	var problem api.Problem
	if code := l.do(t, "POST", "/api/v1/tenants/default/models/sum/versions?filename=model.onnx", "application/octet-stream", file, &problem); code != 409 {
		t.Errorf("a new model took the old name: %d", code)
	}
}

// renamed lists the events of renames, oldest first.
func (l *live) renamed(t *testing.T) (found []api.Event) {
	t.Helper()
	var page api.List[api.Event]
	if code := l.do(t, "GET", "/api/v1/events?after=0&limit=1000", "", nil, &page); code != 200 {
		t.Fatalf("events: %d", code)
	}
	for _, e := range page.Items {
		if e.Kind == "model.renamed" {
			found = append(found, e)
		}
	}
	return found
}

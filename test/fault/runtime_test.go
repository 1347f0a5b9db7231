package fault_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/test/live"
)

// load asks an endpoint from a few clients until it is stopped, and counts what went wrong.
type load struct {
	asked, failed atomic.Int64
	first         atomic.Value // text of the first failure
	stop          context.CancelFunc
	clients       sync.WaitGroup
}

func (s *site) load(t *testing.T, endpoint string, clients int) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel}
	for range clients {
		l.clients.Go(func() {
			for ctx.Err() == nil {
				// Not the load's own context: a request that it cuts off would count as failed.
				_, label, err := live.Ask(t.Context(), http.DefaultClient, s.HTTP, endpoint, s.three)
				l.asked.Add(1)
				if err != nil || label != 3 {
					l.failed.Add(1)
					l.first.CompareAndSwap(nil, fmt.Sprintf("label %v: %v", label, err))
				}
			}
		})
	}
	return l
}

// none stops the load and fails the test when a request failed.
func (l *load) none(t *testing.T) {
	t.Helper()
	l.stop()
	l.clients.Wait()
	if l.failed.Load() > 0 || l.asked.Load() == 0 {
		t.Errorf("%d of %d requests failed: %v", l.failed.Load(), l.asked.Load(), l.first.Load())
	}
	t.Logf("%d requests under load, none failed", l.asked.Load())
}

// TestModelCrashesRuntime pushes a file that kills ONNX Runtime for real: it divides the least 32-bit integer by -1 while
// constants are folded, which the processor answers with SIGFPE.
func TestModelCrashesRuntime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newSite(t, live.Start(t, dir))
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	l := s.load(t, "digits", 2)
	crasher := dividingModel("Div", onnxInt32, int32s(math.MinInt32), int32s(-1))
	_, err := s.Push(t.Context(), "crasher", crasher)
	if e := api.AsError(err); e.Code != api.CodeModelCrashes || !strings.Contains(e.Subject, "crasher@") || e.Cure == "" || !strings.Contains(e.Message, "SIGFPE") {
		t.Errorf("first push: %+v", e)
	}
	for _, again := range []string{"second", "third"} {
		_, err = s.Push(t.Context(), "crasher", crasher)
		if e := api.AsError(err); e.Code != api.CodeQuarantined || !strings.Contains(e.Subject, "crasher@") || e.Cure == "" {
			t.Errorf("%s push: %+v", again, e)
		}
	}
	_, err = s.Push(t.Context(), "other-name", crasher)
	if !api.Is(err, api.CodeQuarantined) {
		t.Errorf("push under another name: %v", err)
	}
	l.none(t)
	s.nothingLeft(t, []string{"digits@1"}, []string{"digits#1"})
	told := map[string]int{}
	events, err := s.Events(t.Context(), client.EventQuery{After: 0, Limit: 1000})
	for _, e := range events.Items {
		told[e.Kind]++
	}
	if err != nil || told["model.crashed"] != 1 || told["model.quarantined"] != 1 {
		t.Errorf("events %v: %v", told, err)
	}
	s.Kill()
	s = newSite(t, live.Start(t, dir))
	if _, err := s.Push(t.Context(), "crasher", crasher); !api.Is(err, api.CodeQuarantined) {
		t.Errorf("push after a restart: %v", err)
	}
	s.good(t, "digits", 1)
}

// quotientModel divides what the caller sends, so that a request can crash the runtime.
func quotientModel() []byte {
	var g graph
	g.input("a", onnxInt32, 1)
	g.input("b", onnxInt32, 1)
	g.node("Div", []string{"a", "b"}, "y")
	g.output("y", onnxInt32, 1)
	return g.model()
}

// TestRequestCrashesRuntime sends a request that kills the worker that runs it, and the one that it is sent to again: it
// is poison, and refused from then on. Requests of others that were with these workers are answered. A second request of
// that kind shows that the model is the fault: it is quarantined, and its endpoint says so.
func TestRequestCrashesRuntime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newSite(t, live.Start(t, dir))
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	s.pushAndRelease(t, "quotient", quotientModel())
	h := &http.Client{Transport: &http.Transport{}}
	divide := func(a, b int, more string) badCall {
		return badCall{method: "POST", path: "/v2/models/quotient/infer", body: fmt.Sprintf(
			`{"inputs":[{"name":"a","datatype":"INT32","shape":[1],"data":[%d]},{"name":"b","datatype":"INT32","shape":[1],"data":[%d]}]%s}`, a, b, more)}
	}
	answers := func(c badCall, want string) {
		t.Helper()
		if resp, body, err := c.send(t.Context(), h, s.HTTP); err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s %v", c.body, body, err)
		}
	}
	refused := func(c badCall, status int, says string) {
		t.Helper()
		resp, body, err := c.send(t.Context(), h, s.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		badCall{status: status, says: says}.check(t, resp, body)
	}
	deaths := func() (n int64) {
		workers, err := s.Workers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range workers {
			n += w.Restarts
		}
		return n
	}
	answers(divide(7, 2, ""), `"data":[3]`)
	l := s.load(t, "digits", 8)
	refused(divide(math.MinInt32, -1, ""), 422, "two workers crashed while they ran this request")
	answers(divide(9, 3, ""), `"data":[3]`)
	before := deaths()
	for late := time.After(10 * time.Second); before < 2; before = deaths() { // the second is counted when it was replaced
		select {
		case <-time.After(10 * time.Millisecond):
		case <-late:
			t.Fatalf("%d workers died of the first request", before)
		}
	}
	for range 5 {
		refused(divide(math.MinInt32, -1, ""), 422, "is not sent again before")
	}
	if n := deaths(); before != 2 || n != before {
		t.Errorf("%d workers died of the first request, and %d of its like", before, n-before)
	}
	refused(divide(math.MinInt32, -1, `,"outputs":[{"name":"y"}]`), 422, "two workers crashed")
	s.quarantined(t, "quotient")
	refused(divide(9, 3, ""), 503, "version 1 cannot serve: the file crashed the runtime 2 times")
	l.none(t)
	s.Kill()
	s = newSite(t, live.Start(t, dir))
	s.quarantined(t, "quotient")
	s.good(t, "digits", 1)
}

// quarantined waits until the endpoint names the file that is not loaded again.
func (s *site) quarantined(t *testing.T, endpoint api.EndpointName) {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		ep, err := s.Endpoint(t.Context(), endpoint)
		if err == nil && !ep.Status.Ready && strings.Contains(strings.Join(ep.Status.Problems, "; "), "crashed the runtime 2 times and is not loaded again") {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-late:
			t.Fatalf("%+v %v", ep.Status, err)
		}
	}
}

// TestWarmingCrashesRuntime serves a model that the inputs made up for warming kill, and that is right on its own.
func TestWarmingCrashesRuntime(t *testing.T) {
	t.Parallel()
	var g graph
	g.input("x", onnxInt32, 1)
	g.initializer("least", onnxInt32, []int64{1}, int32s(math.MinInt32))
	g.initializer("two", onnxInt32, []int64{1}, int32s(2))
	g.node("Sub", []string{"x", "two"}, "d") // made-up integers are 1, and the least integer by -1 is SIGFPE
	g.node("Div", []string{"least", "d"}, "y")
	g.output("y", onnxInt32, 1)
	dir := t.TempDir()
	s := newSite(t, live.Start(t, dir))
	s.pushAndRelease(t, "quotient", g.model())
	good := badCall{method: "POST", path: "/v2/models/quotient/infer", body: `{"inputs":[{"name":"x","datatype":"INT32","shape":[1],"data":[5]}]}`}
	h := &http.Client{Transport: &http.Transport{}}
	for _, life := range []string{"first", "second"} {
		resp, body, err := good.send(t.Context(), h, s.HTTP)
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"data":[-715827882]`) {
			t.Errorf("%s life: %s %v", life, body, err)
		}
		workers, err := s.Workers(t.Context())
		if err != nil || len(workers) == 0 || slices.ContainsFunc(workers, func(w api.Worker) bool { return w.Restarts > 0 }) {
			t.Errorf("%s life: a serving worker died of it: %+v %v", life, workers, err)
		}
		if life == "first" {
			s.Kill()
			s = newSite(t, live.Start(t, dir))
		}
	}
}

// TestLoading asks an endpoint whose only model takes seconds to load: in its first release, and after a restart.
func TestLoading(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newSite(t, live.Start(t, dir))
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	if _, err := s.Push(t.Context(), "slow", slowModel(1500, 10)); err != nil {
		t.Fatal(err)
	}
	spec := api.EndpointSpec{Variants: []api.VariantSpec{{Model: "slow@1"}}}
	rel, err := s.Deploy(t.Context(), "slow", api.DeployRequest{EndpointSpec: spec}, 0, 0)
	if err != nil || rel.State != api.ReleaseLoading {
		t.Fatalf("%+v %v", rel, err)
	}
	h := &http.Client{Transport: &http.Transport{}}
	const inputs = `"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}`
	calls := []badCall{
		{name: "infer", method: "POST", path: "/v2/models/slow/infer", body: "{" + inputs, status: 503, says: "has no available versions"},
		{name: "ready", method: "GET", path: "/v2/models/slow/ready", status: 400, says: "slow"},
		{name: "deploy", method: "PUT", path: tenantPath + "/endpoints/slow", body: `{"variants":[{"model":"slow@1"}]}`, status: 409, code: api.CodeBusy, says: "release 1"},
		{name: "roll back", method: "POST", path: tenantPath + "/endpoints/slow/rollback", body: `{}`, status: 409, code: api.CodeNothingEarlier, says: "slow"},
		{name: "delete", method: "DELETE", path: tenantPath + "/endpoints/slow", status: 409, code: api.CodeBusy, says: "release 1"},
	}
	for _, c := range calls {
		resp, body, err := c.send(t.Context(), h, s.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(c.name, func(t *testing.T) { c.check(t, resp, body) })
	}
	conn := dial(t, s.GRPC)
	badMessage{method: inferMethod, code: codes.Unavailable, says: "has no available versions",
		body: message{}.text(1, "slow").sub(5, tensorOf("x", "FP32", []int64{1}, nil)).sub(7, float32s(1))}.check(t, conn)
	conn.Close()
	if now, err := s.Client.Release(t.Context(), "slow", 1, 0); err != nil || now.State != api.ReleaseLoading {
		t.Fatalf("the release was over too early for this test: %+v %v", now, err)
	}
	s.good(t, "digits", 1)
	if rel, err = s.Client.Release(t.Context(), "slow", 1, time.Minute); err != nil || rel.State != api.ReleaseSucceeded {
		t.Fatalf("%+v %v", rel, err)
	}
	s.Kill()
	s = newSite(t, live.Start(t, dir))
	soon := badCall{method: "POST", path: "/v2/models/slow/infer", body: `{"parameters":{"timeout":100000},` + inputs, status: 504, says: "deadline"}
	resp, body, err := soon.send(t.Context(), h, s.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	soon.check(t, resp, body)
	patient := badCall{method: "POST", path: "/v2/models/slow/infer", body: "{" + inputs}
	if resp, body, err = patient.send(t.Context(), h, s.HTTP); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a request that waits for the model: %s %v", body, err)
	}
	s.good(t, "digits", 1)
}

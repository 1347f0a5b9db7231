package fault_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
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

// TestRequestCrashesRuntime sends a request that kills the worker that runs it, and the one that it is sent to again. It
// fails with the worker's loss. A request of others that was with both of them may fail the same way, which is known;
// all that come later are held until a worker is back, and answered.
func TestRequestCrashesRuntime(t *testing.T) {
	t.Parallel()
	s := newSite(t, live.Start(t, t.TempDir()))
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	s.pushAndRelease(t, "quotient", quotientModel())
	h := &http.Client{Transport: &http.Transport{}}
	divide := func(a, b int) badCall {
		return badCall{method: "POST", path: "/v2/models/quotient/infer", body: fmt.Sprintf(
			`{"inputs":[{"name":"a","datatype":"INT32","shape":[1],"data":[%d]},{"name":"b","datatype":"INT32","shape":[1],"data":[%d]}]}`, a, b)}
	}
	resp, body, err := divide(7, 2).send(t.Context(), h, s.HTTP)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"data":[3]`) {
		t.Fatalf("7 / 2: %s %v", body, err)
	}
	const clients = 2
	l := s.load(t, "digits", clients)
	resp, body, err = divide(math.MinInt32, -1).send(t.Context(), h, s.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	badCall{status: 503, says: "worker"}.check(t, resp, body)
	resp, body, err = divide(9, 3).send(t.Context(), h, s.HTTP)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"data":[3]`) {
		t.Errorf("9 / 3 afterwards: %s %v", body, err)
	}
	l.stop()
	l.clients.Wait()
	if first, _ := l.first.Load().(string); l.failed.Load() > clients || l.failed.Load() > 0 && !strings.Contains(first, "the worker was lost") {
		t.Errorf("%d of %d requests of others failed: %s", l.failed.Load(), l.asked.Load(), first)
	}
	t.Logf("%d of %d requests of others were with the workers that died", l.failed.Load(), l.asked.Load())
	s.good(t, "digits", 1)
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

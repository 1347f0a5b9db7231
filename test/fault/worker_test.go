package fault_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/ort/orttest"
	"github.com/penstock/penstock/internal/server"
	"github.com/penstock/penstock/test/live"
)

// restarts counts the workers that were started again; ready says whether all are there.
func (s *site) restarts(t *testing.T) (n int64, ready bool) {
	t.Helper()
	workers, err := s.Workers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ready = true
	for _, w := range workers {
		n += w.Restarts
		ready = ready && w.State == "ready" && len(w.Instances) > 0
	}
	return n, ready
}

// awaitRestart waits until one more worker was started again and all hold their models.
func (s *site) awaitRestart(t *testing.T, before int64, what string) {
	t.Helper()
	late := time.After(40 * time.Second)
	for {
		if n, ready := s.restarts(t); n > before && ready {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-late:
			t.Fatalf("%s: no worker was started again", what)
		}
	}
}

// loss waits until so many workers were lost, and says how those ended whose names are of; empty is all.
func (s *site) loss(t *testing.T, number int64, of string) string {
	t.Helper()
	late := time.After(40 * time.Second)
	for {
		workers, err := s.Workers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n, exits := int64(0), ""
		for _, w := range workers {
			n += w.Restarts
			if of == "" || of == w.Name {
				exits += w.LastExit
			}
		}
		if n >= number {
			return exits
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-late:
			t.Fatalf("%d workers were lost, want %d: %+v", n, number, workers)
		}
	}
}

// TestWorkerLies has a worker answer wrongly in every way: with ids that are not the request's, twice, in half, in too much,
// and not at all. It is ended, and nobody gets an error or another's answer.
func TestWorkerLies(t *testing.T) {
	t.Parallel()
	program := live.FaultyWorker(t)
	s := newSite(t, live.Start(t, t.TempDir(), func(c *server.Config) { c.Executable = program }))
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	l := s.load(t, "digits", 4)
	for f := range live.Faults {
		if f == live.Mute {
			continue // its requests end with their deadline; see the random faults
		}
		before, _ := s.restarts(t)
		workers, err := s.Workers(t.Context())
		if err != nil || len(workers) == 0 {
			t.Fatal(err)
		}
		if err := live.Signal(workers[0].PID, f.Signal()); err != nil {
			t.Fatal(err)
		}
		s.awaitRestart(t, before, f.String())
		last := s.loss(t, before+1, workers[0].Name)
		if named := strings.Contains(last, "its answers cannot be trusted"); named != (f != live.Truncated) {
			t.Errorf("%s: told as %q", f, last)
		}
	}
	l.none(t)
}

// TestRunThatDoesNotEnd sends what keeps one operator busy for far longer than its endpoint's limit, where the runtime cannot
// be interrupted: the caller has its deadline, the worker is ended, its other requests are answered, and the second time the
// model is out of service by name.
func TestRunThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t, live.Start(t, t.TempDir(), func(c *server.Config) { c.RunGrace = 300 * time.Millisecond }))
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	if _, err := s.Push(t.Context(), "stubborn", stubborn()); err != nil {
		t.Fatal(err)
	}
	spec := api.EndpointSpec{Variants: []api.VariantSpec{{Model: "stubborn@1", Serving: api.Serving{TimeoutMS: 1000}}}}
	if rel, err := s.Deploy(t.Context(), "stubborn", api.DeployRequest{EndpointSpec: spec}, 0, time.Minute); err != nil || rel.State != api.ReleaseSucceeded {
		t.Fatalf("%+v %v", rel, err)
	}
	l := s.load(t, "digits", 4)
	h := &http.Client{Transport: &http.Transport{}}
	for i := range 2 {
		call := badCall{method: "POST", path: "/v2/models/stubborn/infer", status: 504, says: "deadline",
			body: fmt.Sprintf(`{"inputs":[{"name":"n","datatype":"INT64","shape":[2],"data":[%d,%d]}]}`, 4500+i, 4500+i)}
		resp, body, err := call.send(t.Context(), h, s.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		call.check(t, resp, body)
		if last := s.loss(t, int64(i)+1, ""); !strings.Contains(last, "was told to end and did not") {
			t.Errorf("told as %q", last)
		}
	}
	s.quarantined(t, "stubborn")
	l.none(t)
}

// TestMemoryLimitIsNamed sends what takes more memory than a worker may have.
func TestMemoryLimitIsNamed(t *testing.T) {
	t.Parallel()
	s := newSite(t, live.Start(t, t.TempDir(), func(c *server.Config) { c.WorkerMemoryMB = 512 }))
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	s.pushAndRelease(t, "hog", hog())
	workers, err := s.Workers(t.Context())
	if err != nil || len(workers) == 0 || workers[0].Confinement.Memory == "" {
		t.Fatalf("%+v %v", workers, err)
	}
	t.Logf("held by %+v", workers[0].Confinement)
	l := s.load(t, "digits", 2)
	h := &http.Client{Transport: &http.Transport{}}
	for i := range 2 {
		call := badCall{method: "POST", path: "/v2/models/hog/infer", status: 422, says: "two workers crashed",
			body: fmt.Sprintf(`{"inputs":[{"name":"n","datatype":"INT64","shape":[1],"data":[%d]}]}`, 300_000_000+i)}
		resp, body, err := call.send(t.Context(), h, s.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		call.check(t, resp, body)
	}
	s.quarantined(t, "hog")
	ep, err := s.Endpoint(t.Context(), "hog")
	if err != nil || !strings.Contains(strings.Join(ep.Status.Problems, "; "), "killed by its memory limit of 512 MiB") {
		t.Errorf("%+v %v", ep.Status, err)
	}
	l.none(t)
}

// TestGraphsThatDoNotEnd asks for a loop of 2^63-1 turns and a scan of 2^40 rows: the caller has its deadline, the runtime stops
// at the next turn, and the same worker answers what comes after.
func TestGraphsThatDoNotEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t, live.Start(t, t.TempDir()))
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	h := &http.Client{Transport: &http.Transport{}}
	for _, c := range []struct {
		name           string
		model          []byte
		endless, short string
	}{
		{"loop", orttest.Count().Encode(), `{"name":"n","datatype":"INT64","shape":[],"data":[9223372036854775807]},{"name":"x","datatype":"FP32","shape":[1],"data":[0]}`,
			`{"name":"n","datatype":"INT64","shape":[],"data":[3]},{"name":"x","datatype":"FP32","shape":[1],"data":[0]}`},
		{"scan", scanned(), `{"name":"n","datatype":"INT64","shape":[2],"data":[1099511627776,0]}`, `{"name":"n","datatype":"INT64","shape":[2],"data":[3,0]}`},
	} {
		if _, err := s.Push(t.Context(), c.name, c.model); err != nil {
			t.Fatal(err)
		}
		spec := api.EndpointSpec{Variants: []api.VariantSpec{{Model: c.name + "@1", Serving: api.Serving{TimeoutMS: 1000}}}}
		if rel, err := s.Deploy(t.Context(), api.EndpointName(c.name), api.DeployRequest{EndpointSpec: spec}, 0, time.Minute); err != nil || rel.State != api.ReleaseSucceeded {
			t.Fatalf("%+v %v", rel, err)
		}
		l := s.load(t, "digits", 2)
		call := badCall{method: "POST", path: "/v2/models/" + c.name + "/infer", status: 504, says: "deadline", body: `{"inputs":[` + c.endless + `]}`}
		resp, body, err := call.send(t.Context(), h, s.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		call.check(t, resp, body)
		call.body = `{"inputs":[` + c.short + `]}`
		if resp, body, err = call.send(t.Context(), h, s.HTTP); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s afterwards: %s %v", c.name, body, err)
		}
		l.none(t)
	}
	if n, _ := s.restarts(t); n > 0 {
		t.Errorf("%d workers were lost", n)
	}
}

// TestVastResults asks operators for 1 TiB, by what a request says and by what stands in the file: the request is refused, no
// matter whether the system does not give the memory or ends the worker that takes it, and others are answered.
func TestVastResults(t *testing.T) {
	t.Parallel()
	s := newSite(t, live.Start(t, t.TempDir(), func(c *server.Config) { c.WorkerMemoryMB = 512 }))
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	base := s.footprint(t)
	h := &http.Client{Transport: &http.Transport{}}
	for op, size := range map[string][]int64{"ConstantOfShape": {1 << 38}, "Expand": {1 << 38}, "Resize": {1, 1, 1 << 19, 1 << 19}} {
		numbers, err := json.Marshal(size)
		if err != nil {
			t.Fatal(err)
		}
		const x = `{"name":"x","datatype":"FP32","shape":[1],"data":[1]}`
		l := s.load(t, "digits", 2)
		for name, c := range map[string]struct {
			model  []byte
			inputs string
		}{
			"asked-" + strings.ToLower(op): {vast(op, nil), fmt.Sprintf(`%s,{"name":"n","datatype":"INT64","shape":[%d],"data":%s}`, x, len(size), numbers)},
			"fixed-" + strings.ToLower(op): {vast(op, size), x},
		} {
			s.pushAndRelease(t, name, c.model)
			call := badCall{method: "POST", path: "/v2/models/" + name + "/infer", status: 400, says: "buffer of size 1099511627776", body: `{"inputs":[` + c.inputs + `]}`}
			resp, body, err := call.send(t.Context(), h, s.HTTP)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode == http.StatusUnprocessableEntity {
				call.status, call.says = resp.StatusCode, "two workers crashed"
			}
			call.check(t, resp, body)
		}
		l.none(t)
	}
	h.CloseIdleConnections()
	s.returns(t, base)
}

// TestDeepestBranches loads as many branches in branches as are taken, which some runtimes need minutes for: it is tried out
// within the limit of a load, then it answers.
func TestDeepestBranches(t *testing.T) {
	t.Parallel()
	s := newSite(t, live.Start(t, t.TempDir()))
	s.pushAndRelease(t, "deep", nestedIf(16))
	for _, c := range []string{"true", "false"} {
		call := badCall{method: "POST", path: "/v2/models/deep/infer", body: `{"inputs":[{"name":"c","datatype":"BOOL","shape":[],"data":[` + c +
			`]},{"name":"x","datatype":"FP32","shape":[1],"data":[7]}]}`}
		resp, body, err := call.send(t.Context(), http.DefaultClient, s.HTTP)
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"data":[7.0]`) {
			t.Errorf("%s: %s %v", c, body, err)
		}
	}
}

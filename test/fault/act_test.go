package fault_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/test/live"
)

// act does one thing wrong, or one that must still go well.
func (q *quake) act(ctx context.Context) {
	acts := []func(context.Context){q.kill, q.kill, q.freeze, q.lie, q.lie, q.lie, q.devour, q.linger, q.poison, q.release, q.release, q.fill}
	acts[q.random.IntN(len(acts))](ctx)
}

// anyone is a tenant other than the quiet one.
func (q *quake) anyone() *caller { return q.callers[1+q.random.IntN(len(q.callers)-1)] }

// victim picks a worker that runs.
func (q *quake) victim(ctx context.Context) (api.Worker, bool) {
	workers, err := q.s.Workers(ctx)
	if err != nil {
		if ctx.Err() == nil {
			q.fail("list the workers: %v", err)
		}
		return api.Worker{}, false
	}
	var alive []api.Worker
	for _, w := range workers {
		if w.State == "ready" && w.PID > 0 && w.Pool == "" {
			alive = append(alive, w)
		}
	}
	if len(alive) == 0 {
		q.note("no worker runs")
		return api.Worker{}, false
	}
	return alive[q.random.IntN(len(alive))], true
}

func (q *quake) signal(w api.Worker, s syscall.Signal) bool {
	return live.Signal(w.PID, s) == nil // it may be gone already
}

func (q *quake) kill(ctx context.Context) {
	if w, ok := q.victim(ctx); ok && q.signal(w, syscall.SIGKILL) {
		q.note("kill %s (%d)", w.Name, w.PID)
	}
}

// freeze stops a worker for up to some seconds, or for good.
func (q *quake) freeze(ctx context.Context) {
	w, ok := q.victim(ctx)
	if !ok || !q.signal(w, syscall.SIGSTOP) {
		return
	}
	length := time.Duration(q.random.IntN(4000)) * time.Millisecond
	q.note("stop %s (%d) for %v", w.Name, w.PID, length)
	if q.random.IntN(4) == 0 {
		return // its health check has to find it
	}
	time.AfterFunc(length, func() { q.signal(w, syscall.SIGCONT) })
}

// lie makes a worker's next answer a wrong one.
func (q *quake) lie(ctx context.Context) {
	f := live.Fault(q.random.IntN(int(live.Faults)))
	if w, ok := q.victim(ctx); ok && q.signal(w, f.Signal()) {
		q.note("%s answers: %s", w.Name, f)
	}
}

// trouble sends one request to an endpoint of the last tenant in the background.
func (q *quake) trouble(ctx context.Context, endpoint, body string) {
	c := q.callers[len(q.callers)-1]
	q.note("%s is sent %s", endpoint, body)
	go func() {
		begin := time.Now()
		resp, data, err := q.request(ctx, c, endpoint, []byte(body))
		switch took := time.Since(begin); {
		case ctx.Err() != nil:
		case err != nil:
			q.fail("%s ended without an answer: %v", endpoint, err)
		case took > quakeTimeout+quakeLate+2*time.Duration(q.stall.worst.Load()):
			q.fail("%s took %v", endpoint, took)
		case resp.StatusCode == http.StatusInternalServerError:
			q.fail("%s answered %d %s", endpoint, resp.StatusCode, data)
		default:
			q.note("%s answered %d %.100s", endpoint, resp.StatusCode, data)
		}
	}()
}

// devour takes more memory than a worker may have.
func (q *quake) devour(ctx context.Context) {
	q.trouble(ctx, "hog", fmt.Sprintf(`{"inputs":[{"name":"n","datatype":"INT64","shape":[1],"data":[%d]}]}`, 300_000_000+q.random.IntN(100_000_000)))
}

// linger runs for much longer than the deadline, where nothing can interrupt it.
func (q *quake) linger(ctx context.Context) {
	n := 3000 + q.random.IntN(1000)
	q.trouble(ctx, "stubborn", fmt.Sprintf(`{"inputs":[{"name":"n","datatype":"INT64","shape":[2],"data":[%d,%d]}]}`, n, n))
}

func (q *quake) poison(ctx context.Context) {
	q.trouble(ctx, "quotient", fmt.Sprintf(`{"id":"%d","inputs":[{"name":"a","datatype":"INT32","shape":[1],"data":[%d]},{"name":"b","datatype":"INT32","shape":[1],"data":[-1]}]}`,
		q.random.Uint32(), math.MinInt32))
}

// release moves an endpoint to its other version, by deploying or by rolling back.
func (q *quake) release(ctx context.Context) {
	c, name := q.anyone(), api.EndpointName(endpoints[q.random.IntN(len(endpoints))])
	if q.random.IntN(2) == 0 {
		rel, err := c.client.Rollback(ctx, name, api.RollbackRequest{})
		if err != nil && !api.Is(err, api.CodeNothingEarlier) && !api.Is(err, api.CodeBusy) && ctx.Err() == nil {
			q.fail("%s: roll back %s: %v", c.tenant, name, err)
		}
		q.note("%s rolls %s back to revision %d: %v", c.tenant, name, rel.To, err)
		return
	}
	version := 1 + q.random.IntN(2)
	spec := api.EndpointSpec{Variants: []api.VariantSpec{{Model: fmt.Sprintf("%s@%d", name, version), Serving: c.serving()}}}
	rel, err := c.client.Deploy(ctx, name, api.DeployRequest{EndpointSpec: spec}, 0, 0)
	if err != nil && !api.Is(err, api.CodeBusy) && ctx.Err() == nil {
		q.fail("%s: deploy %s@%d: %v", c.tenant, name, version, err)
	}
	q.note("%s deploys %s@%d: %s %v", c.tenant, name, version, rel.State, err)
}

// fill leaves no room in the model cache while a new version is deployed; what serves must go on serving, and the version
// must come when there is room again.
func (q *quake) fill(ctx context.Context) {
	if q.disk == "" {
		return
	}
	file := filepath.Join(q.disk, "filler")
	f, err := os.Create(file)
	if err != nil {
		q.note("the disk was full already: %v", err)
		return
	}
	block := make([]byte, 1<<20)
	for err == nil {
		_, err = f.Write(block)
	}
	_ = f.Close()
	q.note("the disk is full: %v", err)
	c := q.anyone()
	model := adder(1, c.secret(0, 3))
	_, err = (&live.Server{Client: c.client}).Push(ctx, "late", append(model, message{}.sub(14, message{}.text(1, "n").text(2, fmt.Sprint(q.random.Uint64())))...))
	q.note("%s pushes onto it: %v", c.tenant, err)
	if err != nil && api.KindOf(err) != api.Storage && api.KindOf(err) != api.Unavailable && ctx.Err() == nil {
		q.fail("%s: push onto a full disk: %v", c.tenant, err)
	}
	if err := os.Remove(file); err != nil {
		q.fail("%v", err)
	}
}

// settle waits until every endpoint of the load answers, which it does when all faults are over, or says that it cannot;
// then it rolls each back, which must always be possible.
func (q *quake) settle() {
	late := time.Now().Add(time.Minute)
	for _, c := range q.callers {
		for e, name := range endpoints {
			for {
				resp, data, err := q.request(q.t.Context(), c, name, body(e, 5))
				if err == nil {
					q.check(c, e, 5, resp.StatusCode, data)
				}
				if err == nil && resp.StatusCode == http.StatusOK {
					break
				}
				if time.Now().After(late) {
					q.fail("%s: %s does not come back: %s %v", c.tenant, name, data, err)
					return
				}
				<-time.After(50 * time.Millisecond)
			}
			_, err := c.client.Rollback(q.t.Context(), api.EndpointName(name), api.RollbackRequest{})
			if err != nil && !api.Is(err, api.CodeNothingEarlier) {
				q.fail("%s: roll %s back at the end: %v", c.tenant, name, err)
			}
		}
	}
}

// Package conformance_test pushes the ONNX project's own backend cases into a running server and asks each through every
// protocol: the answers must be ONNX Runtime's, bit for bit, and what it does not run must be refused with a reason.
package conformance_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/server"
	"github.com/penstock/penstock/internal/wire/oip"
	"github.com/penstock/penstock/test/live"
)

var rewrite = flag.Bool("rewrite", false, "write "+golden+" anew; read the difference before you commit it")

func TestMain(m *testing.M) { live.Main(m) }

const (
	// sample is every how many cases a short run takes.
	sample = 20
	// hands is how many cases are under way at once.
	hands = 4
	// settled is how many cases have passed when the server's footprint is taken for the first time.
	settled = 60
)

// TestEveryCase is the whole walk. Each case has its own model and endpoint, which is deleted when the case is done.
func TestEveryCase(t *testing.T) {
	all := readCases(t)
	if *rewrite && testing.Short() {
		t.Fatal("a short run does not know all refusals: rewrite without -short")
	}
	if testing.Short() {
		var some []*node
		for i := 0; i < len(all); i += sample {
			some = append(some, all[i])
		}
		t.Logf("a short run: %d of %d cases, every %dth", len(some), len(all), sample)
		all = some
	}
	s := live.Start(t, t.TempDir(), func(c *server.Config) { c.Workers = workers })
	connection, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	w := &walk{Server: s, reference: openReference(t), tally: newTally(),
		caller: &caller{http: &http.Client{Transport: &http.Transport{}}, address: s.HTTP, grpc: oip.NewGRPCInferenceServiceClient(connection)}}
	first := min(settled, len(all))
	w.each(t, all[:first])
	before := w.footprint(t)
	w.each(t, all[first:])
	w.bounded(t, before, w.footprint(t))
	table := w.table(t, len(all))
	t.Logf("\n%s", table)
	w.compare(t, table, all, *rewrite)
}

// walk is one run over all cases.
type walk struct {
	*live.Server
	*reference
	*tally
	caller *caller
}

// each judges cases, a few at once.
func (w *walk) each(t *testing.T, all []*node) {
	t.Helper()
	queue := make(chan *node)
	var busy sync.WaitGroup
	for range hands {
		busy.Go(func() {
			for n := range queue {
				w.judge(t, n)
			}
		})
	}
	for _, n := range all {
		queue <- n
	}
	close(queue)
	busy.Wait()
}

// judge brings one case into the tally.
func (w *walk) judge(t *testing.T, n *node) {
	found := w.run(t, n)
	w.know(n, found)
	step := "push"
	_, err := w.Push(t.Context(), n.endpoint(), n.model)
	if err == nil {
		step = "deploy"
		_, err = w.Release(t.Context(), n.endpoint(), n.endpoint()+"@1")
	}
	if err != nil {
		w.refusedWhole(t, n, found, step, err)
		return
	}
	for _, protocol := range protocols {
		verdict, why := w.askAll(t.Context(), n, found, protocol)
		w.count(protocol, verdict)
		switch verdict {
		case wrong:
			t.Errorf("%s: %s: %s", n.name, protocol, why)
		case equal, alike:
		default:
			w.refuse(n, protocol, verdict, why)
		}
	}
	if err := w.DeleteEndpoint(t.Context(), api.EndpointName(n.endpoint()), 0); err != nil {
		t.Errorf("%s: delete the endpoint: %v", n.name, err)
	}
}

// refusedWhole notes a case that never came to be asked.
func (w *walk) refusedWhole(t *testing.T, n *node, found truth, step string, err error) {
	told := api.AsError(err)
	verdict := ours
	switch {
	case strings.HasPrefix(found.refused, "load: "):
		verdict = notLoaded
	case n.foreign != "":
		verdict = notTensors
	}
	if told.Message == "" || told.Code == api.CodeInternal {
		t.Errorf("%s: %s failed without a reason: %v", n.name, step, err)
		verdict = wrong
	}
	for _, protocol := range protocols {
		w.count(protocol, verdict)
	}
	w.refuse(n, step, verdict, fmt.Sprintf("%s: %s", told.Code, told.Message))
}

// askAll asks every data set of a case; a set that is not answered as expected decides.
func (w *walk) askAll(ctx context.Context, n *node, found truth, protocol string) (verdict, why string) {
	if n.foreign != "" || strings.HasPrefix(found.refused, "load: ") {
		return wrong, "pushed and deployed, though ONNX Runtime says: " + found.refused + n.foreign
	}
	verdict = equal
	if found.random {
		verdict = alike
	}
	for i, inputs := range n.inputs {
		plain := protocol != protocols[0] || found.refused == "" && expressible(inputs) && expressible(found.outputs[i])
		got, err := w.caller.ask(ctx, protocol, n.endpoint(), inputs)
		if err == nil && found.refused != "" {
			return wrong, "answered, though ONNX Runtime says: " + found.refused
		}
		no := (*refusal)(nil)
		switch {
		case err != nil && !errors.As(err, &no):
			return wrong, err.Error()
		case err != nil && found.refused != "":
			return notRun, no.reason
		case err != nil && !plain:
			return noJSON, no.reason
		case err != nil:
			return ours, no.reason
		case !plain && !found.random:
			return wrong, "JSON answered what it cannot express"
		}
		if why := differ(found.outputs[i], got, found.random); why != "" {
			return wrong, why
		}
	}
	return verdict, ""
}

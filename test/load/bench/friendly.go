package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/ort/orttest"
)

// noSettings are the serving settings of somebody who wrote none.
var noSettings api.Serving

// The batch-friendly model is a chain of square layers whose weights do not fit the processor's second-level cache (nor,
// together, most third-level ones): one row has to bring all of them from far away for one multiplication each, so that
// further rows of a batch cost little.
const (
	friendlyWidth  = 1024
	friendlyLayers = 12 // 48 MiB of weights
	friendlyOut    = 16
	friendlyBatch  = 16
)

func friendly() []byte {
	random := rand.New(rand.NewPCG(7, 7))
	weights := func(name string, from, to int) orttest.Tensor {
		values := make([]float32, from*to)
		for i := range values {
			values[i] = float32(random.NormFloat64() * math.Sqrt(2/float64(from)))
		}
		return orttest.Tensor{Name: name, Type: orttest.Float, Dims: []int64{int64(from), int64(to)}, Raw: orttest.Floats(values...)}
	}
	g := orttest.Graph{Inputs: []orttest.Value{{Name: "x", Type: orttest.Float, Shape: []any{"n", friendlyWidth}}},
		Outputs: []orttest.Value{{Name: "y", Type: orttest.Float, Shape: []any{"n", friendlyOut}}}}
	last := "x"
	for i := range friendlyLayers {
		w, h, a := fmt.Sprintf("w%d", i), fmt.Sprintf("h%d", i), fmt.Sprintf("a%d", i)
		g.Initializers = append(g.Initializers, weights(w, friendlyWidth, friendlyWidth))
		g.Nodes = append(g.Nodes, orttest.Node{Op: "MatMul", Inputs: []string{last, w}, Outputs: []string{h}},
			orttest.Node{Op: "Relu", Inputs: []string{h}, Outputs: []string{a}})
		last = a
	}
	g.Initializers = append(g.Initializers, weights("out", friendlyWidth, friendlyOut))
	g.Nodes = append(g.Nodes, orttest.Node{Op: "MatMul", Inputs: []string{last, "out"}, Outputs: []string{"y"}})
	return orttest.Model{Graph: g}.Encode()
}

func friendlyInput(n int) ort.Tensor {
	values := make([]float32, n*friendlyWidth)
	for i := range values {
		values[i] = float32(i%13) / 13
	}
	return ort.Tensor{Name: "x", Type: ort.Float32, Shape: []int64{int64(n), friendlyWidth}, Data: orttest.Floats(values...)}
}

// batchCosts is what one row and a batch cost the bare runtime on one thread, in microseconds: medians of interleaved runs.
func (b *bed) batchCosts(ctx context.Context, file []byte) (one, batch float64, err error) {
	session, err := b.runtime.LoadBytes(ctx, file, ort.SessionOptions{})
	if err != nil {
		return 0, 0, err
	}
	defer session.Close()
	sizes := []int{1, friendlyBatch}
	took := make([][]float64, len(sizes))
	for n := range 61 {
		for i, size := range sizes {
			input := []ort.Tensor{friendlyInput(size)}
			began := time.Now()
			result, err := session.Run(input, nil, nil)
			if err != nil {
				return 0, 0, err
			}
			spent := time.Since(began)
			result.Release()
			if n > 0 {
				took[i] = append(took[i], float64(spent.Nanoseconds())/1e3)
			}
		}
	}
	return median(took[0]), median(took[1]), nil
}

// batchClients are the callers of the rows under load.
const batchClients = 32

// batchStage measures a model that gains from batches, with batching off and on, under load and idle.
func batchStage(ctx context.Context, b *bed) error {
	m := &model{name: "friendly", file: friendly(), input: friendlyInput(1)}
	one, batch, err := b.batchCosts(ctx, m.file)
	if err != nil {
		return err
	}
	b.report.note("friendly: %d layers of %d x %d, %.0f MiB of weights; alone on one thread batch 1 takes %.0f us and batch %d %.0f us, %.2f x",
		friendlyLayers, friendlyWidth, friendlyWidth, float64(len(m.file))/(1<<20), one, friendlyBatch, batch, batch/one)
	if err := b.serve(ctx); err != nil {
		return err
	}
	v, err := push(ctx, b.client, m.name, m.file)
	if err != nil {
		return err
	}
	modes := []api.BatchMode{api.BatchOff, api.BatchAuto, api.BatchOn}
	requests := map[api.BatchMode][]byte{}
	for _, mode := range modes {
		endpoint := *m
		endpoint.name = "batch-" + string(mode)
		if err := b.deploy(ctx, endpoint.name, v, api.Serving{Batching: &api.Batching{Mode: mode}}); err != nil {
			return err
		}
		requests[mode] = endpoint.postBinary()
	}
	var cells []*cell
	for _, n := range []int{1, batchClients} {
		for _, mode := range modes {
			var peers []string
			if mode != api.BatchOff {
				peers = []string{fmt.Sprintf("off/%d", n)}
			}
			cells = append(cells, line(string(mode), n, b.server.pid, overHTTP(b.server.HTTP, requests[mode]), peers...))
		}
	}
	if err := b.measure(ctx, cells); err != nil {
		return err
	}
	b.batchFloors(batch / one)
	return nil
}

func (b *bed) batchFloors(cost float64) {
	fits := atMost(fmt.Sprintf("batch %d of the model against batch 1, bare runtime", friendlyBatch), 4, cost, "x")
	fits.Remark = "what the model must be like"
	b.report.Floors = append(b.report.Floors, fits)
	for _, mode := range []string{string(api.BatchAuto), string(api.BatchOn)} {
		if a, ok := b.report.versus(fmt.Sprintf("%s/%d", mode, batchClients), fmt.Sprintf("off/%d", batchClients)); ok {
			b.report.Floors = append(b.report.Floors, atLeast(fmt.Sprintf("batching %s, %d clients: throughput against off", mode, batchClients), 3, a.Throughput, "x"),
				atMost(fmt.Sprintf("batching %s, %d clients: p95 against off", mode, batchClients), 1, a.P95, "x"))
		}
		if a, ok := b.report.versus(mode+"/1", "off/1"); ok {
			b.report.Floors = append(b.report.Floors, atMost(fmt.Sprintf("batching %s, 1 client: p50 against off", mode), 1.03, a.P50, "x"))
		}
	}
}

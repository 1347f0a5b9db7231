package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/ort/orttest"
)

// model is what one half of the table is measured on.
type model struct {
	name    string // of the endpoint
	file    []byte
	input   ort.Tensor
	outputs []ort.Info
	session *ort.Session
}

// The layered model multiplies a picture of rows x inner numbers with the same matrix again and again: its weights fit
// the processor's cache, so its time is computing and does not depend on who else uses the memory.
const (
	rows  = 64
	inner = 256
	outer = 16
	// wantMS is the time that one run of the layered model shall take on one thread.
	wantMS = 5.0
)

// layered builds a model with that many layers; its input and output are 64 x 16 floats, 4 KiB.
func layered(layers int) []byte {
	random := rand.New(rand.NewPCG(1, 1))
	weights := func(from, to int) orttest.Tensor {
		values := make([]float32, from*to)
		for i := range values {
			values[i] = float32(random.NormFloat64() * math.Sqrt(2/float64(from))) // keeps the numbers' size from layer to layer
		}
		return orttest.Tensor{Type: orttest.Float, Dims: []int64{int64(from), int64(to)}, Raw: orttest.Floats(values...)}
	}
	first, middle, last := weights(outer, inner), weights(inner, inner), weights(inner, outer)
	first.Name, middle.Name, last.Name = "first", "middle", "last"
	g := orttest.Graph{Initializers: []orttest.Tensor{first, middle, last},
		Inputs:  []orttest.Value{{Name: "x", Type: orttest.Float, Shape: []any{rows, outer}}},
		Outputs: []orttest.Value{{Name: "y", Type: orttest.Float, Shape: []any{rows, outer}}}}
	add := func(op, to string, from ...string) {
		g.Nodes = append(g.Nodes, orttest.Node{Op: op, Inputs: from, Outputs: []string{to}})
	}
	add("MatMul", "m0", "x", "first")
	for i := range layers {
		add("MatMul", fmt.Sprintf("h%d", i), fmt.Sprintf("m%d", i), "middle")
		add("Relu", fmt.Sprintf("m%d", i+1), fmt.Sprintf("h%d", i))
	}
	add("MatMul", "y", fmt.Sprintf("m%d", layers), "last")
	return orttest.Model{Graph: g}.Encode()
}

func layeredInput() ort.Tensor {
	values := make([]float32, rows*outer)
	for i := range values {
		values[i] = float32(i%7) / 7
	}
	return ort.Tensor{Name: "x", Type: ort.Float32, Shape: []int64{rows, outer}, Data: orttest.Floats(values...)}
}

// digitsInput is the picture of a three.
func digitsInput() ort.Tensor {
	values := make([]float32, 64)
	for i := range values {
		values[i] = float32(i % 17)
	}
	return ort.Tensor{Name: "image", Type: ort.Float32, Shape: []int64{1, 64}, Data: orttest.Floats(values...)}
}

// noted puts a note into a model file, so that equal models can be told apart by digest.
func noted(file []byte, note string) []byte {
	const metadataProps = 14 // ModelProto.metadata_props: a key and a value
	var entry []byte
	entry = protowire.AppendString(protowire.AppendTag(entry, 1, protowire.BytesType), "note")
	entry = protowire.AppendString(protowire.AppendTag(entry, 2, protowire.BytesType), note)
	return protowire.AppendBytes(protowire.AppendTag(slices.Clone(file), metadataProps, protowire.BytesType), entry)
}

// calibrate finds how many layers take about wantMS.
func calibrate(ctx context.Context, r *ort.Runtime) (layers int, ms float64, err error) {
	layers = 8
	for range 3 {
		if ms, err = timeOf(ctx, r, layered(layers), layeredInput()); err != nil {
			return 0, 0, err
		}
		if math.Abs(ms-wantMS) < wantMS/20 {
			break
		}
		layers = min(max(1, int(math.Round(float64(layers)*wantMS/ms))), 1000)
	}
	return layers, ms, nil
}

// timeOf is the median time of a run, alone and on one thread, in milliseconds.
func timeOf(ctx context.Context, r *ort.Runtime, file []byte, input ort.Tensor) (float64, error) {
	session, err := r.LoadBytes(ctx, file, ort.SessionOptions{})
	if err != nil {
		return 0, err
	}
	defer session.Close()
	const runs = 101
	times := make([]time.Duration, 0, runs)
	for range runs {
		began := time.Now()
		result, err := session.Run([]ort.Tensor{input}, nil, nil)
		if err != nil {
			return 0, err
		}
		result.Release()
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return times[runs/2].Seconds() * 1e3, nil
}

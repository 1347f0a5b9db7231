// Command json decodes one image as JSON, 3 x 224 x 224 floats, with Penstock's decoder and with public Go libraries, all from
// the same bytes and into float32, and prints the speeds. It is a module of its own, so that the libraries are nobody's
// dependencies. test/load/bench.sh runs it.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/bytedance/sonic"
	gojson "github.com/goccy/go-json"
	"github.com/valyala/fastjson"

	"github.com/penstock/penstock/internal/wire/oip"
)

const (
	elements = 3 * 224 * 224
	passes   = 31 // each decodes once with every decoder, so that a busy moment hits all
)

// request is what the libraries decode into: the protocol's request with its data as the type that the model takes.
type request struct {
	Inputs []struct {
		Name     string    `json:"name"`
		Shape    []int64   `json:"shape"`
		Datatype string    `json:"datatype"`
		Data     []float32 `json:"data"`
	} `json:"inputs"`
}

// decoder is one way to decode the body; it gives the number of elements that it found.
type decoder struct {
	name   string
	decode func(body []byte) (int, error)
	took   []time.Duration
}

func decoders() []*decoder {
	var own oip.Request
	var parser fastjson.Parser
	list := []*decoder{
		{name: "penstock", decode: func(body []byte) (int, error) {
			if err := own.DecodeHTTP(body, -1); err != nil {
				return 0, err
			}
			return len(own.Inputs[0].Data) / 4, nil
		}},
		{name: "encoding/json", decode: into(json.Unmarshal)},
		{name: "bytedance/sonic", decode: into(sonic.Unmarshal)},
		{name: "sonic fastest", decode: into(sonic.ConfigFastest.Unmarshal)},
		{name: "goccy/go-json", decode: into(gojson.Unmarshal)},
		{name: "valyala/fastjson", decode: func(body []byte) (int, error) { return byHand(&parser, body) }},
	}
	return append(list, experiments()...)
}

// into decodes with a library that fills structs. The memory is kept from pass to pass, as a server would.
func into(unmarshal func([]byte, any) error) func([]byte) (int, error) {
	var r request
	return func(body []byte) (int, error) {
		if err := unmarshal(body, &r); err != nil {
			return 0, err
		}
		return len(r.Inputs[0].Data), nil
	}
}

// byHand walks over the tree that fastjson makes.
func byHand(parser *fastjson.Parser, body []byte) (int, error) {
	v, err := parser.ParseBytes(body)
	if err != nil {
		return 0, err
	}
	list := v.GetArray("inputs", "0", "data")
	data := make([]float32, len(list))
	for i, one := range list {
		f, err := one.Float64()
		if err != nil {
			return 0, err
		}
		data[i] = float32(f)
	}
	return len(data), nil
}

// image makes the body: floats as a client in Python writes them from float32, shortest digits, with the separator given.
func image(separator string) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	body := []byte(`{"inputs":[{"name":"x","shape":[1,3,224,224],"datatype":"FP32","data":[`)
	for i := range elements {
		if i > 0 {
			body = append(body, separator...)
		}
		body = strconv.AppendFloat(body, float64(float32(rng.NormFloat64())), 'f', -1, 32)
	}
	return append(body, "]}]}"...)
}

func measure(out io.Writer, title string, body []byte) error {
	list := decoders()
	for pass := range passes + 2 {
		for _, d := range list {
			start := time.Now()
			n, err := d.decode(body)
			took := time.Since(start)
			if err != nil || n != elements {
				return fmt.Errorf("%s: %d elements, %w", d.name, n, err)
			}
			if pass >= 2 { // the first two warm up
				d.took = append(d.took, took)
			}
		}
	}
	fmt.Fprintf(out, "\n%s: %d floats, %d bytes, median of %d interleaved passes\n", title, elements, len(body), passes)
	for _, d := range list {
		slices.Sort(d.took)
		fmt.Fprintf(out, "  %-18s %7.0f MB/s\n", d.name, float64(len(body))/d.took[len(d.took)/2].Seconds()/1e6)
	}
	return nil
}

func main() {
	for _, separator := range []string{",", ", "} {
		if err := measure(os.Stdout, fmt.Sprintf("JSON with %q between numbers", separator), image(separator)); err != nil {
			fmt.Fprintln(os.Stderr, "json:", err)
			os.Exit(1)
		}
	}
}

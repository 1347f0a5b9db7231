package oip_test

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/oip"
)

// picture is a tensor the size of one image for a network, 3 x 224 x 224 or about 150,000 floats.
func picture() tensor.Tensor {
	rng := rand.New(rand.NewPCG(1, 2))
	values := make([]float32, 3*224*224)
	for i := range values {
		values[i] = float32(rng.NormFloat64())
	}
	return tensor.FromFloat32("x", []int64{1, 3, 224, 224}, values)
}

func pictureJSON(b *testing.B) []byte {
	answer := oip.Response{Outputs: []tensor.Tensor{picture()}}
	data, _, err := answer.AppendHTTP(nil, &oip.Request{})
	if err != nil {
		b.Fatal(err)
	}
	return append([]byte(`{"inputs"`), data[len(`{"model_name":"","outputs"`):]...)
}

func BenchmarkDecodeJSON(b *testing.B) {
	body := pictureJSON(b)
	var r oip.Request
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.DecodeHTTP(body, -1); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecodeDoubles reads numbers of 17 digits, as Python writes them.
func BenchmarkDecodeDoubles(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	values := make([]float64, 3*224*224)
	for i := range values {
		values[i] = rng.NormFloat64()
	}
	data, _ := json.Marshal(values)
	body := []byte(one("[1,3,224,224]", "FP32", string(data)))
	var r oip.Request
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.DecodeHTTP(body, -1); err != nil {
			b.Fatal(err)
		}
	}
}

type plainRequest struct {
	Inputs []struct {
		Name, Datatype string
		Shape          []int64
		Data           []float32
	}
}

func BenchmarkDecodeEncodingJSON(b *testing.B) {
	body := pictureJSON(b)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		var r plainRequest
		if err := json.Unmarshal(body, &r); err != nil || len(r.Inputs[0].Data) != 3*224*224 {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeJSON(b *testing.B) {
	answer := oip.Response{Model: "m", Outputs: []tensor.Tensor{picture()}}
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if out, _, err = answer.AppendHTTP(out[:0], &oip.Request{}); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(out)))
}

func BenchmarkEncodeEncodingJSON(b *testing.B) {
	p := picture()
	values := p.Float32s()
	var size int
	b.ReportAllocs()
	for b.Loop() {
		out, err := json.Marshal(values)
		if err != nil {
			b.Fatal(err)
		}
		size = len(out)
	}
	b.SetBytes(int64(size))
}

func pictureProto(b *testing.B) []byte {
	p := picture()
	m, err := proto.Marshal(&oip.ModelInferRequest{ModelName: "m", RawInputContents: [][]byte{p.Data},
		Inputs: []*oip.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: p.Shape}}})
	if err != nil {
		b.Fatal(err)
	}
	return m
}

func BenchmarkDecodeProto(b *testing.B) {
	message := pictureProto(b)
	var r oip.Request
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.DecodeProto(message); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeGenerated(b *testing.B) {
	message := pictureProto(b)
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		var r oip.ModelInferRequest
		if err := proto.Unmarshal(message, &r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeSmallJSON(b *testing.B) {
	body := []byte(one("[1,4]", "FP32", "[5.1,3.5,1.4,0.2]"))
	var r oip.Request
	b.ReportAllocs()
	for b.Loop() {
		if err := r.DecodeHTTP(body, -1); err != nil {
			b.Fatal(err)
		}
	}
}

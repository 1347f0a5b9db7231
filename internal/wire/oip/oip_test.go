package oip_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/internal/wire/oip"
)

// one is a request with the input x: shape and datatype and data as they stand.
func one(shape, datatype, data string) string {
	return fmt.Sprintf(`{"inputs":[{"name":"x","shape":%s,"datatype":%q,"data":%s}]}`, shape, datatype, data)
}

// TestNoInputs takes requests to models of constants, which have no inputs to send.
func TestNoInputs(t *testing.T) {
	message, err := proto.Marshal(&oip.ModelInferRequest{ModelName: "m"})
	if err != nil {
		t.Fatal(err)
	}
	var r oip.Request
	for name, err := range map[string]error{"JSON": r.DecodeHTTP([]byte(`{"inputs":[]}`), -1),
		"binary": r.DecodeHTTP([]byte(`{"parameters":{"binary_data_output":true},"inputs":[]}`), 54), "gRPC": r.DecodeProto(message)} {
		if err != nil || len(r.Inputs) != 0 {
			t.Errorf("%s: %d inputs, %v", name, len(r.Inputs), err)
		}
	}
}

func TestHostileJSON(t *testing.T) {
	good := one("[2]", "FP32", "[1,2]")
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	many := func(n int, item string) string { return strings.TrimSuffix(strings.Repeat(item+",", n), ",") }
	manyNamed := func(n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf(`"p%d":1`, i))
		}
		return strings.Join(list, ",")
	}
	with := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for _, c := range []struct{ name, body, want string }{
		{"empty", "", "body ends"},
		{"null", "null", "'{'"},
		{"an array", "[]", "'{'"},
		{"no inputs", "{}", "no inputs"},
		{"inputs null", `{"inputs":null}`, "'['"},
		{"trailing brace", good + "}", "follows"},
		{"trailing value", good + " 1", "follows"},
		{"second document", good + good, "follows"},
		{"trailing comma in an object", with("}]}", "},]}"), "'{'"},
		{"trailing comma in data", with("[1,2]", "[1,2,]"), ""},
		{"leading comma in data", with("[1,2]", "[,1]"), "number"},
		{"cut off", good[:len(good)-1], "body ends"},
		{"duplicate inputs", `{"inputs":[],` + good[1:], "twice"},
		{"duplicate data", with(`"data":`, `"data":[1,2],"data":`), "twice"},
		{"duplicate name", with(`"name":"x"`, `"name":"x","name":"y"`), "twice"},
		{"duplicate by escape", with(`"name":"x"`, `"name":"x","na\u006de":"y"`), "twice"},
		{"duplicate parameter", `{"parameters":{"a":1,"\u0061":2},` + good[1:], "twice"},
		{"two inputs of a name", `{"inputs":[` + many(2, `{"name":"x","shape":[1],"datatype":"FP32","data":[1]}`) + `]}`, "twice"},
		{"two outputs of a name", `{"outputs":[{"name":"y"},{"name":"y"}],` + good[1:], "twice"},
		{"case variant", with(`"inputs"`, `"Inputs"`), "lower case"},
		{"case variant in an input", with(`"data"`, `"DATA"`), "lower case"},
		{"Kelvin sign", `{"\u212aind":1,` + good[1:], "no field"},
		{"unknown field", `{"model_name":"x",` + good[1:], "no field"},
		{"unknown field of an input", with(`"name"`, `"foo":1,"name"`), "no field"},
		{"nested parameter", `{"parameters":{"a":{}},` + good[1:], "string, a number or a boolean"},
		{"deep data before the shape", `{"inputs":[{"data":` + deep(10001) + `}]}`, "limit of 64"},
		{"deep data", one("[1]", "FP32", deep(10001)), ""},
		{"rank over 32", one("["+many(33, "1")+"]", "FP32", "[1]"), "32"},
		{"1e6 keys", `{"parameters":{` + manyNamed(100000) + `},` + good[1:], "limit of 64"},
		{"many inputs", `{"inputs":[` + many(300, `{"name":"x","shape":[0],"datatype":"FP32","data":[]}`) + `]}`, "limit of 256"},
		{"long number", with("[1,2]", "[1,"+strings.Repeat("1", 1000000)+"]"), "limit 1024"},
		{"lone high surrogate", with(`"x"`, `"\ud800"`), "surrogate"},
		{"lone low surrogate", with(`"x"`, `"\udc00x"`), "surrogate"},
		{"two high surrogates", with(`"x"`, `"\ud800\ud800"`), "surrogate"},
		{"surrogate cut off", with(`"x"`, `"\ud800\u"`), "surrogate"},
		{"invalid UTF-8", with(`"x"`, "\"\xff\""), "UTF-8"},
		{"invalid UTF-8 after an escape", with(`"x"`, "\"\\n\xff\""), "UTF-8"},
		{"overlong UTF-8", with(`"x"`, "\"\xc0\xaf\""), "UTF-8"},
		{"UTF-8 outside strings", "\ufeff" + good, "'{'"},
		{"control character", with(`"x"`, "\"\n\""), "control"},
		{"NUL in a name", with(`"x"`, `"a\u0000"`), "NUL"},
		{"NUL in an id", `{"id":"\u0000",` + good[1:], "NUL"},
		{"long name", with(`"x"`, `"`+strings.Repeat("n", 1025)+`"`), "limit 1024"},
		{"id a number", `{"id":7,` + good[1:], "a string"},
		{"NaN", with("[1,2]", "[NaN,2]"), "no NaN"},
		{"Infinity", with("[1,2]", "[-Infinity,2]"), "no infinity"},
		{"1e309", one("[1]", "FP64", "[1e309]"), "FP64"},
		{"1e39 in FP32", with("[1,2]", "[1e39,2]"), "FP32"},
		{"huge exponent", with("[1,2]", "[1e99999999999999999999,2]"), "FP32"},
		{"string for a number", with("[1,2]", `["1",2]`), "number"},
		{"null element", with("[1,2]", `[null,2]`), "number"},
		{"leading zero", with("[1,2]", "[01,2]"), "leading zeros"},
		{"bare minus", with("[1,2]", "[-,2]"), "number"},
		{"plus", with("[1,2]", "[+1,2]"), "number"},
		{"bare point", with("[1,2]", "[1.,2]"), "point"},
		{"bare exponent", with("[1,2]", "[1e,2]"), "exponent"},
		{"hex", with("[1,2]", "[0x1,2]"), ""},
		{"UINT8 over", one("[1]", "UINT8", "[256]"), "UINT8"},
		{"UINT8 negative", one("[1]", "UINT8", "[-1]"), "UINT8"},
		{"INT8 over", one("[1]", "INT8", "[128]"), "INT8"},
		{"INT8 under", one("[1]", "INT8", "[-129]"), "INT8"},
		{"INT64 over", one("[1]", "INT64", "[9223372036854775808]"), "INT64"},
		{"UINT64 over", one("[1]", "UINT64", "[18446744073709551616]"), "UINT64"},
		{"INT32 with a fraction", one("[1]", "INT32", "[1.5]"), "INT32"},
		{"BOOL of a number", one("[1]", "BOOL", "[1]"), "BOOL"},
		{"BOOL null", one("[1]", "BOOL", "[null]"), "BOOL"},
		{"BYTES of a number", one("[1]", "BYTES", "[1]"), "string"},
		{"FP16", one("[1]", "FP16", "[1]"), "binary_data_size"},
		{"BF16", one("[1]", "BF16", "[1]"), "binary_data_size"},
		{"unknown datatype", one("[1]", "FP31", "[1]"), "datatype"},
		{"datatype in lower case", one("[1]", "fp32", "[1]"), "datatype"},
		{"too few", one("[3]", "FP32", "[1,2]"), "shape"},
		{"too many", one("[1]", "FP32", "[1,2]"), "shape"},
		{"none", one("[1]", "FP32", "[]"), "shape"},
		{"some for zero", one("[0]", "FP32", "[1]"), "shape"},
		{"ragged", one("[2,2]", "FP32", "[[1,2],[3]]"), "shape"},
		{"ragged over", one("[2,2]", "FP32", "[[1,2],[3,4,5]]"), "shape"},
		{"nested less", one("[2,2]", "FP32", "[[1,2]]"), "shape"},
		{"which element", one("[2,3]", "INT8", "[[1,2,3],[4,128,6]]"), `"x", element 4: 128 is not a number that INT8 holds`},
		{"which element, of floats", one("[40]", "FP32", "["+strings.Repeat("1.5, ", 33)+"nul,"+strings.Repeat("1,", 5)+"1]"), `"x", element 33: JSON at byte`},
		{"which element, first", one("[2]", "FP64", "[1e999,1]"), `"x", element 0: 1e999`},
		{"which element, of texts", one("[3]", "BYTES", `["a","",7]`), `"x", element 2: JSON at byte`},
		{"which element, of truths", one("[3]", "BOOL", `[true,false,2]`), `"x", element 2: JSON at byte`},
		{"nested more", one("[2,2]", "FP32", "[[1,2],[3,4],[5,6]]"), "shape"},
		{"nested too deep", one("[2]", "FP32", "[[1],[2]]"), "number"},
		{"scalar and nested", one("[2,2]", "FP32", "[[1,2],3,4]"), "nested"},
		{"data an object", one("[1]", "FP32", "{}"), "'['"},
		{"data a number", one("[1]", "FP32", "1"), "'['"},
		{"overflow", one("[8589934592,8589934592]", "FP32", "[1]"), "elements"},
		{"2^40 elements", one("[1099511627776]", "INT8", "[1]"), "got 1"},
		{"negative size", one("[-1]", "FP32", "[1]"), "negative dimension"},
		{"fraction size", one("[1.5]", "FP32", "[1]"), "size"},
		{"shape null", one("null", "FP32", "[1]"), "'['"},
		{"no data", `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}`, "neither"},
		{"no name", `{"inputs":[{"shape":[1],"datatype":"FP32","data":[1]}]}`, "needs"},
		{"no shape", `{"inputs":[{"name":"x","datatype":"FP32","data":[1]}]}`, "needs"},
		{"both", `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}}]}`, "both"},
		{"binary size negative", `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":-4}}]}`, "whole number"},
		{"binary size over", `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}`, "left in the body"},
		{"shared memory", `{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}}]}`, "shared memory"},
		{"classification", `{"outputs":[{"name":"y","parameters":{"classification":0}}],` + good[1:], "classification"},
		{"timeout negative", `{"parameters":{"timeout":-1},` + good[1:], "timeout"},
		{"timeout a year", `{"parameters":{"timeout":31536000000000},` + good[1:], "24 hours"},
		{"timeout a string", `{"parameters":{"timeout":"1"},` + good[1:], "timeout"},
		{"output without a name", `{"outputs":[{}],` + good[1:], "no name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r oip.Request
			err := r.DecodeHTTP([]byte(c.body), -1)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if err != nil && len(err.Error()) > 400 {
				t.Errorf("the message has %d bytes: %.80s…", len(err.Error()), err.Error())
			}
		})
	}
}

func TestAcceptedJSON(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{ // want: the tensor's bytes in hex
		{"flat for two dimensions", one("[2,2]", "UINT8", "[1,2,3,4]"), "01020304"},
		{"nested", one("[2,2]", "UINT8", " [ [1 , 2],\n[3,\t4 ] ] "), "01020304"},
		{"scalar", one("[]", "UINT8", "[9]"), "09"},
		{"empty", one("[0]", "FP32", "[]"), ""},
		{"empty nested", one("[2,0]", "FP32", "[[],[]]"), ""},
		{"empty flat", one("[2,0]", "FP32", "[]"), ""},
		{"BOOL", one("[2]", "BOOL", "[true,false]"), "0100"},
		{"BYTES", one("[2]", "BYTES", `["é\u00e9\ud83d\ude00","\"\\\/\b\f\n\r\t"]`), "08000000c3a9c3a9f09f98800800000022" + "5c2f080c0a0d09"},
		{"BYTES nested", one("[1,1]", "BYTES", `[[""]]`), "00000000"},
		{"data first", `{"inputs":[{"data":[1,2],"datatype":"INT16","shape":[2],"name":"x"}]}`, "01000200"},
		{"escaped field", `{"inp\u0075ts":[{"name":"x","shape":[1],"datatype":"INT8","data":[-128]}]}`, "80"},
		{"nulls", `{"id":null,"parameters":null,"outputs":null,"inputs":[{"name":"x","shape":[1],"datatype":"INT8","parameters":null,"data":[1]}]}`, "01"},
		{"unknown parameters", `{"parameters":{"a":1,"b":"x","c":true,"d":null},"inputs":[{"name":"x","shape":[1],"datatype":"UINT64","parameters":{"k":1e3},"data":[18446744073709551615]}]}`, "ffffffffffffffff"},
		{"smallest INT64", one("[1]", "INT64", "[-9223372036854775808]"), "0000000000000080"},
		{"minus zero", one("[1]", "FP32", "[-0.0]"), "00000080"},
		{"exponents", one("[3]", "FP32", "[1E+2,1e-2,1.5e0]"), "0000c8420ad7233c0000c03f"},
		{"underflow", one("[1]", "FP32", "[1e-60]"), "00000000"},
		{"denormal", one("[1]", "FP32", "[1e-45]"), "01000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r oip.Request
			if err := r.DecodeHTTP([]byte(c.body), -1); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%x", r.Inputs[0].Data); got != c.want {
				t.Errorf("data %s, want %s", got, c.want)
			}
		})
	}
}

func TestRequestFields(t *testing.T) {
	body := `{"id":"7","parameters":{"timeout":1500,"priority":3,"binary_data_output":true},"outputs":[{"name":"a","parameters":{"binary_data":false}},{"name":"b"}],` + one("[1]", "INT8", "[1]")[1:]
	var r oip.Request
	for range 2 { // the second time over the first's leftovers
		if err := r.DecodeHTTP([]byte(body), -1); err != nil {
			t.Fatal(err)
		}
		if r.ID != "7" || r.Timeout != 1500*time.Microsecond || r.Priority != 3 || !r.BinaryOutput || len(r.Outputs) != 2 || r.Outputs[0].Binary || !r.Outputs[1].Binary ||
			strings.Join(r.Wanted(), ",") != "a,b" {
			t.Errorf("request %+v", r)
		}
	}
	if err := r.DecodeHTTP([]byte(one("[1]", "INT8", "[1]")), -1); err != nil {
		t.Fatal(err)
	}
	if r.ID != "" || r.Timeout != 0 || r.Priority != 0 || r.BinaryOutput || r.Wanted() != nil {
		t.Errorf("leftovers in %+v", r)
	}
}

var types = []tensor.Type{tensor.Bool, tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint64, tensor.Int8, tensor.Int16,
	tensor.Int32, tensor.Int64, tensor.FP16, tensor.FP32, tensor.FP64, tensor.BF16, tensor.Bytes}

// randomTensor makes a tensor whose values are finite.
func randomTensor(rng *rand.Rand, name string) tensor.Tensor {
	t := tensor.Tensor{Name: name, Type: types[rng.IntN(len(types))], Shape: []int64{}}
	for range rng.IntN(4) {
		t.Shape = append(t.Shape, int64(rng.IntN(5)))
	}
	n, _ := tensor.Elements(t.Shape)
	t.Data = []byte{}
	for range n {
		switch t.Type {
		case tensor.Bytes:
			text := make([]rune, rng.IntN(6))
			for i := range text {
				text[i] = []rune("aé\"\\\n\x00😀z")[rng.IntN(8)]
			}
			t.Data = tensor.AppendBytes(t.Data, []byte(string(text)))
		case tensor.Bool:
			t.Data = append(t.Data, byte(rng.IntN(2)))
		case tensor.FP32:
			v := math.Float32frombits(rng.Uint32())
			if v-v != 0 || rng.IntN(3) == 0 {
				v = float32(rng.IntN(100)) / 4
			}
			t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(v))
		case tensor.FP64:
			v := math.Float64frombits(rng.Uint64())
			if v-v != 0 || rng.IntN(3) == 0 {
				v = rng.NormFloat64()
			}
			t.Data = binary.LittleEndian.AppendUint64(t.Data, math.Float64bits(v))
		default:
			for range t.Type.Size() {
				t.Data = append(t.Data, byte(rng.Uint32()))
			}
		}
	}
	return t
}

// TestAgreement sends the same random tensors through all encodings: each must give the same bytes.
func TestAgreement(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	var r oip.Request // one for all: what it keeps must not show
	for range 2000 {
		var tensors []tensor.Tensor
		for i := range 1 + rng.IntN(4) {
			tensors = append(tensors, randomTensor(rng, fmt.Sprintf("t%d", i)))
		}
		check := func(how string, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s of %v: %v", how, tensors, err)
			}
			if len(r.Inputs) != len(tensors) {
				t.Fatalf("%s: %d inputs of %d", how, len(r.Inputs), len(tensors))
			}
			for i, want := range tensors {
				got := r.Inputs[i]
				if got.Name != want.Name || got.Type != want.Type || fmt.Sprint(got.Shape) != fmt.Sprint(want.Shape) || !bytes.Equal(got.Data, want.Data) {
					t.Fatalf("%s of %v gave %v", how, want, got)
				}
			}
		}
		body, header := asHTTP(t, rng, tensors)
		check("HTTP", r.DecodeHTTP(body, header))
		raw, typed := asProto(t, tensors)
		check("raw gRPC", r.DecodeProto(raw))
		if typed != nil {
			check("typed gRPC", r.DecodeProto(typed))
		}
		var back oip.Request
		checkAnswer(t, &back, tensors)
	}
}

// asHTTP encodes through the answer's encoder, whose tensors have the form of a request's, with a random mixture of JSON and
// binary.
func asHTTP(t *testing.T, rng *rand.Rand, tensors []tensor.Tensor) (body []byte, header int) {
	t.Helper()
	var want oip.Request
	for _, x := range tensors {
		noJSON := x.Type == tensor.FP16 || x.Type == tensor.BF16
		want.Outputs = append(want.Outputs, oip.Output{Name: x.Name, Binary: noJSON || rng.IntN(2) == 0})
	}
	answer := oip.Response{Model: "m", Outputs: tensors}
	out, size, err := answer.AppendHTTP(nil, &want)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(out) {
		t.Fatalf("not JSON: %s", out)
	}
	out = bytes.Replace(out, []byte(`{"model_name":"m","outputs"`), []byte(`{"inputs"`), 1)
	header = len(out)
	sum := int64(0)
	for i := range tensors {
		if answer.Binary(&want, i) {
			out = append(out, tensors[i].Data...)
			sum += int64(len(tensors[i].Data))
		}
	}
	if size >= 0 && sum != size {
		t.Fatalf("size %d, want %d", size, sum)
	}
	if size < 0 {
		header = -1
	}
	return out, header
}

// asProto encodes with the generated code: raw, and typed where every type has contents.
func asProto(t *testing.T, tensors []tensor.Tensor) (raw, typed []byte) {
	t.Helper()
	var a, b oip.ModelInferRequest
	can := true
	for _, x := range tensors {
		in := &oip.ModelInferRequest_InferInputTensor{Name: x.Name, Datatype: x.Type.String(), Shape: x.Shape}
		a.Inputs = append(a.Inputs, in)
		a.RawInputContents = append(a.RawInputContents, x.Data)
		contents, ok := contentsOf(x)
		can = can && ok
		b.Inputs = append(b.Inputs, &oip.ModelInferRequest_InferInputTensor{Name: x.Name, Datatype: x.Type.String(), Shape: x.Shape, Contents: contents})
	}
	raw, err := proto.Marshal(&a)
	if err != nil {
		t.Fatal(err)
	}
	if !can {
		return raw, nil
	}
	if typed, err = proto.Marshal(&b); err != nil {
		t.Fatal(err)
	}
	return raw, typed
}

func contentsOf(x tensor.Tensor) (*oip.InferTensorContents, bool) {
	c := new(oip.InferTensorContents)
	size := x.Type.Size()
	for data := x.Data; len(data) > 0; {
		if x.Type == tensor.Bytes {
			element, rest, _ := tensor.NextBytes(data)
			c.BytesContents = append(c.BytesContents, element)
			data = rest
			continue
		}
		var wide [8]byte
		copy(wide[:], data[:size])
		v := binary.LittleEndian.Uint64(wide[:])
		data = data[size:]
		switch x.Type {
		case tensor.Bool:
			c.BoolContents = append(c.BoolContents, v == 1)
		case tensor.Int8:
			c.IntContents = append(c.IntContents, int32(int8(v)))
		case tensor.Int16:
			c.IntContents = append(c.IntContents, int32(int16(v)))
		case tensor.Int32:
			c.IntContents = append(c.IntContents, int32(v))
		case tensor.Int64:
			c.Int64Contents = append(c.Int64Contents, int64(v))
		case tensor.Uint8, tensor.Uint16, tensor.Uint32:
			c.UintContents = append(c.UintContents, uint32(v))
		case tensor.Uint64:
			c.Uint64Contents = append(c.Uint64Contents, v)
		case tensor.FP32:
			c.Fp32Contents = append(c.Fp32Contents, math.Float32frombits(uint32(v)))
		case tensor.FP64:
			c.Fp64Contents = append(c.Fp64Contents, math.Float64frombits(v))
		}
	}
	return c, x.Type != tensor.FP16 && x.Type != tensor.BF16
}

// checkAnswer encodes the tensors as a gRPC answer and reads it back with the generated code.
func checkAnswer(t *testing.T, _ *oip.Request, tensors []tensor.Tensor) {
	t.Helper()
	answer := oip.Response{Model: "m", Version: "3", ID: "i", Outputs: tensors}
	slices, err := oip.Codec{}.Marshal(answer.Reply())
	if err != nil {
		t.Fatal(err)
	}
	var back oip.ModelInferResponse
	if err := (oip.Codec{}).Unmarshal(slices, &back); err != nil {
		t.Fatal(err)
	}
	if back.ModelName != "m" || back.ModelVersion != "3" || back.Id != "i" || len(back.Outputs) != len(tensors) {
		t.Fatalf("answer %v", &back)
	}
	for i, want := range tensors {
		got := back.Outputs[i]
		if got.Name != want.Name || got.Datatype != want.Type.String() || fmt.Sprint(got.Shape) != fmt.Sprint(want.Shape) || !bytes.Equal(back.RawOutputContents[i], want.Data) {
			t.Fatalf("answer %v for %v", got, want)
		}
	}
	slices.Free()
}

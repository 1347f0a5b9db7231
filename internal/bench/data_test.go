package bench_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/bench"
	"github.com/penstock/penstock/internal/tensor"
)

func TestMadeUpRequestsFitTheSignature(t *testing.T) {
	var specs []api.TensorSpec
	for _, kind := range []string{"BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES"} {
		specs = append(specs, api.TensorSpec{Name: kind, Datatype: kind, Shape: []int64{-1, 3}})
	}
	sizes := bench.Sizes{Batch: 4, Shapes: map[string][]int64{"INT8": {2, 3}}}
	all, err := bench.Random(specs, sizes, 5, 42)
	if err != nil || len(all) != 5 {
		t.Fatal(len(all), err)
	}
	again, err := bench.Random(specs, sizes, 5, 42)
	if err != nil || !reflect.DeepEqual(all, again) {
		t.Error("equal seeds make different requests")
	}
	if other, _ := bench.Random(specs, sizes, 5, 43); reflect.DeepEqual(all, other) {
		t.Error("other seeds make equal requests")
	}
	for i, r := range all {
		for j := range r.Inputs {
			in := &r.Inputs[j]
			if err := in.Check(); err != nil || in.Type.String() != specs[j].Datatype {
				t.Errorf("request %d, %s: %v", i, in.Name, err)
			}
			want := int64(4)
			if in.Name == "INT8" {
				want = 2
			}
			if in.Shape[0] != want {
				t.Errorf("%s has the shape %v", in.Name, in.Shape)
			}
			for _, v := range floatsOf(in) {
				if !(v >= 0 && v < 1) {
					t.Errorf("%s holds %v", in.Name, v)
				}
			}
		}
		if i > 0 && reflect.DeepEqual(r.Inputs, all[0].Inputs) {
			t.Error("all requests are equal")
		}
	}
}

// floatsOf reads the float types, the halves by their definitions.
func floatsOf(in *tensor.Tensor) (all []float64) {
	for data := in.Data; len(data) > 0; data = data[max(in.Type.Size(), 1):] {
		switch in.Type {
		case tensor.FP32:
			all = append(all, float64(math.Float32frombits(binary.LittleEndian.Uint32(data))))
		case tensor.FP64:
			all = append(all, math.Float64frombits(binary.LittleEndian.Uint64(data)))
		case tensor.BF16:
			all = append(all, float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(data))<<16)))
		case tensor.FP16:
			bits := binary.LittleEndian.Uint16(data)
			all = append(all, math.Ldexp(1+float64(bits&0x3ff)/1024, int(bits>>10&31)-15))
		default:
			return nil
		}
	}
	return all
}

func TestSizesThatCannotBeAreRefusedWithTheirCure(t *testing.T) {
	spec := []api.TensorSpec{{Name: "ids", Datatype: "INT64", Shape: []int64{-1, -1, 4}}}
	fixed := []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{1, 4}}}
	for name, tc := range map[string]struct {
		specs []api.TensorSpec
		sizes bench.Sizes
		count int
		want  string
	}{
		"open dimension":  {spec, bench.Sizes{}, 1, "--shape ids:1,64,4"},
		"rank":            {spec, bench.Sizes{Shapes: map[string][]int64{"ids": {1, 2}}}, 1, "2 dimensions"},
		"fixed dimension": {spec, bench.Sizes{Shapes: map[string][]int64{"ids": {1, 2, 5}}}, 1, "dimension 3"},
		"unknown input":   {spec, bench.Sizes{Shapes: map[string][]int64{"nobody": {1}}}, 1, "ids"},
		"fixed batch":     {fixed, bench.Sizes{Batch: 8}, 1, "--batch"},
		"too large":       {spec, bench.Sizes{Shapes: map[string][]int64{"ids": {1 << 20, 1 << 20, 4}}}, 1, "smaller"},
		"strange type":    {[]api.TensorSpec{{Name: "x", Datatype: "COMPLEX64", Shape: []int64{1}}}, bench.Sizes{}, 1, "-f"},
		"none":            {fixed, bench.Sizes{}, 0, "smaller"},
	} {
		_, err := bench.Random(tc.specs, tc.sizes, tc.count, 1)
		if err == nil || !strings.Contains(err.Error()+api.AsError(err).Cure, tc.want) {
			t.Errorf("%s: %v (%s)", name, err, api.AsError(err).Cure)
		}
	}
	if _, err := bench.Random(spec, bench.Sizes{Batch: 2, Shapes: map[string][]int64{"ids": {1, 7, 4}}}, 1, 1); err != nil {
		t.Error(err)
	}
}

func TestShapesAreRead(t *testing.T) {
	name, shape, err := bench.ParseShape("a:b:1,64")
	if err != nil || name != "a:b" || !reflect.DeepEqual(shape, []int64{1, 64}) {
		t.Error(name, shape, err)
	}
	for _, text := range []string{"", "x", ":1", "x:", "x:a", "x:-1", "x:1,,2", "x:99999999999999999999", "x:1099511627776,1099511627776"} {
		if _, _, err := bench.ParseShape(text); err == nil {
			t.Errorf("%q: taken", text)
		}
	}
}

const one = `{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}]}`

func TestRequestsAreReadFromText(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want int
	}{
		"one":             {one, 1},
		"over many lines": {strings.ReplaceAll(one, ",", ",\n"), 1},
		"lines":           {one + "\n\n" + one + "\n" + one, 3},
		"windows":         {one + "\r\n" + one + "\r\n", 2},
	} {
		all, err := bench.ParseRequests([]byte(tc.text))
		if err != nil || len(all) != tc.want {
			t.Errorf("%s: %d, %v", name, len(all), err)
		}
	}
	for name, tc := range map[string]struct{ text, want string }{
		"nothing":    {"", ""},
		"no JSON":    {"hello", "line 1"},
		"no inputs":  {`{"inputs":[]}`, "no inputs"},
		"third line": {one + "\n" + one + "\n{oops\n", "line 3"},
		"bad tensor": {strings.Replace(one, "[2]", "[3]", 1), "x"},
	} {
		if _, err := bench.ParseRequests([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// npy writes an array as NumPy does.
func npy(kind, shape string, data []byte) []byte {
	header := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': %s, }", kind, shape)
	header += strings.Repeat(" ", 63-(10+len(header))%64) + "\n"
	return append(append(append([]byte("\x93NUMPY\x01\x00"), byte(len(header)), byte(len(header)>>8)), header...), data...)
}

func TestArraysAreReadRowByRow(t *testing.T) {
	specs := []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 2}}, {Name: "k", Datatype: "INT64", Shape: []int64{-1}}}
	x := tensor.FromFloat32("x", []int64{5, 2}, []float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	k := tensor.FromInt64("k", []int64{5}, []int64{0, 1, 2, 3, 4})
	dir := t.TempDir()
	folder := filepath.Join(dir, "set")
	write := func(path string, data []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(folder, "x.npy"), npy("<f4", "(5, 2)", x.Data))
	write(filepath.Join(folder, "k.npy"), npy("<i8", "(5,)", k.Data))
	write(filepath.Join(folder, "other.txt"), []byte("x"))
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	for name, text := range map[string][]byte{"x.npy": npy("<f4", "(5, 2)", x.Data), "k.npy": npy("<i8", "(5,)", k.Data)} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "set.npz"), archive.Bytes())
	for _, path := range []string{folder, filepath.Join(dir, "set.npz")} {
		all, err := bench.ReadFile(path, specs, bench.Sizes{Batch: 2})
		if err != nil || len(all) != 2 {
			t.Fatalf("%s: %d requests, %v", path, len(all), err)
		}
		second := all[1].Inputs
		if !reflect.DeepEqual(second[0].Float32s(), []float32{4, 5, 6, 7}) || !reflect.DeepEqual(second[1].Int64s(), []int64{2, 3}) || !reflect.DeepEqual(second[0].Shape, []int64{2, 2}) {
			t.Errorf("%s: %+v", path, second)
		}
	}
	alone := filepath.Join(folder, "x.npy")
	if all, err := bench.ReadFile(alone, specs[:1], bench.Sizes{}); err != nil || len(all) != 5 {
		t.Errorf("one array: %d, %v", len(all), err)
	}
	for name, tc := range map[string]struct {
		path  string
		specs []api.TensorSpec
		batch int64
	}{
		"an array too few": {alone, specs, 1},
		"missing input":    {folder, append(specs, api.TensorSpec{Name: "z", Datatype: "FP32", Shape: []int64{-1}}), 1},
		"other type":       {alone, []api.TensorSpec{{Name: "x", Datatype: "FP64", Shape: []int64{-1, 2}}}, 1},
		"other width":      {alone, []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 3}}}, 1},
		"other rank":       {alone, []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1}}}, 1},
		"too few rows":     {folder, specs, 6},
		"no file":          {filepath.Join(dir, "absent.npy"), specs, 1},
	} {
		if _, err := bench.ReadFile(tc.path, tc.specs, bench.Sizes{Batch: tc.batch}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestForeignArraysAreRefused(t *testing.T) {
	data := make([]byte, 8)
	good := npy("<f4", "(2,)", data)
	if x, err := bench.ParseNPY(good); err != nil || x.Type != tensor.FP32 {
		t.Fatal(x, err)
	}
	for name, text := range map[string][]byte{
		"empty":          nil,
		"no magic":       []byte("hello, this is no array"),
		"objects":        npy("|O", "(2,)", data),
		"big-endian":     npy(">f4", "(2,)", data),
		"text":           npy("<U4", "(2,)", data),
		"Fortran":        bytes.Replace(npy("<f4", "(2,)", data), []byte("False"), []byte("True "), 1),
		"short":          good[:len(good)-1],
		"long":           append(bytes.Clone(good), 0),
		"huge":           npy("<f4", "(1099511627776, 1099511627776)", data),
		"overflow":       npy("<f4", "(99999999999999999999,)", data),
		"new version":    append([]byte("\x93NUMPY\x09"), good[7:]...),
		"cut in header":  good[:20],
		"header too big": append([]byte("\x93NUMPY\x02\x00\xff\xff\xff\xff"), data...),
	} {
		if _, err := bench.ParseNPY(text); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzParseNPY(f *testing.F) {
	f.Add(npy("<f4", "(2,)", make([]byte, 8)))
	f.Add(npy("|b1", "()", make([]byte, 1)))
	f.Fuzz(func(t *testing.T, text []byte) {
		x, err := bench.ParseNPY(text)
		if err == nil && x.Check() != nil {
			t.Error("a broken tensor was taken")
		}
	})
}

package oip_test

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/wire/oip"
)

// TestParametersAreHandedOn: what means nothing to the server may mean something to an endpoint, in both encodings.
func TestParametersAreHandedOn(t *testing.T) {
	want := []api.Parameter{{Name: "fast", Value: "true"}, {Name: "level", Value: "-3"}, {Name: "quality", Value: "bést"}}
	check := func(how string, got []api.Parameter) {
		t.Helper()
		got = slices.Clone(got)
		slices.SortFunc(got, func(a, b api.Parameter) int { return cmp.Compare(a.Name, b.Name) })
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v", how, got)
		}
	}
	var r oip.Request
	parameters := `"quality":"b\u00e9st","fast":true,"level":-3,"priority":1,"timeout":5,"none":null,"part":1.5,"long":"` + strings.Repeat("x", oip.MaxText+1) + `"`
	if err := r.DecodeHTTP([]byte(strings.Replace(one("[1]", "FP32", "[1]"), "{", `{"parameters":{`+parameters+`},`, 1)), -1); err != nil {
		t.Fatal(err)
	}
	check("JSON", r.Parameters)
	text := func(s string) *oip.InferParameter {
		return &oip.InferParameter{ParameterChoice: &oip.InferParameter_StringParam{StringParam: s}}
	}
	whole := func(n int64) *oip.InferParameter {
		return &oip.InferParameter{ParameterChoice: &oip.InferParameter_Int64Param{Int64Param: n}}
	}
	message, err := proto.Marshal(&oip.ModelInferRequest{ModelName: "m", Parameters: map[string]*oip.InferParameter{
		"quality": text("bést"), "level": whole(-3), "timeout": whole(5), "long": text(strings.Repeat("x", oip.MaxText+1)),
		"fast": {ParameterChoice: &oip.InferParameter_BoolParam{BoolParam: true}}}})
	if err != nil {
		t.Fatal(err)
	}
	r.Reset()
	if len(r.Parameters) > 0 {
		t.Error("a request keeps the parameters of the one before")
	}
	if err := r.DecodeProto(message); err != nil {
		t.Fatal(err)
	}
	check("protobuf", r.Parameters)
}

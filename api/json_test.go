package api_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
)

type inner struct {
	Weight int8    `json:"weight,omitempty"`
	Share  float32 `json:"share"`
}

type Embedded struct {
	Why string `json:"why,omitempty"`
}

type document struct {
	Embedded
	Model  string            `json:"model"`
	Task   string            `json:"task"`
	List   []inner           `json:"list"`
	Tags   map[string]string `json:"tags"`
	Flag   *bool             `json:"flag"`
	When   api.Time          `json:"when"`
	Any    any               `json:"any"`
	Raw    []byte            `json:"raw"`
	Hidden string            `json:"-"`
}

func TestDecodeStrictTakesWhatFits(t *testing.T) {
	cases := map[string]string{
		"all fields":     `{"why":"w","model":"a\u00e9\ud83d\ude00","list":[{"weight":-128,"share":1e3}],"tags":{"A":"1","a":"2"},"flag":true,"when":"2026-01-02T03:04:05Z","any":{"x":[1,null]},"raw":"AAE="}`,
		"empty object":   " \n{}\t",
		"null slice":     `{"list":null,"tags":null,"any":null}`,
		"escaped key":    `{"\u006dodel":"x"}`,
		"surrogate pair": `{"model":"\\ud800 \uD83D\uDE00"}`,
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			var got, want document
			if err := api.DecodeStrict([]byte(text), &got); err != nil {
				t.Fatalf("DecodeStrict(%s): %v", text, err)
			}
			if err := json.Unmarshal([]byte(text), &want); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, the standard decoder gives %+v", got, want)
			}
		})
	}
}

func TestDecodeStrictRefusesTheRest(t *testing.T) {
	deep := strings.Repeat("[", api.JSONDepthMax) + strings.Repeat("]", api.JSONDepthMax)
	cases := []struct{ name, text, place, says string }{
		{"empty", "", "$", "no JSON value"},
		{"only space", " \n ", "$", "no JSON value"},
		{"duplicate key", `{"model":"mine","model":"theirs"}`, "$.model", "stands twice (line 1, column 17)"},
		{"duplicate by escape", `{"model":"a","\u006dodel":"b"}`, "$.model", "stands twice"},
		{"duplicate in a map", `{"tags":{"a":"1","a":"2"}}`, "$.tags.a", "stands twice"},
		{"duplicate in any", `{"any":{"a":1,"a":2}}`, "$.any.a", "stands twice"},
		{"case variant", `{"MODEL":"x"}`, "$.MODEL", `it is written "model"`},
		{"kelvin sign", "{\"tas\u212a\":\"x\"}", "$.tas\u212a", `it is written "task"`},
		{"unknown field", `{"list":[{},{"wait":1}]}`, "$.list[1].wait", "no field"},
		{"hidden field", `{"Hidden":"x"}`, "$.Hidden", "no field"},
		{"trailing data", `{} {}`, "$", "follows"},
		{"trailing comma", `{"model":"x",}`, "$", "double quotes"},
		{"trailing comma in array", `{"list":[{},]}`, "$.list[1]", "begins here"},
		{"leading comma", `{,"model":"x"}`, "$", "double quotes"},
		{"too deep", `{"any":` + deep + `}`, "$.any", "deeper than 64"},
		{"bad UTF-8", "{\"model\":\"\xff\"}", "$", "UTF-8 (line 1, column 11)"},
		{"lone surrogate", `{"model":"\ud800"}`, "$.model", "surrogate"},
		{"lone low surrogate", `{"model":"\udc00x"}`, "$.model", "surrogate"},
		{"byte order mark", "\ufeff{}", "$", "begins here"},
		{"truncated", `{"list":[{"weight":`, "$.list[0].weight", "ends"},
		{"truncated string", `{"model":"x`, "$.model", "no end"},
		{"control character", "{\"model\":\"a\nb\"}", "$.model", "control"},
		{"bad escape", `{"model":"\x"}`, "$.model", "escape"},
		{"number for string", `{"model":1}`, "$.model", "a string is wanted"},
		{"string for number", "{\n \"list\": [{\"weight\": \"1\"}]}", "$.list[0].weight", "line 2, column 22"},
		{"too large for int8", `{"list":[{"weight":128}]}`, "$.list[0].weight", "does not fit"},
		{"fraction for int", `{"list":[{"weight":1.5}]}`, "$.list[0].weight", "does not fit"},
		{"too large for float", `{"list":[{"share":1e400}]}`, "$.list[0].share", "does not fit"},
		{"bad number", `{"list":[{"share":01}]}`, "$.list[0].share", "not a number"},
		{"null scalar", `{"model":null}`, "$.model", "leave the field out"},
		{"object for array", `{"list":{}}`, "$.list", "an array is wanted"},
		{"array for object", `[]`, "$", "an object is wanted"},
		{"bool for string", `{"model":true}`, "$.model", "a string is wanted"},
		{"bad time", `{"when":"yesterday"}`, "$.when", "RFC 3339"},
		{"bad base64", `{"raw":"*"}`, "$", "base64"},
		{"not JSON", `model: x`, "$", "begins here"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := api.DecodeStrict([]byte(c.text), new(document))
			if !api.Is(err, api.CodeBadJSON) {
				t.Fatalf("got %v, want a bad_json error", err)
			}
			if e := api.AsError(err); !strings.HasPrefix(e.Subject, c.place) || c.name != "too deep" && e.Subject != c.place || !strings.Contains(e.Message, c.says) {
				t.Errorf("got %q: %q, want %q: …%q…", e.Subject, e.Message, c.place, c.says)
			}
		})
	}
}

// Whatever DecodeStrict takes, the standard decoder must take too and read the same from.
func FuzzDecodeStrict(f *testing.F) {
	for _, seed := range []string{`{"model":"x","list":[{"weight":1}]}`, `{"any":[1,{"a":"\ud83d\ude00"}]}`, `{"a":1,"a":2}`, "\xff", `{"flag":null}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, want document
		if api.DecodeStrict(data, &got) != nil {
			return
		}
		decoder := json.NewDecoder(strings.NewReader(string(data)))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&want); err != nil {
			t.Fatalf("taken, but the standard decoder says %v", err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

package api_test

import (
	"reflect"
	"testing"

	"github.com/penstock/penstock/api"
)

func TestBatchingIsChecked(t *testing.T) {
	for name, tc := range map[string]struct {
		batching *api.Batching
		ok       bool
	}{
		"none":                       {nil, true},
		"empty":                      {&api.Batching{}, true},
		"everything":                 {&api.Batching{Mode: api.BatchOn, MaxSize: 8, PreferredSizes: []int{4, 8}, DelayUS: 5, PriorityLevels: 3, DefaultPriority: 2, TimeoutAction: api.TimeoutDelay}, true},
		"another mode":               {&api.Batching{Mode: "ON"}, false},
		"another action":             {&api.Batching{TimeoutAction: "drop"}, false},
		"negative size":              {&api.Batching{MaxSize: -1}, false},
		"preferred over the maximum": {&api.Batching{MaxSize: 4, PreferredSizes: []int{8}}, false},
		"preferred that fall":        {&api.Batching{PreferredSizes: []int{8, 4}}, false},
		"preferred twice":            {&api.Batching{PreferredSizes: []int{4, 4}}, false},
		"default beyond the levels":  {&api.Batching{PriorityLevels: 2, DefaultPriority: 3}, false},
		"a delay of hours":           {&api.Batching{DelayUS: 1 << 40}, false},
		"too many runs":              {&api.Batching{Runs: 65}, false},
	} {
		if err := tc.batching.Check("e"); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLoadOptionsHaveOneForm: instances are shared by the text of their options, so what means the same must read the same.
func TestLoadOptionsHaveOneForm(t *testing.T) {
	exact := true
	for name, tc := range map[string]struct {
		batching *api.Batching
		text     string
	}{
		"none":            {nil, ""},
		"empty":           {&api.Batching{}, ""},
		"auto":            {&api.Batching{Mode: api.BatchAuto, TimeoutAction: api.TimeoutReject}, ""},
		"off, with sizes": {&api.Batching{Mode: api.BatchOff, MaxSize: 9}, `{"batching":{"mode":"off"}}`},
		"on":              {&api.Batching{Mode: api.BatchOn, Exact: &exact}, `{"batching":{"mode":"on","exact":true}}`},
	} {
		options := (&api.Serving{Batching: tc.batching}).LoadOptions()
		if got := options.Text(); got != tc.text {
			t.Errorf("%s: %s, want %s", name, got, tc.text)
		}
		if tc.text == "" {
			continue
		}
		var back api.LoadOptions
		if err := api.DecodeStrict([]byte(tc.text), &back); err != nil || !reflect.DeepEqual(back, options) {
			t.Errorf("%s: came back as %+v, %v", name, back, err)
		}
	}
}

package api_test

import (
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
)

func TestLabel(t *testing.T) {
	for _, text := range []string{"0.0.0", "1.2.3", "10.20.30", "1.0.0-rc.1", "1.0.0-alpha", "1.0.0-0", "1.0.0-x-y.9a"} {
		if l, err := api.ParseLabel(text); err != nil || l.String() != text {
			t.Errorf("%s: %v, %v", text, l, err)
		}
	}
	for _, text := range []string{"", "1", "1.2", "v1.2.3", "01.2.3", "1.2.3.4", "1.2.3-", "1.2.3-01", "1.2.3+build", "1.2.-3", "1.2.x", "1.2.9999999999", "1.2.3-" + strings.Repeat("a", 200)} {
		if l, err := api.ParseLabel(text); !api.Is(err, api.CodeBadName) {
			t.Errorf("%s: %v, %v", text, l, err)
		}
	}
}

func TestLabelRange(t *testing.T) {
	for text, c := range map[string]struct{ in, out string }{
		"^1.2":   {"1.2.0 1.2.9 1.9.0", "1.1.9 2.0.0 1.3.0-rc.1"},
		"^1":     {"1.0.0 1.99.0", "0.9.0 2.0.0"},
		"^1.2.3": {"1.2.3 1.3.0", "1.2.2 2.0.0"},
		"^0.2":   {"0.2.0 0.2.5", "0.1.0 0.3.0"},
		"^0.2.3": {"0.2.3 0.2.4", "0.2.2 0.3.0"},
		"^0.0.3": {"0.0.3", "0.0.4 0.0.2"},
		"^0":     {"0.0.1 0.9.0", "1.0.0"},
		"~1.2":   {"1.2.0 1.2.7", "1.3.0 1.1.0"},
		"~1.2.3": {"1.2.3 1.2.9", "1.2.2 1.3.0"},
		"~1":     {"1.0.0 1.5.0", "2.0.0"},
		"1.x":    {"1.0.0 1.5.0", "2.0.0"},
		"1.x.x":  {"1.0.0 1.5.0", "2.0.0"},
		"1.2.x":  {"1.2.0 1.2.5", "1.3.0"},
	} {
		r, err := api.ParseLabelRange(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		for i, list := range []string{c.in, c.out} {
			for _, one := range strings.Fields(list) {
				l, err := api.ParseLabel(one)
				if err != nil {
					t.Fatal(err)
				}
				if r.Holds(l) != (i == 0) {
					t.Errorf("%s holds %s: %v", text, one, r.Holds(l))
				}
			}
		}
	}
	for _, text := range []string{"", "1", "1.2", "1.2.3", "^", "^x", "x", "^1.x", "1.x.3", "^1.2.3.4", "^01", ">=1", "~1.2-rc", "^1.2.3-rc.1"} {
		if r, err := api.ParseLabelRange(text); !api.Is(err, api.CodeBadName) {
			t.Errorf("%s: %+v, %v", text, r, err)
		}
	}
}

func TestRefWithLabel(t *testing.T) {
	for text, want := range map[string]api.Ref{"fraud@1.2.0": {Model: "fraud", Label: "1.2.0"}, "acme/fraud@^1.2": {Tenant: "acme", Model: "fraud", Label: "^1.2"},
		"fraud@1.x": {Model: "fraud", Label: "1.x"}, "fraud@3": {Model: "fraud", Version: 3}, "fraud:1.2.0": {Model: "fraud", Alias: "1.2.0"}} {
		if got, err := api.ParseRef(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v %q, %v", text, got, got, err)
		}
	}
	for _, text := range []string{"fraud@1.2", "fraud@^", "fraud@1.2.3+x", "fraud@v1.2.3", "fraud@1.2.3.4"} {
		if got, err := api.ParseRef(text); !api.Is(err, api.CodeBadName) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}

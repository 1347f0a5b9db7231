package card_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/registry/card"
)

const whole = `---
license: apache-2.0
language:
- en
- no
tags: [tabular, "fraud", tabular]
datasets:
- acme/transactions
pipeline_tag: tabular-classification
library_name: sklearn
base_model: acme/fraud-base
model-index:
- name: fraud
  results:
  - task:
      type: tabular-classification
    dataset:
      name: Transactions 2026
      type: acme/transactions
      split: test
    metrics:
    - type: accuracy
      value: 0.971
      name: Accuracy
    - type: f1
      value: "0.93"
    - type: broken
      value: many
  - dataset: {name: other}
    metrics: [{name: auc, value: 1}]
---
# Fraud

--- a line
`

func TestParse(t *testing.T) {
	want := card.Card{
		Origin: api.Origin{Framework: "sklearn", Datasets: []string{"acme/transactions"}, BaseModels: []string{"acme/fraud-base"}},
		Notes: api.Notes{Task: "tabular-classification", Licence: "apache-2.0", Keywords: []string{"tabular", "fraud"}, Results: []api.Result{
			{Metric: "accuracy", Value: 0.971, Dataset: "acme/transactions", Split: "test"}, {Metric: "f1", Value: 0.93, Dataset: "acme/transactions", Split: "test"},
			{Metric: "auc", Value: 1, Dataset: "other"}}},
	}
	for name, text := range map[string]string{"as written": whole, "line ends of Windows": strings.ReplaceAll(whole, "\n", "\r\n"), "with a mark": "\ufeff" + whole} {
		if got, err := card.Parse(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", name, err, got, want)
		}
	}
	for name, text := range map[string]string{"none": "# Fraud\n", "empty": "", "a rule": "---\n# Fraud\n", "empty front": "---\n---\n# x", "a comment": "---\n# only\n---\n"} {
		if got, err := card.Parse(text); err != nil || !reflect.DeepEqual(got, card.Card{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	other, err := card.Parse("---\nlicense: other\nlicense_name: acme-1\n---\n")
	if err != nil || other.Notes.Licence != "acme-1" {
		t.Errorf("other: %+v, %v", other, err)
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct{ front, says string }{
		"an anchor":       {"a: &x [1]\nb: 2", "line 1: anchors"},
		"an alias":        {"a: 1\nb: *x", "anchors, aliases"},
		"a merge":         {"<<: {a: 1}", ""},
		"a tag":           {"a: !!binary aGk=", "anchors, aliases"},
		"a bomb":          {"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", "anchors, aliases"},
		"a list":          {"- a", "no list of names"},
		"not YAML":        {"a: [", ""},
		"a name twice":    {"a: 1\na: 2", ""},
		"deep brackets":   {"a: " + strings.Repeat("[", 1000), "nested deeper"},
		"deep indents":    {strings.Repeat("- ", 1000), "nested deeper"},
		"a NUL":           {"a: \x00", "NUL"},
		"too long":        {strings.Repeat("# comment\n", 10_000), "over the limit"},
		"too many values": {"a: [" + strings.Repeat("1,", 11_000) + "1]", "more than 10000"},
	} {
		_, err := card.Parse("---\n" + c.front + "\n---\n# x")
		if !api.Is(err, api.CodeBadRequest) && !api.Is(err, api.CodeTooLarge) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// FuzzParse: a card from anywhere gives fields, or an error of ours; it neither hangs nor panics.
func FuzzParse(f *testing.F) {
	f.Add(whole)
	f.Add("---\na: &x [1]\nb: *x\n---\n")
	f.Add("---\n? - a\n: |\n  text\n---\n")
	f.Add("---\n{a: [b, {c: d}]}\n---\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := card.Parse(text)
		if err != nil {
			if !api.Is(err, api.CodeBadRequest) && !api.Is(err, api.CodeTooLarge) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		for _, r := range c.Notes.Results {
			if r.Metric == "" || r.Value != r.Value {
				t.Errorf("%q: result %+v", text, r)
			}
		}
	})
}

package api

import "maps"

// Origin is what made a version, as far as it was told. It never changes; what was said at the push is part of the digest.
type Origin struct {
	Framework  string   `json:"framework,omitempty" doc:"What trained or exported it, such as scikit-learn 1.5." maxLength:"256"`
	Datasets   []string `json:"datasets,omitempty" doc:"References of the training data: names, URLs or digests." maxItems:"32"`
	BaseModels []string `json:"base_models,omitempty" doc:"Models that it was made from." maxItems:"32"`
}

// IsZero reports whether nothing was told.
func (o Origin) IsZero() bool {
	return o.Framework == "" && len(o.Datasets) == 0 && len(o.BaseModels) == 0
}

// Or fills what was not told with what another source says.
func (o Origin) Or(other Origin) Origin {
	if o.Framework == "" {
		o.Framework = other.Framework
	}
	if len(o.Datasets) == 0 {
		o.Datasets = other.Datasets
	}
	if len(o.BaseModels) == 0 {
		o.BaseModels = other.BaseModels
	}
	return o
}

// Notes is what people know about a version. It may change; Version.Changes counts how often.
type Notes struct {
	Task        string   `json:"task,omitempty" doc:"What it is for, such as classification." maxLength:"256"`
	Owner       string   `json:"owner,omitempty" doc:"Who answers for it." maxLength:"256"`
	Licence     string   `json:"licence,omitempty" doc:"Licence, by its SPDX name where it has one." maxLength:"256"`
	Description string   `json:"description,omitempty" doc:"One paragraph." maxLength:"1024"`
	Keywords    []string `json:"keywords,omitempty" doc:"Free words." maxItems:"64"`
	Results     []Result `json:"results,omitempty" doc:"Figures measured on a dataset; those of the push itself are metrics." maxItems:"256"`
}

// IsZero reports whether there are none.
func (n Notes) IsZero() bool {
	return n.Task == "" && n.Owner == "" && n.Licence == "" && n.Description == "" && len(n.Keywords) == 0 && len(n.Results) == 0
}

// Or fills what is missing with what another source says.
func (n Notes) Or(other Notes) Notes {
	for _, f := range []struct{ have, other *string }{{&n.Task, &other.Task}, {&n.Owner, &other.Owner}, {&n.Licence, &other.Licence},
		{&n.Description, &other.Description}} {
		if *f.have == "" {
			*f.have = *f.other
		}
	}
	if len(n.Keywords) == 0 {
		n.Keywords = other.Keywords
	}
	if len(n.Results) == 0 {
		n.Results = other.Results
	}
	return n
}

// Result is one figure, and what it was measured on.
type Result struct {
	Metric  string  `json:"metric" doc:"Name, such as accuracy." minLength:"1" maxLength:"63"`
	Value   float64 `json:"value" doc:"The figure."`
	Dataset string  `json:"dataset,omitempty" doc:"What it was measured on." maxLength:"128"`
	Split   string  `json:"split,omitempty" doc:"Which part of it, such as test." maxLength:"63"`
}

// Figures lists every figure under each of the names by which it can be asked for: a metric's own name means the figure given at the push, or else the first result of that name; the
// others are NAME.SPLIT, NAME.DATASET and NAME.DATASET.SPLIT.
func (v *Version) Figures() map[string]float64 {
	all := make(map[string]float64, len(v.Metrics)+len(v.Notes.Results))
	maps.Copy(all, v.Metrics)
	for _, r := range v.Notes.Results {
		names := []string{r.Metric}
		if r.Split != "" {
			names = append(names, r.Metric+"."+r.Split)
		}
		if r.Dataset != "" {
			names = append(names, r.Metric+"."+r.Dataset)
		}
		if r.Dataset != "" && r.Split != "" {
			names = append(names, r.Metric+"."+r.Dataset+"."+r.Split)
		}
		for _, name := range names {
			if _, taken := all[name]; !taken {
				all[name] = r.Value
			}
		}
	}
	return all
}

// GateResult is what a gate found about a version. The last one of each name counts.
type GateResult struct {
	Name     string `json:"name" doc:"Gate."`
	Passed   bool   `json:"passed" doc:"Whether the version passed."`
	Evidence Digest `json:"evidence,omitempty" doc:"Digest of what shows it."`
	Why      string `json:"why,omitempty" doc:"A sentence about it."`
	At       Time   `json:"at" doc:"When it was written."`
	By       string `json:"by" doc:"Name of the key that wrote it."`
}

// GateRequest writes what a gate found.
type GateRequest struct {
	Name     string `json:"name" doc:"Gate." minLength:"1" maxLength:"63"`
	Passed   bool   `json:"passed" doc:"Whether the version passed."`
	Evidence Digest `json:"evidence,omitempty" doc:"Digest of what shows it: sha256: and 64 hex digits."`
	Why      string `json:"why,omitempty" doc:"A sentence about it." maxLength:"1024"`
}

// MetadataRequest changes what may change about a version. A field that is left out stays; an empty one is removed.
type MetadataRequest struct {
	Task        *string   `json:"task,omitempty" doc:"What it is for." maxLength:"256"`
	Owner       *string   `json:"owner,omitempty" doc:"Who answers for it." maxLength:"256"`
	Licence     *string   `json:"licence,omitempty" doc:"Licence." maxLength:"256"`
	Description *string   `json:"description,omitempty" doc:"One paragraph." maxLength:"1024"`
	Keywords    *[]string `json:"keywords,omitempty" doc:"Free words." maxItems:"64"`
	Results     *[]Result `json:"results,omitempty" doc:"Figures measured on a dataset." maxItems:"256"`
	Label       string    `json:"label,omitempty" doc:"Semantic version such as 1.2.0, unique in the model. It can be given once and never changed." maxLength:"128"`
}

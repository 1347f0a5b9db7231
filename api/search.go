package api

// Condition is one node of a search, checked and typed: registry/query makes it of a query's text, store makes a
// statement of it. Its zero value is true of every version.
type Condition struct {
	Op    ConditionOp
	Parts []Condition // of and, or, not
	Field string      // of a comparison, in full: "task", "metrics.accuracy"

	// What the field is compared with: words, or numbers, never both. Several are for in alone.
	Words   []string
	Amounts []float64
}

// ConditionOp is what a condition does. A field that has several values fits when one of them does; one that has none
// fits no comparison, so that `not` of it is true.
type ConditionOp string

// The operations. Is and in compare words or numbers, the ones of order numbers only, contains words only and without
// telling ASCII capitals apart; has needs no value.
const (
	OpAnd      ConditionOp = "and"
	OpOr       ConditionOp = "or"
	OpNot      ConditionOp = "not"
	OpIs       ConditionOp = "="
	OpLess     ConditionOp = "<"
	OpAtMost   ConditionOp = "<="
	OpMore     ConditionOp = ">"
	OpAtLeast  ConditionOp = ">="
	OpContains ConditionOp = "~"
	OpHas      ConditionOp = "has"
	OpIn       ConditionOp = "in"
)

// Search asks for versions of a tenant, a page at a time.
type Search struct {
	Tenant TenantID
	Where  Condition
	Sort   SearchSort
	After  *SearchPlace // nil: from the beginning
	Limit  int
}

// SearchSort orders the found by a field that has one value; versions without it are left out. No field is the order in
// which they were committed or restored. Numeric says which kind of value the field has.
type SearchSort struct {
	Field      string
	Numeric    bool
	Descending bool
}

// SearchPlace is where a page ended: the last one's value in the order asked for, and its place in the catalogue.
type SearchPlace struct {
	Word   string `json:"w,omitempty"`
	Amount int64  `json:"a,omitempty"`
	Entry  int64  `json:"e"`
}

// Found is a version that a search found, in short: what a table shows.
type Found struct {
	Model      ModelName          `json:"model" doc:"Model that it is a version of."`
	Number     VersionNumber      `json:"number" doc:"Number, from 1."`
	Digest     Digest             `json:"digest" doc:"Digest of the OCI manifest."`
	State      VersionState       `json:"state" doc:"ready or rejected."`
	Format     string             `json:"format" doc:"Format by content."`
	Label      string             `json:"label,omitempty" doc:"Semantic version that names it too."`
	Task       string             `json:"task,omitempty" doc:"What it is for."`
	Owner      string             `json:"owner,omitempty" doc:"Who answers for it."`
	Licence    string             `json:"licence,omitempty" doc:"Licence."`
	Size       int64              `json:"size" doc:"Bytes of all artifacts."`
	Parameters int64              `json:"parameters,omitempty" doc:"Elements of all initializers."`
	Tags       map[string]string  `json:"tags,omitempty" doc:"Free labels."`
	Metrics    map[string]float64 `json:"metrics,omitempty" doc:"Measured figures; for those not given at the push, the first result of the name."`
	Aliases    []AliasName        `json:"aliases" doc:"Aliases that name it now."`
	Created    Time               `json:"created" doc:"When it was committed."`
	CreatedBy  string             `json:"created_by" doc:"Name of the key that pushed it."`

	Place SearchPlace `json:"-"` // to go on from
}

// Ref is the version's own name, "fraud@3".
func (f *Found) Ref() Ref { return Ref{Model: f.Model, Version: f.Number} }

// SearchField is a field that a query may name.
type SearchField struct {
	Name string `json:"name" doc:"Name, as it is written in a query; a family of fields ends with a dot."`
	Kind string `json:"kind" doc:"text, number, size, time or flag."`
	Doc  string `json:"doc,omitempty" doc:"What it is; absent for those that the tenant's own versions brought."`
}

// SearchRequest is a search as it was asked for.
type SearchRequest struct {
	Query string // in the language of the guide; empty finds everything
	Sort  string // a field, with "-" before it for the largest first; empty: newest first
	After string // cursor of the page before
	Limit int    // most to give; 0: the default
}

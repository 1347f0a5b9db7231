// Package query reads the language of searches: text in, a checked and typed api.Condition out, or an error with a caret
// under the fault. It knows which fields there are and what they can be compared with; it knows no database and keeps
// nothing. Callers: registry.
package query

import (
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// kind is what a field holds, and so what it can be compared with.
type kind string

const (
	text   kind = "text"
	number kind = "number"
	size   kind = "size" // a number of bytes
	moment kind = "time"
	flag   kind = "flag" // true or false
	loose  kind = "tag"  // text; a number where it is compared by order
)

// field is a name that a query may use. One whose name ends with a dot is a family: any name may follow.
type field struct {
	name string
	kind kind
	many bool // one version may have several values, so there is no order by it
	doc  string
}

// fields is every field. The store's index holds exactly these; a test sees to it.
var fields = []field{
	{"name", text, false, "Name of the model."},
	{"version", number, false, "Number of the version."},
	{"latest", flag, false, "Whether it is its model's newest version."},
	{"alias", text, true, "Aliases that name it."},
	{"digest", text, false, "Digest of its manifest."},
	{"state", text, false, "ready or rejected."},
	{"format", text, false, "Format by content."},
	{"created", moment, false, "When it was committed."},
	{"created_by", text, false, "Key that pushed it."},
	{"size", size, false, "Bytes of all its files."},
	{"parameters", number, false, "Elements of all initializers."},
	{"nodes", number, false, "Operators in the graph."},
	{"producer", text, false, "Tool that wrote the file."},
	{"ir_version", number, false, "ONNX IR version."},
	{"opset", number, false, "Operator set of ai.onnx."},
	{"opset.", number, false, "Operator set of another domain."},
	{"op.", number, false, "How often an operator stands in the graph, such as op.Conv."},
	{"input", text, true, "Names of inputs."},
	{"input.", text, false, "An input's type and shape, such as FP32[batch,64]."},
	{"output", text, true, "Names of outputs."},
	{"output.", text, false, "An output's type and shape."},
	{"file", text, true, "Paths of its files."},
	{"label", text, false, "Semantic version that names it."},
	{"task", text, false, "What it is for."},
	{"framework", text, false, "What trained or exported it."},
	{"licence", text, false, "Licence."},
	{"owner", text, false, "Who answers for it."},
	{"description", text, false, "Its paragraph of description."},
	{"keyword", text, true, "Free words about it."},
	{"dataset", text, true, "References of its training data."},
	{"base_model", text, true, "Models that it was made from."},
	{"gate.", text, false, "What a gate found: passed or failed."},
	{"metrics.", number, false, "A measured figure, such as metrics.accuracy, or metrics.accuracy.test of a split."},
	{"tag.", loose, false, "A tag, such as tag.team."},
}

// synonyms are other spellings that people try.
var synonyms = map[string]string{"model": "name", "number": "version", "metric.": "metrics.", "tags.": "tag.", "ops.": "op.", "aliases": "alias", "license": "licence", "datasets": "dataset", "keywords": "keyword", "base_models": "base_model", "gates.": "gate."}

// findField finds the field of a name as it was written, and its name in full.
func findField(name string) (f field, full string, known bool) {
	if other, is := synonyms[name]; is {
		name = other
	}
	head, rest, dotted := strings.Cut(name, ".")
	family := head + "."
	if other, is := synonyms[family]; is {
		family = other
	}
	for _, f := range fields {
		switch {
		case f.name == name:
			return f, name, true
		case dotted && rest != "" && f.name == family:
			return f, family + rest, true
		}
	}
	return field{}, "", false
}

// Fields lists every field, for help and completion.
func Fields() []api.SearchField {
	all := make([]api.SearchField, len(fields))
	for i, f := range fields {
		all[i] = api.SearchField{Name: f.name, Kind: string(f.kind), Doc: f.doc}
	}
	return all
}

// KindOf tells what a field of the index holds; false for one that no query can name.
func KindOf(name string) (string, bool) {
	f, full, known := findField(name)
	return string(f.kind), known && full == name && !strings.HasSuffix(full, ".")
}

// nearest is a known field that a misspelt one may have meant, or none.
func nearest(name string) string {
	best, least := "", 3 // more than two slips is another word
	for _, f := range fields {
		if d := distance(strings.ToLower(name), f.name); d < least {
			best, least = f.name, d
		}
	}
	return best
}

// distance is the number of letters to change, add or take away. Both texts are short: the caller clips them.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := before
			if a[i] != b[j] {
				change++
			}
			before = row[j+1]
			row[j+1] = min(change, row[j]+1, before+1)
		}
	}
	return row[len(b)]
}

// operators lists what a kind of field can be compared with.
func (k kind) operators() []string {
	switch k {
	case text:
		return []string{"=", "!=", "~", "in", "has"}
	case loose:
		return []string{"=", "!=", "~", "<", "<=", ">", ">=", "in", "has"}
	case flag:
		return []string{"=", "!="}
	}
	return []string{"=", "!=", "<", "<=", ">", ">=", "in", "has"}
}

func (k kind) takes(op string) bool { return slices.Contains(k.operators(), op) }

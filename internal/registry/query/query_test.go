package query_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/registry/query"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 `{"Op":""}`,
		"fraud":                            `{"Op":"~","Field":"name","Words":["fraud"]}`,
		`"and"`:                            `{"Op":"~","Field":"name","Words":["and"]}`,
		"model=a":                          `{"Op":"=","Field":"name","Words":["a"]}`,
		"metrics.accuracy>0.97":            `{"Op":">","Field":"metrics.accuracy","Amounts":[0.97]}`,
		"metric.top.1 >= -1e-3":            `{"Op":">=","Field":"metrics.top.1","Amounts":[-0.001]}`,
		"size<10MB":                        `{"Op":"<","Field":"size","Amounts":[10000000]}`,
		"size<=64KiB":                      `{"Op":"<=","Field":"size","Amounts":[65536]}`,
		"parameters=1.5M":                  `{"Op":"=","Field":"parameters","Amounts":[1500000]}`,
		`tag."team one"="risk \"a\" \\"`:   `{"Op":"=","Field":"tag.team one","Words":["risk \"a\" \\"]}`,
		"tag.rank=3":                       `{"Op":"=","Field":"tag.rank","Words":["3"]}`,
		"tag.rank>3":                       `{"Op":">","Field":"tag.rank","Amounts":[3]}`,
		"alias in (champion, next)":        `{"Op":"in","Field":"alias","Words":["champion","next"]}`,
		"version in (1,2)":                 `{"Op":"in","Field":"version","Amounts":[1,2]}`,
		"has metrics.loss":                 `{"Op":"has","Field":"metrics.loss"}`,
		"not a":                            `{"Op":"not","Parts":[{"Op":"~","Field":"name","Words":["a"]}]}`,
		"state!=ready":                     `{"Op":"not","Parts":[{"Op":"=","Field":"state","Words":["ready"]}]}`,
		"latest=true":                      `{"Op":"=","Field":"latest","Words":["true"]}`,
		"latest!=false":                    `{"Op":"not","Parts":[{"Op":"not","Parts":[{"Op":"=","Field":"latest","Words":["true"]}]}]}`,
		"created<2026-01-02":               `{"Op":"<","Field":"created","Amounts":[1767312000000000]}`,
		"created<=2026-01-02":              `{"Op":"<","Field":"created","Amounts":[1767398400000000]}`,
		"created>2026-01-02T00:00":         `{"Op":">=","Field":"created","Amounts":[1767312060000000]}`,
		"created>=2026-01-02T01:00:00Z":    `{"Op":">=","Field":"created","Amounts":[1767315600000000]}`,
		"created>2026-01-02T01:00:00.5Z":   `{"Op":">=","Field":"created","Amounts":[1767315600500001]}`,
		"created in (2026-01-02)":          `{"Op":"or","Parts":[{"Op":"and","Parts":[{"Op":">=","Field":"created","Amounts":[1767312000000000]},{"Op":"<","Field":"created","Amounts":[1767398400000000]}]}]}`,
		"a or b and not (c or d)":          `{"Op":"or","Parts":[{"Op":"~","Field":"name","Words":["a"]},{"Op":"and","Parts":[{"Op":"~","Field":"name","Words":["b"]},{"Op":"not","Parts":[{"Op":"or","Parts":[{"Op":"~","Field":"name","Words":["c"]},{"Op":"~","Field":"name","Words":["d"]}]}]}]}]}`,
		" ( ( a ) ) ":                      `{"Op":"~","Field":"name","Words":["a"]}`,
		"input.x ~ FP32 and op.Conv > 2":   `{"Op":"and","Parts":[{"Op":"~","Field":"input.x","Words":["FP32"]},{"Op":">","Field":"op.Conv","Amounts":[2]}]}`,
		"tags.a=1 and tag.and=or":          `{"Op":"and","Parts":[{"Op":"=","Field":"tag.a","Words":["1"]},{"Op":"=","Field":"tag.and","Words":["or"]}]}`,
		"digest=sha256:ab and file=a/b.md": `{"Op":"and","Parts":[{"Op":"=","Field":"digest","Words":["sha256:ab"]},{"Op":"=","Field":"file","Words":["a/b.md"]}]}`,
	} {
		c, err := query.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := plain(t, c); got != want {
			t.Errorf("%s:\n got %s\nwant %s", text, got, want)
		}
	}
}

// plain writes a condition without what it leaves out.
func plain(t *testing.T, c api.Condition) string {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(`,"Parts":null`, "", `,"Field":""`, "", `,"Words":null`, "", `,"Amounts":null`, "",
		`\u003e`, ">", `\u003c`, "<").Replace(string(text))
}

// TestFaults: each fault is named and shown, with a caret below the place.
func TestFaults(t *testing.T) {
	for _, c := range []struct{ query, says, carets string }{
		{"name=", "a value is missing after \"=\"", "     ^"},
		{"name=a and", "something is missing here", "          ^"},
		{"name=a name=b", "`and`, `or` or the end", "       ^^^^"},
		{"nane=a", "did you mean name?", "^^^^"},
		{"wat.x=a", "the fields are listed by", "^^^^^"},
		{"(name=a", "never closed", "^"},
		{"name=a)", "is wanted", "      ^"},
		{"name=(a)", "put it in quotes", "     ^"},
		{"name<a", "knows no \"<\"", "    ^"},
		{"size~10", "knows no \"~\"", "    ^"},
		{"size>ten", "a number such as 10MB", "     ^^^"},
		{"size>10QB", "a number such as 10MB", "     ^^^^"},
		{"version>1e999", "a number such as", "        ^^^^^"},
		{"created>yesterday", "a day such as", "        ^^^^^^^^^"},
		{"latest=maybe", "true or false", "       ^^^^^"},
		{`tag.x="abc`, "never closed", "      ^"},
		{`tag.x="a\n"`, "backslash", "        ^"},
		{"tag.x=\"a\nb\"", "control character", "        ^"},
		{"tag.=a", "a family of fields", "^^^^"},
		{"metrics > 1", "there is no field", "^^^^^^^"},
		{`"name"=a`, "a field is wanted", "^^^^^^"},
		{"and", "joins two conditions", "^^^"},
		{"a or or b", "joins two conditions", "     ^^"},
		{"a !b", "stands only before", "  ^"},
		{"name in a", "a list in parentheses", "        ^"},
		{"name in ()", "a value is wanted", "         ^"},
		{"name in (a b)", "`,` or `)`", "           ^"},
		{"name in (a,", "a value is missing", "           ^"},
		{"name in (a", "never closed", "        ^"},
		{"has", "a field is wanted", "   ^"},
		{"name ~ \"\"", "every text contains", "       ^^"},
		{"ÄÖ=1 or näme=2", "there is no field", "^^"},
		{"a\x00b", "cannot be printed", " ^"},
		{strings.Repeat("(", 18) + "a", "nested deeper than 16", strings.Repeat(" ", 17) + "^"},
		{strings.Repeat("not ", 40) + "a", "nested deeper than 16", ""},
		{strings.Repeat("a or ", 64) + "a", "more than 64 comparisons", ""},
		{"version in (" + strings.Repeat("1,", 64) + "1)", "more than 64 values", ""},
		{strings.Repeat("x", 5000), "over the limit of 4096", ""},
		{"a\xff", "not UTF-8", ""},
	} {
		_, err := query.Parse(c.query)
		if !api.Is(err, api.CodeBadQuery) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v, want %q", c.query, err, c.says)
			continue
		}
		lines := strings.Split(err.Error(), "\n")
		if c.carets != "" && (len(lines) != 3 || lines[2] != "  "+c.carets) {
			t.Errorf("%q: the place is shown as\n%s\nwant\n  %s", c.query, err, c.carets)
		}
	}
}

func TestParseSort(t *testing.T) {
	for sort, want := range map[string]api.SearchSort{"": {Descending: true}, "created": {Field: "created", Numeric: true},
		"-metric.accuracy": {Field: "metrics.accuracy", Numeric: true, Descending: true}, "-tag.team": {Field: "tag.team", Descending: true}} {
		if got, err := query.ParseSort(sort); err != nil || got != want {
			t.Errorf("%q: %+v %v, want %+v", sort, got, err, want)
		}
	}
	for _, sort := range []string{"alias", "latest", "nope", "--size", "tag.", "-", strings.Repeat("x", 10000)} {
		if _, err := query.ParseSort(sort); !api.Is(err, api.CodeBadQuery) || len(err.Error()) > 300 {
			t.Errorf("%q: %v, want %s", sort, err, api.CodeBadQuery)
		}
	}
}

// FuzzParse: whatever is typed, the parser gives a condition within its limits or a fault with a caret, and no panic.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", `task=a and (metrics.accuracy>0.97 or not tag."x y"~"q\"") and alias in (a,b)`, "created>=2026-01-31 or size<10MB", "has op.Conv", "((((", `a="`, "ÄÖ<é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := query.Parse(text)
		if err != nil {
			if !api.Is(err, api.CodeBadQuery) || len(err.Error()) > 2000 {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		terms := 0
		if depth := measure(t, c, &terms); depth > 3*query.DepthMax || terms > 2*query.TermsMax*query.ValuesMax {
			t.Errorf("%q: %d deep, %d terms", text, depth, terms)
		}
	})
}

// measure walks a condition and checks each node's form.
func measure(t *testing.T, c api.Condition, terms *int) (depth int) {
	switch c.Op {
	case api.OpAnd, api.OpOr, api.OpNot:
		if len(c.Parts) == 0 || c.Op == api.OpNot && len(c.Parts) != 1 {
			t.Errorf("%s of %d parts", c.Op, len(c.Parts))
		}
		for _, part := range c.Parts {
			depth = max(depth, 1+measure(t, part, terms))
		}
	case "":
	default:
		*terms++
		if _, known := query.KindOf(c.Field); !known || (len(c.Words) > 0) == (len(c.Amounts) > 0) && c.Op != api.OpHas {
			t.Errorf("%+v is no comparison", c)
		}
	}
	return depth
}

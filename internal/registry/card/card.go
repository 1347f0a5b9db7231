// Package card reads model cards: Markdown, with front matter as Hugging Face writes it. It takes what it understands,
// leaves the rest alone, and knows no version and no store. Front matter is YAML from strangers, so it is bounded before it
// is parsed: bytes, depth, and no anchors, aliases or tags, by which a small text becomes a large one. Callers: registry.
package card

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/penstock/penstock/api"
)

// The limits of front matter.
const (
	FrontBytesMax = 64 << 10
	depthMax      = 16
	nodesMax      = 10_000
)

// Card is what a card's front matter says, in our words.
type Card struct {
	Origin api.Origin
	Notes  api.Notes
}

// Parse reads a card. One without front matter says nothing, and is no error.
func Parse(text string) (Card, error) {
	front, found, err := frontOf(text)
	if err != nil || !found {
		return Card{}, err
	}
	values, err := Values([]byte(front))
	if err != nil {
		return Card{}, err
	}
	top, is := values.(map[string]any)
	if !is {
		if values == nil {
			return Card{}, nil
		}
		return Card{}, bad(1, "it is no list of names and values")
	}
	return cardOf(top), nil
}

// frontOf cuts the front matter out: what stands between a first line of --- and the next one.
func frontOf(text string) (front string, found bool, _ error) {
	text = strings.TrimPrefix(text, "\ufeff")
	first, rest, _ := strings.Cut(text, "\n")
	if strings.TrimRight(first, " \t\r") != "---" {
		return "", false, nil
	}
	var b strings.Builder
	for line := range strings.Lines(rest) {
		if strings.TrimRight(line, " \t\r\n") == "---" {
			return b.String(), true, nil
		}
		if b.Len()+len(line) > FrontBytesMax {
			return "", false, api.Fail(api.CodeTooLarge, "card", "the front matter is over the limit of %d bytes", FrontBytesMax)
		}
		b.WriteString(line)
	}
	return "", false, nil // a rule across the page, not front matter
}

func bad(line int, format string, args ...any) *api.Error {
	return api.Fail(api.CodeBadRequest, "card", "front matter, line %d: %s", line, fmt.Sprintf(format, args...)).
		WithCure("Correct the YAML between the --- lines, or take them out.")
}

// Values reads YAML into maps, lists and scalars, within the limits above.
func Values(text []byte) (any, error) {
	if len(text) > FrontBytesMax {
		return nil, api.Fail(api.CodeTooLarge, "card", "the YAML is over the limit of %d bytes", FrontBytesMax)
	}
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	if err := refuseDeep(text); err != nil {
		return nil, err
	}
	parsed, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, bad(1, "it is not YAML").Because(err)
	}
	r := &reader{}
	for _, d := range parsed.Docs {
		if d.Body != nil {
			return r.node(d.Body, 0)
		}
	}
	return nil, nil
}

// refuseDeep keeps nesting from the parser, which recurses: open brackets and the depth of indentation are counted. A line of
// dashes or of question marks is a list in a list.
func refuseDeep(text []byte) error {
	depth := 0
	number := 0
	for line := range bytes.Lines(text) {
		number++
		indent := len(line) - len(bytes.TrimLeft(line, " \t-?"))
		for _, c := range line {
			switch c {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(0, depth-1)
			case 0:
				return bad(number, "a NUL byte")
			}
		}
		if depth > depthMax || indent > 8*depthMax || bytes.Count(line[:indent], []byte("-"))+bytes.Count(line[:indent], []byte("?")) > depthMax {
			return bad(number, "nested deeper than %d", depthMax)
		}
	}
	return nil
}

type reader struct{ nodes int }

func (r *reader) node(n ast.Node, depth int) (any, error) {
	if n == nil {
		return nil, nil
	}
	if r.nodes++; r.nodes > nodesMax || depth > depthMax {
		return nil, bad(line(n), "more than %d values, or nested deeper than %d", nodesMax, depthMax)
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		return r.mapping(n.Values, depth)
	case *ast.MappingValueNode:
		return r.mapping([]*ast.MappingValueNode{n}, depth)
	case *ast.SequenceNode:
		all := make([]any, 0, len(n.Values))
		for _, v := range n.Values {
			one, err := r.node(v, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, one)
		}
		return all, nil
	case *ast.StringNode:
		return n.Value, nil
	case *ast.LiteralNode:
		if n.Value == nil {
			return "", nil
		}
		return n.Value.Value, nil
	case *ast.IntegerNode:
		return n.Value, nil
	case *ast.FloatNode:
		return n.Value, nil
	case *ast.BoolNode:
		return n.Value, nil
	case *ast.InfinityNode, *ast.NanNode, *ast.NullNode:
		return nil, nil
	case *ast.CommentGroupNode:
		return nil, nil
	}
	return nil, bad(line(n), "anchors, aliases, merges and tags are not taken")
}

func (r *reader) mapping(values []*ast.MappingValueNode, depth int) (any, error) {
	all := make(map[string]any, len(values))
	for _, pair := range values {
		var key string
		switch k := pair.Key.(type) {
		case *ast.StringNode:
			key = k.Value
		case *ast.IntegerNode, *ast.BoolNode, *ast.NullNode, *ast.FloatNode: // "no:", a language
			key = pair.Key.String()
		default:
			return nil, bad(line(pair.Key), "a name is not a plain word")
		}
		if _, twice := all[key]; twice {
			return nil, bad(line(pair.Key), "%q stands twice", clip(key))
		}
		value, err := r.node(pair.Value, depth+1)
		if err != nil {
			return nil, err
		}
		all[key] = value
	}
	return all, nil
}

func line(n ast.Node) int {
	if n == nil {
		return 1
	}
	t := n.GetToken()
	if t == nil || t.Position == nil {
		return 1
	}
	return t.Position.Line
}

// cardOf takes what is understood: the fields of Hugging Face's model cards.
func cardOf(top map[string]any) (c Card) {
	c.Notes.Task = word(top["pipeline_tag"])
	c.Notes.Licence = word(top["license"])
	if name := word(top["license_name"]); c.Notes.Licence == "other" && name != "" {
		c.Notes.Licence = name
	}
	c.Notes.Owner = word(top["owner"])
	c.Notes.Description = word(top["description"])
	c.Notes.Keywords = words(top["tags"])
	c.Origin.Framework = word(top["library_name"])
	c.Origin.Datasets = words(top["datasets"])
	c.Origin.BaseModels = words(top["base_model"])
	for _, model := range list(top["model-index"]) {
		for _, result := range list(field(model, "results")) {
			c.Notes.Results = append(c.Notes.Results, resultsOf(result)...)
		}
	}
	return c
}

// resultsOf reads one entry of a model index: a dataset, and the figures measured on it.
func resultsOf(result any) (all []api.Result) {
	dataset := field(result, "dataset")
	name := word(field(dataset, "type"))
	if name == "" {
		name = word(field(dataset, "name"))
	}
	for _, metric := range list(field(result, "metrics")) {
		value, is := number(field(metric, "value"))
		r := api.Result{Metric: word(field(metric, "type")), Value: value, Dataset: name, Split: word(field(dataset, "split"))}
		if r.Metric == "" {
			r.Metric = word(field(metric, "name"))
		}
		same := func(o api.Result) bool { return o.Metric == r.Metric && o.Dataset == r.Dataset && o.Split == r.Split }
		if is && r.Metric != "" && !slices.ContainsFunc(all, same) {
			all = append(all, r)
		}
	}
	return all
}

func field(of any, name string) any {
	all, _ := of.(map[string]any)
	return all[name]
}

func list(of any) []any {
	all, _ := of.([]any)
	return all
}

// words reads a list of words, or one word alone.
func words(of any) (all []string) {
	if one := word(of); one != "" {
		return []string{one}
	}
	for _, v := range list(of) {
		if w := word(v); w != "" && !slices.Contains(all, w) {
			all = append(all, w)
		}
	}
	return all
}

// word is a scalar as one line of text.
func word(of any) string {
	switch v := of.(type) {
	case string:
		return strings.Join(strings.Fields(v), " ")
	case bool, int64, uint64, float64:
		return fmt.Sprint(v)
	}
	return ""
}

// number reads a figure; some cards write them in quotes.
func number(of any) (float64, bool) {
	n, is := 0.0, true
	switch v := of.(type) {
	case float64:
		n = v
	case int64:
		n = float64(v)
	case uint64:
		n = float64(v)
	case string:
		parsed, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
		n, is = parsed, err == nil
	default:
		is = false
	}
	return n, is && !math.IsNaN(n) && !math.IsInf(n, 0)
}

func clip(s string) string {
	if len(s) <= 80 {
		return s
	}
	return strings.ToValidUTF8(s[:80], "") + "…"
}

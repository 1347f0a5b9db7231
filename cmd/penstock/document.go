package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/penstock/penstock/api"
)

const (
	manifestMax  = 1 << 20 // bytes of one file for apply and diff
	documentsMax = 1000    // documents of one file
	variantsMax  = 16      // arms of one endpoint, as the server takes
)

// document is one thing that a file declares.
type document struct {
	place    string // "file.yaml:12"
	endpoint *endpointDocument
	alias    *aliasDocument
}

func (d document) name() string {
	if d.endpoint != nil {
		return "endpoint/" + string(d.endpoint.Name)
	}
	return "alias/" + string(d.alias.Model) + ":" + string(d.alias.Name)
}

// endpointDocument is `kind: Endpoint`.
type endpointDocument struct {
	Kind string           `json:"kind"`
	Name api.EndpointName `json:"name"`
	Why  string           `json:"why,omitempty"`
	Spec api.EndpointSpec `json:"spec"`
}

// aliasDocument is `kind: Alias`.
type aliasDocument struct {
	Kind    string            `json:"kind"`
	Model   api.ModelName     `json:"model"`
	Name    api.AliasName     `json:"name"`
	Version api.VersionNumber `json:"version"`
	Why     string            `json:"why,omitempty"`
}

// parseDocuments reads a YAML or JSON file of many documents. Anchors, aliases, merges and tags are refused: what is
// read is what stands there, and no small file becomes a large one.
func parseDocuments(file string, text []byte) ([]document, error) {
	if len(text) > manifestMax {
		return nil, fmt.Errorf("%s is over the limit of %d bytes", file, manifestMax)
	}
	if !bytes.Equal(bytes.ToValidUTF8(text, nil), text) {
		return nil, fmt.Errorf("%s is not valid UTF-8", file)
	}
	if err := refuseDeep(file, text); err != nil {
		return nil, err
	}
	parsed, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, yamlError(file, err)
	}
	var all []document
	for _, d := range parsed.Docs {
		if d.Body == nil || d.Body.Type() == ast.NullType {
			continue
		}
		one, err := parseDocument(file, d.Body)
		if err != nil {
			return nil, err
		}
		if all = append(all, one); len(all) > documentsMax {
			return nil, fmt.Errorf("%s holds more than %d documents", file, documentsMax)
		}
	}
	return all, nil
}

// refuseDeep keeps nesting from the parser, which recurses: it counts open brackets and the depth of indentation.
func refuseDeep(file string, text []byte) error {
	depth := 0
	for number, line := range strings.Split(string(text), "\n") {
		indent := len(line) - len(strings.TrimLeft(line, " -?"))
		for _, c := range line {
			switch c {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(0, depth-1)
			}
		}
		if depth > api.JSONDepthMax || indent > 8*api.JSONDepthMax {
			return fmt.Errorf("%s:%d: nested deeper than %d", file, number+1, api.JSONDepthMax)
		}
	}
	return nil
}

func parseDocument(file string, body ast.Node) (document, error) {
	w := &jsonWriter{lines: make(map[string]int)}
	d := document{place: fmt.Sprintf("%s:%d", file, line(body))}
	if err := w.node(body, "$", 0); err != nil {
		return d, fmt.Errorf("%s:%w", file, err)
	}
	var kind struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(w.out.Bytes(), &kind); err != nil {
		return d, fmt.Errorf("%s: a document is an object with kind, name and spec", d.place)
	}
	var err error
	switch kind.Kind {
	case "Endpoint":
		d.endpoint = new(endpointDocument)
		err = api.DecodeStrict(w.out.Bytes(), d.endpoint)
	case "Alias":
		d.alias = new(aliasDocument)
		err = api.DecodeStrict(w.out.Bytes(), d.alias)
	default:
		return d, fmt.Errorf("%s: kind is %q; it must be Endpoint or Alias", d.place, kind.Kind)
	}
	if err != nil {
		e := api.AsError(err)
		message, _, _ := strings.Cut(e.Message, " (line ") // of the JSON, which nobody wrote
		return d, fmt.Errorf("%s:%d: %s: %s", file, w.lineOf(e.Subject), strings.TrimPrefix(e.Subject, "$."), message)
	}
	return d, d.check()
}

// check finds what can be found without a server.
func (d document) check() error {
	var err error
	switch {
	case d.alias != nil:
		err = errors.Join(api.CheckName("alias", string(d.alias.Name)), api.CheckName("model", string(d.alias.Model)))
		if err == nil && d.alias.Version < 1 {
			err = errors.New("version: a number from 1 is wanted")
		}
	default:
		if err = api.CheckName("endpoint", string(d.endpoint.Name)); err != nil {
			break
		}
		if len(d.endpoint.Spec.Variants) == 0 {
			err = errors.New("spec.variants: one or more are wanted")
		}
		if len(d.endpoint.Spec.Variants) > variantsMax {
			err = fmt.Errorf("spec.variants: more than %d", variantsMax)
		}
		for _, v := range d.endpoint.Spec.Variants {
			if (v.Model == "") == (v.Chain == nil) {
				err = errors.Join(err, errors.New("spec.variants: each has either a model or a chain"))
				continue
			}
			if v.Chain != nil {
				continue // the server checks it, with the models' signatures at hand
			}
			if _, refErr := api.ParseRef(v.Model); refErr != nil {
				err = errors.Join(err, refErr)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", d.place, err)
	}
	return nil
}

// jsonWriter writes a YAML node as JSON, key by key as it stands, so that the strict reader sees what the person wrote;
// it remembers on which line each place stands.
type jsonWriter struct {
	out   bytes.Buffer
	lines map[string]int
}

func (w *jsonWriter) node(n ast.Node, place string, depth int) error {
	if depth > api.JSONDepthMax {
		return fmt.Errorf("%d: nested deeper than %d", line(n), api.JSONDepthMax)
	}
	if _, known := w.lines[place]; !known {
		w.lines[place] = line(n)
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		return w.mapping(n.Values, place, depth)
	case *ast.MappingValueNode:
		return w.mapping([]*ast.MappingValueNode{n}, place, depth)
	case *ast.SequenceNode:
		w.out.WriteByte('[')
		for i, v := range n.Values {
			if i > 0 {
				w.out.WriteByte(',')
			}
			if err := w.node(v, fmt.Sprintf("%s[%d]", place, i), depth+1); err != nil {
				return err
			}
		}
		w.out.WriteByte(']')
		return nil
	case *ast.StringNode:
		return w.value(n.Value)
	case *ast.LiteralNode:
		return w.value(n.Value.Value)
	case *ast.IntegerNode:
		return w.value(n.Value)
	case *ast.FloatNode:
		return w.value(n.Value)
	case *ast.BoolNode:
		return w.value(n.Value)
	case *ast.NullNode:
		return w.value(nil)
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode, *ast.TagNode:
		return fmt.Errorf("%d: anchors, aliases, merges and tags are not taken here", line(n))
	}
	return fmt.Errorf("%d: this kind of YAML is not taken here", line(n))
}

func (w *jsonWriter) mapping(values []*ast.MappingValueNode, place string, depth int) error {
	w.out.WriteByte('{')
	for i, pair := range values {
		key, ok := pair.Key.(*ast.StringNode)
		if !ok {
			return fmt.Errorf("%d: a key is not a plain word", line(pair.Key))
		}
		if i > 0 {
			w.out.WriteByte(',')
		}
		if err := w.value(key.Value); err != nil {
			return err
		}
		w.out.WriteByte(':')
		at := place + "." + key.Value
		if _, twice := w.lines[at]; !twice {
			w.lines[at] = line(key)
		}
		if err := w.node(pair.Value, at, depth+1); err != nil {
			return err
		}
	}
	w.out.WriteByte('}')
	return nil
}

func (w *jsonWriter) value(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("a value cannot be written as JSON: %w", err)
	}
	w.out.Write(text)
	return nil
}

// lineOf finds the line of a place, or of what it stands in.
func (w *jsonWriter) lineOf(place string) int {
	for place != "" {
		if n, ok := w.lines[place]; ok {
			return n
		}
		place = place[:max(0, strings.LastIndexAny(place, ".["))]
	}
	return w.lines["$"]
}

func line(n ast.Node) int { return tokenLine(n.GetToken()) }

func tokenLine(t *token.Token) int {
	if t == nil || t.Position == nil {
		return 0
	}
	return t.Position.Line
}

// yamlError tells the parser's fault in one line with its place.
func yamlError(file string, err error) error {
	var e yaml.Error
	if errors.As(err, &e) {
		return fmt.Errorf("%s:%s: %s", file, strconv.Itoa(tokenLine(e.GetToken())), e.GetMessage())
	}
	return fmt.Errorf("%s: not YAML", file)
}

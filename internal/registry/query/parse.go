package query

import (
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// The grammar, as it stands in the guide:
//
//	query      = [ or ]
//	or         = and { "or" and }
//	and        = unary { "and" unary }
//	unary      = "not" unary | "(" or ")" | "has" field | word | comparison
//	comparison = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" ) value | field "in" "(" value { "," value } ")"
//
// A word alone looks for models whose name contains it.

// keywords have to be quoted to be values of a comparison's left side or a word alone.
var keywords = []string{"and", "or", "not", "in", "has"}

// Parse reads a query. An empty one finds everything. Errors are of CodeBadQuery.
func Parse(query string) (api.Condition, error) {
	tokens, err := lex(query)
	if err != nil {
		return api.Condition{}, err
	}
	p := &parser{query: query, tokens: tokens}
	if p.peek().over() {
		return api.Condition{}, nil
	}
	c, err := p.or(0)
	if err != nil {
		return c, err
	}
	if t := p.peek(); !t.over() {
		return c, p.fault(t, "here stands %s, but `and`, `or` or the end is wanted", t.shown())
	}
	return c, nil
}

// ParseSort reads an order: a field, with "-" before it for the largest first. Empty is newest first.
func ParseSort(sort string) (api.SearchSort, error) {
	name, descending := strings.CutPrefix(sort, "-")
	if sort == "" {
		return api.SearchSort{Descending: true}, nil
	}
	f, full, known := findField(clip(name, BytesMax))
	switch {
	case !known || strings.HasSuffix(full, "."):
		return api.SearchSort{}, api.Fail(api.CodeBadQuery, "", "there is no field %q to sort by%s", clip(name, 80), meant(name))
	case f.many || f.kind == flag:
		return api.SearchSort{}, api.Fail(api.CodeBadQuery, "", "there is no order by %s: a version may have several, or only two", f.name)
	}
	return api.SearchSort{Field: full, Numeric: f.kind != text && f.kind != loose, Descending: descending}, nil
}

type parser struct {
	query  string
	tokens []token // the last one is the end
	at     int
	terms  int
}

func (p *parser) peek() token { return p.tokens[p.at] }

// take gives the token and goes on; the end is given again and again.
func (p *parser) take() token {
	t := p.tokens[p.at]
	if p.at < len(p.tokens)-1 {
		p.at++
	}
	return t
}

func (p *parser) fault(t token, format string, args ...any) error {
	return fault(p.query, t.at, t.end, format, args...)
}

func (p *parser) or(depth int) (api.Condition, error) { return p.several(depth, "or", api.OpOr, p.and) }

func (p *parser) and(depth int) (api.Condition, error) {
	return p.several(depth, "and", api.OpAnd, p.unary)
}

// several reads parts with a keyword between them; one alone stands for itself.
func (p *parser) several(depth int, word string, op api.ConditionOp, part func(int) (api.Condition, error)) (api.Condition, error) {
	first, err := part(depth)
	if err != nil || !p.peek().keyword(word) {
		return first, err
	}
	all := api.Condition{Op: op, Parts: []api.Condition{first}}
	for p.peek().keyword(word) {
		p.take()
		next, err := part(depth)
		if err != nil {
			return all, err
		}
		all.Parts = append(all.Parts, next)
	}
	return all, nil
}

func (p *parser) unary(depth int) (api.Condition, error) {
	t := p.take()
	if depth > DepthMax {
		return api.Condition{}, p.fault(t, "this is nested deeper than %d", DepthMax)
	}
	switch {
	case t.keyword("not"):
		c, err := p.unary(depth + 1)
		return opposite(c), err
	case t.is("("):
		c, err := p.or(depth + 1)
		if err != nil {
			return c, err
		}
		if end := p.take(); !end.is(")") {
			if end.over() {
				return c, p.fault(t, "this parenthesis is never closed")
			}
			return c, p.fault(end, "here stands %s, but `and`, `or` or `)` is wanted", end.shown())
		}
		return c, nil
	case t.keyword("has"):
		t = p.take()
		f, full, err := p.field(t)
		if err != nil {
			return api.Condition{}, err
		}
		return p.term(t, f, "has", api.Condition{Op: api.OpHas, Field: full})
	}
	return p.comparison(t)
}

func opposite(c api.Condition) api.Condition {
	return api.Condition{Op: api.OpNot, Parts: []api.Condition{c}}
}

func (p *parser) comparison(t token) (api.Condition, error) {
	switch {
	case t.over():
		return api.Condition{}, p.fault(t, "something is missing here: a field, a word or `(`")
	case t.symbol:
		return api.Condition{}, p.fault(t, "a field, a word or `(` is wanted here, not %s", t.shown())
	case !t.quoted && slices.Contains(keywords, t.text):
		return api.Condition{}, p.fault(t, "%s joins two conditions; one is missing before it, or it needs quotes", t.shown())
	}
	op := p.peek()
	if !op.keyword("in") && (!op.symbol || strings.ContainsAny(op.text, "(),")) {
		c := api.Condition{Op: api.OpContains, Field: "name", Words: []string{t.text}}
		return p.term(t, fields[0], "~", c)
	}
	f, full, err := p.field(t)
	if err != nil {
		return api.Condition{}, err
	}
	p.take()
	if _, err := p.term(op, f, op.text, api.Condition{}); err != nil {
		return api.Condition{}, err
	}
	if op.text == "in" {
		return p.in(f, full)
	}
	value := p.take()
	if err := p.wantValue(value, op); err != nil {
		return api.Condition{}, err
	}
	return p.compare(f, full, op.text, value)
}

// term counts a comparison and checks that the field can be compared so.
func (p *parser) term(t token, f field, op string, c api.Condition) (api.Condition, error) {
	if p.terms++; p.terms > TermsMax {
		return c, p.fault(t, "this is more than %d comparisons", TermsMax)
	}
	if !f.kind.takes(op) {
		return c, p.fault(t, "%s is a %s and knows no %q, only %s", strings.TrimSuffix(f.name, "."), f.kind, op, strings.Join(f.kind.operators(), " "))
	}
	return c, nil
}

func (p *parser) field(t token) (field, string, error) {
	if t.over() || t.symbol || t.quoted {
		return field{}, "", p.fault(t, "a field is wanted here, not %s", t.shown())
	}
	f, full, known := findField(t.text)
	if known && !strings.HasSuffix(full, ".") {
		return f, full, nil
	}
	if known {
		return f, "", p.fault(t, "%s is a family of fields; name one of it, such as %s", t.shown(), f.name+"name")
	}
	return f, "", p.fault(t, "there is no field %s%s", t.shown(), meant(t.text))
}

func meant(name string) string {
	if near := nearest(clip(name, 40)); near != "" {
		return "; did you mean " + strings.TrimSuffix(near, ".") + "?"
	}
	return "; the fields are listed by `penstock search --fields`"
}

func (p *parser) wantValue(t, before token) error {
	if t.symbol {
		return p.fault(t, "a value is wanted after %s, not %s; put it in quotes if it is one", before.shown(), t.shown())
	}
	if t.over() {
		return p.fault(t, "a value is missing after %s", before.shown())
	}
	return nil
}

func (p *parser) in(f field, full string) (api.Condition, error) {
	open := p.take()
	if !open.is("(") {
		return api.Condition{}, p.fault(open, "after `in` stands a list in parentheses, such as (a, b)")
	}
	all := api.Condition{Op: api.OpIn, Field: full}
	either := api.Condition{Op: api.OpOr} // days are spans of time, and no list of values
	for before := open; ; {
		value := p.take()
		if err := p.wantValue(value, before); err != nil {
			return all, err
		}
		one, err := p.compare(f, full, "=", value)
		if err != nil {
			return all, err
		}
		if len(either.Parts) == ValuesMax {
			return all, p.fault(value, "this is more than %d values", ValuesMax)
		}
		either.Parts = append(either.Parts, one)
		all.Words, all.Amounts = append(all.Words, one.Words...), append(all.Amounts, one.Amounts...)
		before = p.take()
		switch {
		case before.is(")") && f.kind == moment:
			return either, nil
		case before.is(")"):
			return all, nil
		case before.over():
			return all, p.fault(open, "this list is never closed")
		case !before.is(","):
			return all, p.fault(before, "here stands %s, but `,` or `)` is wanted", before.shown())
		}
	}
}

package query

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
)

// compare makes the condition of one comparison. `!=` is the opposite of `=`, so it is true where there is no value.
func (p *parser) compare(f field, full, op string, value token) (api.Condition, error) {
	if op == "!=" {
		c, err := p.compare(f, full, "=", value)
		return opposite(c), err
	}
	c := api.Condition{Op: api.ConditionOp(op), Field: full}
	ordered := strings.ContainsAny(op, "<>")
	switch {
	case f.kind == flag:
		switch value.text {
		case "true":
			c.Words = []string{"true"}
			return c, nil
		case "false":
			return opposite(api.Condition{Op: api.OpIs, Field: full, Words: []string{"true"}}), nil
		}
		return c, p.fault(value, "%s is true or false, not %s", full, value.shown())
	case f.kind == moment:
		return p.compareTime(c, value)
	case f.kind == text, f.kind == loose && !ordered:
		if op == "~" && value.text == "" {
			return c, p.fault(value, "every text contains an empty one; write `has %s`", full)
		}
		c.Words = []string{value.text}
		return c, nil
	}
	amount, known := parseAmount(value.text)
	if !known {
		return c, p.fault(value, "%s is compared with a number such as %s, not with %s", full, example(f.kind), value.shown())
	}
	c.Amounts = []float64{amount}
	return c, nil
}

func example(k kind) string {
	if k == size {
		return "10MB"
	}
	return "0.97 or 12M"
}

var amountRule = regexp.MustCompile(`^([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)([a-zA-Z]*)$`)

// units are factors: k M G T P for counts, with B for bytes by the thousand, with iB by 1024.
var units = func() map[string]float64 {
	all := map[string]float64{"": 1, "b": 1}
	for i, letter := range []string{"k", "m", "g", "t", "p"} {
		thousand, binary := math.Pow(1000, float64(i+1)), math.Pow(1024, float64(i+1))
		all[letter], all[letter+"b"], all[letter+"ib"] = thousand, thousand, binary
	}
	return all
}()

// parseAmount reads a number with a unit or without: 0.97, 1e-3, 10MB, 64KiB, 12M.
func parseAmount(text string) (float64, bool) {
	m := amountRule.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	factor, known := units[strings.ToLower(m[2])]
	n, err := strconv.ParseFloat(m[1], 64)
	n *= factor
	return n + 0, known && err == nil && !math.IsInf(n, 0) // adding zero makes -0 and 0 one
}

// compareTime compares with a moment, or with a day, which is a span: a day is at most itself until it ends.
func (p *parser) compareTime(c api.Condition, value token) (api.Condition, error) {
	from, to, known := parseTime(value.text)
	if !known {
		return c, p.fault(value, "%s is compared with a day such as 2026-01-31 or a time such as 2026-01-31T12:00:00Z, not with %s", c.Field, value.shown())
	}
	first, after := float64(api.TimeOf(from)), float64(api.TimeOf(to))
	bound := func(op api.ConditionOp, at float64) api.Condition {
		return api.Condition{Op: op, Field: c.Field, Amounts: []float64{at}}
	}
	switch c.Op {
	case api.OpLess:
		return bound(api.OpLess, first), nil
	case api.OpAtMost:
		return bound(api.OpLess, after), nil
	case api.OpMore:
		return bound(api.OpAtLeast, after), nil
	case api.OpAtLeast:
		return bound(api.OpAtLeast, first), nil
	}
	return api.Condition{Op: api.OpAnd, Parts: []api.Condition{bound(api.OpAtLeast, first), bound(api.OpLess, after)}}, nil
}

// parseTime reads a day, a minute, a second or a fraction of one, in UTC unless a zone is given. From is its beginning and
// to the first moment after it.
func parseTime(text string) (from, to time.Time, known bool) {
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day, day.AddDate(0, 0, 1), true
	}
	for layout, span := range map[string]time.Duration{"2006-01-02T15:04": time.Minute, "2006-01-02T15:04:05": time.Second,
		"2006-01-02T15:04Z07:00": time.Minute} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, t.Add(span), true
		}
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() < 1 || t.Year() > 9999 {
		return t, t, false
	}
	span := time.Microsecond
	if !strings.Contains(text, ".") {
		span = time.Second
	}
	return t, t.Add(span), true
}

package query

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/penstock/penstock/api"
)

// Limits of one query. They keep the statement that is made of it small; nobody types as much.
const (
	BytesMax  = 4096 // of the text
	DepthMax  = 16   // parentheses and nots in one another
	TermsMax  = 64   // comparisons
	ValuesMax = 64   // of one in (...)
)

// token is a word, a quoted text, an operator, or the end.
type token struct {
	text   string // of a quoted text: what is between the quotes
	quoted bool
	symbol bool // an operator, a parenthesis or a comma
	at     int  // byte where it begins
	end    int  // byte after it
}

func (t token) keyword(word string) bool { return !t.quoted && !t.symbol && t.text == word }
func (t token) is(symbol string) bool    { return t.symbol && t.text == symbol }
func (t token) over() bool               { return t.text == "" && !t.quoted }

// shown names a token in a message.
func (t token) shown() string {
	if t.over() {
		return "the end"
	}
	return fmt.Sprintf("%q", clip(t.text, 40))
}

// wordBreak ends a word. Everything else that can be seen is part of it, so that names, dates and paths need no quotes.
func wordBreak(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`()=!<>~,"`, r) }

// lex splits a query. The last token is the end.
func lex(query string) ([]token, error) {
	if len(query) > BytesMax {
		return nil, api.Fail(api.CodeBadQuery, "", "the query has %d bytes, over the limit of %d", len(query), BytesMax)
	}
	if !utf8.ValidString(query) {
		return nil, api.Fail(api.CodeBadQuery, "", "the query is not UTF-8")
	}
	var all []token
	for at := 0; ; {
		at += len(query[at:]) - len(strings.TrimLeftFunc(query[at:], unicode.IsSpace))
		if at == len(query) {
			return append(all, token{at: at, end: at}), nil
		}
		t, err := next(query, at)
		if err != nil {
			return nil, err
		}
		all, at = append(all, t), t.end
	}
}

func next(query string, at int) (token, error) {
	rest := query[at:]
	for _, symbol := range []string{"!=", "<=", ">=", "=", "<", ">", "~", "(", ")", ","} {
		if strings.HasPrefix(rest, symbol) {
			return token{text: symbol, symbol: true, at: at, end: at + len(symbol)}, nil
		}
	}
	if rest[0] == '!' {
		return token{}, fault(query, at, at+1, "'!' stands only before '='; write `not` for the opposite")
	}
	if rest[0] == '"' {
		text, length, err := quoted(query, at)
		return token{text: text, quoted: true, at: at, end: at + length}, err
	}
	end := strings.IndexFunc(rest, wordBreak)
	if end < 0 {
		end = len(rest)
	}
	word := rest[:end]
	for i, r := range word {
		if !unicode.IsPrint(r) {
			return token{}, fault(query, at+i, at+i+utf8.RuneLen(r), "a character that cannot be printed")
		}
	}
	// A name that would end a word is quoted after the dot: tag."two words".
	if strings.HasSuffix(word, ".") && end < len(rest) && rest[end] == '"' {
		text, length, err := quoted(query, at+end)
		return token{text: word + text, at: at, end: at + end + length}, err
	}
	return token{text: word, at: at, end: at + end}, nil
}

// quoted reads a text between double quotes; \" and \\ stand for themselves.
func quoted(query string, at int) (text string, length int, _ error) {
	var b strings.Builder
	rest := query[at+1:]
	for i := 0; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '"':
			return b.String(), i + 2, nil
		case c == '\\' && i+1 < len(rest) && (rest[i+1] == '"' || rest[i+1] == '\\'):
			i++
			b.WriteByte(rest[i])
		case c == '\\':
			return "", 0, fault(query, at+1+i, at+2+i, `a backslash in quotes stands only before " and \`)
		case c < ' ' || c == 0x7f:
			return "", 0, fault(query, at+1+i, at+2+i, "a control character")
		default:
			b.WriteByte(c)
		}
	}
	return "", 0, fault(query, at, at+1, "the quote is never closed")
}

// fault says what is wrong and shows where: the query, with carets below. A long query is cut around the place.
func fault(query string, from, to int, format string, args ...any) error {
	const around = 60 // characters shown on either side
	to = max(to, from+1)
	before, inside, after := []rune(query[:min(from, len(query))]), []rune(query[min(from, len(query)):min(to, len(query))]), []rune(query[min(to, len(query)):])
	at := len(before) + 1
	lead, trail := "", ""
	if len(before) > around {
		before, lead = before[len(before)-around:], "…"
	}
	if len(inside) > around {
		inside, after = inside[:around], nil
		trail = "…"
	}
	if len(after) > around {
		after, trail = after[:around], "…"
	}
	line := lead + seen(before) + seen(inside) + seen(after) + trail
	carets := strings.Repeat(" ", len([]rune(lead))+len(before)) + strings.Repeat("^", max(1, len(inside)))
	return api.Fail(api.CodeBadQuery, "", "at character %d: %s\n  %s\n  %s", at, fmt.Sprintf(format, args...), line, carets)
}

// seen makes each character one column wide, so that the carets stand right.
func seen(runes []rune) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r) || unicode.Is(unicode.Mn, r):
			return '\uFFFD'
		}
		return r
	}, string(runes))
}

// clip bounds a text that is put into a message.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

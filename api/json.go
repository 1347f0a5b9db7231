package api

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// JSONDepthMax is how deep arrays and objects may be nested in what DecodeStrict reads.
const JSONDepthMax = 64

// DecodeStrict reads exactly one JSON value into v, a pointer. The standard decoder folds the case of keys, lets the
// last of two equal keys win, replaces bad UTF-8 and skips what it does not know, so that two programs may read one
// text differently; here each of these is an error of CodeBadJSON. The error's Subject is the place as a path
// ("$.variants[0].weight") and its message has line and column. A null is taken only where the field is a pointer, a
// slice, a map or an interface. The time and memory used are linear in the text.
func DecodeStrict(data []byte, v any) error {
	target := reflect.TypeOf(v)
	if target == nil || target.Kind() != reflect.Pointer {
		return Fail(CodeInternal, "", "DecodeStrict needs a pointer, not %T", v)
	}
	r := &jsonReader{data: data, path: []byte("$"), fields: make(map[reflect.Type]map[string]reflect.Type)}
	if bad := invalidUTF8(data); bad >= 0 {
		return r.failAt(bad, "the text is not valid UTF-8")
	}
	r.space()
	if r.at == len(data) {
		return r.failAt(r.at, "there is no JSON value")
	}
	if err := r.value(target.Elem(), 0); err != nil {
		return err
	}
	r.space()
	if r.at < len(data) {
		return r.failAt(r.at, "something follows the JSON value")
	}
	if err := json.Unmarshal(data, v); err != nil {
		return Fail(CodeBadJSON, "$", "%s", clip(err.Error())).Because(err)
	}
	return nil
}

// jsonReader walks a text and the Go type that it is meant for side by side. A nil type takes anything.
type jsonReader struct {
	data   []byte
	at     int
	path   []byte
	fields map[reflect.Type]map[string]reflect.Type
}

func (r *jsonReader) value(t reflect.Type, depth int) error {
	t, text := expected(t)
	if r.at >= len(r.data) {
		return r.failAt(r.at, "the text ends in the middle of a value")
	}
	switch c := r.data[r.at]; {
	case c == '{':
		return r.object(t, depth+1)
	case c == '[':
		return r.array(t, depth+1)
	case c == '"':
		return r.stringValue(t, text)
	case c == '-' || c >= '0' && c <= '9':
		return r.number(t)
	}
	return r.word(t)
}

// expected looks through pointers and tells what JSON a type wants: t is nil when anything goes, and text is set for
// types that read themselves from a string.
func expected(t reflect.Type) (_, text reflect.Type) {
	if t == nil || t.Kind() == reflect.Interface {
		return nil, nil
	}
	for range JSONDepthMax {
		if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
			return nil, nil
		}
		if t.Kind() != reflect.Pointer {
			break
		}
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return reflect.TypeFor[string](), t
	}
	return t, nil
}

func (r *jsonReader) object(t reflect.Type, depth int) error {
	if depth > JSONDepthMax {
		return r.failAt(r.at, "nested deeper than %d", JSONDepthMax)
	}
	if t != nil && t.Kind() != reflect.Struct && t.Kind() != reflect.Map {
		return r.failAt(r.at, "%s is wanted, not an object", wanted(t))
	}
	var known map[string]reflect.Type
	if t != nil && t.Kind() == reflect.Struct {
		known = r.fieldsOf(t)
	}
	r.at++
	seen := make(map[string]bool)
	for first := true; ; first = false {
		r.space()
		if r.next('}') {
			return nil
		}
		if !first && !r.comma() {
			return r.failAt(r.at, "',' or '}' is wanted")
		}
		start := r.at
		key, err := r.text()
		if err != nil {
			return err
		}
		mark := len(r.path)
		r.path = append(append(r.path, '.'), clip(key)...)
		if seen[key] {
			return r.failAt(start, "the field %q stands twice", clip(key))
		}
		seen[key] = true
		field, err := r.fieldType(t, known, key, start)
		if err != nil {
			return err
		}
		r.space()
		if !r.next(':') {
			return r.failAt(r.at, "':' is wanted after %q", clip(key))
		}
		r.space()
		if err := r.value(field, depth); err != nil {
			return err
		}
		r.path = r.path[:mark]
	}
}

// fieldType gives the type that the value of a key must fit.
func (r *jsonReader) fieldType(t reflect.Type, known map[string]reflect.Type, key string, start int) (reflect.Type, error) {
	if t == nil {
		return nil, nil
	}
	if t.Kind() == reflect.Map {
		return t.Elem(), nil
	}
	if field, ok := known[key]; ok {
		return field, nil
	}
	for name := range known {
		if strings.EqualFold(name, key) {
			return nil, r.failAt(start, "there is no field %q; it is written %q", clip(key), name)
		}
	}
	return nil, r.failAt(start, "there is no field %q here", clip(key))
}

func (r *jsonReader) array(t reflect.Type, depth int) error {
	if depth > JSONDepthMax {
		return r.failAt(r.at, "nested deeper than %d", JSONDepthMax)
	}
	var element reflect.Type
	if t != nil {
		if t.Kind() != reflect.Slice && t.Kind() != reflect.Array || t.Elem().Kind() == reflect.Uint8 {
			return r.failAt(r.at, "%s is wanted, not an array", wanted(t))
		}
		element = t.Elem()
	}
	r.at++
	mark := len(r.path)
	for i := 0; ; i++ {
		r.space()
		if r.next(']') {
			return nil
		}
		if i > 0 && !r.comma() {
			return r.failAt(r.at, "',' or ']' is wanted")
		}
		r.path = fmt.Appendf(r.path, "[%d]", i)
		if err := r.value(element, depth); err != nil {
			return err
		}
		r.path = r.path[:mark]
	}
}

func (r *jsonReader) stringValue(t, text reflect.Type) error {
	start := r.at
	s, err := r.text()
	if err != nil {
		return err
	}
	bytes := t != nil && t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
	if t != nil && t.Kind() != reflect.String && !bytes {
		return r.failAt(start, "%s is wanted, not a string", wanted(t))
	}
	if text == nil {
		return nil
	}
	reader, ok := reflect.New(text).Interface().(encoding.TextUnmarshaler)
	if !ok {
		return nil
	}
	if err := reader.UnmarshalText([]byte(s)); err != nil {
		return r.failAt(start, "%s", clip(err.Error()))
	}
	return nil
}

// text reads a string at the present place and decodes its escapes. A lone surrogate stands for no character.
func (r *jsonReader) text() (string, error) {
	start := r.at
	if !r.next('"') {
		return "", r.failAt(r.at, "a string in double quotes is wanted")
	}
	for r.at < len(r.data) {
		switch c := r.data[r.at]; {
		case c == '"':
			r.at++
			raw := r.data[start:r.at]
			if bad := loneSurrogate(raw); bad >= 0 {
				return "", r.failAt(start+bad, "a lone surrogate is not a character")
			}
			var s string
			if err := json.Unmarshal(raw, &s); err != nil {
				return "", r.failAt(start, "a bad escape in a string")
			}
			return s, nil
		case c < 0x20:
			return "", r.failAt(r.at, "a control character stands in a string")
		case c == '\\':
			r.at++
		}
		r.at++
	}
	return "", r.failAt(start, "a string has no end")
}

func (r *jsonReader) number(t reflect.Type) error {
	start := r.at
	for r.at < len(r.data) && strings.IndexByte("+-.eE0123456789", r.data[r.at]) >= 0 {
		r.at++
	}
	word := r.data[start:r.at]
	if !json.Valid(word) {
		return r.failAt(start, "%q is not a number", clip(string(word)))
	}
	if t == nil {
		return nil
	}
	var err error
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		_, err = strconv.ParseInt(string(word), 10, t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		_, err = strconv.ParseUint(string(word), 10, t.Bits())
	case reflect.Float32, reflect.Float64:
		_, err = strconv.ParseFloat(string(word), t.Bits())
	default:
		return r.failAt(start, "%s is wanted, not a number", wanted(t))
	}
	if err != nil {
		return r.failAt(start, "%s does not fit; %s is wanted", clip(string(word)), wanted(t))
	}
	return nil
}

// word reads true, false and null.
func (r *jsonReader) word(t reflect.Type) error {
	start := r.at
	for r.at < len(r.data) && r.data[r.at] >= 'a' && r.data[r.at] <= 'z' {
		r.at++
	}
	switch word := string(r.data[start:r.at]); word {
	case "true", "false":
		if t != nil && t.Kind() != reflect.Bool {
			return r.failAt(start, "%s is wanted, not %s", wanted(t), word)
		}
		return nil
	case "null":
		if t == nil || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
			return nil
		}
		return r.failAt(start, "%s is wanted, not null; leave the field out", wanted(t))
	}
	return r.failAt(start, "no JSON value begins here")
}

// fieldsOf lists the JSON names of a struct with their types; fields of embedded structs stand beside its own.
func (r *jsonReader) fieldsOf(t reflect.Type) map[string]reflect.Type {
	if known, ok := r.fields[t]; ok {
		return known
	}
	known := make(map[string]reflect.Type, t.NumField())
	for _, f := range reflect.VisibleFields(t) {
		tag := f.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		if !f.IsExported() || name == "-" || f.Anonymous && name == "" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if _, shadowed := known[name]; !shadowed || len(f.Index) == 1 {
			known[name] = f.Type
		}
	}
	r.fields[t] = known
	return known
}

func (r *jsonReader) space() {
	for r.at < len(r.data) && strings.IndexByte(" \t\r\n", r.data[r.at]) >= 0 {
		r.at++
	}
}

func (r *jsonReader) next(c byte) bool {
	if r.at < len(r.data) && r.data[r.at] == c {
		r.at++
		return true
	}
	return false
}

func (r *jsonReader) comma() bool {
	ok := r.next(',')
	r.space()
	return ok
}

func (r *jsonReader) failAt(offset int, format string, args ...any) *Error {
	line, column := 1, 1
	for _, c := range string(r.data[:min(offset, len(r.data))]) {
		if column++; c == '\n' {
			line, column = line+1, 1
		}
	}
	return Fail(CodeBadJSON, string(r.path), "%s (line %d, column %d)", fmt.Sprintf(format, args...), line, column)
}

// wanted names a Go type as a person who writes JSON knows it.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return fmt.Sprintf("an integer (%s)", t.Kind())
}

func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for at := 0; at < len(data); {
		c, size := utf8.DecodeRune(data[at:])
		if c == utf8.RuneError && size <= 1 {
			return at
		}
		at += size
	}
	return -1
}

// loneSurrogate finds a \u escape of half a surrogate pair in a quoted string, or gives -1.
func loneSurrogate(raw []byte) int {
	for at := 0; at+1 < len(raw); at++ {
		if raw[at] != '\\' {
			continue
		}
		if raw[at+1] != 'u' {
			at++
			continue
		}
		switch unit := hexUnit(raw, at); {
		case unit >= 0xDC00 && unit <= 0xDFFF:
			return at
		case unit >= 0xD800 && unit <= 0xDBFF:
			if low := hexUnit(raw, at+6); low < 0xDC00 || low > 0xDFFF {
				return at
			}
			at += 6
		}
		at += 5
	}
	return -1
}

// hexUnit reads the \uXXXX escape at a place; -1 when none stands there.
func hexUnit(raw []byte, at int) int64 {
	if at+6 > len(raw) || raw[at] != '\\' || raw[at+1] != 'u' {
		return -1
	}
	unit, err := strconv.ParseUint(string(raw[at+2:at+6]), 16, 16)
	if err != nil {
		return -1
	}
	return int64(unit)
}

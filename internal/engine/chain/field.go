package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// Limits of what json_field reads.
const (
	documentMax = 8 << 20 // bytes of one document
	pathsMax    = 1024    // paths of one step
	pathMax     = 32      // keys of one path
)

// jsonField reads values out of JSON documents into a typed tensor: of every document one value of a given shape, or
// one number for each of several paths.
type jsonField struct {
	typ      tensor.Type
	paths    []jsonPath
	shape    []int64 // of one document's value
	each     int64   // elements of one document
	fallback []byte  // elements in place of a value that is missing or null; nil: it is an error
}

type jsonFieldSettings struct {
	Path     string   `json:"path,omitempty"`
	Paths    []string `json:"paths,omitempty"`
	Datatype string   `json:"datatype"`
	Shape    []int64  `json:"shape,omitempty"`
	Default  any      `json:"default,omitempty"`
}

func newJSONField(o *options) (operation, []string, error) {
	s := jsonFieldSettings{Datatype: "FP32"}
	if err := o.into(&s); err != nil {
		return nil, nil, err
	}
	f := jsonField{shape: slices.Clone(s.Shape), each: 1}
	var ok bool
	if f.typ, ok = tensor.ParseType(s.Datatype); !ok {
		return nil, nil, fmt.Errorf("with.datatype: %q is not known", clip(s.Datatype))
	}
	texts := s.Paths
	switch {
	case (s.Path != "") == (len(s.Paths) > 0):
		return nil, nil, errors.New("with.path or with.paths: one of them must be given")
	case len(s.Paths) > pathsMax:
		return nil, nil, fmt.Errorf("with.paths has %d entries; the limit is %d", len(s.Paths), pathsMax)
	case len(s.Paths) > 0 && len(s.Shape) > 0:
		return nil, nil, errors.New("with.shape: with.paths gives one number for each path")
	case len(s.Paths) > 0:
		f.shape = []int64{int64(len(s.Paths))}
	default:
		texts = []string{s.Path}
		n, err := tensor.Elements(f.shape)
		if err != nil || n > stepBytesMax {
			return nil, nil, fmt.Errorf("with.shape: %v are not sizes of a value", f.shape)
		}
		f.each = n
	}
	for _, text := range texts {
		p, err := parsePath(text)
		if err != nil {
			return nil, nil, err
		}
		f.paths = append(f.paths, p)
	}
	if s.Default != nil {
		var err error
		if f.fallback, err = f.append(nil, s.Default); err != nil {
			return nil, nil, fmt.Errorf("with.default: %w", err)
		}
	}
	return f, []string{"value"}, nil
}

// jsonPath is keys of objects and indices of arrays.
type jsonPath struct {
	text string
	keys []any // string or int
}

// parsePath reads "user.items[0].price"; a leading "$." is allowed.
func parsePath(text string) (jsonPath, error) {
	p := jsonPath{text: text}
	rest := strings.TrimPrefix(strings.TrimPrefix(text, "$"), ".")
	for first := true; rest != ""; first = false {
		if inner, ok := strings.CutPrefix(rest, "["); ok {
			number, after, closed := strings.Cut(inner, "]")
			n, err := strconv.Atoi(number)
			if !closed || err != nil || n < 0 {
				return p, fmt.Errorf("with.path: %q: a number in brackets is wanted", clip(text))
			}
			p.keys, rest = append(p.keys, n), after
		} else {
			if !first {
				var dot bool
				if rest, dot = strings.CutPrefix(rest, "."); !dot {
					return p, fmt.Errorf("with.path: %q: '.' or '[' is wanted after an index", clip(text))
				}
			}
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			if end == 0 {
				return p, fmt.Errorf("with.path: %q: a key is empty", clip(text))
			}
			p.keys, rest = append(p.keys, rest[:end]), rest[end:]
		}
		if len(p.keys) > pathMax {
			return p, fmt.Errorf("with.path: %q: more than %d keys", clip(text), pathMax)
		}
	}
	return p, nil
}

// find follows the path; ok is false where it ends early.
func (p jsonPath) find(v any) (_ any, ok bool) {
	for _, key := range p.keys {
		switch key := key.(type) {
		case string:
			object, is := v.(map[string]any)
			if v, ok = object[key]; !is || !ok {
				return nil, false
			}
		case int:
			list, is := v.([]any)
			if !is || key >= len(list) {
				return nil, false
			}
			v = list[key]
		}
	}
	return v, v != nil
}

func (f jsonField) infer(in []port) ([]port, error) {
	p := in[0]
	if p.typ != tensor.Bytes {
		return nil, fmt.Errorf("tensor \"json\" is %s; BYTES is taken", p.typ)
	}
	if p.open {
		return []port{{typ: f.typ, open: true}}, nil
	}
	rows, err := elementRows(p)
	if err != nil {
		return nil, fmt.Errorf("tensor \"json\" %w", err)
	}
	out := port{typ: f.typ, dims: []dim{rows}}
	for _, size := range f.shape {
		out.dims = append(out.dims, fixed(size))
	}
	return []port{out}, nil
}

// elementRows gives the dimension along which BYTES elements lie: [n], or [n, 1] as some clients send it.
func elementRows(p port) (dim, error) {
	switch {
	case len(p.dims) == 1:
		return p.dims[0], nil
	case len(p.dims) == 2 && p.dims[1].size <= 1 && p.dims[1].size != 0:
		return p.dims[0], nil
	}
	return dim{}, fmt.Errorf("is %s; one element a row is taken: [n] or [n, 1]", p)
}

func (f jsonField) run(ctx context.Context, in, out []tensor.Tensor) error {
	rest := in[0].Data
	data := make([]byte, 0, out[0].Shape[0]*f.each*int64(len(f.paths))*int64(max(1, f.typ.Size())))
	for row := range out[0].Shape[0] {
		element, after, ok := tensor.NextBytes(rest)
		if !ok {
			return fmt.Errorf("tensor \"json\" is cut off at row %d", row)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rest = after
		var err error
		if data, err = f.document(data, element); err != nil {
			return fmt.Errorf("tensor \"json\", row %d: %w", row, err)
		}
	}
	out[0].Data = data
	return nil
}

func (f jsonField) document(data, text []byte) ([]byte, error) {
	if len(text) > documentMax {
		return nil, fmt.Errorf("a document of %d bytes is over the limit of %d", len(text), documentMax)
	}
	// The strict reader first: it bounds the depth, and of two equal keys it takes neither.
	var checked any
	if err := api.DecodeStrict(text, &checked); err != nil {
		e := api.AsError(err)
		return nil, fmt.Errorf("%s: %s", e.Subject, e.Message)
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber() // integers over 2^53 stay what they are
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil, errors.New("it is not JSON")
	}
	for _, p := range f.paths {
		found, ok := p.find(v)
		if !ok && f.fallback != nil {
			data = append(data, f.fallback...)
			continue
		}
		if !ok {
			return nil, fmt.Errorf("there is nothing at %s", p.text)
		}
		var err error
		if data, err = f.append(data, found); err != nil {
			return nil, fmt.Errorf("%s: %w", p.text, err)
		}
	}
	return data, nil
}

// append writes a value of the step's shape: nested arrays, or a flat one of as many elements.
func (f jsonField) append(data []byte, v any) ([]byte, error) {
	count := int64(0)
	data, err := f.flatten(data, v, &count)
	if err == nil && count != f.each {
		err = fmt.Errorf("%d elements, %d are wanted", count, f.each)
	}
	return data, err
}

func (f jsonField) flatten(data []byte, v any, count *int64) ([]byte, error) {
	list, is := v.([]any)
	if !is {
		if *count++; *count > f.each {
			return data, fmt.Errorf("more than the %d elements wanted", f.each)
		}
		return f.element(data, v)
	}
	for _, inner := range list {
		var err error
		if data, err = f.flatten(data, inner, count); err != nil {
			return data, err
		}
	}
	return data, nil
}

// element writes one value. Nothing is guessed: a string is no number, and a number with a fraction is no integer.
func (f jsonField) element(data []byte, v any) ([]byte, error) {
	mismatch := fmt.Errorf("%s is no %s", kindOf(v), f.typ)
	if f.typ == tensor.Bytes {
		s, ok := v.(string)
		if !ok {
			return data, mismatch
		}
		return tensor.AppendBytes(data, []byte(s)), nil
	}
	var n number
	switch v := v.(type) {
	case bool:
		if n.kind = unsigned; v {
			n.u = 1
		}
		if f.typ != tensor.Bool {
			return data, mismatch
		}
	case json.Number:
		var ok bool
		if n, ok = f.parse(v.String()); !ok {
			return data, fmt.Errorf("%s does not fit %s", clip(v.String()), f.typ)
		}
	case float64: // a default, which came through another reader
		var ok bool
		if n, ok = f.parse(strconv.FormatFloat(v, 'f', -1, 64)); !ok {
			return data, fmt.Errorf("%v does not fit %s", v, f.typ)
		}
	default:
		return data, mismatch
	}
	at := len(data) / f.typ.Size()
	data = append(data, make([]byte, f.typ.Size())...)
	writeNumber(f.typ)(data, at, n)
	return data, nil
}

// parse reads a number as the step's datatype; what does not fit is refused, where a cast would bend it.
func (f jsonField) parse(text string) (number, bool) {
	switch f.typ {
	case tensor.FP16, tensor.FP32, tensor.FP64, tensor.BF16:
		v, err := strconv.ParseFloat(text, 64)
		fits := err == nil && (f.typ != tensor.FP32 || !math.IsInf(float64(float32(v)), 0))
		return number{kind: floating, f: v}, fits
	case tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint64:
		v, err := strconv.ParseUint(text, 10, 8*f.typ.Size())
		return number{kind: unsigned, u: v}, err == nil
	case tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64:
		v, err := strconv.ParseInt(text, 10, 8*f.typ.Size())
		return number{kind: signed, i: v}, err == nil
	}
	return number{}, false
}

func kindOf(v any) string {
	switch v.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "an array"
	case string:
		return "a string"
	case bool:
		return "true or false"
	case nil:
		return "null"
	}
	return "a number"
}

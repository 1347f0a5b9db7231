package oip

import (
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// Response is one infer answer, whatever encoding it leaves in.
type Response struct {
	Model   string // the name that the caller used
	Version string // absent when empty
	ID      string // absent when empty
	Outputs []tensor.Tensor
}

// AppendHTTP appends the JSON part of the answer to dst. Outputs that the request wants as binary are only announced:
// the caller writes their data behind the JSON, in order (see Binary); size is their sum, -1 when there is none.
func (a *Response) AppendHTTP(dst []byte, req *Request) (out []byte, size int64, err error) {
	size = -1
	dst = append(dst, `{"model_name":`...)
	dst = appendString(dst, a.Model)
	if a.Version != "" {
		dst = append(dst, `,"model_version":`...)
		dst = appendString(dst, a.Version)
	}
	if a.ID != "" {
		dst = append(dst, `,"id":`...)
		dst = appendString(dst, a.ID)
	}
	dst = append(dst, `,"outputs":[`...)
	for i := range a.Outputs {
		t := &a.Outputs[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"name":`...)
		dst = appendString(dst, t.Name)
		dst = append(dst, `,"datatype":"`...)
		dst = append(dst, t.Type.String()...)
		dst = append(dst, `","shape":`...)
		dst = appendShape(dst, t.Shape)
		if req.binary(t.Name) {
			dst = append(dst, `,"parameters":{"binary_data_size":`...)
			dst = strconv.AppendInt(dst, int64(len(t.Data)), 10)
			dst = append(dst, "}}"...)
			size = max(size, 0) + int64(len(t.Data))
			continue
		}
		dst = append(dst, `,"data":[`...)
		if dst, err = appendData(dst, t); err != nil {
			return dst, size, err
		}
		dst = append(dst, "]}"...)
	}
	return append(dst, "]}"...), size, nil
}

// Binary reports whether the data of an output follow the JSON.
func (a *Response) Binary(req *Request, output int) bool { return req.binary(a.Outputs[output].Name) }

func appendShape(dst []byte, shape []int64) []byte {
	dst = append(dst, '[')
	for i, n := range shape {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(dst, n, 10)
	}
	return append(dst, ']')
}

// appendData appends the elements, flat and row-major.
func appendData(dst []byte, t *tensor.Tensor) ([]byte, error) {
	data := t.Data
	switch t.Type {
	case tensor.FP32:
		var finite bool
		if dst, finite = appendSingles(dst, data); !finite {
			return dst, notJSON(t, "holds NaN or an infinity")
		}
	case tensor.FP64:
		for ; len(data) >= 8; data = data[8:] {
			v := math.Float64frombits(binary.LittleEndian.Uint64(data))
			if v-v != 0 {
				return dst, notJSON(t, "holds NaN or an infinity")
			}
			dst = append(appendFloat(dst, v, 64), ',')
		}
	case tensor.Bool:
		for _, b := range data {
			dst = append(strconv.AppendBool(dst, b != 0), ',')
		}
	case tensor.Bytes:
		for len(data) > 0 {
			element, rest, ok := tensor.NextBytes(data)
			if !ok || !utf8.Valid(element) {
				return dst, notJSON(t, "holds bytes that are not UTF-8")
			}
			dst = append(appendString(dst, element), ',')
			data = rest
		}
	case tensor.FP16, tensor.BF16:
		return dst, notJSON(t, "has no JSON form")
	default:
		dst = appendWhole(dst, t)
	}
	if len(t.Data) > 0 {
		dst = dst[:len(dst)-1]
	}
	return dst, nil
}

// appendWhole appends the elements of a whole-number type, each with a comma behind it.
func appendWhole(dst []byte, t *tensor.Tensor) []byte {
	size := t.Type.Size()
	for data := t.Data; size > 0 && len(data) >= size; data = data[size:] {
		switch t.Type {
		case tensor.Uint8:
			dst = strconv.AppendUint(dst, uint64(data[0]), 10)
		case tensor.Uint16:
			dst = strconv.AppendUint(dst, uint64(binary.LittleEndian.Uint16(data)), 10)
		case tensor.Uint32:
			dst = strconv.AppendUint(dst, uint64(binary.LittleEndian.Uint32(data)), 10)
		case tensor.Uint64:
			dst = strconv.AppendUint(dst, binary.LittleEndian.Uint64(data), 10)
		case tensor.Int8:
			dst = strconv.AppendInt(dst, int64(int8(data[0])), 10)
		case tensor.Int16:
			dst = strconv.AppendInt(dst, int64(int16(binary.LittleEndian.Uint16(data))), 10)
		case tensor.Int32:
			dst = strconv.AppendInt(dst, int64(int32(binary.LittleEndian.Uint32(data))), 10)
		default:
			dst = strconv.AppendInt(dst, int64(binary.LittleEndian.Uint64(data)), 10)
		}
		dst = append(dst, ',')
	}
	return dst
}

// notJSON refuses an output that JSON cannot carry, and says what can.
func notJSON(t *tensor.Tensor, why string) error {
	return api.Fail(api.CodeBadTensor, "", "output %q (%s) %s: JSON cannot carry it", clip(t.Name), t.Type, why).
		WithCure(`Ask for it as binary: {"name":%q,"parameters":{"binary_data":true}}, or use gRPC.`, clip(t.Name))
}

// appendFloat writes the shortest text that reads back as the same number, with an exponent only where it is shorter.
// Minus nought has a point: clients that tell integers from floats would read "-0" as an integer and lose its sign.
func appendFloat(dst []byte, v float64, bits int) []byte {
	if v == 0 && math.Signbit(v) {
		return append(dst, "-0.0"...)
	}
	if whole := int64(v); float64(whole) == v && whole > -1e7 && whole < 1e7 {
		return append(strconv.AppendInt(dst, whole, 10), ".0"...)
	}
	if size := math.Abs(v); size != 0 && (size < 1e-6 || size >= 1e21) {
		return strconv.AppendFloat(dst, v, 'e', -1, bits)
	}
	return strconv.AppendFloat(dst, v, 'f', -1, bits)
}

const hexDigits = "0123456789abcdef"

// appendString writes a JSON string. Text that is not UTF-8 gets the replacement character.
func appendString[T ~string | ~[]byte](dst []byte, text T) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(string(text[i:min(i+utf8.UTFMax, len(text))]))
			if r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
			dst = append(append(dst, text[start:i]...), "\uFFFD"...)
			i++
			start = i
			continue
		}
		dst = append(dst, text[start:i]...)
		if c == '"' || c == '\\' {
			dst = append(dst, '\\', c)
		} else {
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	dst = append(dst, text[start:]...)
	return append(dst, '"')
}

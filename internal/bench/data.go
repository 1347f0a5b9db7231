package bench

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

const (
	dataMax     = 512 << 20 // bytes of all requests together
	tensorMax   = 256 << 20 // bytes of one made-up tensor; the server's limit for a body
	requestsMax = 100_000   // different requests
	wholeMax    = 10        // made-up whole numbers are below it, so that they fit a model's vocabulary
	wordLength  = 8         // letters of a made-up text
)

// Sizes gives the dimensions that an endpoint leaves open.
type Sizes struct {
	Batch  int64              // of the first dimension; 0: 1
	Shapes map[string][]int64 // of whole inputs, by name
}

// shapeOf finds the shape to send for an input.
func (s Sizes) shapeOf(spec api.TensorSpec) ([]int64, error) {
	fitted := append([]int64{}, spec.Shape...)
	given, named := s.Shapes[spec.Name]
	if named {
		if len(given) != len(fitted) {
			return nil, api.Fail(api.CodeBadRequest, "", "the shape given for %q has %d dimensions, the endpoint's has %d: %v", spec.Name, len(given), len(fitted), spec.Shape).
				WithCure("Give every dimension, also those that are fixed.")
		}
		for i, n := range given {
			if fitted[i] >= 0 && fitted[i] != n || n < 0 {
				return nil, api.Fail(api.CodeBadRequest, "", "the shape given for %q does not fit %v at dimension %d", spec.Name, spec.Shape, i+1).
					WithCure("Only sizes of -1 can be chosen.")
			}
			fitted[i] = n
		}
		return fitted, nil
	}
	for i, n := range fitted {
		switch {
		case n >= 0:
		case i == 0:
			fitted[0] = max(s.Batch, 1)
		default:
			return nil, api.Fail(api.CodeBadRequest, "", "input %q has the shape %v: dimension %d takes any size, and which one is not said", spec.Name, spec.Shape, i+1).
				WithCure("Say it with --shape %s:%s, with your own sizes.", spec.Name, example(spec.Shape))
		}
	}
	if s.Batch > 1 && len(spec.Shape) > 0 && spec.Shape[0] >= 0 && spec.Shape[0] != s.Batch {
		return nil, api.Fail(api.CodeBadRequest, "", "input %q takes %d rows at a time, not %d", spec.Name, spec.Shape[0], s.Batch).WithCure("Leave --batch out.")
	}
	return fitted, nil
}

func example(shape []int64) string {
	parts := make([]string, len(shape))
	for i, n := range shape {
		switch {
		case n >= 0:
			parts[i] = fmt.Sprint(n)
		case i == 0:
			parts[i] = "1"
		default:
			parts[i] = "64"
		}
	}
	return strings.Join(parts, ",")
}

// check refuses names that the endpoint does not have.
func (s Sizes) check(specs []api.TensorSpec) error {
	names := make([]string, 0, len(specs))
	known := map[string]bool{}
	for _, spec := range specs {
		names = append(names, spec.Name)
		known[spec.Name] = true
	}
	for name := range s.Shapes {
		if !known[name] {
			return api.Fail(api.CodeBadRequest, "", "there is no input %q", name).WithCure("The inputs are %s.", strings.Join(names, ", "))
		}
	}
	return nil
}

// Random makes up requests by an endpoint's signature: floats are even between 0 and 1, whole numbers below wholeMax,
// texts are letters. Equal seeds make equal requests.
func Random(specs []api.TensorSpec, sizes Sizes, count int, seed uint64) ([]*Request, error) {
	if count < 1 || count > requestsMax {
		return nil, api.Fail(api.CodeBadRequest, "", "%d different requests are not between 1 and %d", count, requestsMax).WithCure("Give a smaller number.")
	}
	if err := sizes.check(specs); err != nil {
		return nil, err
	}
	random := rand.New(rand.NewPCG(seed, 1))
	all := make([]*Request, 0, count)
	total := 0
	for range count {
		r := &Request{}
		for _, spec := range specs {
			t, err := randomTensor(spec, sizes, random)
			if err != nil {
				return nil, err
			}
			r.Inputs = append(r.Inputs, t)
			total += len(t.Data)
		}
		if total > dataMax/2 && len(all) > 0 {
			break // large tensors: fewer that differ
		}
		all = append(all, r)
	}
	return all, nil
}

func randomTensor(spec api.TensorSpec, sizes Sizes, random *rand.Rand) (tensor.Tensor, error) {
	t := tensor.Tensor{Name: spec.Name}
	kind, ok := tensor.ParseType(spec.Datatype)
	if !ok {
		return t, api.Fail(api.CodeUnsupported, "", "input %q has the datatype %q, for which no values can be made up", spec.Name, spec.Datatype).WithCure("Give requests with -f.")
	}
	t.Type = kind
	var err error
	if t.Shape, err = sizes.shapeOf(spec); err != nil {
		return t, err
	}
	n, err := tensor.Elements(t.Shape)
	if width := max(int64(kind.Size()), 1); err != nil || n > tensorMax/width || kind == tensor.Bytes && n > tensorMax/(4+wordLength) {
		return t, api.Fail(api.CodeTooLarge, "", "input %q with the shape %v takes more than %d MiB", spec.Name, t.Shape, tensorMax>>20).WithCure("Choose smaller sizes.")
	}
	t.Data = make([]byte, 0, n*int64(max(kind.Size(), 4+wordLength*btoi(kind == tensor.Bytes))))
	for range n {
		t.Data = appendRandom(t.Data, kind, random)
	}
	return t, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func appendRandom(dst []byte, kind tensor.Type, random *rand.Rand) []byte {
	order := binary.LittleEndian
	switch kind {
	case tensor.FP64:
		return order.AppendUint64(dst, math.Float64bits(random.Float64()))
	case tensor.FP32:
		return order.AppendUint32(dst, math.Float32bits(random.Float32()))
	case tensor.FP16: // 1 + m/1024, halved: from 0.5 to 1, exact in 16 bits
		return order.AppendUint16(dst, 0x3800|uint16(random.UintN(1<<10)))
	case tensor.BF16: // the same with 7 bits
		return order.AppendUint16(dst, 0x3f00|uint16(random.UintN(1<<7)))
	case tensor.Bool:
		return append(dst, byte(random.UintN(2)))
	case tensor.Bytes:
		var word [wordLength]byte
		for i := range word {
			word[i] = 'a' + byte(random.UintN(26))
		}
		return tensor.AppendBytes(dst, word[:])
	}
	var whole [8]byte // below wholeMax: the first byte says it all, whatever the width
	whole[0] = byte(random.UintN(wholeMax))
	return append(dst, whole[:kind.Size()]...)
}

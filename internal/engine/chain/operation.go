package chain

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// operation is a built-in step: a pure function of its tensors. It may be used from many goroutines at once.
type operation interface {
	// infer says what comes out of what goes in, or which rule is broken. What is not known stays -1.
	infer(in []port) ([]port, error)

	// run computes; out holds the tensors that infer told for the inputs as they are, still without data. What it answers
	// with may share the inputs' memory only when the operation's kind says so.
	run(ctx context.Context, in, out []tensor.Tensor) error
}

// kind is what an operation is made from.
type kind struct {
	takes []string // names of the tensors; nil: any number of any names
	makes func(o *options) (_ operation, gives []string, _ error)
	views bool // the outputs may be views of the inputs
	heavy bool // takes long enough to be worth a goroutine of its own
}

// opRoute is the one operation that the executor itself carries out.
const opRoute = "route"

// kinds is every built-in operation, by name.
func kinds() map[string]kind {
	return map[string]kind{
		"decode_image": {takes: []string{"image"}, makes: newDecodeImage, heavy: true},
		"normalise":    {takes: []string{"x"}, makes: newNormalise},
		"cast":         {takes: []string{"x"}, makes: newCast, views: true},
		"reshape":      {takes: []string{"x"}, makes: newReshape, views: true},
		"concat":       {makes: newConcat},
		"softmax":      {takes: []string{"scores"}, makes: newSoftmax},
		"argmax":       {takes: []string{"scores"}, makes: newArgMax},
		"top_k":        {takes: []string{"scores"}, makes: newTopK},
		"average":      {makes: newAverage},
		"json_field":   {takes: []string{"json"}, makes: newJSONField},
		opRoute:        {makes: newRoute, views: true},
	}
}

// options reads the settings of a step.
type options struct {
	with   []byte
	inputs []string // names of the step's tensors, sorted; for operations that take any
	read   func(model, path string) ([]byte, error)
	told   any // the settings as they are kept, defaults and labels filled in
}

// into reads the settings strictly: what an operation does not know is an error with its place.
func (o *options) into(settings any) error {
	o.told = settings
	if len(o.with) == 0 || bytes.Equal(o.with, []byte("null")) {
		return nil
	}
	if err := api.DecodeStrict(o.with, settings); err != nil {
		e := api.AsError(err)
		message, _, _ := strings.Cut(e.Message, " (line ") // of JSON that nobody wrote so
		return fmt.Errorf("with%s: %s", strings.TrimPrefix(e.Subject, "$"), message)
	}
	return nil
}

// build makes a step's operation. labels reads a file of a version; nil when the settings come resolved. told is what
// must be kept to build the same again.
func build(op string, o *options) (_ operation, gives []string, told json.RawMessage, _ error) {
	k, ok := kinds()[op]
	if !ok {
		return nil, nil, nil, fmt.Errorf("there is no operation %q; there are %s", clip(op), strings.Join(slices.Sorted(maps.Keys(kinds())), ", "))
	}
	for _, name := range k.takes {
		if !slices.Contains(o.inputs, name) {
			return nil, nil, nil, fmt.Errorf("tensor %q has no source; %s takes %s", name, op, strings.Join(k.takes, ", "))
		}
	}
	if len(k.takes) > 0 && len(o.inputs) > len(k.takes) {
		extra := slices.IndexFunc(o.inputs, func(n string) bool { return !slices.Contains(k.takes, n) })
		return nil, nil, nil, fmt.Errorf("%s takes no tensor %q; it takes %s", op, clip(o.inputs[extra]), strings.Join(k.takes, ", "))
	}
	made, gives, err := k.makes(o)
	if err != nil {
		return nil, nil, nil, err
	}
	told, err = json.Marshal(o.told)
	return made, gives, told, err
}

// compute runs an operation on what is there: it checks the tensors as they are, and bounds what comes out.
func compute(ctx context.Context, op operation, in []tensor.Tensor) ([]tensor.Tensor, error) {
	ports := make([]port, len(in))
	for i := range in {
		ports[i] = actual(&in[i])
	}
	gives, err := op.infer(ports)
	if err != nil {
		return nil, err
	}
	out := make([]tensor.Tensor, len(gives))
	for i, p := range gives {
		n, err := p.elements()
		if err != nil {
			return nil, err
		}
		if size := max(int64(p.typ.Size()), 1); n > stepBytesMax/size {
			return nil, fmt.Errorf("it would give %s, over the limit of %d bytes", p, stepBytesMax)
		}
		out[i] = tensor.Tensor{Type: p.typ, Shape: p.sizes()}
	}
	if err := op.run(ctx, in, out); err != nil {
		return nil, err
	}
	return out, nil
}

// allocate gives a tensor of fixed-size elements its memory.
func allocate(t *tensor.Tensor) []byte {
	n, err := tensor.Elements(t.Shape)
	if err != nil {
		return nil // compute has counted them already
	}
	t.Data = make([]byte, n*int64(t.Type.Size()))
	return t.Data
}

// stepBytesMax is the most bytes of one tensor that a built-in step makes.
const stepBytesMax = 256 << 20

// clip bounds what a user wrote in a message.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 80)], "") }

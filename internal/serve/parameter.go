package serve

import (
	"slices"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// inputs gives the tensors that a variant gets: the caller's, and for a chain the request's parameters that it asks for,
// each as one BYTES element.
func (v *variant) inputs(c *Call) []tensor.Tensor {
	if v.Chain == nil || len(v.Chain.Parameters) == 0 {
		return c.Inputs
	}
	inputs := slices.Clone(c.Inputs)
	for _, p := range v.Chain.Parameters {
		if slices.ContainsFunc(c.Inputs, func(t tensor.Tensor) bool { return t.Name == p.Name }) {
			continue // sent as a tensor
		}
		value := p.Value
		if i := slices.IndexFunc(c.Parameters, func(given api.Parameter) bool { return given.Name == p.Name }); i >= 0 {
			value = c.Parameters[i].Value
		}
		inputs = append(inputs, tensor.Tensor{Name: p.Name, Type: tensor.Bytes, Shape: []int64{1}, Data: tensor.AppendBytes(nil, []byte(value))})
	}
	return inputs
}

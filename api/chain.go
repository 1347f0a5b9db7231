package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Limits of a chain.
const (
	ChainStepsMax   = 32        // steps of one chain
	ChainTensorsMax = 256       // tensors that pass between its steps, inputs and outputs included
	ChainDepthMax   = 16        // steps that follow each other
	ChainBytesMax   = 512 << 10 // of a resolved chain as JSON, labels included
)

// FormatChain is the format of a variant that is a chain.
const FormatChain = "chain"

// ChainSpec is a small graph of steps without a cycle, as the user wrote it.
type ChainSpec struct {
	Inputs  []ChainInput    `json:"inputs" doc:"What the chain takes." minItems:"1" maxItems:"64"`
	Steps   []ChainStepSpec `json:"steps" doc:"The steps, in any order." minItems:"1" maxItems:"32"`
	Outputs []ChainOutput   `json:"outputs" doc:"What the chain gives, in order." minItems:"1" maxItems:"64"`
}

// ChainInput is one tensor that callers send. Datatype and shape may be left out where a step that reads it fixes them.
type ChainInput struct {
	Name     string  `json:"name" doc:"Name of the tensor: letters, digits, '_' and '-'."`
	Datatype string  `json:"datatype,omitempty" doc:"Datatype; default is that of the first step that reads it."`
	Shape    []int64 `json:"shape,omitzero" doc:"Sizes; -1 where any size is taken. Default is that of the first step that reads it."`

	Parameter bool   `json:"parameter,omitempty" doc:"Whether it is a parameter of the request instead of a tensor: one BYTES element, for a route to choose by."`
	Default   string `json:"default,omitempty" doc:"Value of a parameter that the request does not give."`
}

// ChainStepSpec is one step: either a version of a model or a built-in operation.
type ChainStepSpec struct {
	Name   string            `json:"name" doc:"Name of the step: letters, digits, '_' and '-'."`
	Model  string            `json:"model,omitempty" doc:"Reference of the version that runs."`
	Op     string            `json:"op,omitempty" doc:"Built-in operation that runs."`
	With   map[string]any    `json:"with,omitempty" doc:"Settings of the operation."`
	Inputs map[string]string `json:"inputs" doc:"For each tensor that the step takes, where it comes from: an input of the chain, STEP.TENSOR, or STEP when that gives one tensor."`
}

// ChainOutput is one tensor that callers get.
type ChainOutput struct {
	Name string `json:"name" doc:"Name of the tensor."`
	From string `json:"from" doc:"Where it comes from: STEP.TENSOR, STEP when that gives one tensor, or an input of the chain."`
}

// Chain is a ChainSpec with every reference resolved and every tensor's type known. Steps stand in an order in which
// each follows what it reads.
type Chain struct {
	Inputs     []TensorSpec  `json:"inputs" doc:"What the chain takes."`
	Parameters []Parameter   `json:"parameters,omitempty" doc:"Inputs that are parameters of the request, with the values that they have when it does not give them."`
	Steps      []ChainStep   `json:"steps" doc:"The steps; each follows those that it reads."`
	Outputs    []ChainOutput `json:"outputs" doc:"What the chain gives."`
	Gives      []TensorSpec  `json:"gives" doc:"The outputs' types, at the same index."`
}

// ChainStep is one step of a resolved chain.
type ChainStep struct {
	Name    string          `json:"name" doc:"Name of the step."`
	Model   ModelName       `json:"model,omitempty" doc:"Model that runs."`
	Version VersionNumber   `json:"version,omitempty" doc:"Its version."`
	Digest  Digest          `json:"digest,omitempty" doc:"Manifest digest of the version."`
	Format  string          `json:"format,omitempty" doc:"Its format."`
	Takes   []TensorSpec    `json:"takes,omitempty" doc:"The model's own inputs."`
	Op      string          `json:"op,omitempty" doc:"Built-in operation that runs."`
	With    json.RawMessage `json:"with,omitempty" doc:"Its settings, labels read from files included."`
	Inputs  []ChainLink     `json:"inputs" doc:"Where the step's tensors come from, by name."`
	Gives   []TensorSpec    `json:"gives" doc:"What the step gives: the model's own outputs, or the operation's as they are here."`
}

// Parameter is a named value that comes with a request, beside its tensors.
type Parameter struct {
	Name  string `json:"name" doc:"Name."`
	Value string `json:"value" doc:"Value as text."`
}

// ChainLink says where a tensor of a step comes from: an input of the chain, or STEP.TENSOR.
type ChainLink struct {
	Tensor string `json:"tensor" doc:"Name that the step knows it by."`
	From   string `json:"from" doc:"Source."`
}

// Title names a chain by the models that it runs: "chain(fraud@3, names)".
func (c *ChainSpec) Title() string {
	var models []string
	for _, s := range c.Steps {
		if s.Model != "" {
			models = append(models, s.Model)
		}
	}
	return "chain(" + strings.Join(models, ", ") + ")"
}

func (c *Chain) title() string {
	var models []string
	for _, m := range c.Members() {
		models = append(models, Ref{Model: m.Model, Version: m.Version}.String())
	}
	return "chain(" + strings.Join(models, ", ") + ")"
}

// Signature is what the chain takes and gives as a whole.
func (c *Chain) Signature() Signature { return Signature{Inputs: c.Inputs, Outputs: c.Gives} }

// Digest identifies the chain: the sha256 of its JSON, which holds every member's digest and every setting. Go writes
// struct fields in order and maps sorted, so equal chains have equal digests.
func (c *Chain) Digest() (Digest, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("write the chain as JSON: %w", err)
	}
	if len(text) > ChainBytesMax {
		return "", Fail(CodeTooLarge, "", "the chain is %d bytes of JSON, labels included; the limit is %d", len(text), ChainBytesMax)
	}
	sum := sha256.Sum256(text)
	return Digest("sha256:" + hex.EncodeToString(sum[:])), nil
}

// Members lists the versions that the chain runs, each once, in the order of the steps.
func (c *Chain) Members() []ChainStep {
	var members []ChainStep
	seen := map[Digest]bool{}
	for _, s := range c.Steps {
		if s.Digest != "" && !seen[s.Digest] {
			seen[s.Digest] = true
			members = append(members, s)
		}
	}
	return members
}

// StepTime is how long one step of a chain took. Start counts from where the chain began.
type StepTime struct {
	Name    string        `json:"name" doc:"Name of the step."`
	Start   time.Duration `json:"start_ns" doc:"From the chain's start to the step's, nanoseconds."`
	Queue   time.Duration `json:"queue_ns" doc:"Waiting, nanoseconds."`
	Compute time.Duration `json:"compute_ns" doc:"Running, nanoseconds."`
}

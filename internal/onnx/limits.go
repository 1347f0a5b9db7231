package onnx

import "fmt"

// The newest formats that this reader knows. A newer file may hold things that it would not see, so it is refused.
const (
	MinIRVersion       = 3  // before it, operator sets were not written down
	MaxIRVersion       = 14 // IR version
	MaxOpset           = 28 // operator set of ai.onnx
	MaxOpsetML         = 5  // operator set of ai.onnx.ml
	MaxOpsetMicrosoft  = 1  // operator set of com.microsoft
	maxOpsetImports    = 64 // domains that one model or function imports
	maxExternalEntries = 8  // key and value pairs of one external tensor
)

// The domains whose operators may be used. Any other is custom code, except functions that the file itself defines.
const (
	DomainDefault   = "ai.onnx"
	DomainML        = "ai.onnx.ml"
	DomainMicrosoft = "com.microsoft"
)

// Limits bound what Read takes. A zero field means its default.
type Limits struct {
	FileBytes     int64 // size of the file in bytes; protobuf itself ends at 2 GiB. Default 2 GiB - 1.
	Nodes         int64 // operators, also after functions are expanded. Default 200,000.
	Initializers  int64 // initializers of one graph, and external tensors of the file. Default 200,000.
	ExternalFiles int64 // different files that external tensors lie in. Default 4,096.
	Values        int64 // inputs and outputs of one graph, each. Default 4,096.
	Functions     int64 // functions defined in the file. Default 10,000.
	Operators     int64 // different operators. Default 2,048.
	GraphDepth    int64 // graphs inside graphs, the main one being 0, function calls expanded. Default 16.
	TypeDepth     int64 // types inside types, as a sequence of maps. Default 8.
	NameBytes     int64 // length of one name in bytes. Default 4,096.
	AllNamesBytes int64 // length of all names that the answer keeps, in bytes. Default 64 MiB.
	Fields        int64 // protobuf fields visited, and 64 bytes of text as one, which bounds the time. Default 64 Mi.
}

// DefaultLimits are the limits that a zero Limits stands for.
func DefaultLimits() Limits {
	return Limits{
		FileBytes:     1<<31 - 1,
		Nodes:         200_000,
		Initializers:  200_000,
		ExternalFiles: 4_096,
		Values:        4_096,
		Functions:     10_000,
		Operators:     2_048,
		GraphDepth:    16,
		TypeDepth:     8,
		NameBytes:     4_096,
		AllNamesBytes: 64 << 20,
		Fields:        64 << 20,
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ field, def *int64 }{
		{&l.FileBytes, &d.FileBytes}, {&l.Nodes, &d.Nodes}, {&l.Initializers, &d.Initializers}, {&l.ExternalFiles, &d.ExternalFiles}, {&l.Values, &d.Values},
		{&l.Functions, &d.Functions}, {&l.Operators, &d.Operators}, {&l.GraphDepth, &d.GraphDepth},
		{&l.TypeDepth, &d.TypeDepth}, {&l.NameBytes, &d.NameBytes}, {&l.AllNamesBytes, &d.AllNamesBytes},
		{&l.Fields, &d.Fields},
	} {
		if *f.field <= 0 {
			*f.field = *f.def
		}
	}
	return l
}

// Rule names what a file broke. Rules are part of the error's text, and tests and callers may compare them.
type Rule string

// The rules.
const (
	RuleLimit    Rule = "limit"    // over one of Limits; Refusal.Limit and Value say which
	RuleWire     Rule = "wire"     // not the protobuf that ONNX writes: cut off, wrong wire type, unknown or doubled field
	RuleText     Rule = "text"     // a text is not UTF-8, or a name has control characters
	RuleVersion  Rule = "version"  // an IR version or operator set that this reader does not know
	RuleDomain   Rule = "domain"   // an operator of a custom domain, or of one that is not imported
	RuleGraph    Rule = "graph"    // not a graph in order: doubled, missing or circular names
	RuleFunction Rule = "function" // functions that call themselves, or are defined twice
	RuleTensor   Rule = "tensor"   // a tensor whose type, dimensions and content do not fit together
	RuleExternal Rule = "external" // external data that is not a whole part of a file beside the model
)

// Refusal says why a file is not taken. It is permanent: the same bytes are refused again.
type Refusal struct {
	Rule   Rule
	Reason string // a sentence for a person, with the names found in the file
	Limit  string // for RuleLimit: the field of Limits
	Value  int64  // for RuleLimit: its value
	Offset int64  // where in the file, in bytes; -1 when it is about the file as a whole
}

// Error is the reason with the rule, the limit and the place.
func (r *Refusal) Error() string {
	text := fmt.Sprintf("onnx %s: %s", r.Rule, r.Reason)
	if r.Limit != "" {
		text += fmt.Sprintf(" (limit %s = %d)", r.Limit, r.Value)
	}
	if r.Offset >= 0 {
		text += fmt.Sprintf(" (at byte %d)", r.Offset)
	}
	return text
}

func refuse(rule Rule, format string, args ...any) error {
	return &Refusal{Rule: rule, Reason: fmt.Sprintf(format, args...), Offset: -1}
}

func overLimit(limit string, value int64, format string, args ...any) error {
	return &Refusal{Rule: RuleLimit, Reason: fmt.Sprintf(format, args...), Limit: limit, Value: value, Offset: -1}
}

package onnx

// shape is what one field of a message looks like on the wire.
type shape uint8

const (
	absent  shape = iota // not a field of ONNX
	varint               // a whole number or an enumeration
	fixed32              // a float
	fixed64              // a double
	text                 // UTF-8, checked before anybody sees it
	octets               // bytes of any kind
	nested               // a message
)

// field is one field of a message. A many field may repeat; a number that may repeat may also come packed.
type field struct {
	name  string
	shape shape
	many  bool
}

// message is the schema of one ONNX message, by field number. It is an allow-list: a field that is not in it could hold
// something that we would overlook and the runtime would not, so it is refused. See onnx.proto for what the fields are.
type message struct {
	name   string
	fields [32]field
}

const one, many = false, true

var (
	modelMessage = &message{"model", [32]field{
		1: {"ir_version", varint, one}, 2: {"producer_name", text, one}, 3: {"producer_version", text, one},
		4: {"domain", text, one}, 5: {"model_version", varint, one}, 6: {"doc_string", text, one},
		7: {"graph", nested, one}, 8: {"opset_import", nested, many}, 14: {"metadata_props", nested, many},
		20: {"training_info", nested, many}, 25: {"functions", nested, many}, 26: {"configuration", nested, many},
	}}
	opsetMessage = &message{"opset_import", [32]field{1: {"domain", text, one}, 2: {"version", varint, one}}}
	entryMessage = &message{"entry", [32]field{1: {"key", text, one}, 2: {"value", text, one}}}
	graphMessage = &message{"graph", [32]field{
		1: {"node", nested, many}, 2: {"name", text, one}, 5: {"initializer", nested, many}, 10: {"doc_string", text, one},
		11: {"input", nested, many}, 12: {"output", nested, many}, 13: {"value_info", nested, many},
		14: {"quantization_annotation", nested, many}, 15: {"sparse_initializer", nested, many},
		16: {"metadata_props", nested, many},
	}}
	nodeMessage = &message{"node", [32]field{
		1: {"input", text, many}, 2: {"output", text, many}, 3: {"name", text, one}, 4: {"op_type", text, one},
		5: {"attribute", nested, many}, 6: {"doc_string", text, one}, 7: {"domain", text, one}, 8: {"overload", text, one},
		9: {"metadata_props", nested, many}, 10: {"device_configurations", nested, many},
	}}
	attributeMessage = &message{"attribute", [32]field{
		1: {"name", text, one}, 2: {"f", fixed32, one}, 3: {"i", varint, one}, 4: {"s", octets, one}, 5: {"t", nested, one},
		6: {"g", nested, one}, 7: {"floats", fixed32, many}, 8: {"ints", varint, many}, 9: {"strings", octets, many},
		10: {"tensors", nested, many}, 11: {"graphs", nested, many}, 13: {"doc_string", text, one}, 14: {"tp", nested, one},
		15: {"type_protos", nested, many}, 20: {"type", varint, one}, 21: {"ref_attr_name", text, one},
		22: {"sparse_tensor", nested, one}, 23: {"sparse_tensors", nested, many},
	}}
	// A tensor's segment (field 3) is left out: no runtime reads tensors in pieces.
	tensorMessage = &message{"tensor", [32]field{
		1: {"dims", varint, many}, 2: {"data_type", varint, one}, 4: {"float_data", fixed32, many},
		5: {"int32_data", varint, many}, 6: {"string_data", octets, many}, 7: {"int64_data", varint, many},
		8: {"name", text, one}, 9: {"raw_data", octets, one}, 10: {"double_data", fixed64, many},
		11: {"uint64_data", varint, many}, 12: {"doc_string", text, one}, 13: {"external_data", nested, many},
		14: {"data_location", varint, one}, 16: {"metadata_props", nested, many},
	}}
	sparseMessage = &message{"sparse_tensor", [32]field{
		1: {"values", nested, one}, 2: {"indices", nested, one}, 3: {"dims", varint, many},
	}}
	valueMessage = &message{"value_info", [32]field{
		1: {"name", text, one}, 2: {"type", nested, one}, 3: {"doc_string", text, one}, 4: {"metadata_props", nested, many},
	}}
	typeMessage = &message{"type", [32]field{
		1: {"tensor_type", nested, one}, 4: {"sequence_type", nested, one}, 5: {"map_type", nested, one},
		6: {"denotation", text, one}, 7: {"opaque_type", nested, one}, 8: {"sparse_tensor_type", nested, one},
		9: {"optional_type", nested, one},
	}}
	tensorTypeMessage = &message{"tensor_type", [32]field{1: {"elem_type", varint, one}, 2: {"shape", nested, one}}}
	holderTypeMessage = &message{"sequence_type", [32]field{1: {"elem_type", nested, one}}}
	mapTypeMessage    = &message{"map_type", [32]field{1: {"key_type", varint, one}, 2: {"value_type", nested, one}}}
	opaqueTypeMessage = &message{"opaque_type", [32]field{1: {"domain", text, one}, 2: {"name", text, one}}}
	shapeMessage      = &message{"shape", [32]field{1: {"dim", nested, many}}}
	dimMessage        = &message{"dim", [32]field{
		1: {"dim_value", varint, one}, 2: {"dim_param", text, one}, 3: {"denotation", text, one},
	}}
	functionMessage = &message{"function", [32]field{
		1: {"name", text, one}, 4: {"input", text, many}, 5: {"output", text, many}, 6: {"attribute", text, many},
		7: {"node", nested, many}, 8: {"doc_string", text, one}, 9: {"opset_import", nested, many},
		10: {"domain", text, one}, 11: {"attribute_proto", nested, many}, 12: {"value_info", nested, many},
		13: {"overload", text, one}, 14: {"metadata_props", nested, many},
	}}
	trainingMessage = &message{"training_info", [32]field{
		1: {"initialization", nested, one}, 2: {"algorithm", nested, one}, 3: {"initialization_binding", nested, many},
		4: {"update_binding", nested, many},
	}}
)

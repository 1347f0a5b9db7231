package oip

import (
	"strconv"

	"github.com/penstock/penstock/api"
)

// onnxBackend is Triton's name of the runtime; clients read it from a configuration.
const onnxBackend = "onnxruntime"

// NewModelConfig describes an endpoint in the words of Triton's model configuration. Penstock joins no requests to batches
// by a configured dimension: max_batch_size is 0, and then dims are the whole shape.
func NewModelConfig(name, platform string, signature api.Signature) *ModelConfig {
	c := &ModelConfig{Name: name, Platform: platform, Backend: onnxBackend, DefaultModelFilename: "model.onnx",
		ModelTransactionPolicy: &ModelTransactionPolicy{}, ResponseCache: &ModelResponseCache{}}
	for _, spec := range signature.Inputs {
		c.Input = append(c.Input, &ModelInput{Name: spec.Name, DataType: dataType(spec.Datatype), Dims: dims(spec.Shape)})
	}
	for _, spec := range signature.Outputs {
		c.Output = append(c.Output, &ModelOutput{Name: spec.Name, DataType: dataType(spec.Datatype), Dims: dims(spec.Shape)})
	}
	return c
}

// dims never is empty: a scalar is written as one element.
func dims(shape []int64) []int64 {
	if len(shape) == 0 {
		return []int64{1}
	}
	return shape
}

func dataType(datatype string) DataType {
	if datatype == "BYTES" {
		return DataType_TYPE_STRING
	}
	return DataType(DataType_value["TYPE_"+datatype])
}

// AppendModelConfig appends a configuration as JSON, with the names that the protocol has and numbers as numbers.
func AppendModelConfig(dst []byte, c *ModelConfig) []byte {
	dst = append(dst, `{"name":`...)
	dst = appendString(dst, c.GetName())
	dst = append(dst, `,"platform":`...)
	dst = appendString(dst, c.GetPlatform())
	dst = append(dst, `,"backend":`...)
	dst = appendString(dst, c.GetBackend())
	dst = append(dst, `,"version_policy":{"latest":{"num_versions":1}},"max_batch_size":`...)
	dst = strconv.AppendInt(dst, int64(c.GetMaxBatchSize()), 10)
	dst = append(dst, `,"input":[`...)
	for i, in := range c.GetInput() {
		dst = appendConfigTensor(dst, i, in.GetName(), in.GetDataType(), in.GetDims())
		dst = append(dst, `,"format":"FORMAT_NONE","is_shape_tensor":false,"allow_ragged_batch":false,"optional":false}`...)
	}
	dst = append(dst, `],"output":[`...)
	for i, out := range c.GetOutput() {
		dst = appendConfigTensor(dst, i, out.GetName(), out.GetDataType(), out.GetDims())
		dst = append(dst, `,"label_filename":"","is_shape_tensor":false}`...)
	}
	dst = append(dst, `],"instance_group":[],"default_model_filename":`...)
	dst = appendString(dst, c.GetDefaultModelFilename())
	dst = append(dst, `,"parameters":{},"model_warmup":[],"model_transaction_policy":{"decoupled":`...)
	dst = strconv.AppendBool(dst, c.GetModelTransactionPolicy().GetDecoupled())
	dst = append(dst, `},"response_cache":{"enable":`...)
	dst = strconv.AppendBool(dst, c.GetResponseCache().GetEnable())
	return append(dst, `}}`...)
}

func appendConfigTensor(dst []byte, i int, name string, kind DataType, dims []int64) []byte {
	if i > 0 {
		dst = append(dst, ',')
	}
	dst = append(dst, `{"name":`...)
	dst = appendString(dst, name)
	dst = append(dst, `,"data_type":"`...)
	dst = append(dst, kind.String()...)
	dst = append(dst, `","dims":`...)
	return appendShape(dst, dims)
}

// AppendModels appends the JSON list of names.
func AppendModels(dst []byte, names []string) []byte {
	return append(appendStrings(append(dst, `{"models":`...), names), '}')
}

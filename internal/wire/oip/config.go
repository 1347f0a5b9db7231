package oip

import (
	"math"
	"strconv"

	"github.com/penstock/penstock/api"
)

// onnxBackend is Triton's name of the runtime; clients read it from a configuration.
const onnxBackend = "onnxruntime"

// NewModelConfig describes an endpoint in the words of Triton's model configuration. Where requests are batched,
// max_batch_size is the most rows of a batch and dims leave the first dimension out; else it is 0, and dims are the whole
// shape.
func NewModelConfig(name, platform string, signature api.Signature, batch api.BatchPlan, settings api.Batching) *ModelConfig {
	c := &ModelConfig{Name: name, Platform: platform, Backend: onnxBackend, DefaultModelFilename: "model.onnx",
		ModelTransactionPolicy: &ModelTransactionPolicy{}, ResponseCache: &ModelResponseCache{}}
	first := 0
	if batch.MaxSize > 1 {
		first = 1
		c.MaxBatchSize = int32(min(batch.MaxSize, math.MaxInt32))
		c.DynamicBatching = dynamicBatching(settings)
	}
	for _, spec := range signature.Inputs {
		c.Input = append(c.Input, &ModelInput{Name: spec.Name, DataType: dataType(spec.Datatype), Dims: dims(spec.Shape, first)})
	}
	for _, spec := range signature.Outputs {
		c.Output = append(c.Output, &ModelOutput{Name: spec.Name, DataType: dataType(spec.Datatype), Dims: dims(spec.Shape, first)})
	}
	return c
}

func dynamicBatching(s api.Batching) *ModelDynamicBatching {
	d := &ModelDynamicBatching{MaxQueueDelayMicroseconds: uint64(max(0, s.DelayUS))}
	for _, n := range s.PreferredSizes {
		d.PreferredBatchSize = append(d.PreferredBatchSize, int32(min(n, math.MaxInt32)))
	}
	if s.PriorityLevels > 1 {
		d.PriorityLevels, d.DefaultPriorityLevel = uint64(s.PriorityLevels), uint64(s.Level(0))
	}
	return d
}

// dims gives the dimensions from the first on. They never are empty: a scalar is written as one element.
func dims(shape []int64, first int) []int64 {
	if len(shape) <= first {
		return []int64{1}
	}
	return shape[first:]
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
	dst = append(dst, `],"instance_group":[]`...)
	dst = appendDynamicBatching(dst, c.GetDynamicBatching())
	dst = append(dst, `,"default_model_filename":`...)
	dst = appendString(dst, c.GetDefaultModelFilename())
	dst = append(dst, `,"parameters":{},"model_warmup":[],"model_transaction_policy":{"decoupled":`...)
	dst = strconv.AppendBool(dst, c.GetModelTransactionPolicy().GetDecoupled())
	dst = append(dst, `},"response_cache":{"enable":`...)
	dst = strconv.AppendBool(dst, c.GetResponseCache().GetEnable())
	return append(dst, `}}`...)
}

func appendDynamicBatching(dst []byte, d *ModelDynamicBatching) []byte {
	if d == nil {
		return dst
	}
	dst = append(dst, `,"dynamic_batching":{"preferred_batch_size":[`...)
	for i, n := range d.GetPreferredBatchSize() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(dst, int64(n), 10)
	}
	dst = append(dst, `],"max_queue_delay_microseconds":`...)
	dst = strconv.AppendUint(dst, d.GetMaxQueueDelayMicroseconds(), 10)
	dst = append(dst, `,"preserve_ordering":false,"priority_levels":`...)
	dst = strconv.AppendUint(dst, d.GetPriorityLevels(), 10)
	dst = append(dst, `,"default_priority_level":`...)
	dst = strconv.AppendUint(dst, d.GetDefaultPriorityLevel(), 10)
	return append(dst, `,"priority_queue_policy":{}}`...)
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

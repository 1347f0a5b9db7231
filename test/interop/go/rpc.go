package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

const serviceName = "inference.GRPCInferenceService"

func (w *world) grpcChecks() []check {
	return []check{
		{"gRPC health", w.rpc((*caller).health)},
		{"gRPC service names", w.rpc((*caller).services)},
		{"gRPC field numbers", w.rpc((*caller).fieldNumbers)},
		{"gRPC metadata", w.rpc((*caller).metadata)},
		{"gRPC accuracy with raw contents", w.rpc((*caller).rawAccuracy)},
		{"gRPC accuracy with typed contents", w.rpc((*caller).typedAccuracy)},
		{"gRPC id and requested outputs", w.rpc((*caller).identity)},
		{"gRPC errors", w.rpc((*caller).errors)},
		{"gRPC stream", w.rpc((*caller).stream)},
	}
}

// caller calls methods that it has learned from the server.
type caller struct {
	*world
	conn    *grpc.ClientConn
	names   []string // of the services
	service protoreflect.ServiceDescriptor
}

// rpc makes a test of a method that needs the server's descriptors.
func (w *world) rpc(test func(*caller, context.Context) error) func(context.Context) error {
	return func(ctx context.Context) (err error) {
		conn, err := grpc.NewClient(w.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		c := &caller{world: w, conn: conn}
		if err := c.learn(ctx); err != nil {
			return fmt.Errorf("reflection: %w", err)
		}
		return test(c, ctx)
	}
}

// learn asks for the services and for the files that describe the one of the protocol.
func (c *caller) learn(ctx context.Context) error {
	stream, err := reflection.NewServerReflectionClient(c.conn).ServerReflectionInfo(ctx)
	if err != nil {
		return err
	}
	ask := func(q *reflection.ServerReflectionRequest) (*reflection.ServerReflectionResponse, error) {
		if err := stream.Send(q); err != nil {
			return nil, err
		}
		return stream.Recv()
	}
	list, err := ask(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_ListServices{}})
	if err != nil {
		return err
	}
	for _, s := range list.GetListServicesResponse().GetService() {
		c.names = append(c.names, s.GetName())
	}
	answer, err := ask(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: serviceName}})
	if err != nil {
		return err
	}
	set := new(descriptorpb.FileDescriptorSet)
	for _, data := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		file := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(data, file); err != nil {
			return err
		}
		set.File = append(set.File, file)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return err
	}
	found, err := files.FindDescriptorByName(serviceName)
	if err != nil {
		return err
	}
	service, is := found.(protoreflect.ServiceDescriptor)
	if !is {
		return fmt.Errorf("%s is no service", serviceName)
	}
	c.service = service
	return stream.CloseSend()
}

// message makes a message of a method's input from protobuf text.
func (c *caller) message(method, text string) (*dynamicpb.Message, protoreflect.MethodDescriptor, error) {
	m := c.service.Methods().ByName(protoreflect.Name(method))
	if m == nil {
		return nil, nil, fmt.Errorf("the server has no method %s", method)
	}
	message := dynamicpb.NewMessage(m.Input())
	return message, m, prototext.Unmarshal([]byte(text), message)
}

// call asks with a message, given as protobuf text and, if not nil, as raw contents.
func (c *caller) call(ctx context.Context, method, text string, raw []byte) (*dynamicpb.Message, error) {
	in, m, err := c.message(method, text)
	if err != nil {
		return nil, err
	}
	if raw != nil {
		list := in.Mutable(m.Input().Fields().ByName("raw_input_contents")).List()
		list.Append(protoreflect.ValueOfBytes(raw))
	}
	out := dynamicpb.NewMessage(m.Output())
	return out, c.conn.Invoke(ctx, "/"+serviceName+"/"+method, in, out)
}

// get reads a field.
func get(m protoreflect.Message, name string) protoreflect.Value {
	return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
}

func (c *caller) health(ctx context.Context) error {
	answer, err := grpc_health_v1.NewHealthClient(c.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err == nil && answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("status %v", answer.GetStatus())
	}
	if err != nil {
		return err
	}
	for method, field := range map[string]string{"ServerLive": "live", "ServerReady": "ready"} {
		out, err := c.call(ctx, method, "", nil)
		if err != nil {
			return err
		}
		if !get(out, field).Bool() {
			return fmt.Errorf("%s says no", method)
		}
	}
	return nil
}

func (c *caller) services(context.Context) error {
	for _, name := range []string{serviceName, "grpc.health.v1.Health"} {
		if !slices.Contains(c.names, name) {
			return fmt.Errorf("%s is not among %v", name, c.names)
		}
	}
	return nil
}

// fieldNumbers compares what the server says of itself with the numbers of the protocol.
func (c *caller) fieldNumbers(context.Context) error {
	infer := c.service.Methods().ByName("ModelInfer")
	if infer == nil {
		return errors.New("no ModelInfer")
	}
	input := infer.Input().Fields().ByName("inputs")
	for where, want := range map[string]struct {
		in     protoreflect.MessageDescriptor
		fields string
	}{
		"request":  {infer.Input(), "model_name=1 model_version=2 id=3 parameters=4 inputs=5 outputs=6 raw_input_contents=7"},
		"response": {infer.Output(), "model_name=1 model_version=2 id=3 parameters=4 outputs=5 raw_output_contents=6"},
		"input":    {input.Message(), "name=1 datatype=2 shape=3 parameters=4 contents=5"},
		"contents": {input.Message().Fields().ByName("contents").Message(),
			"bool_contents=1 int_contents=2 int64_contents=3 uint_contents=4 uint64_contents=5 fp32_contents=6 fp64_contents=7 bytes_contents=8"},
	} {
		var found []string
		for i := range want.in.Fields().Len() {
			f := want.in.Fields().Get(i)
			found = append(found, fmt.Sprintf("%s=%d", f.Name(), f.Number()))
		}
		for _, field := range strings.Fields(want.fields) {
			if !slices.Contains(found, field) {
				return fmt.Errorf("%s: no %s among %v", where, field, found)
			}
		}
	}
	return nil
}

func (c *caller) metadata(ctx context.Context) error {
	out, err := c.call(ctx, "ModelMetadata", `name: "digits"`, nil)
	if err != nil {
		return err
	}
	inputs := get(out, "inputs").List()
	if get(out, "name").String() != "digits" || inputs.Len() != 1 || get(inputs.Get(0).Message(), "datatype").String() != "FP32" {
		return fmt.Errorf("metadata %v", out)
	}
	return nil
}

// labels takes the label tensor out of an answer with raw contents.
func labels(out protoreflect.Message) ([]int64, error) {
	outputs, raw := get(out, "outputs").List(), get(out, "raw_output_contents").List()
	for i := range outputs.Len() {
		t := outputs.Get(i).Message()
		if get(t, "name").String() != "label" {
			continue
		}
		if raw.Len() == outputs.Len() {
			return numbers[int64](raw.Get(i).Bytes())
		}
		var found []int64
		data := get(get(t, "contents").Message(), "int64_contents").List()
		for j := range data.Len() {
			found = append(found, data.Get(j).Int())
		}
		return found, nil
	}
	return nil, errors.New("no output label")
}

func tensorText(rows int, contents string) string {
	return fmt.Sprintf(`model_name: "digits" id: "go-2" inputs { name: "image" datatype: "FP32" shape: [%d, 64] %s }`, rows, contents)
}

func (c *caller) rawAccuracy(ctx context.Context) error {
	data, err := binary.Append(nil, binary.LittleEndian, c.pixels)
	if err != nil {
		return err
	}
	out, err := c.call(ctx, "ModelInfer", tensorText(len(c.labels), ""), data)
	if err != nil {
		return err
	}
	found, err := labels(out)
	if err != nil {
		return err
	}
	return c.recognised(found)
}

// typed writes pixels as typed contents.
func typed(pixels []float32) string {
	var text strings.Builder
	for i, p := range pixels {
		if i > 0 {
			text.WriteByte(',')
		}
		fmt.Fprint(&text, p)
	}
	return "contents { fp32_contents: [" + text.String() + "] }"
}

func (c *caller) typedAccuracy(ctx context.Context) error {
	out, err := c.call(ctx, "ModelInfer", tensorText(len(c.labels), typed(c.pixels)), nil)
	if err != nil {
		return err
	}
	found, err := labels(out)
	if err != nil {
		return err
	}
	return c.recognised(found)
}

func (c *caller) identity(ctx context.Context) error {
	out, err := c.call(ctx, "ModelInfer", tensorText(1, typed(c.rows(1)))+` outputs { name: "probabilities" }`, nil)
	if err != nil {
		return err
	}
	outputs := get(out, "outputs").List()
	if get(out, "id").String() != "go-2" || outputs.Len() != 1 || get(outputs.Get(0).Message(), "name").String() != "probabilities" {
		return fmt.Errorf("answer %v", out)
	}
	data, err := numbers[float32](get(out, "raw_output_contents").List().Get(0).Bytes())
	if err != nil {
		return err
	}
	sum := 0.0
	for _, p := range data {
		sum += float64(p)
	}
	if len(data) != 10 || math.Abs(sum-1) > 1e-4 {
		return fmt.Errorf("probabilities %v", data)
	}
	return nil
}

func (c *caller) errors(ctx context.Context) error {
	raw := make([]byte, 4*pixelsPerRow)
	good := tensorText(1, "")
	for name, q := range map[string]struct {
		text string
		raw  []byte
		want codes.Code
		says string
	}{
		"unknown model":    {strings.Replace(good, "digits", "nobody", 1), raw, codes.NotFound, "nobody"},
		"wrong shape":      {tensorText(2, ""), raw, codes.InvalidArgument, "image"},
		"raw and contents": {tensorText(1, typed(c.rows(1))), raw, codes.InvalidArgument, ""},
		"no contents":      {good, nil, codes.InvalidArgument, ""},
		"too many bytes":   {good, append(raw[:len(raw):len(raw)], 0), codes.InvalidArgument, ""},
	} {
		_, err := c.call(ctx, "ModelInfer", q.text, q.raw)
		if s := status.Convert(err); s.Code() != q.want || !strings.Contains(s.Message(), q.says) {
			return fmt.Errorf("%s: %s: %s", name, s.Code(), s.Message())
		}
	}
	if _, err := c.call(ctx, "ModelInfer", good, raw); err != nil {
		return fmt.Errorf("after the errors: %w", err)
	}
	return nil
}

// stream sends requests, one of them wrong, and expects an answer for each on a stream that lives on.
func (c *caller) stream(ctx context.Context) error {
	in, m, err := c.message("ModelStreamInfer", tensorText(1, typed(c.rows(1))))
	if err != nil {
		return err
	}
	wrong, _, err := c.message("ModelStreamInfer", `model_name: "nobody"`)
	if err != nil {
		return err
	}
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+serviceName+"/ModelStreamInfer")
	if err != nil {
		return err
	}
	for turn, q := range []*dynamicpb.Message{in, wrong, in} {
		if err := stream.SendMsg(q); err != nil {
			return err
		}
		out := dynamicpb.NewMessage(m.Output())
		if err := stream.RecvMsg(out); err != nil {
			return err
		}
		said := get(out, "error_message").String()
		if (said != "") != (q == wrong) {
			return fmt.Errorf("answer %d says %q", turn, said)
		}
		if q == wrong {
			continue
		}
		found, err := labels(get(out, "infer_response").Message())
		if err != nil {
			return err
		}
		if len(found) != 1 {
			return fmt.Errorf("answer %d has the labels %v", turn, found)
		}
	}
	return stream.CloseSend()
}

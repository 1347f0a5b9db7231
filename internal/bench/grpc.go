package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/penstock/penstock/internal/wire/oip"
)

const answerMax = 256 << 20 // bytes of one gRPC answer

// GRPC says where and what a gRPC client asks.
type GRPC struct {
	Address  string
	TLS      *tls.Config       // nil: none
	Requests [][]byte          // encoded ModelInferRequests; taken in turn
	Metadata map[string]string // of every call
	Timeout  time.Duration     // of one request; 0: none
}

// grpcCaller asks over a connection of its own. Requests are encoded once, and answers are not decoded: that is not what
// is measured, and would be paid from the processors that the server may share.
type grpcCaller struct {
	GRPC
	conn *grpc.ClientConn
	meta metadata.MD
}

// DialGRPC makes a client with one connection.
func DialGRPC(to GRPC) (Caller, error) {
	if len(to.Requests) == 0 {
		return nil, errors.New("there is no request to send")
	}
	trust := insecure.NewCredentials()
	if to.TLS != nil {
		trust = credentials.NewTLS(to.TLS)
	}
	conn, err := grpc.NewClient(to.Address, grpc.WithTransportCredentials(trust), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(asBytes{}), grpc.MaxCallRecvMsgSize(answerMax), grpc.MaxCallSendMsgSize(answerMax)))
	if err != nil {
		return nil, err
	}
	c := &grpcCaller{GRPC: to, conn: conn}
	if len(to.Metadata) > 0 {
		c.meta = metadata.New(to.Metadata)
	}
	return c, nil
}

// Ask calls ModelInfer.
func (c *grpcCaller) Ask(ctx context.Context, n int) error {
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	if c.meta != nil {
		ctx = metadata.NewOutgoingContext(ctx, c.meta)
	}
	var size int
	if err := c.conn.Invoke(ctx, oip.GRPCInferenceService_ModelInfer_FullMethodName, c.Requests[n%len(c.Requests)], &size); err != nil {
		return answered(err)
	}
	if size == 0 {
		return &AnswerError{Code: "grpc empty", Text: "the answer is empty"}
	}
	return nil
}

// Close closes the connection.
func (c *grpcCaller) Close() { _ = c.conn.Close() } // nothing is left to be told

// asBytes is a codec for messages that are bytes already; of an answer it keeps the length.
type asBytes struct{}

// Name is that of protobuf, which the bytes are.
func (asBytes) Name() string { return "proto" }

// Marshal passes bytes on.
func (asBytes) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("a %T is not bytes", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(message)}, nil
}

// Unmarshal counts.
func (asBytes) Unmarshal(data mem.BufferSlice, v any) error {
	size, ok := v.(*int)
	if !ok {
		return fmt.Errorf("a %T takes no length", v)
	}
	*size = data.Len()
	return nil
}

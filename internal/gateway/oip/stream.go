package oip

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
	"github.com/penstock/penstock/internal/gateway/rpc"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// streamInFlight is how many requests of one stream are in hand at once, from their arrival until their reply is sent. A
// client that sends more waits, by the flow control of its connection.
const streamInFlight = 8

// outcome is what one request of a stream gave: a reply to send, or the error that ends the stream.
type outcome struct {
	reply *wire.Reply
	err   error
}

// ModelStreamInfer answers the requests of a stream in their order, several of them worked on at once. A request that
// fails is answered in its turn with an error_message and the stream goes on; with the metadata triton_grpc_error: true it
// ends the stream with a real status.
func (s *service) ModelStreamInfer(stream grpc.BidiStreamingServer[wire.ModelInferRequest, wire.ModelStreamInferResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	strict := rpc.Values(ctx, "triton_grpc_error")
	f := &flow{p: s.p, stream: stream, strict: len(strict) == 1 && strict[0] == "true",
		slots: make(chan struct{}, streamInFlight), turns: make(chan chan outcome, streamInFlight)}
	written := make(chan error, 1)
	go func() { written <- f.write(cancel) }()
	err := f.read(ctx)
	if err != nil {
		cancel()
	}
	close(f.turns)
	if failed := <-written; failed != nil {
		return failed
	}
	return err
}

// flow is one stream.
type flow struct {
	p      *protocol
	stream grpc.ServerStream
	strict bool
	slots  chan struct{}     // taken by each request in hand
	turns  chan chan outcome // in the order of the requests; each gives one outcome
}

// read takes requests until the caller has no more, and starts each.
func (f *flow) read(ctx context.Context) error {
	arrived, failed := make(chan *scratch), make(chan error, 1)
	// RecvMsg returns at the latest when the stream is over, which it is when the method returned.
	go f.receive(ctx, arrived, failed)
	wait := f.p.gateway.Config().StreamIdle
	idle := time.NewTimer(wait)
	defer idle.Stop()
	for {
		select {
		case s := <-arrived:
			turn := make(chan outcome, 1)
			f.turns <- turn // has room: there are no more turns than slots
			go func() { turn <- f.step(ctx, s) }()
			idle.Reset(wait)
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-idle.C:
			if len(f.slots) <= 1 { // the one that receive holds ready
				return api.Fail(api.CodeDeadline, "", "no request came on the stream within the limit of %v", wait)
			}
			idle.Reset(wait)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// receive hands over the messages as they come, each once there is a slot for it.
func (f *flow) receive(ctx context.Context, arrived chan<- *scratch, failed chan<- error) {
	for {
		select {
		case f.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		s := f.p.take()
		if err := f.stream.RecvMsg(&s.request); err != nil {
			f.p.give(s)
			failed <- err
			return
		}
		select {
		case arrived <- s:
		case <-ctx.Done():
			f.p.give(s)
			return
		}
	}
}

// write sends the replies in the order of their requests. It takes every turn, also when the stream is lost, so that each
// reply's memory goes back.
func (f *flow) write(cancel context.CancelFunc) error {
	var failed error
	for turn := range f.turns {
		out := <-turn
		switch {
		case failed != nil && out.reply != nil:
			out.reply.Free()
		case failed == nil && out.reply != nil:
			failed = f.send(out.reply)
		case failed == nil:
			failed = out.err
		}
		if failed != nil {
			cancel() // what is still in hand is for nobody
		}
		<-f.slots
	}
	return failed
}

// send sends one reply. It counts as memory in hand while the caller takes its time, which is limited.
func (f *flow) send(reply *wire.Reply) error {
	size := reply.Size()
	if err := f.p.gateway.Hold(int64(size)); err != nil {
		reply.Free()
		return err
	}
	defer f.p.gateway.Free(int64(size))
	return f.stream.SendMsg(reply)
}

// step answers one request of a stream.
func (f *flow) step(ctx context.Context, s *scratch) outcome {
	defer f.p.give(s)
	reply, err := f.answer(ctx, s)
	if err == nil {
		return outcome{reply: reply}
	}
	if f.strict || ctx.Err() != nil || api.KindOf(err) == api.Unauthenticated {
		return outcome{err: err}
	}
	text := f.p.gateway.Explain(ctx, wire.GRPCInferenceService_ModelStreamInfer_FullMethodName, err)
	return outcome{reply: wire.StreamFault(text, s.request.ID)}
}

func (f *flow) answer(ctx context.Context, s *scratch) (reply *wire.Reply, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = gateway.Panicked(v)
		}
	}()
	size := int64(len(s.request.Message().Bytes()))
	if err := f.p.gateway.Hold(size); err != nil {
		return nil, err
	}
	defer f.p.gateway.Free(size)
	principal, err := f.p.gateway.Authorize(ctx)
	if err != nil {
		return nil, err
	}
	s.call.Principal, s.call.RequestID, s.call.Start = principal, ulid.Make().String(), time.Now()
	answer, out, err := f.p.callGRPC(ctx, s)
	if err != nil {
		return nil, err
	}
	defer answer.Release()
	return out.StreamReply(), nil
}

package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// AnswerError is an answer of the server that is none.
type AnswerError struct {
	Code string // "http 503", "grpc Unavailable"
	Text string
}

// Error tells both.
func (e *AnswerError) Error() string { return e.Code + ": " + e.Text }

// codeOf sorts an error: what the server said, or how the connection failed.
func codeOf(err error) (code, text string) {
	var answer *AnswerError
	var wait net.Error
	switch {
	case errors.As(err, &answer):
		return answer.Code, answer.Text
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &wait) && wait.Timeout():
		code = "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		code = "connection refused"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		code = "connection lost"
	default:
		code = "error"
	}
	return code, err.Error()
}

// answered turns a gRPC error into one of ours. Those that gRPC makes up itself when there is no connection have the code
// of the server's own; their text tells them apart.
func answered(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	if s.Code() == codes.DeadlineExceeded {
		return context.DeadlineExceeded
	}
	text := strings.ToValidUTF8(s.Message(), "\ufffd")
	if s.Code() == codes.Unavailable && (strings.HasPrefix(text, "connection error:") || strings.HasPrefix(text, "error reading from server:")) {
		return errors.Join(syscall.ECONNREFUSED, err)
	}
	return &AnswerError{Code: "grpc " + s.Code().String(), Text: text}
}

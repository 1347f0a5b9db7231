package ort

// #include "ort.h"
import "C"

import (
	"errors"
	"fmt"
)

// ErrClosed is returned by methods of something that was closed.
var ErrClosed = errors.New("onnxruntime: already closed")

// ErrNotFetched is returned by Open when the binary was built without the shared library.
var ErrNotFetched = errors.New("ONNX Runtime is not part of this build: run `make onnxruntime`, which fetches it, and build again")

// ErrorCode is ONNX Runtime's number of a kind of failure.
type ErrorCode int

// The codes.
const (
	Fail              ErrorCode = 1
	InvalidArgument   ErrorCode = 2
	NoSuchFile        ErrorCode = 3
	NoModel           ErrorCode = 4
	EngineError       ErrorCode = 5
	RuntimeException  ErrorCode = 6
	InvalidProtobuf   ErrorCode = 7
	ModelLoaded       ErrorCode = 8
	NotImplemented    ErrorCode = 9
	InvalidGraph      ErrorCode = 10
	ProviderFail      ErrorCode = 11
	LoadCanceled      ErrorCode = 12
	RequiresCompiling ErrorCode = 13
	NotFound          ErrorCode = 14
)

// Error is a failure that ONNX Runtime reported.
type Error struct {
	Act     string // what was being done: "run", "load model"
	Code    ErrorCode
	Message string // ONNX Runtime's own words; may name files and nodes
}

// Error gives act, code and message in one line.
func (e *Error) Error() string {
	return fmt.Sprintf("onnxruntime: %s: %s (code %d)", e.Act, e.Message, e.Code)
}

// check turns a status into an error and frees it.
func check(act string, status *C.OrtStatus) error {
	if status == nil {
		return nil
	}
	defer C.ort_status_free(status)
	return &Error{Act: act, Code: ErrorCode(C.ort_status_code(status)), Message: C.GoString(C.ort_status_message(status))}
}

package ort

// #include "ort.h"
import "C"

import (
	"context"
	"log/slog"
	"runtime/cgo"
)

// ortLog receives ONNX Runtime's log lines, on any thread, also on threads that Go did not make.
//
//export ortLog
func ortLog(handle C.uintptr_t, severity C.int, category, logID, location, message *C.char) {
	logger := cgo.Handle(handle).Value().(*slog.Logger)
	level := slogLevel(int(severity))
	if !logger.Enabled(context.Background(), level) {
		return
	}
	logger.LogAttrs(context.Background(), level, C.GoString(message),
		slog.String("category", C.GoString(category)),
		slog.String("log_id", C.GoString(logID)),
		slog.String("location", C.GoString(location)))
}

// slogLevel maps ONNX Runtime's severities: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal.
func slogLevel(severity int) slog.Level {
	switch severity {
	case 0:
		return slog.LevelDebug
	case 1:
		return slog.LevelInfo
	case 2:
		return slog.LevelWarn
	}
	return slog.LevelError
}

func severity(level slog.Level) C.int {
	switch {
	case level < slog.LevelInfo:
		return 0
	case level < slog.LevelWarn:
		return 1
	case level < slog.LevelError:
		return 2
	}
	return 3
}

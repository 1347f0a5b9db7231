// Package server is a stand-in until the rooms are wired; it has the names that the command line calls.
package server

import (
	"context"
	"errors"
	"io"
)

// Config is what `penstock serve` sets.
type Config struct {
	Data, HTTP, GRPC, Metrics, Store, Blobs, Role string
	Dev, Insecure                                 bool
	Workers                                       int
	InProcess                                     bool
	PrintAddresses                                bool
	ReadyFD                                       int
	OTLP, LogFormat, LogLevel                     string
	ServerName                                    string
	RollbackWindow                                int
}

// WorkerConfig is what `penstock worker` sets.
type WorkerConfig struct{ Socket string }

var errStub = errors.New("the server is not built yet")

// Run serves until the context ends.
func Run(_ context.Context, _ Config, _, _ io.Writer) error { return errStub }

// RunWorker serves one worker until the context ends.
func RunWorker(_ context.Context, _ WorkerConfig, _ io.Writer) error { return errStub }

// Restore unpacks a backup.
func Restore(_ context.Context, _ io.Reader, _, _ string) error { return errStub }

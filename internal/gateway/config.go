package gateway

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Config names every limit of the data plane. DefaultConfig fills it; Validate reports all faults at once.
type Config struct {
	HeaderBytes     int           // bytes of a request's header or metadata; default 64 KiB
	JSONBytes       int64         // bytes of a JSON body, and of the JSON part of a binary one; default 32 MiB
	TensorBytes     int64         // bytes of a binary body or a gRPC message; default 256 MiB, at most 2^31-1
	InFlightBytes   int64         // bytes of all bodies and messages being answered at once; default 2 GiB
	InflateRatio    int64         // how many times its size a compressed body may become; default 100
	StreamsPerConn  uint32        // requests at once on one HTTP/2 or gRPC connection; default 100
	ConnsPerAddress int           // open connections from one address; default 256
	HeaderTimeout   time.Duration // to read a request's header, and for a gRPC handshake; default 10 s
	IdleTimeout     time.Duration // how long a connection may wait for the next request; default 60 s
	BodyGrace       time.Duration // before the body's minimum rate counts; default 10 s
	BodyBytesPerSec int64         // minimum rate of a body; default 1 KiB/s
	MessageTimeout  time.Duration // for the first message of a gRPC call to arrive whole; default 2 min
	StreamIdle      time.Duration // longest wait for the next message of a stream with nothing in hand; default 10 min
	WriteTimeout    time.Duration // for one write of at most 1 MiB of an answer; default 30 s
}

// DefaultConfig is what a server starts with.
func DefaultConfig() Config {
	return Config{
		HeaderBytes:     64 << 10,
		JSONBytes:       32 << 20,
		TensorBytes:     256 << 20,
		InFlightBytes:   2 << 30,
		InflateRatio:    100,
		StreamsPerConn:  100,
		ConnsPerAddress: 256,
		HeaderTimeout:   10 * time.Second,
		IdleTimeout:     60 * time.Second,
		BodyGrace:       10 * time.Second,
		BodyBytesPerSec: 1 << 10,
		MessageTimeout:  2 * time.Minute,
		StreamIdle:      10 * time.Minute,
		WriteTimeout:    30 * time.Second,
	}
}

// Validate reports every limit that makes no sense.
func (c Config) Validate() error {
	var faults []error
	positive := func(name string, value int64) {
		if value <= 0 {
			faults = append(faults, fmt.Errorf("%s is %d, it must be above 0", name, value))
		}
	}
	positive("HeaderBytes", int64(c.HeaderBytes))
	positive("JSONBytes", c.JSONBytes)
	positive("TensorBytes", c.TensorBytes)
	positive("InFlightBytes", c.InFlightBytes)
	positive("InflateRatio", c.InflateRatio)
	positive("StreamsPerConn", int64(c.StreamsPerConn))
	positive("ConnsPerAddress", int64(c.ConnsPerAddress))
	positive("HeaderTimeout", int64(c.HeaderTimeout))
	positive("IdleTimeout", int64(c.IdleTimeout))
	positive("BodyGrace", int64(c.BodyGrace))
	positive("BodyBytesPerSec", c.BodyBytesPerSec)
	positive("MessageTimeout", int64(c.MessageTimeout))
	positive("StreamIdle", int64(c.StreamIdle))
	positive("WriteTimeout", int64(c.WriteTimeout))
	if c.TensorBytes > math.MaxInt32 {
		faults = append(faults, fmt.Errorf("TensorBytes is %d, a gRPC message ends at %d", c.TensorBytes, math.MaxInt32))
	}
	return errors.Join(faults...)
}

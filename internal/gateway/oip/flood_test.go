package oip_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/penstock/penstock/internal/wire/oip"
)

// HTTP/2 written by hand, since no client does what these do. Frame types and flags are RFC 9113's.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameReset        = 0x3
	frameSettings     = 0x4
	framePing         = 0x6
	frameWindow       = 0x8
	frameContinuation = 0x9

	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
)

func appendFrame(dst []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	dst = append(dst, byte(n>>16), byte(n>>8), byte(n), kind, flags)
	dst = binary.BigEndian.AppendUint32(dst, stream)
	return append(dst, payload...)
}

// appendField writes a header field as a literal that no table keeps.
func appendField(dst []byte, name, value string) []byte {
	dst = append(dst, 0, byte(len(name)))
	dst = append(append(dst, name...), byte(len(value)))
	return append(dst, value...)
}

// inferHeader is what a call of ModelInfer begins with.
func inferHeader() []byte {
	var b []byte
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", wire.GRPCInferenceService_ModelInfer_FullMethodName},
		{":authority", "x"}, {"content-type", "application/grpc"}, {"te", "trailers"}, {"authorization", "Bearer acme-key"}} {
		b = appendField(b, f[0], f[1])
	}
	return b
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// floods are what is sent after the preface, chunk by chunk; n counts from 0.
var floods = map[string]func(n uint32) []byte{
	"rapid reset": func(n uint32) []byte {
		b := appendFrame(nil, frameHeaders, flagEndHeaders, 2*n+1, inferHeader())
		return appendFrame(b, frameReset, 0, 2*n+1, []byte{0, 0, 0, 8})
	},
	"thousands of streams": func(n uint32) []byte {
		return appendFrame(nil, frameHeaders, flagEndHeaders, 2*n+1, inferHeader())
	},
	"thousands of whole calls": func(n uint32) []byte {
		b := appendFrame(nil, frameHeaders, flagEndHeaders, 2*n+1, inferHeader())
		return appendFrame(b, frameData, flagEndStream, 2*n+1, []byte{0, 0, 0, 0, 0})
	},
	"settings": func(uint32) []byte { return appendFrame(nil, frameSettings, 0, 0, []byte{0, 3, 0, 0, 0, 100}) },
	"ping":     func(uint32) []byte { return appendFrame(nil, framePing, 0, 0, make([]byte, 8)) },
	"continuation": func(n uint32) []byte {
		if n == 0 {
			return appendFrame(nil, frameHeaders, 0, 1, inferHeader())
		}
		return appendFrame(nil, frameContinuation, 0, 1, appendField(nil, "x-much", strings.Repeat("a", 120)))
	},
	"empty continuation": func(n uint32) []byte {
		if n == 0 {
			return appendFrame(nil, frameHeaders, 0, 1, inferHeader())
		}
		return appendFrame(nil, frameContinuation, 0, 1, nil)
	},
	"window update":  func(uint32) []byte { return appendFrame(nil, frameWindow, 0, 0, []byte{0, 0, 0, 1}) },
	"priority":       func(n uint32) []byte { return appendFrame(nil, framePriority, 0, 2*n+1, []byte{0, 0, 0, 0, 16}) },
	"unknown frames": func(uint32) []byte { return appendFrame(nil, 0x42, 0xff, 1, make([]byte, 64)) },
	"empty data": func(n uint32) []byte {
		if n == 0 {
			return appendFrame(nil, frameHeaders, flagEndHeaders, 1, inferHeader())
		}
		return appendFrame(nil, frameData, 0, 1, nil)
	},
	"padding alone": func(n uint32) []byte {
		if n == 0 {
			return appendFrame(nil, frameHeaders, flagEndHeaders, 1, inferHeader())
		}
		return appendFrame(nil, frameData, flagPadded, 1, append([]byte{200}, make([]byte, 200)...))
	},
}

// Of each flood so many pieces are sent, over so many connections at once, unless the server ends it first.
const (
	floodPieces = 20_000
	floodConns  = 4
)

// TestFloods floods the gRPC port in every known way, by callers that read the answers and by some that do not. Others must be
// served all the while, what the server holds must be bounded, and nothing of it may stay.
func TestFloods(t *testing.T) {
	for name, piece := range floods {
		for _, reads := range []bool{true, false} {
			t.Run(name+map[bool]string{true: ", answers read", false: ", answers left"}[reads], func(t *testing.T) {
				b := start(t, nil)
				client := wire.NewGRPCInferenceServiceClient(b.dial(t, "acme-key"))
				ask := func() {
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
					defer cancel()
					if _, err := client.ModelInfer(ctx, inferRequest("echo")); err != nil {
						t.Errorf("another caller: %v", err)
					}
				}
				ask()
				before, heap := runtime.NumGoroutine(), held()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var all sync.WaitGroup
				over := make(chan struct{})
				for range floodConns {
					all.Go(func() { flood(ctx, t, b.grpc, piece, reads) })
				}
				go func() { all.Wait(); close(over) }()
				most, calls := 0, 0
				for open := true; open; calls++ {
					select {
					case <-over:
						open = false
					default:
						most = max(most, runtime.NumGoroutine()-before)
						ask()
					}
				}
				if limit := floodConns * 5 * int(b.gateway.Config().StreamsPerConn); most > limit {
					t.Errorf("%d goroutines for %d connections, limit %d", most, floodConns, limit)
				}
				if grown := held() - heap; grown > 64<<20 {
					t.Errorf("%d MiB are held after it", grown>>20)
				}
				ask()
				t.Logf("%d calls of others meanwhile, %d goroutines more at most", calls, most)
			})
		}
	}
}

func held() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// flood sends pieces until all are sent, the server hung up, or it takes no more: that it stops reading is its right.
func flood(ctx context.Context, t *testing.T, address string, piece func(uint32) []byte, reads bool) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	if tcp, ok := c.(*net.TCPConn); ok && !reads {
		_ = tcp.SetReadBuffer(4 << 10) // the less the kernel takes, the sooner the server feels it
	}
	if reads {
		go func() { _, _ = io.Copy(io.Discard, c) }()
	}
	w := bufio.NewWriterSize(c, 64<<10)
	_, _ = w.WriteString(preface)
	_, _ = w.Write(appendFrame(nil, frameSettings, 0, 0, nil))
	for n := range uint32(floodPieces) {
		_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second))
		if _, err := w.Write(piece(n)); err != nil {
			return
		}
	}
	if err := w.Flush(); err != nil && !errors.Is(err, net.ErrClosed) {
		return
	}
}

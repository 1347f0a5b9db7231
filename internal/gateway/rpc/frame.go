package rpc

import "encoding/binary"

// Frame types, flags, settings and error codes of RFC 9113.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameReset        = 0x3
	frameSettings     = 0x4
	framePush         = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindow       = 0x8
	frameContinuation = 0x9

	flagEndStream  = 0x1
	flagAck        = 0x1 // of settings and pings
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	settingTable      = 0x1
	settingPush       = 0x2
	settingStreams    = 0x3
	settingWindow     = 0x4
	settingFrame      = 0x5
	settingHeaderList = 0x6
)

// fault is an error code; as an error it ends the connection.
type fault uint32

const (
	faultNone        fault = 0x0
	faultProtocol    fault = 0x1
	faultFlow        fault = 0x3
	faultClosed      fault = 0x5
	faultFrameSize   fault = 0x6
	faultRefused     fault = 0x7
	faultCancel      fault = 0x8
	faultCompression fault = 0x9
	faultCalm        fault = 0xb
)

// Error names the code as the standard does.
func (f fault) Error() string {
	switch f {
	case faultNone:
		return "NO_ERROR"
	case faultProtocol:
		return "PROTOCOL_ERROR"
	case faultFlow:
		return "FLOW_CONTROL_ERROR"
	case faultClosed:
		return "STREAM_CLOSED"
	case faultFrameSize:
		return "FRAME_SIZE_ERROR"
	case faultRefused:
		return "REFUSED_STREAM"
	case faultCancel:
		return "CANCEL"
	case faultCompression:
		return "COMPRESSION_ERROR"
	case faultCalm:
		return "ENHANCE_YOUR_CALM"
	}
	return "unknown error"
}

const (
	preface    = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameStart = 9         // bytes before a frame's payload
	frameMax   = 16 << 10  // longest payload taken: the standard's default
	windowMax  = 1<<31 - 1 // largest window of either side
	windowBorn = 64<<10 - 1
)

// frame is one frame as it lies in the connection's buffer.
type frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte
}

func (f *frame) has(flag byte) bool { return f.flags&flag != 0 }

// strip cuts padding, and the priority that nobody keeps, off the payload.
func (f *frame) strip() ([]byte, error) {
	b := f.payload
	padding := 0
	if f.has(flagPadded) {
		if len(b) == 0 {
			return nil, faultFrameSize
		}
		padding, b = int(b[0]), b[1:]
	}
	if f.kind == frameHeaders && f.has(flagPriority) {
		if len(b) < 5 {
			return nil, faultFrameSize
		}
		if binary.BigEndian.Uint32(b)&windowMax == f.stream {
			return nil, faultProtocol // it depends on itself
		}
		b = b[5:]
	}
	if padding > len(b) {
		return nil, faultProtocol
	}
	return b[:len(b)-padding], nil
}

// appendFrame begins a frame whose payload follows.
func appendFrame(dst []byte, kind, flags byte, stream uint32, length int) []byte {
	dst = append(dst, byte(length>>16), byte(length>>8), byte(length), kind, flags)
	return binary.BigEndian.AppendUint32(dst, stream)
}

func appendReset(dst []byte, stream uint32, code fault) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(dst, frameReset, 0, stream, 4), uint32(code))
}

func appendWindow(dst []byte, stream uint32, by int64) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(dst, frameWindow, 0, stream, 4), uint32(by))
}

func appendGoAway(dst []byte, last uint32, code fault, text string) []byte {
	dst = appendFrame(dst, frameGoAway, 0, 0, 8+len(text))
	dst = binary.BigEndian.AppendUint32(dst, last)
	return append(binary.BigEndian.AppendUint32(dst, uint32(code)), text...)
}

func appendSetting(dst []byte, id uint16, value uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(dst, id), value)
}

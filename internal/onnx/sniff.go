package onnx

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// SniffBytes is how much of a file's beginning Sniff wants to see; more is ignored.
const SniffBytes = 4096

// Format is what a file is by its content. Its name is never asked.
type Format string

// The formats. Only FormatONNX is ever taken; the others are told apart so that a refusal can say what the file is.
const (
	FormatONNX        Format = "onnx"
	FormatEmpty       Format = "empty"
	FormatPickle      Format = "pickle"      // Python pickle of any protocol: .pkl, .joblib, old .pt
	FormatTorch       Format = "torch"       // PyTorch's archive, with a pickle inside
	FormatZip         Format = "zip"         // any other ZIP: Keras 3, NumPy .npz, MLflow
	FormatArchive     Format = "archive"     // 7z, tar, RAR
	FormatCompressed  Format = "compressed"  // gzip, zlib (compressed joblib), bzip2, xz, lz4, zstd
	FormatHDF5        Format = "hdf5"        // Keras 2
	FormatNumPy       Format = "numpy"       // .npy, which may hold pickles
	FormatSafetensors Format = "safetensors" //
	FormatGGUF        Format = "gguf"        //
	FormatORT         Format = "ort"         // ONNX Runtime's own format
	FormatTFLite      Format = "tflite"      //
	FormatProgram     Format = "program"     // ELF, PE or Mach-O
	FormatLFS         Format = "lfs"         // a Git LFS pointer in place of the file
	FormatText        Format = "text"
	FormatUnknown     Format = "unknown"
)

// Reason is a sentence that says why a file of this format is not taken; empty for ONNX.
func (f Format) Reason() string {
	switch f {
	case FormatONNX:
		return ""
	case FormatEmpty:
		return "the file is empty"
	case FormatPickle, FormatTorch, FormatNumPy:
		return "the content is " + string(f) + ", which can run code when it is loaded; export the model to ONNX"
	case FormatZip, FormatArchive, FormatCompressed:
		return "the content is " + string(f) + "; push the ONNX file itself"
	case FormatProgram:
		return "the content is an executable program"
	case FormatLFS:
		return "the content is a Git LFS pointer; fetch the real file with `git lfs pull`"
	case FormatText:
		return "the content is text, perhaps an error page that was saved as a model"
	case FormatUnknown:
		return "the content is not a format that is known here"
	}
	return "the content is " + string(f) + "; export the model to ONNX"
}

// magics are beginnings that no ONNX file has: an ONNX file begins with the tag of a field of its outermost message.
var magics = []struct {
	at     int
	prefix string
	format Format
}{
	{0, "7z\xbc\xaf\x27\x1c", FormatArchive}, {0, "Rar!\x1a\x07", FormatArchive}, {257, "ustar", FormatArchive},
	{0, "\x1f\x8b", FormatCompressed}, {0, "BZh", FormatCompressed}, {0, "\xfd7zXZ\x00", FormatCompressed},
	{0, "\x28\xb5\x2f\xfd", FormatCompressed}, {0, "\x04\x22\x4d\x18", FormatCompressed},
	{0, "\x78\x01", FormatCompressed}, {0, "\x78\x5e", FormatCompressed}, {0, "\x78\x9c", FormatCompressed},
	{0, "\x78\xda", FormatCompressed}, {0, "\x5d\x00\x00", FormatCompressed}, {0, "ZF0x", FormatCompressed},
	{0, "\x89HDF\r\n\x1a\n", FormatHDF5}, {512, "\x89HDF\r\n\x1a\n", FormatHDF5}, {1024, "\x89HDF\r\n\x1a\n", FormatHDF5},
	{2048, "\x89HDF\r\n\x1a\n", FormatHDF5}, {0, "\x93NUMPY", FormatNumPy}, {0, "GGUF", FormatGGUF}, {0, "FUGG", FormatGGUF},
	{4, "ORTM", FormatORT}, {4, "TFL3", FormatTFLite}, {0, "\x7fELF", FormatProgram}, {0, "MZ", FormatProgram},
	{0, "\xcf\xfa\xed\xfe", FormatProgram}, {0, "\xfe\xed\xfa\xcf", FormatProgram}, {0, "\xca\xfe\xba\xbe", FormatProgram},
	{0, "version https://git-lfs", FormatLFS},
}

// Sniff tells from a file's first bytes what it is. FormatONNX means that it begins as an ONNX file does; whether it is
// one, Read says.
func Sniff(head []byte) Format {
	head = head[:min(len(head), SniffBytes)]
	if len(head) == 0 {
		return FormatEmpty
	}
	if bytes.HasPrefix(head, []byte("PK\x03\x04")) || bytes.HasPrefix(head, []byte("PK\x05\x06")) {
		// Torch puts its pickle first in the archive.
		if bytes.Contains(head, []byte(".pkl")) || bytes.Contains(head, []byte("/constants.pkl")) {
			return FormatTorch
		}
		return FormatZip
	}
	for _, m := range magics {
		if len(head) >= m.at && bytes.HasPrefix(head[m.at:], []byte(m.prefix)) {
			return m.format
		}
	}
	switch {
	case isSafetensors(head):
		return FormatSafetensors
	case isPickle(head):
		return FormatPickle
	case isONNX(head):
		return FormatONNX
	case isText(head):
		return FormatText
	}
	return FormatUnknown
}

// isSafetensors looks for a length and a JSON object.
func isSafetensors(head []byte) bool {
	return len(head) > 9 && binary.LittleEndian.Uint64(head) < 1<<32 && head[8] == '{' && (head[9] == '"' || head[9] == '}' || head[9] == ' ')
}

// isPickle knows protocols 2 to 5 by their first opcode, and the older ones, which have none, by the opcodes that a
// pickle of an object, a list or a dictionary begins with.
func isPickle(head []byte) bool {
	if len(head) >= 2 && head[0] == 0x80 && head[1] >= 2 && head[1] <= 8 {
		return true
	}
	for _, prefix := range []string{"(lp", "(dp", "(tp", "(c", "(i", "(S'", "(I", "(F", "(V", "(ap", "ccopy_reg\n", "ccopyreg\n",
		"c__builtin__\n", "cbuiltins\n", "c__main__\n", "cos\n", "cposix\n", "cnt\n", "csubprocess\n", "]q", "}q", ")q", "]r", "}r", "(]q", "(}q"} {
		if bytes.HasPrefix(head, []byte(prefix)) {
			return true
		}
	}
	// Any other import: c, a module's name, a line end, a name in it, a line end.
	if head[0] == 'c' {
		lines := bytes.SplitN(head[1:], []byte("\n"), 3)
		return len(lines) == 3 && isIdentifier(lines[0]) && isIdentifier(lines[1])
	}
	// A lone number or text of protocol 0: "I42\n.", "S'x'\np0\n.".
	return bytes.IndexByte([]byte("IFLSV"), head[0]) >= 0 && bytes.Contains(head, []byte("\n")) && bytes.HasSuffix(bytes.TrimRight(head, "\n"), []byte("."))
}

func isIdentifier(name []byte) bool {
	for _, b := range name {
		if b != '_' && b != '.' && (b < '0' || b > '9') && (b|0x20 < 'a' || b|0x20 > 'z') {
			return false
		}
	}
	return len(name) > 0
}

// isONNX walks the first fields as far as they reach: all must be fields of a model, and the IR version, if it is
// there, must be a small number.
func isONNX(head []byte) bool {
	for at, seen := 0, 0; ; seen++ {
		number, wire, n := protowire.ConsumeTag(head[at:])
		if n < 0 || int(number) >= len(modelMessage.fields) {
			return seen > 0 && len(head)-at < headBytes && n < 0
		}
		at += n
		value, m := protowire.ConsumeVarint(head[at:])
		if m < 0 {
			return seen > 0
		}
		at += m
		switch known := modelMessage.fields[number].shape; {
		case known == varint && wire == protowire.VarintType:
			if number == 1 && (value == 0 || value > 1000) {
				return false
			}
		case (known == text || known == nested) && wire == protowire.BytesType:
			if value >= uint64(len(head)-at) {
				return seen > 0 || number == 7
			}
			at += int(value)
		default:
			return false
		}
	}
}

// isText takes UTF-8 without control characters other than white space.
func isText(head []byte) bool {
	head = wholeRunes(head)
	for _, b := range head {
		if b < ' ' && b != '\n' && b != '\r' && b != '\t' && b != '\f' {
			return false
		}
	}
	return utf8.Valid(head)
}

package registry

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode"

	"github.com/penstock/penstock/api"
)

// headBytes is how much of a file's beginning is looked at for magic numbers; tar has its own at 257.
const headBytes = 512

// magics are formats that are never taken, whatever the file is called, by the bytes at their place.
var magics = []struct {
	at    int
	bytes string
	name  string
}{
	{0, "PK\x03\x04", "a zip archive, as PyTorch and Keras write around pickle"},
	{0, "PK\x05\x06", "a zip archive"},
	{0, "\x89HDF\r\n\x1a\n", "HDF5, as Keras writes"},
	{0, "\x93NUMPY", "a NumPy array, which may hold pickle"},
	{0, "7z\xbc\xaf\x27\x1c", "a 7-Zip archive"},
	{0, "Rar!\x1a\x07", "a RAR archive"},
	{0, "\x1f\x8b\x08", "gzip"},
	{0, "\xfd7zXZ\x00", "xz"},
	{0, "\x28\xb5\x2f\xfd", "zstd"},
	{0, "\x04\x22\x4d\x18", "lz4"},
	{0, "BZh", "bzip2"},
	{257, "ustar", "a tar archive"},
	{0, "\x7fELF", "a program or shared library (ELF)"},
	{0, "\xcf\xfa\xed\xfe", "a program or shared library (Mach-O)"},
	{0, "\xca\xfe\xba\xbe", "a program (Mach-O or Java)"},
	{0, "\xce\xfa\xed\xfe", "a program or shared library (Mach-O)"},
	{0, "#!/", "a script"},
	{4, "TFL3", "TensorFlow Lite"},
	{4, "ORTM", "ONNX Runtime's own format"},
}

// textFormats are extensions of papers beside the model, with their ModelPack layer kind.
var textFormats = map[string]string{
	".md": "doc", ".txt": "doc", ".rst": "doc", ".json": "weight.config", ".yaml": "weight.config",
	".yml": "weight.config", ".csv": "doc", ".tsv": "doc",
}

// bareNames are papers that come without an extension.
var bareNames = map[string]bool{"license": true, "licence": true, "readme": true, "notice": true, "changelog": true, "authors": true}

// textKind says whether a path promises text, and as which kind of layer it is stored.
func textKind(p string) (kind string, is bool) {
	base := strings.ToLower(path.Base(p))
	if bareNames[base] {
		return "doc", true
	}
	kind = textFormats[path.Ext(base)]
	return kind, kind != ""
}

// refuseContent looks at a file's bytes, never at its name, and refuses what could run code when it is opened by the
// tools it was made for: pickle, archives around it, programs. Scanners that look inside such formats are no boundary; an
// allow-list of formats is. This one sees weights and papers too, so it must be exact where onnx.Sniff, which only ever
// sees what is pushed as a model, may be quick: any two bytes begin some tensor. For weights it says which format they begin as.
func refuseContent(file io.ReaderAt, size int64) (reason, weights string, _ error) {
	head := make([]byte, min(headBytes, size))
	if _, err := file.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", "", err
	}
	for _, m := range magics {
		if len(head) >= m.at+len(m.bytes) && string(head[m.at:m.at+len(m.bytes)]) == m.bytes {
			return m.name, "", nil
		}
	}
	switch {
	case bytes.HasPrefix(head, []byte("version https://git-lfs.github.com/spec/")):
		return "a Git LFS pointer, not the file itself; run `git lfs pull` first", "", nil
	case isPortableExecutable(file, head):
		return "a program (PE)", "", nil
	case isPickle(file, size):
		return "pickle, which runs code when it is opened", "", nil
	case isZlib(file, head, size):
		return "zlib, as joblib writes around pickle", "", nil
	}
	zip, err := endsAsZip(file, size)
	if err != nil || !zip {
		return "", weightFormat(head, size), err
	}
	return "also a zip archive (one is appended at its end)", "", nil
}

func isPortableExecutable(file io.ReaderAt, head []byte) bool {
	if len(head) < 0x40 || head[0] != 'M' || head[1] != 'Z' {
		return false
	}
	var mark [4]byte
	_, err := file.ReadAt(mark[:], int64(binary.LittleEndian.Uint32(head[0x3c:])))
	return err == nil && string(mark[:]) == "PE\x00\x00"
}

// isZlib tries to inflate, because two bytes alone also begin many a tensor.
func isZlib(file io.ReaderAt, head []byte, size int64) bool {
	if len(head) < 2 || head[0] != 0x78 || (uint16(head[0])<<8|uint16(head[1]))%31 != 0 {
		return false
	}
	z, err := zlib.NewReader(io.NewSectionReader(file, 0, size))
	if err != nil {
		return false
	}
	_, err = io.CopyN(io.Discard, z, 4096)
	return err == nil || errors.Is(err, io.EOF)
}

// endsAsZip finds the record that ends a zip archive. Zip readers begin at the end of a file, so one may be both. They find
// the archive's directory by its length, by its place, or by what zip64 writes before the record: one of these is enough.
func endsAsZip(file io.ReaderAt, size int64) (bool, error) {
	const record, locator, comment, entry = 22, 20, 1<<16 - 1, "PK\x01\x02"
	if size < record {
		return false, nil
	}
	tail := make([]byte, min(size, locator+record+comment))
	from := size - int64(len(tail))
	if _, err := file.ReadAt(tail, from); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	for i := len(tail) - record; i >= 0; i-- {
		r := tail[i:]
		if string(r[:4]) != "PK\x05\x06" || record+int(binary.LittleEndian.Uint16(r[20:])) > len(r) {
			continue
		}
		if i >= locator && string(tail[i-locator:i-locator+4]) == "PK\x06\x07" {
			return true, nil
		}
		length, place := int64(binary.LittleEndian.Uint32(r[12:])), int64(binary.LittleEndian.Uint32(r[16:]))
		for _, start := range []int64{from + int64(i) - length, place} {
			var mark [4]byte
			if start < 0 {
				continue
			}
			if _, err := file.ReadAt(mark[:], start); err == nil && string(mark[:]) == entry {
				return true, nil
			}
		}
	}
	return false, nil
}

// checkDocument makes sure that what is called a document is text, within its limit.
func (l Limits) checkDocument(name string, file io.ReaderAt, size int64) error {
	if size > l.DocBytes {
		return api.Fail(api.CodeTooLarge, name, "the document has %d bytes, over the limit of %d", size, l.DocBytes)
	}
	r := bufio.NewReader(io.NewSectionReader(file, 0, size))
	for {
		char, width, err := r.ReadRune()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read document %s: %w", name, err)
		}
		if char == unicode.ReplacementChar && width == 1 || badInText(char) {
			return api.Fail(api.CodeFormatRefused, name, "the file is named as a document, but is not UTF-8 text")
		}
	}
}

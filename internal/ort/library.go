package ort

import (
	"bufio"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/klauspost/compress/zstd"
)

// files holds the packed shared library once `make onnxruntime` has put it there; its README.md makes this compile
// without.
//
//go:embed lib
var files embed.FS

const (
	libraryName = "libonnxruntime.so.1"
	// skippable is the magic number of the zstd frame in which the packed file describes itself.
	skippable = 0x184D2A50
	// maxHeader and maxLibrary bound what unpacking takes from a damaged build: bytes.
	maxHeader  = 4 << 10
	maxLibrary = 1 << 30
	// maxWindow is the most memory that zstd may ask for, in bytes; the file is packed with 8 MiB.
	maxWindow = 64 << 20
)

// packed describes the shared library in the binary.
type packed struct {
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
	Size    int64  `json:"size"`
}

// openPacked opens the embedded file and reads what it says about itself; the reader stands at the zstd data.
func openPacked() (packed, *bufio.Reader, error) {
	file, err := files.Open("lib/onnxruntime-" + runtime.GOOS + "-" + runtime.GOARCH + ".so.zst")
	if errors.Is(err, fs.ErrNotExist) {
		return packed{}, nil, ErrNotFetched
	}
	if err != nil {
		return packed{}, nil, err
	}
	r := bufio.NewReaderSize(file, 1<<20) // embedded files need no closing
	var frame [8]byte
	if _, err := io.ReadFull(r, frame[:]); err != nil {
		return packed{}, nil, fmt.Errorf("read the packed library: %w", err)
	}
	size := binary.LittleEndian.Uint32(frame[4:])
	if binary.LittleEndian.Uint32(frame[:]) != skippable || size > maxHeader {
		return packed{}, nil, errors.New("the packed library has no header: run `make onnxruntime` again")
	}
	head := make([]byte, size)
	if _, err := io.ReadFull(r, head); err != nil {
		return packed{}, nil, fmt.Errorf("read the packed library: %w", err)
	}
	var p packed
	if err := json.Unmarshal(head, &p); err != nil {
		return packed{}, nil, fmt.Errorf("read the packed library's header: %w", err)
	}
	if raw, err := hex.DecodeString(p.SHA256); err != nil || len(raw) != sha256.Size || p.Size <= 0 || p.Size > maxLibrary {
		return packed{}, nil, errors.New("the packed library's header is damaged: run `make onnxruntime` again")
	}
	return p, r, nil
}

// unpack makes sure that the library lies in a private folder below cacheDir, named by its digest, and returns its path.
// Whatever is loaded runs with all rights of this process, so a folder that others may write to is refused and the
// file's digest is checked each time (25 ms).
func unpack(cacheDir string) (string, error) {
	p, r, err := openPacked()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(cacheDir, "onnxruntime-"+p.SHA256)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("make the library's cache: %w", err)
	}
	if err := private(folder); err != nil {
		return "", err
	}
	path := filepath.Join(folder, libraryName)
	if verify(path, p) == nil {
		return path, nil
	}
	if err := write(path, p, r); err != nil {
		return "", fmt.Errorf("unpack ONNX Runtime into %s: %w", folder, err)
	}
	return path, nil
}

// Unpack puts the library in its place, so that a process which may not write there finds it.
func Unpack(cacheDir string) error {
	_, err := unpack(cacheDir)
	return err
}

func private(folder string) error {
	info, err := os.Lstat(folder)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o022 != 0 || !ok || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s must be a folder of this user (uid %d) that nobody else may write to", folder, os.Geteuid())
	}
	return nil
}

func verify(path string, p packed) error {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(file, p.Size+1))
	if err != nil {
		return err
	}
	if n != p.Size || hex.EncodeToString(sum.Sum(nil)) != p.SHA256 {
		return fmt.Errorf("%s does not have the digest sha256:%s", path, p.SHA256)
	}
	return nil
}

// write unpacks beside the target and renames, so that several processes may do it at once and none sees half a file. It
// does not wait for the disk: a file that a power cut damaged fails verify and is unpacked again.
func write(path string, p packed, r io.Reader) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), ".unpack-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, temp.Close(), os.Remove(temp.Name()))
		}
	}()
	decoder, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return err
	}
	defer decoder.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(temp, sum), io.LimitReader(decoder, p.Size+1))
	if err != nil {
		return err
	}
	if n != p.Size || hex.EncodeToString(sum.Sum(nil)) != p.SHA256 {
		return errors.New("the packed library does not have the digest that its header names")
	}
	if err := temp.Chmod(0o500); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return temp.Close()
}

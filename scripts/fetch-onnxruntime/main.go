// Command fetch-onnxruntime installs the npm package onnxruntime-node at its locked version, takes the shared library
// for this machine's architecture out of it and packs that into internal/ort/lib, where internal/ort embeds it. It does
// nothing when the packed library is there already in that version. Only make calls it, from the repository's root.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

const (
	lockFolder = "third_party/onnxruntime-node"
	libFolder  = "internal/ort/lib"
	// workFolder holds node_modules while the package is unpacked: about 300 MB, removed afterwards.
	workFolder = ".cache/onnxruntime-node"
	// skippable is the magic number of the zstd frame that holds the header; every zstd reader passes over it.
	skippable = 0x184D2A50
	// window keeps the memory that unpacking needs small; a larger one saves less than 1 %.
	window = 8 << 20
)

// header describes the packed library; internal/ort reads it.
type header struct {
	Version string `json:"version"` // of ONNX Runtime
	SHA256  string `json:"sha256"`  // of the unpacked library, hex
	Size    int64  `json:"size"`    // of the unpacked library, bytes
}

func main() {
	arch := flag.String("arch", runtime.GOARCH, "architecture to fetch for: amd64 or arm64")
	flag.Parse()
	if err := run(*arch); err != nil {
		slog.Error("fetch onnxruntime", "err", err)
		os.Exit(1)
	}
}

func run(arch string) error {
	folder, ok := map[string]string{"amd64": "x64", "arm64": "arm64"}[arch]
	if !ok {
		return fmt.Errorf("onnxruntime-node has no library for linux/%s", arch)
	}
	version, err := lockedVersion()
	if err != nil {
		return err
	}
	target := filepath.Join(libFolder, "onnxruntime-linux-"+arch+".so.zst")
	if packedVersion(target) == version {
		slog.Info("onnxruntime is there already", "file", target, "version", version)
		return nil
	}
	if err := install(); err != nil {
		return err
	}
	source := filepath.Join(workFolder, "node_modules/onnxruntime-node/bin/napi-v6/linux", folder, "libonnxruntime.so.1")
	library, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	packed, err := pack(library, version)
	if err != nil {
		return err
	}
	if err := replaceFile(target, packed); err != nil {
		return err
	}
	slog.Info("packed onnxruntime", "file", target, "version", version, "bytes", len(packed), "unpacked", len(library))
	return os.RemoveAll(workFolder)
}

func lockedVersion() (string, error) {
	raw, err := os.ReadFile(filepath.Join(lockFolder, "package-lock.json"))
	if err != nil {
		return "", fmt.Errorf("read the lock file (run this from the repository's root): %w", err)
	}
	var lock struct {
		Packages map[string]struct {
			Version   string `json:"version"`
			Integrity string `json:"integrity"`
		} `json:"packages"`
	}
	if err := json.Unmarshal(raw, &lock); err != nil {
		return "", fmt.Errorf("read the lock file: %w", err)
	}
	locked := lock.Packages["node_modules/onnxruntime-node"]
	if locked.Version == "" || locked.Integrity == "" {
		return "", errors.New("the lock file names no version or no integrity hash for onnxruntime-node")
	}
	return locked.Version, nil
}

// packedVersion reads the header of a packed library; empty when there is none that can be read.
func packedVersion(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	head := make([]byte, 4096)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return ""
	}
	head = head[:n]
	if len(head) < 8 || binary.LittleEndian.Uint32(head) != skippable {
		return ""
	}
	size := binary.LittleEndian.Uint32(head[4:])
	if uint64(size) > uint64(len(head)-8) {
		return ""
	}
	var h header
	if json.Unmarshal(head[8:8+size], &h) != nil {
		return ""
	}
	return h.Version
}

// install runs npm ci in a folder of its own, so that no node_modules appears in the tree. npm checks the lock file's
// integrity hashes; install scripts stay off, because the package's own would download more.
func install() error {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return errors.New("npm is needed to fetch ONNX Runtime: install Node.js with npm (Debian: apt-get install nodejs npm)")
	}
	if err := os.MkdirAll(workFolder, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"package.json", "package-lock.json", ".npmrc"} {
		content, err := os.ReadFile(filepath.Join(lockFolder, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(workFolder, name), content, 0o644); err != nil {
			return err
		}
	}
	cmd := exec.Command(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir, cmd.Stdout, cmd.Stderr = workFolder, os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("npm ci: %w", err)
	}
	return nil
}

func pack(library []byte, version string) ([]byte, error) {
	sum := sha256.Sum256(library)
	head, err := json.Marshal(header{Version: version, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(library))})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	frame := binary.LittleEndian.AppendUint32(nil, skippable)
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(head)))
	out.Write(append(frame, head...))
	w, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(window))
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(library); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// replaceFile makes the file whole or not at all: an interrupted make leaves no half library to embed.
func replaceFile(path string, content []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".packing-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp.Name()) }() // fails when the rename worked
	if err := temp.Chmod(0o644); err != nil {
		return errors.Join(err, temp.Close())
	}
	if _, err := temp.Write(content); err != nil {
		return errors.Join(err, temp.Close())
	}
	if err := temp.Sync(); err != nil {
		return errors.Join(err, temp.Close())
	}
	if err := temp.Close(); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}

package onnxruntime

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/ort"
)

// model is a file that is loaded, once however many instances hold it: instances differ in how they are asked, not in what
// they compute, and a session's runs do not wait for each other. One session also shares everything that there is to
// share: weights as they are in the file, weights as kernels have rearranged them, and the arena.
type model struct {
	key     modelKey
	ready   chan struct{} // closed when failed, or session and runtime, are set
	failed  error
	session *ort.Session
	runtime *ort.Runtime
	users   int          // guarded by Engine.mu
	first   atomic.Int64 // bytes that the arena had taken when the model was loaded
}

// modelKey tells files apart. The path says what is in a file, as versions never change; the rest guards against a path
// that was used again for another file.
type modelKey struct {
	path     string
	device   uint64
	inode    uint64
	size     int64
	modified time.Time
}

func keyOf(path string) modelKey {
	key := modelKey{path: path}
	info, err := os.Stat(path)
	if err != nil {
		return key // loading says what is wrong
	}
	key.size, key.modified = info.Size(), info.ModTime()
	if system, ok := info.Sys().(*syscall.Stat_t); ok {
		key.device, key.inode = uint64(system.Dev), system.Ino
	}
	return key
}

// hold gives the model of a file, and loads it when no instance has it. While one load of a file is under way, others wait
// for it; when it fails, which may be because its caller left, the next tries again. letGo ends the use.
func (e *Engine) hold(ctx context.Context, load engine.Load) (*model, error) {
	key := keyOf(load.Path)
	for {
		m, first, err := e.claimModel(key, load.Instance)
		if err != nil {
			return nil, err
		}
		if first {
			if m.failed = e.read(ctx, m, load); m.failed != nil {
				e.forget(m)
				e.letGo(m)
			}
			close(m.ready)
			return m, m.failed
		}
		select {
		case <-m.ready:
		case <-ctx.Done():
			e.letGo(m)
			return nil, ended(ctx, load.Instance)
		}
		if m.failed == nil {
			return m, nil
		}
		e.letGo(m)
		if ctx.Err() != nil {
			return nil, ended(ctx, load.Instance)
		}
	}
}

func (e *Engine) claimModel(key modelKey, instance string) (_ *model, first bool, _ error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed() {
		return nil, false, lost(instance)
	}
	m := e.models[key]
	if m == nil {
		m, first = &model{key: key, ready: make(chan struct{})}, true
		e.models[key] = m
	}
	m.users++
	return m, first, nil
}

// forget makes the next who wants the file load it again.
func (e *Engine) forget(m *model) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.models[m.key] == m {
		delete(e.models, m.key)
	}
}

// letGo ends one use of a model; the last one closes the session.
func (e *Engine) letGo(m *model) {
	e.mu.Lock()
	m.users--
	last := m.users == 0
	if last && e.models[m.key] == m {
		delete(e.models, m.key)
	}
	e.mu.Unlock()
	if last && m.session != nil {
		m.session.Close()
		e.trimSoon()
	}
}

// read makes the session.
func (e *Engine) read(ctx context.Context, m *model, load engine.Load) error {
	opened, err := e.open()
	if err != nil {
		return err
	}
	both, stop := merge(ctx, e.ctx)
	defer stop()
	session, err := e.session(both, opened, m.key, load.Instance)
	switch {
	case err != nil && e.closed():
		return lost(load.Instance)
	case err != nil && ctx.Err() != nil:
		return ended(ctx, load.Instance)
	case err != nil:
		return refuse(load, err)
	}
	m.session, m.runtime = session, opened
	return nil
}

const (
	// smallFile is the most bytes of a model's file that are read into memory which is kept for the next one. The runtime
	// would take fresh pages for that, and give them back.
	smallFile = 4 << 20
	// folderKey is ONNX Runtime's name for the folder in which a model that comes from memory finds its other files.
	folderKey = "session.model_external_initializers_file_folder_path"
)

// session makes the session of a file.
func (e *Engine) session(ctx context.Context, opened *ort.Runtime, key modelKey, instance string) (*ort.Session, error) {
	options := ort.SessionOptions{LogID: instance}
	if key.size == 0 || key.size > smallFile {
		return opened.LoadFile(ctx, key.path, options)
	}
	buffer := e.takeBuffer()
	defer e.giveBuffer(buffer)
	n, err := readInto(buffer, key.path)
	if err != nil || int64(n) != key.size {
		return opened.LoadFile(ctx, key.path, options) // which says what is wrong with it
	}
	options.Config = map[string]string{folderKey: filepath.Dir(key.path)}
	return opened.LoadBytes(ctx, buffer[:n], options)
}

// readInto reads a file that fits; one that does not gives as many bytes as there is room for.
func readInto(buffer []byte, path string) (int, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	n, err := io.ReadFull(file, buffer)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, err
}

// takeBuffer gives the buffer for small files. Loads hardly ever overlap; one that does has its own.
func (e *Engine) takeBuffer() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	buffer := e.buffer
	e.buffer = nil
	if buffer == nil {
		buffer = make([]byte, smallFile+1) // one more shows that a file has grown
	}
	return buffer
}

func (e *Engine) giveBuffer(buffer []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.buffer = buffer
}

package onnxruntime

import (
	"context"
	"os"
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
	users   int // guarded by Engine.mu
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
		ort.TrimMemory() // else most of the model's memory would stay with the C allocator
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
	session, err := opened.LoadFile(both, load.Path, ort.SessionOptions{LogID: load.Instance})
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

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/server"
)

// stage is everything that runs while cells are measured.
type stage struct {
	options   options
	dir       string
	runtime   *ort.Runtime
	tiny, mid *model
	layers    int
	layersMS  float64
	peer      *child
	server    *child
	before    *child // nil without options.before
	client    *client.Client
	memory    []resident
}

// open starts the bare servers and Penstock and gives both the models. The runtime's threads are those of a worker: with
// its defaults a server has two workers and shares the processors among them.
func open(ctx context.Context, dir string, o options) (_ *stage, err error) {
	s := &stage{options: o, dir: dir}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.runtime, err = ort.Open(s.cache(), ort.Options{IntraThreads: 1}); err != nil {
		return nil, err
	}
	digits, err := os.ReadFile(filepath.Join(o.demo, "digits-v1.onnx"))
	if err != nil {
		return nil, err
	}
	if s.tiny, err = s.load(ctx, "tiny", digits, digitsInput()); err != nil {
		return nil, err
	}
	if s.layers, s.layersMS, err = calibrate(ctx, s.runtime); err != nil {
		return nil, err
	}
	if s.mid, err = s.load(ctx, "5ms", layered(s.layers), layeredInput()); err != nil {
		return nil, err
	}
	if err = s.startPeer(); err != nil {
		return nil, err
	}
	if err = s.startServer(ctx); err != nil || o.before == "" {
		return s, err
	}
	return s, s.startBefore(ctx)
}

func (s *stage) cache() string { return filepath.Join(s.dir, "cache") }

func (s *stage) load(ctx context.Context, name string, file []byte, input ort.Tensor) (*model, error) {
	session, err := s.runtime.LoadBytes(ctx, file, ort.SessionOptions{})
	if err != nil {
		return nil, err
	}
	return &model{name: name, file: file, input: input, outputs: session.Outputs(), session: session}, nil
}

func newInProcess(m *model) *inProcess { return &inProcess{model: m, input: []ort.Tensor{m.input}} }

func (s *stage) startPeer() (err error) {
	cfg := peerConfig{Cache: s.cache(), Models: map[string]peerModel{}}
	for _, m := range []*model{s.tiny, s.mid} {
		path, err := pathOf(s.dir, m.name, m.file)
		if err != nil {
			return err
		}
		cfg.Models[m.name] = peerModel{Path: path, Input: m.input.Name, Shape: m.input.Shape}
	}
	s.peer, err = start("peer", cfg)
	return err
}

// config is a server with its default settings, but for addresses and keys.
func (s *stage) config(data string) server.Config {
	return server.Config{Data: data, Cache: s.cache(), SharedMemoryMB: 256, HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0", Metrics: "127.0.0.1:0",
		Dev: true, PrintAddresses: true, LogLevel: "warn"}
}

func (s *stage) startServer(ctx context.Context) (err error) {
	if s.server, err = start("serve", s.config(filepath.Join(s.dir, "data"))); err != nil {
		return err
	}
	if s.client, err = client.New(client.Config{Server: s.server.HTTP, Tenant: api.DefaultTenant}); err != nil {
		return err
	}
	if err := s.workersReady(ctx); err != nil {
		return err
	}
	if err := s.weigh("idle, no model"); err != nil {
		return err
	}
	for _, m := range []*model{s.tiny, s.mid} {
		if err := deploy(ctx, s.client, m.name, m.file); err != nil {
			return err
		}
		if err := s.weigh("idle, " + m.name + " deployed too"); err != nil {
			return err
		}
	}
	return nil
}

// startBefore starts the server of another build and deploys the models there too.
func (s *stage) startBefore(ctx context.Context) (err error) {
	if s.before, err = startOf(s.options.before, "serve", s.config(filepath.Join(s.dir, "before"))); err != nil {
		return err
	}
	c, err := client.New(client.Config{Server: s.before.HTTP, Tenant: api.DefaultTenant})
	if err != nil {
		return err
	}
	for _, m := range []*model{s.tiny, s.mid} {
		if err := deploy(ctx, c, m.name, m.file); err != nil {
			return err
		}
	}
	return nil
}

// workersReady waits until every worker process answers.
func (s *stage) workersReady(ctx context.Context) error {
	return poll(ctx, readyWithin, func() bool {
		workers, err := s.client.Workers(ctx)
		for _, w := range workers {
			if w.State != "ready" {
				return false
			}
		}
		return err == nil && len(workers) > 0
	})
}

// poll asks until the answer is yes.
func poll(ctx context.Context, limit time.Duration, yes func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

func (s *stage) weigh(what string) error {
	m, err := memoryOf(s.server.pid)
	m.What = what
	s.memory = append(s.memory, m)
	return err
}

// push uploads and commits a model as the command line does.
func push(ctx context.Context, c *client.Client, name string, file []byte) (api.Version, error) {
	sum := sha256.Sum256(file)
	digest := api.Digest("sha256:" + hex.EncodeToString(sum[:]))
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file)), nil }
	if _, err := c.PutBlob(ctx, client.Blob{Digest: digest, Size: int64(len(file)), Open: open}); err != nil {
		return api.Version{}, err
	}
	return c.Commit(ctx, api.ModelName("m-"+name), api.Upload{Files: []api.UploadFile{{Path: "model.onnx", Digest: digest, Size: int64(len(file))}}})
}

// deploy pushes a model and releases it under its own name.
func deploy(ctx context.Context, c *client.Client, name string, file []byte) error {
	v, err := push(ctx, c, name, file)
	if err != nil {
		return err
	}
	return release(ctx, c, name, v)
}

func release(ctx context.Context, c *client.Client, name string, v api.Version) error {
	spec := api.EndpointSpec{Variants: []api.VariantSpec{{Model: fmt.Sprintf("m-%s@%d", name, v.Number)}}}
	rel, err := c.Deploy(ctx, api.EndpointName(name), api.DeployRequest{EndpointSpec: spec}, 0, time.Minute)
	if err == nil && rel.State != api.ReleaseSucceeded {
		err = fmt.Errorf("release %d of %s is %s: %s", rel.Number, name, rel.State, rel.Reason)
	}
	return err
}

// explain ends the children and adds what they said and how they ended: a connection that breaks says nothing itself.
func (s *stage) explain(err error) error {
	for name, c := range map[string]*child{"bare servers": s.peer, "penstock": s.server, "penstock before": s.before} {
		if c == nil {
			continue
		}
		gone := false
		select {
		case <-c.exited:
			gone = true
		default:
		}
		c.kill()
		if gone {
			err = fmt.Errorf("%w\n%s: ended before with %s", err, name, c.cmd.ProcessState)
		}
		if log := c.log.String(); log != "" {
			err = fmt.Errorf("%w\n%s: %s", err, name, log[max(0, len(log)-4000):])
		}
	}
	return err
}

func (s *stage) close() {
	for _, c := range []*child{s.server, s.before, s.peer} {
		if c != nil {
			c.kill()
		}
	}
	for _, m := range []*model{s.tiny, s.mid} {
		if m != nil {
			m.session.Close()
		}
	}
	if s.runtime != nil {
		s.runtime.Close()
	}
}

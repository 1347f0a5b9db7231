package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/penstock/penstock/internal/engine/onnxruntime"
	"github.com/penstock/penstock/internal/provider"
)

// limits are those of each worker.
func (s *System) limits() provider.Limits {
	return provider.Limits{MemoryBytes: s.cfg.WorkerMemoryMB << 20, Processors: s.cfg.WorkerCPU}
}

// sandbox is what workers may read: their program, the runtime's library, the model cache. It says once what holds on this
// system; a part that does not is no reason not to start, unless it is required.
func (s *System) sandbox(executable string) (*provider.Sandbox, error) {
	if s.cfg.InProcess {
		return nil, nil
	}
	can, missing := s.places.Abilities(s.limits())
	if s.cfg.NoSandbox {
		can.Network, can.Files = "", ""
		s.log.Warn("workers run without a sandbox: they may reach the network, and files as the server can")
	}
	s.log.Info("workers are held", "network", held(can.Network), "files", held(can.Files), "memory", held(can.Memory), "cpu", held(can.CPU))
	if s.cfg.RequireSandbox && (can.Network == "" || can.Files == "") {
		return nil, fmt.Errorf("--require-sandbox: workers cannot be kept from the network (%s) and from files (%s) here: %w", held(can.Network), held(can.Files), missing)
	}
	if s.cfg.NoSandbox {
		return nil, nil
	}
	if missing != nil {
		s.log.Warn("the system does not allow all of the sandbox", "missing", missing)
	}
	if err := onnxruntime.Prepare(s.cfg.Cache); err != nil {
		return nil, fmt.Errorf("unpack ONNX Runtime for the workers: %w", err)
	}
	models := filepath.Join(s.cfg.Data, "cache", "models")
	if err := os.MkdirAll(models, 0o700); err != nil { // a rule is about a folder that is there
		return nil, fmt.Errorf("make the model cache: %w", err)
	}
	box := &provider.Sandbox{}
	var faults []error
	for _, path := range []string{executable, s.cfg.Cache, models} {
		absolute, err := filepath.Abs(path)
		box.Read = append(box.Read, absolute)
		faults = append(faults, err)
	}
	return box, errors.Join(faults...)
}

func held(how string) string {
	if how == "" {
		return "no"
	}
	return how
}

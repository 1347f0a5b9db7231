package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock/penstock/api"
)

// RefuseContent lets the fuzz target and the sampling test reach the scanner without a store around it.
var RefuseContent = refuseContent

// ReadManifest lets the fuzz target reach the reader of others' manifests: what it takes of them, or why not.
func ReadManifest(body []byte) (artifacts []api.Artifact, model bool, _ error) {
	m, err := readManifest(body, "")
	if err != nil {
		return nil, false, err
	}
	if !m.isModel() {
		return nil, false, nil
	}
	artifacts, err = Limits{}.withDefaults().parseManifest(body)
	if err == nil && m.Config == nil {
		err = fmt.Errorf("a model without a config")
	}
	return artifacts, true, err
}

// Runs reports whether Run has begun.
func (c *Collector) Runs() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.life != nil
}

// Step is one look of the loop.
func (c *Collector) Step(ctx context.Context) (time.Duration, error) {
	return c.step(ctx, collectLease)
}

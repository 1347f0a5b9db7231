package registry

import (
	"context"
	"fmt"

	"github.com/penstock/penstock/api"
)

// Entry gives the digest of a version's entry file: versions with different cards or tags have the same one when the file
// is the same.
func (c *Catalog) Entry(ctx context.Context, manifest api.Digest) (api.Digest, error) {
	body, err := c.readSmall(ctx, manifest)
	if err != nil {
		return "", fmt.Errorf("read manifest: %w", err)
	}
	artifacts, err := c.limits.parseManifest(body)
	if err != nil {
		return "", api.Fail(api.CodeModelRefused, manifest.Short(), "the version's manifest cannot be used").Because(err)
	}
	for _, a := range artifacts {
		if a.Role == api.RoleModel {
			return a.Digest, nil
		}
	}
	return "", api.Fail(api.CodeModelRefused, manifest.Short(), "the version's manifest names no model file")
}

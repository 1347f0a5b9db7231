package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/blob/cloud"
	"github.com/penstock/penstock/internal/blob/files"
)

// spoolFolder of the data directory holds blobs on their way to an object store.
const spoolFolder = "spool"

// blobs is an open blob store of either kind.
type blobs interface {
	blob.Store
	io.Closer
}

// openBlobs opens the store that --blobs names. Drivers are told apart here and nowhere else.
func openBlobs(ctx context.Context, cfg *Config, log *slog.Logger) (blobs, error) {
	dir, err := cfg.blobDir()
	if err != nil {
		return nil, err
	}
	if dir == "" {
		store, err := cloud.Open(ctx, cloud.Config{URL: cfg.Blobs, Spool: filepath.Join(cfg.Data, spoolFolder), Log: log})
		if err != nil {
			return nil, fmt.Errorf("--blobs: %w", err)
		}
		return store, nil
	}
	store, err := files.Open(files.Config{Dir: dir})
	if err != nil {
		return nil, fmt.Errorf("open the blobs: %w", err)
	}
	return store, nil
}

// blobDir is the directory that --blobs names, or empty when it names an object store.
func (c *Config) blobDir() (string, error) {
	if c.Blobs == "" {
		return filepath.Join(c.Data, "blobs"), nil
	}
	scheme, rest, ok := strings.Cut(c.Blobs, ":")
	switch {
	case !ok:
		return c.Blobs, nil
	case scheme == "file":
		return strings.TrimPrefix(rest, "//"), nil
	}
	if err := cloud.Check(c.Blobs); err != nil {
		return "", fmt.Errorf("--blobs: %w", err)
	}
	return "", nil
}

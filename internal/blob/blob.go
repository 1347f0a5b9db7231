// Package blob is the seam to content-addressed bytes: a blob's only name is its sha256 digest. Its drivers keep
// files on disk, or objects in a bucket. It knows nothing of models or tenants; which blobs are
// still needed is the registry's business. Callers: registry, server.
package blob

import (
	"context"
	"io"

	"github.com/penstock/penstock/api"
)

// Store keeps blobs. All methods may be called from many goroutines and several processes may share one store.
// Errors are *api.Error: CodeBlobNotFound, CodeDigestMismatch, CodeTooLarge; CodeStorage when nothing gets better by
// waiting, CodeUnavailable when a store is away or overloaded.
type Store interface {
	// Put streams r into the store, hashing while it writes, at most limit bytes (CodeTooLarge beyond). When want is not
	// empty and the bytes hash to something else, nothing is kept (CodeDigestMismatch). When Put returns without error
	// the blob is durable: file and directory are synced, or the object store was asked for it and has it. Putting the same bytes twice keeps one copy.
	Put(ctx context.Context, r io.Reader, want api.Digest, limit int64) (Info, error)

	// Stat says whether a blob is here and how long it is.
	Stat(ctx context.Context, digest api.Digest) (Info, error)

	// Open reads a blob; the caller closes it. The reader can seek, and ends with ctx. Where blobs are files it also outlives
	// the blob's deletion; elsewhere a small blob does.
	Open(ctx context.Context, digest api.Digest) (io.ReadSeekCloser, error)

	// Delete removes a blob; an absent one is no error.
	Delete(ctx context.Context, digest api.Digest) error

	// List calls each for every blob, in any order, until it returns an error.
	List(ctx context.Context, each func(Info) error) error
}

// Local is an extra ability of a Store whose blobs are plain files on this machine. The registry uses it to link a model
// file into its cache where it would otherwise copy it. Only the registry probes for it.
type Local interface {
	// Path names the file that holds a blob. The file is read-only and never changes while it exists: callers may read
	// and hard-link it, and must not write, move or remove it. Errors are those of Stat.
	Path(ctx context.Context, digest api.Digest) (string, error)
}

// Keeper is an extra ability of a Store that can take a file over instead of copying it. Only the registry probes for it.
type Keeper interface {
	// Keep makes a file on this machine a blob: the file goes away, and the blob is durable, as with Put. The caller has
	// computed info from the very bytes, has synced them, and touches the file no more. The error is errors.ErrUnsupported
	// when the file lies where it cannot be moved from; then it is still there, and Put can copy it.
	Keep(ctx context.Context, path string, info Info) error
}

// Info describes one blob.
type Info struct {
	Digest api.Digest
	Size   int64
}

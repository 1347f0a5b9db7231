// Package cloud keeps blobs in an object store: S3 and what speaks its protocol, Azure Blob Storage, and Google Cloud
// Storage in binaries built with the tag gcs. It is the blob.Store over gocloud.dev/blob; beyond that it uploads large blobs
// to S3 in parts of its own, which it can check and abort. It knows nothing of tenants or of what is still needed. Only
// server opens it.
package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	cloudblob "gocloud.dev/blob"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
)

// Config says where the blobs lie and how patient the store is. Zero fields take the defaults named.
type Config struct {
	URL   string // s3://BUCKET/PREFIX?…, azblob://CONTAINER/PREFIX?… or gs://BUCKET/PREFIX?…; see Check
	Spool string // folder for blobs on their way to the store; made when missing; default the system's temporary folder

	Credentials aws.CredentialsProvider // of S3; nil: the standard chain of the AWS SDK

	Attempts int           // tries of one request, the first one among them; default 6
	Backoff  time.Duration // longest wait between two tries; default 5 s
	Stall    time.Duration // a connection on which nothing moves for so long is given up; default 30 s
	Streams  int           // uploads at once that hold parts in memory; default 4; more go through the spool
	Stale    time.Duration // age at which an upload that nobody finished is removed at Open; default 24 h

	Log *slog.Logger // nil: slog.Default
}

const (
	stored      = "sha256/"        // every blob's key begins so, after the prefix
	headBytes   = 256 << 10        // of a blob that Open brings along: small blobs cost one request
	smallBytes  = 1 << 20          // up to here a blob is held in memory whole and sent in one request
	partBytes   = 5 << 20          // of a large one, the least that S3 takes: an upload holds three of them
	partsMax    = 9_000            // of one blob; S3 takes 10,000
	earlyParts  = 7_000            // of a blob whose length is not known; 34 GiB
	lateBytes   = 32 << 20         // of the parts after them, so that 2,000 more are 96 GiB in all
	partsAtOnce = 2                // parts of one upload on their way at once
	accessTime  = 30 * time.Second // longest look at the store when it is opened
	abortTime   = 30 * time.Second // longest attempt to remove the parts of an upload that failed
)

func (c *Config) orDefault() {
	if c.Spool == "" {
		c.Spool = os.TempDir()
	}
	if c.Attempts <= 0 {
		c.Attempts = 6
	}
	if c.Backoff <= 0 {
		c.Backoff = 5 * time.Second
	}
	if c.Stall <= 0 {
		c.Stall = 30 * time.Second
	}
	if c.Streams <= 0 {
		c.Streams = 4
	}
	if c.Stale <= 0 {
		c.Stale = 24 * time.Hour
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// Store is a blob.Store in a bucket, and a blob.Keeper.
type Store struct {
	cfg     Config
	prefix  string // before every key; empty or ends with a slash
	bucket  *cloudblob.Bucket
	parts   partwise      // nil where large blobs go through the bucket's own writer
	streams chan struct{} // one token per upload that holds parts in memory
	sending chan struct{} // one token per upload from the spool
	smalls  sync.Pool     // of *[smallBytes]byte
}

var (
	_ blob.Store  = (*Store)(nil)
	_ blob.Keeper = (*Store)(nil)
)

// Open connects to a bucket. What no patience cures (a bucket that does not exist, credentials that are refused) is an
// error. A service that is merely away is not: the server starts, serves what its cache holds, and each call says so.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg.orDefault()
	at, err := parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Spool, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool folder: %w", err)
	}
	s := newStore(cfg, at.prefix)
	if s.bucket, s.parts, err = at.open(ctx, cfg); err != nil {
		return nil, fmt.Errorf("open the blob store: %w", err)
	}
	if err := s.look(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func newStore(cfg Config, prefix string) *Store {
	return &Store{cfg: cfg, prefix: prefix, streams: make(chan struct{}, cfg.Streams), sending: make(chan struct{}, cfg.Streams)}
}

// Close gives the connections back. Blobs that are being read end with an error.
func (s *Store) Close() error { return s.bucket.Close() }

// look asks the store for one key, and removes what uploads left that were never finished.
func (s *Store) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, accessTime)
	defer cancel()
	_, err := s.bucket.List(&cloudblob.ListOptions{Prefix: s.prefix + stored}).Next(ctx)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil && s.parts != nil {
		removed, err := s.parts.sweep(ctx, s.prefix+stored, time.Now().Add(-s.cfg.Stale))
		if err != nil { // it costs money, not blobs
			s.cfg.Log.Warn("unfinished uploads could not be removed from the blob store", "error", err)
		}
		if removed > 0 {
			s.cfg.Log.Info("removed unfinished uploads from the blob store", "uploads", removed)
		}
		return nil
	}
	if err == nil {
		return nil
	}
	err = s.fail("be opened", "", err)
	if !api.Is(err, api.CodeStorage) {
		s.cfg.Log.Warn("the blob store is away; what is cached is served", "error", err, "cause", errors.Unwrap(err))
		return nil
	}
	return err
}

// Stat says how long a blob is.
func (s *Store) Stat(ctx context.Context, digest api.Digest) (blob.Info, error) {
	key, err := s.key(digest)
	if err != nil {
		return blob.Info{}, err
	}
	attributes, err := s.bucket.Attributes(ctx, key)
	if err != nil {
		return blob.Info{}, s.fail("look for a blob", digest, err)
	}
	return blob.Info{Digest: digest, Size: attributes.Size}, nil
}

// Delete removes a blob; an absent one is no error.
func (s *Store) Delete(ctx context.Context, digest api.Digest) error {
	key, err := s.key(digest)
	if err != nil {
		return err
	}
	if err := s.bucket.Delete(ctx, key); err != nil {
		err = s.fail("delete a blob", digest, err)
		if !api.Is(err, api.CodeBlobNotFound) {
			return err
		}
	}
	return nil
}

// List calls each for every blob. Keys that are no blobs are passed over.
func (s *Store) List(ctx context.Context, each func(blob.Info) error) error {
	prefix := s.prefix + stored
	keys := s.bucket.List(&cloudblob.ListOptions{Prefix: prefix})
	for {
		object, err := keys.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return s.fail("list blobs", "", err)
		}
		digest := api.Digest("sha256:" + strings.TrimPrefix(object.Key, prefix))
		if object.IsDir || !digest.Valid() {
			continue
		}
		if err := each(blob.Info{Digest: digest, Size: object.Size}); err != nil {
			return err
		}
	}
}

// key is where a blob lies. Only a well-formed digest ever becomes part of a key.
func (s *Store) key(digest api.Digest) (string, error) {
	if !digest.Valid() {
		return "", api.Fail(api.CodeBadName, "", "this is not a digest; one is sha256: and 64 lower-case hex digits").
			WithCure("Give the whole digest as `penstock show` prints it.")
	}
	return s.prefix + stored + digest.Hex(), nil
}

// pause waits before the next try: longer each time, and by chance, so that many callers do not come back at once.
func pause(ctx context.Context, attempt int, longest time.Duration) error {
	timer := time.NewTimer(delay(attempt, longest))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// delay is up to 100 ms before the first repetition, and up to twice as long before each further one.
func delay(attempt int, longest time.Duration) time.Duration {
	const first, doublings = 100 * time.Millisecond, 16
	return rand.N(min(first<<min(max(attempt, 0), doublings), longest) + 1)
}

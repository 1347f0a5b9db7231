// Package oci is the registry's door for OCI clients: the distribution API under /v2/ with its tokens, uploads that
// survive a restart, and error bodies as the specification has them. It decides nothing about models and keeps nothing
// but unfinished uploads; the Catalog behind it does. Callers: server.
package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/penstock/penstock/api"
)

// Guard knows the keys, and the short-lived tokens that stand for them.
type Guard interface {
	// Authenticate resolves the values of the Authorization header. Errors are *api.Error.
	Authenticate(authorization []string) (*api.Principal, error)
	// IssuePass makes a token for the principal that RedeemPass gives back together with the grant, while it lives.
	IssuePass(p *api.Principal, grant string, life time.Duration) (string, error)
	RedeemPass(token string) (p *api.Principal, grant string, err error)
}

// Blobs are the blobs of repositories. Errors are *api.Error; what is absent is CodeBlobNotFound.
type Blobs interface {
	RepositoryBlob(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.RepositoryBlob, error)
	// OpenBlob opens the bytes of what RepositoryBlob or a manifest named.
	OpenBlob(ctx context.Context, d api.Digest) (io.ReadSeekCloser, error)
	// KeepBlob streams a blob whose sha256 is known into the repository; length is what was announced, or -1. It is durable on
	// return.
	KeepBlob(ctx context.Context, p *api.Principal, repo api.Repository, want api.Digest, r io.Reader, length int64) (api.RepositoryBlob, error)
	// KeepFile takes a file whose digests were computed over, and may move it. It is durable on return.
	KeepFile(ctx context.Context, p *api.Principal, repo api.Repository, b api.RepositoryBlob, path, upload string) error
	// LinkKept completes a KeepFile that took the file and did not come to its end.
	LinkKept(ctx context.Context, repo api.Repository, b api.RepositoryBlob) error
	MountBlob(ctx context.Context, p *api.Principal, repo api.Repository, from string, d api.ContentDigest) (bool, error)
	UnlinkBlob(ctx context.Context, p *api.Principal, repo api.Repository, d api.ContentDigest) error

	// ReserveUpload sets room aside for an upload, by its id: so many bytes in all. What is kept under that id, or released,
	// ends it. KeepUploads says after a start which of them go on.
	ReserveUpload(ctx context.Context, repo api.Repository, id string, bytes int64) error
	ReleaseUpload(ctx context.Context, id string)
	KeepUploads(ctx context.Context, uploads []api.Reservation) error
}

// Manifests are the manifests of repositories. Errors are *api.Error; what is absent is CodeManifestNotFound.
type Manifests interface {
	PutManifest(ctx context.Context, p *api.Principal, repo api.Repository, up api.ManifestUpload) (api.ManifestReceipt, error)
	ManifestByDigest(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.Manifest, error)
	ManifestByTag(ctx context.Context, repo api.Repository, tag string) (api.Manifest, error)
	DeleteManifest(ctx context.Context, p *api.Principal, repo api.Repository, d api.ContentDigest) error
	DeleteTag(ctx context.Context, p *api.Principal, repo api.Repository, tag string) error
}

// Listings are what a repository can be asked for without knowing a digest.
type Listings interface {
	Repositories(ctx context.Context, t api.TenantID, after string, limit int) ([]string, error)
	RepositoryTags(ctx context.Context, repo api.Repository, after string, limit int) ([]string, error)
	Referrers(ctx context.Context, repo api.Repository, subject api.ContentDigest, artifactType string, after api.ContentDigest, limit int) ([]api.Manifest, error)
}

// Images are versions in the form that container runtimes unpack. Errors are *api.Error; what is absent is
// CodeManifestNotFound.
type Images interface {
	// Image gives the image of the version that a tag or a digest names.
	Image(ctx context.Context, repo api.Repository, reference string) (api.Derived, error)
	Derived(ctx context.Context, repo api.Repository, d api.ContentDigest) (api.Derived, error)
	OpenDerived(ctx context.Context, d api.Derived) (io.ReadSeekCloser, error)
}

// Upstream is where a mirror says that what is not here can be had. Errors are *api.Error; what is not there either is
// CodeManifestNotFound or CodeBlobNotFound.
type Upstream interface {
	ThroughManifest(ctx context.Context, repo api.Repository, reference string) (body []byte, mediaType string, d api.ContentDigest, _ error)
	// ThroughBlob streams a blob; its end comes only when all of it was right.
	ThroughBlob(ctx context.Context, repo api.Repository, d api.ContentDigest) (_ io.ReadCloser, size int64, _ error)
}

// Audit keeps the record of who did what. Begin is on disk when it returns, and an error means that nothing may be done;
// End is on disk, or else written later.
type Audit interface {
	Begin(ctx context.Context, r api.AuditRecord) (begun int64, err error)
	End(ctx context.Context, r api.AuditRecord) error
}

// Limits bounds what callers can make this door hold. A zero field takes its default.
type Limits struct {
	ManifestBytes  int64         // bytes of one manifest; 4 MiB
	BlobBytes      int64         // bytes of one blob; 64 GiB
	StagedBytes    int64         // bytes of all unfinished uploads; 256 GiB
	Uploads        int           // unfinished uploads of all tenants; 4096
	TenantUploads  int           // unfinished uploads of one tenant; 256
	UploadAge      time.Duration // how long an upload may rest; 24 h
	Checkpoint     int64         // bytes of one request after which what came is made durable; 1 GiB
	TagsPage       int           // tags in one answer; 1000
	ReferrersPage  int           // referrers in one answer; 1000
	ReferrersBytes int           // bytes of one answer of referrers; 4 MiB
	TokenLife      time.Duration // how long a token is good; 5 min
	TokenScopes    int           // scopes of one token; 16
	BodyWindow     time.Duration // in which a body must bring BodyLeast bytes; 30 s
	BodyLeast      int64         // bytes; 32 KiB
	WriteTimeout   time.Duration // for each MiB of an answer; 30 s
}

func (l Limits) withDefaults() Limits {
	l.ManifestBytes = cmp.Or(l.ManifestBytes, 4<<20)
	l.BlobBytes = cmp.Or(l.BlobBytes, 64<<30)
	l.StagedBytes = cmp.Or(l.StagedBytes, 256<<30)
	l.Uploads = cmp.Or(l.Uploads, 4096)
	l.TenantUploads = cmp.Or(l.TenantUploads, 256)
	l.UploadAge = cmp.Or(l.UploadAge, 24*time.Hour)
	l.Checkpoint = cmp.Or(l.Checkpoint, 1<<30)
	l.TagsPage = cmp.Or(l.TagsPage, 1000)
	l.ReferrersPage = cmp.Or(l.ReferrersPage, 1000)
	l.ReferrersBytes = cmp.Or(l.ReferrersBytes, 4<<20)
	l.TokenLife = cmp.Or(l.TokenLife, 5*time.Minute)
	l.TokenScopes = cmp.Or(l.TokenScopes, 16)
	l.BodyWindow = cmp.Or(l.BodyWindow, 30*time.Second)
	l.BodyLeast = cmp.Or(l.BodyLeast, 32<<10)
	l.WriteTimeout = cmp.Or(l.WriteTimeout, 30*time.Second)
	return l
}

// Config is what a Server is made of.
type Config struct {
	Guard     Guard
	Blobs     Blobs
	Manifests Manifests
	Listings  Listings
	Images    Images           // nil: versions have no images
	Upstream  Upstream         // nil: what is not here is nowhere
	Audit     Audit            // nil: nothing is recorded
	StageDir  string           // where unfinished uploads lie; on the blobs' filesystem a finished one is moved, not copied
	Limits    Limits           // zero fields take their defaults
	Now       func() time.Time // nil: time.Now
	Log       *slog.Logger     // nil: the default
}

// Server answers the distribution API.
type Server struct {
	cfg     Config
	stage   *stage
	buffers *buffers
}

// New makes a Server, and takes up the uploads that an earlier one left unfinished.
func New(cfg Config) (*Server, error) {
	if cfg.Guard == nil || cfg.Blobs == nil || cfg.Manifests == nil || cfg.Listings == nil || cfg.StageDir == "" {
		return nil, errors.New("the OCI door needs a guard, blobs, manifests, listings and a directory for uploads")
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	stage, err := openStage(cfg.StageDir, cfg.Limits, cfg.Now, cfg.Blobs)
	if err != nil {
		return nil, err
	}
	return &Server{cfg: cfg, stage: stage, buffers: newBuffers()}, nil
}

// Close gives descriptors back. Unfinished uploads stay for the next start.
func (s *Server) Close() error { return s.stage.close() }

// TakeUp tells the database which uploads of an earlier process go on; the room of all others is free. Call it before
// anything is uploaded by any door.
func (s *Server) TakeUp(ctx context.Context) error {
	if err := s.cfg.Blobs.KeepUploads(ctx, s.stage.reservations()); err != nil {
		return fmt.Errorf("take the uploads up: %w", err)
	}
	return nil
}

// Recover completes uploads whose bytes the store took before an earlier process ended: their repositories are told. It
// runs before the door serves.
func (s *Server) Recover(ctx context.Context) error {
	for _, u := range s.stage.kept {
		repo := api.Repository{Tenant: u.note.Tenant, Name: u.note.Name}
		err := s.cfg.Blobs.LinkKept(ctx, repo, *u.note.Keeping)
		if err != nil && !api.Is(err, api.CodeBlobNotFound) {
			return fmt.Errorf("complete an upload to %s: %w", repo.Name, err)
		}
		s.stage.forget(u) // what the store does not have either is lost to everybody
	}
	s.stage.kept = nil
	return nil
}

// Sweep removes uploads that rested too long, now and then, until ctx ends.
func (s *Server) Sweep(ctx context.Context) error {
	ticker := time.NewTicker(max(s.cfg.Limits.UploadAge/24, time.Second))
	defer ticker.Stop()
	for {
		s.stage.sweep()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Handler answers everything on the door's listener.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

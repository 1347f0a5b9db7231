// Package admin is the control plane's door: the HTTP API under /api/v1, one file per noun. It authenticates, reads
// requests strictly, asks the rooms through small interfaces, and writes answers, problems and the OpenAPI document. It
// decides nothing itself and keeps no state beyond requests under way. Callers: server, which mounts the handler.
package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
)

// Prefix is the path under which the handler must be mounted.
const Prefix = "/api/v1"

// Config holds what the API needs. The rooms and Guard are required; the rest has defaults.
type Config struct {
	Guard       Guard       // who is calling
	Tenants     Tenants     // tenancy
	Keys        Keys        // tenancy
	Blobs       Blobs       // registry
	Models      Models      // registry
	Versions    Versions    // registry
	Aliases     Aliases     // registry
	Search      Search      // registry
	Referrers   Referrers   // registry
	Trust       Trust       // registry
	Lineage     Lineage     // lineage
	Endpoints   Endpoints   // rollout
	Releases    Releases    // rollout
	Collections Collections // registry
	Keeping     Keeping     // registry
	Events      Events      // store
	Exchanges   Exchanges   // observe
	Workers     Workers     // fleet
	Loaded      Loaded      // fleet
	Statistics  Statistics  // observe, with what serve and fleet know
	Transfers   Transfers   // mirror; nil: nothing is copied to or from other registries
	Mirrors     Mirrors     // mirror; nil: there are none
	Webhooks    Webhooks    // hook; nil: this server has none
	Audit       Audit       // audit; nil: nothing is recorded
	Idempotency Idempotency // store; nil: an Idempotency-Key is refused as unsupported

	// Backup streams the whole data directory, with the blobs or without; nil: not done by this server.
	Backup func(ctx context.Context, w io.Writer, withoutBlobs bool) error

	Name    string       // of the server, for /version
	Version string       // of Penstock
	Hosts   []string     // host names, beside localhost and IP addresses, under which callers without a key may come
	Logger  *slog.Logger // default slog.Default()

	JSONBytesMax   int64         // JSON body, bytes; default 1 MiB
	UploadBytesMax int64         // one uploaded blob, bytes; default 8 GiB
	UploadRateMin  int64         // slowest upload, bytes per second over UploadWindow; default 1024
	UploadWindow   time.Duration // default 30 s
	WaitMax        time.Duration // longest ?wait=; default 5 min
	WriteTimeout   time.Duration // one write of a stream; default 30 s
	EventPoll      time.Duration // default 500 ms
	StreamsMax     int           // streams and long waits at the same time; default 256
}

// Validate reports every fault of the configuration at once.
func (c *Config) Validate() error {
	var faults []error
	for name, missing := range map[string]bool{"Guard": c.Guard == nil, "Tenants": c.Tenants == nil, "Keys": c.Keys == nil,
		"Blobs": c.Blobs == nil, "Models": c.Models == nil, "Versions": c.Versions == nil, "Aliases": c.Aliases == nil, "Search": c.Search == nil,
		"Referrers": c.Referrers == nil,
		"Trust":     c.Trust == nil, "Lineage": c.Lineage == nil, "Endpoints": c.Endpoints == nil, "Releases": c.Releases == nil,
		"Collections": c.Collections == nil, "Keeping": c.Keeping == nil, "Events": c.Events == nil,
		"Exchanges": c.Exchanges == nil, "Workers": c.Workers == nil, "Loaded": c.Loaded == nil, "Statistics": c.Statistics == nil} {
		if missing {
			faults = append(faults, errors.New("admin: "+name+" is missing"))
		}
	}
	return errors.Join(faults...)
}

// Server answers the control API.
type Server struct {
	cfg      Config
	log      *slog.Logger
	mux      *http.ServeMux
	schemas  *schemas
	routes   []route
	document []byte
	streams  chan struct{} // one token per stream or long wait under way
	drained  chan struct{} // closed by Drain
	drain    sync.Once
}

// New makes the API from its rooms.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	orDefault(&cfg.JSONBytesMax, 1<<20)
	orDefault(&cfg.UploadBytesMax, 8<<30)
	orDefault(&cfg.UploadRateMin, 1024)
	orDefault(&cfg.UploadWindow, 30*time.Second)
	orDefault(&cfg.WaitMax, 5*time.Minute)
	orDefault(&cfg.WriteTimeout, 30*time.Second)
	orDefault(&cfg.EventPoll, 500*time.Millisecond)
	orDefault(&cfg.StreamsMax, 256)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Server{cfg: cfg, log: cfg.Logger, mux: http.NewServeMux(), schemas: newSchemas(),
		streams: make(chan struct{}, cfg.StreamsMax), drained: make(chan struct{})}
	for _, noun := range [][]route{s.aboutRoutes(), s.tenantRoutes(), s.keyRoutes(), s.blobRoutes(), s.modelRoutes(),
		s.versionRoutes(), s.referrerRoutes(), s.trustRoutes(), s.lineageRoutes(), s.aliasRoutes(), s.searchRoutes(), s.endpointRoutes(), s.releaseRoutes(), s.logRoutes(),
		s.statisticsRoutes(), s.loadedRoutes(), s.eventRoutes(), s.webhookRoutes(), s.auditRoutes(), s.backupRoutes(), s.collectionRoutes(),
		s.trashRoutes(), s.retentionRoutes(), s.quotaRoutes(), s.transferRoutes(), s.mirrorRoutes()} {
		s.routes = append(s.routes, noun...)
	}
	s.mount()
	var err error
	s.document, err = s.openAPI()
	return s, err
}

// Handler serves Prefix and everything below it. Choose it by the path's prefix, not through a ServeMux, which would
// answer paths that are not plain with a redirect before they could be refused here.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveHTTP) }

// Drain ends streams and long waits, so that the listener's own shutdown need not wait for them. Requests that come
// after it are answered, but do not wait.
func (s *Server) Drain() { s.drain.Do(func() { close(s.drained) }) }

// hold counts a stream or long wait; release gives its place back. The context ends when the server drains.
func (s *Server) hold(ctx context.Context) (_ context.Context, release func(), _ error) {
	select {
	case s.streams <- struct{}{}:
	default:
		e := api.Fail(api.CodeQueueFull, "", "%d streams and waits are open, which is the limit StreamsMax", s.cfg.StreamsMax)
		e.RetryAfter = time.Second
		return nil, nil, e.WithCure("Close some of them, or ask again without waiting.")
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := make(chan struct{})
	go func() {
		select {
		case <-s.drained:
			cancel()
		case <-stop:
		}
	}()
	return ctx, func() { close(stop); cancel(); <-s.streams }, nil
}

func orDefault[T int | int64 | time.Duration](value *T, otherwise T) {
	if *value <= 0 {
		*value = otherwise
	}
}

package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/admin"
)

// doors are the listeners and what serves on them.
type doors struct {
	system              *System
	http, grpc, metrics net.Listener
	oci                 net.Listener // nil for none
}

// addresses is the line printed for machines when the server is ready.
type addresses struct {
	HTTP    string `json:"http"`
	GRPC    string `json:"grpc"`
	Metrics string `json:"metrics"`
	OCI     string `json:"oci,omitempty"`
	PID     int    `json:"pid"`
	TLS     bool   `json:"tls,omitempty"`
}

// open listens at every door, before anything is started: a taken port is an error, not a half-started server.
func (s *System) open(ctx context.Context) (*doors, error) {
	d := &doors{system: s}
	var secure *tls.Config
	if s.cfg.TLSCert != "" {
		pair, err := tls.LoadX509KeyPair(s.cfg.TLSCert, s.cfg.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("read the TLS certificate: %w", err)
		}
		secure = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	limits := s.gateway.Config()
	for _, door := range []struct {
		flag, address, protocol string
		listener                *net.Listener
	}{{"--http", s.cfg.HTTP, "http/1.1", &d.http}, {"--grpc", s.cfg.GRPC, "h2", &d.grpc}, {"--metrics", s.cfg.Metrics, "http/1.1", &d.metrics},
		{"--oci", s.cfg.OCI, "http/1.1", &d.oci}} {
		if door.address == "" {
			continue
		}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", door.address)
		if err != nil {
			return nil, fmt.Errorf("listen (%s): %w; choose another port, or port 0 for a free one", door.flag, err)
		}
		s.closing(l.Close)
		if secure != nil {
			config := secure.Clone()
			config.NextProtos = []string{door.protocol}
			l = tls.NewListener(l, config)
		}
		*door.listener = limits.Listen(l) // outermost, since it watches the requests that pass in the clear
	}
	return d, nil
}

// serveHTTP answers the control API and the HTTP data plane.
func (d *doors) serveHTTP(ctx context.Context) error {
	control, inference := d.system.admin.Handler(), d.system.gateway.Handler()
	return d.serve(ctx, d.http, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// By hand: http.ServeMux would redirect an odd path before the door behind it can refuse it.
		switch path := r.URL.Path; {
		case path == "/v2" || strings.HasPrefix(path, "/v2/") || path == "/v1" || strings.HasPrefix(path, "/v1/"):
			inference.ServeHTTP(w, r)
		case strings.HasPrefix(path, admin.Prefix+"/"):
			control.ServeHTTP(w, r)
		default:
			d.welcome(w, r)
		}
	}))
}

// welcome answers a person who opens the port in a browser.
func (d *doors) welcome(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if r.URL.Path != "/" {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintln(w, "not found; the control API is under "+admin.Prefix+", the Open Inference Protocol under /v2, V1 under /v1")
		return
	}
	fmt.Fprintf(w, "Penstock %s\n\ncontrol API   %s/openapi.json\ninference     /v2/models/NAME/infer\n", d.system.cfg.Version, admin.Prefix)
}

func (d *doors) serve(ctx context.Context, l net.Listener, h http.Handler) error {
	return d.run(ctx, l, d.system.gateway.Config().HTTP(h, d.system.log))
}

// listening is a server of HTTP.
type listening interface {
	Serve(l net.Listener) error
	Shutdown(ctx context.Context) error
	Close() error
}

func (d *doors) run(ctx context.Context, l net.Listener, server listening) error {
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), d.system.cfg.Grace)
	defer cancel()
	err := server.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		d.system.log.Warn("requests were still in hand after the grace", "limit", d.system.cfg.Grace)
		err = server.Close()
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func (d *doors) serveGRPC(ctx context.Context) error {
	server := d.system.gateway.GRPC()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(d.grpc) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	timer := time.AfterFunc(d.system.cfg.Grace, server.Stop)
	server.GracefulStop()
	timer.Stop()
	if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// serveOCI answers OCI clients, and removes uploads that nobody finishes.
func (d *doors) serveOCI(ctx context.Context) error {
	if d.oci == nil {
		<-ctx.Done()
		return nil
	}
	if err := d.system.oci.Recover(ctx); err != nil {
		return err
	}
	sweeping, stop := context.WithCancel(ctx)
	swept := make(chan error, 1)
	go func() { swept <- d.system.oci.Sweep(sweeping) }()
	err := d.run(ctx, d.oci, d.system.gateway.Config().Standard(d.system.oci.Handler(), d.system.log))
	stop()
	return errors.Join(err, <-swept)
}

// serveMetrics answers scrapes, probes, and profiles for administrators.
func (d *doors) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", d.system.recorder.Handler())
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !d.system.ready() {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, "no plan yet, or stopping")
			return
		}
		fmt.Fprintln(w, "ok")
	})
	for path, h := range map[string]http.HandlerFunc{"/": pprof.Index, "/profile": pprof.Profile, "/symbol": pprof.Symbol,
		"/trace": pprof.Trace, "/cmdline": notFound} {
		mux.Handle("GET /debug/pprof"+path, d.adminOnly(h))
	}
	server := d.system.gateway.Config().HTTP(mux, d.system.log)
	server.Limit(metricsRead, metricsWrite)
	return d.run(ctx, d.metrics, server)
}

// The metrics port answers nothing that takes long but profiles, which say so when they would take longer than this. A scraper
// that does not read its answer is cut off: it holds a copy of all metrics.
const (
	metricsRead  = 10 * time.Second // for a whole request; nothing here takes a body
	metricsWrite = 2 * time.Minute  // from the request's header to the answer's end
)

func notFound(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }

// adminOnly lets in the administrators of tenant default: a profile shows every tenant's work.
func (d *doors) adminOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := d.system.guard.Authenticate(r.Header["Authorization"])
		if err == nil && (p.Tenant != api.DefaultTenant || !p.Allows(api.ScopeAdmin)) {
			err = api.Fail(api.CodeForbidden, "", "profiles are for administrators of tenant %s", api.DefaultTenant)
		}
		if err != nil {
			e := api.AsError(err)
			http.Error(w, e.Message, e.Kind().HTTPStatus())
			return
		}
		h.ServeHTTP(w, r)
	})
}

// announce tells that the server is ready: to people on stderr, to machines as they asked, to the CLI by a file.
func (s *System) announce(stdout, stderr io.Writer) error {
	a := addresses{HTTP: s.doors.http.Addr().String(), GRPC: s.doors.grpc.Addr().String(), Metrics: s.doors.metrics.Addr().String(),
		PID: os.Getpid(), TLS: s.cfg.TLSCert != ""}
	if s.doors.oci != nil {
		a.OCI = s.doors.oci.Addr().String()
	}
	line, err := json.Marshal(a)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if err := writeFile(filepath.Join(s.cfg.Data, "run", "server.json"), line); err != nil {
		return err
	}
	if s.cfg.PrintAddresses {
		if _, err := stdout.Write(line); err != nil {
			return err
		}
	}
	if s.cfg.ReadyFD > 0 {
		f := os.NewFile(uintptr(s.cfg.ReadyFD), "ready")
		if _, err := f.Write(line); err != nil {
			return fmt.Errorf("write to --ready-fd %d: %w", s.cfg.ReadyFD, err)
		}
		f.Close()
	}
	scheme := "http"
	if a.TLS {
		scheme = "https"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Penstock %s is ready.\n", s.cfg.Version)
	fmt.Fprintf(&b, "  HTTP     %s://%s   (control API %s, inference /v2)\n", scheme, a.HTTP, admin.Prefix)
	fmt.Fprintf(&b, "  gRPC     %s\n", a.GRPC)
	if a.OCI != "" {
		fmt.Fprintf(&b, "  OCI      %s://%s/v2/   (oras login, push, pull)\n", scheme, a.OCI)
	}
	fmt.Fprintf(&b, "  metrics  %s://%s/metrics\n  data     %s\n", scheme, a.Metrics, s.cfg.Data)
	fmt.Fprintf(&b, "  key      %s (administrator of tenant %s)\n", s.secret("admin.key"), api.DefaultTenant)
	if s.cfg.Dev {
		b.WriteString("  --dev: callers without a key act as tenant default.\n")
	}
	if s.cfg.Insecure && !a.TLS {
		b.WriteString("  --insecure: keys and data travel in the clear.\n")
	}
	_, err = io.WriteString(stderr, b.String())
	return err
}

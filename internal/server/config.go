package server

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/egress"
	"github.com/penstock/penstock/internal/observe"
)

// Config is everything that a server is started with. Zero fields take the defaults named.
type Config struct {
	Data    string   // data directory; default ./penstock-data
	Cache   string   // directory where the runtime's library is unpacked; default penstock in the user's cache directory
	Role    string   // row of the role table; default all
	HTTP    string   // address of the HTTP listener; default 127.0.0.1:8000
	GRPC    string   // address of the gRPC listener; default 127.0.0.1:8001
	Metrics string   // address of the metrics listener; default 127.0.0.1:8002
	OCI     string   // address of the OCI registry; empty for none
	Store   string   // sqlite:PATH or postgres://…; default penstock.db in the data directory
	Egress  []string // addresses, ranges and hosts inside the network where copies to and from other registries may go
	Blobs   string   // where blobs lie: a directory, file:PATH, s3://, azblob:// or gs://; default blobs in the data directory

	Dev      bool   // callers without a key act as tenant default; loopback only
	Insecure bool   // allow listeners beyond loopback without TLS
	TLSCert  string // PEM file; with TLSKey all listeners speak TLS
	TLSKey   string // PEM file

	Workers        int           // worker processes; default 2
	Pin            bool          // each worker runs on a share of the processors that no other worker uses
	InProcess      bool          // run models in the server itself: no child process, and a crash takes everything down
	Executable     string        // program of the workers; default this one
	Pools          int           // most pools of workers for one tenant's or endpoint's models alone; default 8
	PoolWorkers    int           // worker processes of each pool; default 1
	WorkerMemoryMB int64         // memory of one worker's own, MiB; 0 means no limit of ours
	WorkerCPU      float64       // processors' worth of time of one worker; 0 means no limit of ours
	NoSandbox      bool          // workers may reach whatever the server may
	RequireSandbox bool          // do not start where workers cannot be kept from the network and from files
	RunGrace       time.Duration // longest that a run goes on after it was told to end; default 5 s
	ModelMemoryMB  int64         // what all loaded models may take together, MiB; default 60 % of the machine's memory
	FileCacheMB    int64         // files of models that are kept on this machine, MiB, beside those in a local blob store; default 64 GiB
	SharedMemoryMB int64         // memory for large requests that the workers see too, MiB of address space; 0 means none
	Queue          int           // requests in hand per endpoint; default 256
	CacheMB        int64         // memory of all response caches together, MiB; default 256
	Timeout        time.Duration // longest time for one request where its variant says nothing; default 60 s
	RollbackWindow time.Duration // how long a revision that left stays loaded; default 24 h
	Grace          time.Duration // longest wait for requests in hand at stop; default 30 s
	DrainDelay     time.Duration // how long requests are still taken at stop while readiness is denied; default 0
	CollectEvery   time.Duration // between runs of the garbage collection; default 24 h, negative: only when asked for
	CollectGrace   time.Duration // how long bytes are kept that nothing needs; default 24 h, negative: not at all
	RestoreWindow  time.Duration // how long what was deleted can be restored; default 7 days, negative: not at all

	Version    string // Penstock's own version; default (devel)
	Name       string // reported as the server's name by the Open Inference Protocol; default penstock
	OTLP       string // collector for traces, http(s):// or grpc(s)://; empty makes none
	TraceEvery int    // one trace of so many requests that bring no context; default 100
	LogFormat  string // text or json; default text
	LogLevel   string // debug, info, warn or error; default info; callers of /v2/logging change it

	WebhookAllow []string // hosts, addresses and CIDR ranges that webhooks may reach although they are internal or plain http

	AuditKeepMB int64         // size of the audit, MiB, over which its oldest records are removed; default 1024
	AuditKeep   time.Duration // age at which records of the audit are removed; default 400 days

	auditFault func(operation string) error // of tests

	NoTritonMetrics bool // leave out the nv_inference_* metrics

	PrintAddresses bool // print the chosen addresses as one JSON line on stdout when ready
	ReadyFD        int  // write the same line to this descriptor and close it; 0 for none

	level *slog.LevelVar // of the logger that was made for this configuration
}

func (c *Config) orDefault() {
	set := func(v *string, d string) {
		if *v == "" {
			*v = d
		}
	}
	set(&c.Data, "penstock-data")
	set(&c.Role, "all")
	set(&c.HTTP, "127.0.0.1:8000")
	set(&c.GRPC, "127.0.0.1:8001")
	set(&c.Metrics, "127.0.0.1:8002")
	set(&c.Version, "(devel)")
	set(&c.Name, "penstock")
	set(&c.LogFormat, "text")
	set(&c.LogLevel, "info")
	if c.Workers == 0 {
		c.Workers = 2
	}
	if c.FileCacheMB == 0 {
		c.FileCacheMB = 64 << 10
	}
	if c.Pools == 0 {
		c.Pools = 8
	}
	if c.Grace == 0 {
		c.Grace = 30 * time.Second
	}
	if c.Cache == "" {
		c.Cache = filepath.Join(c.Data, "cache")
		if dir, err := os.UserCacheDir(); err == nil {
			c.Cache = filepath.Join(dir, "penstock")
		}
	}
}

// workersMax bounds Config.Workers.
const workersMax = 256

// cacheMBMax bounds Config.CacheMB: 16 TiB.
const cacheMBMax = 16 << 20

// Validate reports every fault of the configuration at once.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if _, ok := roles[c.Role]; !ok {
		fault("--role %q is not one of %s", c.Role, strings.Join(roleNames(), ", "))
	}
	if c.Workers < 1 || c.Workers > workersMax {
		fault("--workers %d is not within 1 to %d", c.Workers, workersMax)
	}
	if c.Pools < 0 || c.PoolWorkers < 0 || c.Pools*max(1, c.PoolWorkers) > workersMax {
		fault("--pools %d times --pool-workers %d is not within 0 to %d", c.Pools, c.PoolWorkers, workersMax)
	}
	if c.Pin {
		if _, err := c.processors(); err != nil {
			faults = append(faults, err)
		}
	}
	if c.WorkerMemoryMB < 0 || c.ModelMemoryMB < 0 || c.FileCacheMB < 0 || c.WorkerCPU < 0 || c.RunGrace < 0 || c.SharedMemoryMB < 0 ||
		c.Queue < 0 || c.Timeout < 0 || c.RollbackWindow < 0 || c.Grace < 0 || c.DrainDelay < 0 || c.AuditKeepMB < 0 || c.AuditKeep < 0 {
		fault("a limit is negative")
	}
	if c.CacheMB < 0 || c.CacheMB > cacheMBMax {
		fault("--response-cache %d is not within 0 to %d MiB", c.CacheMB, cacheMBMax)
	}
	if c.RequireSandbox && (c.NoSandbox || c.InProcess) {
		fault("--require-sandbox goes neither with --no-sandbox nor with --in-process")
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		fault("--tls-cert and --tls-key go together")
	}
	addresses := map[string]string{"--http": c.HTTP, "--grpc": c.GRPC, "--metrics": c.Metrics}
	if c.OCI != "" {
		addresses["--oci"] = c.OCI
	}
	for flag, address := range addresses {
		host, _, err := net.SplitHostPort(address)
		switch {
		case err != nil:
			fault("%s %q is not HOST:PORT", flag, address)
		case loopback(host):
		case c.Dev:
			fault("%s %s: --dev lets callers in without a key, so it listens on loopback only", flag, address)
		case c.TLSCert == "" && !c.Insecure:
			fault("%s %s is not loopback: give --tls-cert and --tls-key, or --insecure to send keys and data in the clear", flag, address)
		}
	}
	for flag, allowed := range map[string][]string{"--egress-allow": c.Egress, "--webhook-allow": c.WebhookAllow} {
		if _, err := egress.Parse(allowed); err != nil {
			fault("%s: %w", flag, err)
		}
	}
	if _, err := c.blobDir(); err != nil {
		fault("%w", err)
	}
	return errors.Join(faults...)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

func (c *Config) storeURL() string {
	if c.Store == "" {
		return "sqlite:" + filepath.Join(c.Data, "penstock.db")
	}
	return c.Store
}

func (c *Config) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q is not one of debug, info, warn, error", c.LogLevel)
	}
	c.level = new(slog.LevelVar)
	c.level.Set(level)
	return observe.NewLogger(w, c.LogFormat, c.level)
}

// threads is how many threads the runtime of each worker computes with: the processors, shared among the workers.
func (c *Config) threads() int {
	if c.InProcess {
		return runtime.NumCPU()
	}
	return max(1, runtime.NumCPU()/c.Workers)
}

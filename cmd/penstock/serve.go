package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/internal/server"
)

func (a *app) serveCommands() []*cobra.Command {
	return []*cobra.Command{a.serveCommand(), a.workerCommand(), a.restoreCommand()}
}

func (a *app) serveCommand() *cobra.Command {
	var cfg server.Config
	cmd := &cobra.Command{Use: "serve", Short: "Start the server", Args: cobra.NoArgs,
		Long: `Start the server: control API, gateway and workers in one.

The first start makes the data directory with an admin key in secrets/admin.key. All listeners are on loopback unless
told otherwise; another address needs --tls-cert and --tls-key, or --insecure.`,
		Example: `  penstock serve
  penstock serve --dev
  penstock serve --data /var/lib/penstock --http 127.0.0.1:9000 --workers 4
  penstock serve --store postgres://penstock@db/penstock`,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			cfg.Data, cfg.Version = a.dataDirectory(), version()
			return server.Run(cmd.Context(), cfg, a.out, a.err)
		}),
	}
	serveFlags(cmd, &cfg)
	return cmd
}

func serveFlags(cmd *cobra.Command, cfg *server.Config) {
	f := cmd.Flags()
	f.StringVar(&cfg.HTTP, "http", "127.0.0.1:8000", "address of the control API and inference over HTTP; port 0 picks a free one")
	f.StringVar(&cfg.GRPC, "grpc", "127.0.0.1:8001", "address of inference over gRPC")
	f.StringVar(&cfg.Metrics, "metrics", "127.0.0.1:8002", "address of /metrics, /livez and /readyz")
	f.StringVar(&cfg.OCI, "oci", "127.0.0.1:8003", "address of the registry for OCI clients; empty for none")
	f.StringVar(&cfg.Store, "store", "", "database: sqlite:PATH or postgres://...; default is penstock.db in the data directory")
	f.StringVar(&cfg.Blobs, "blobs", "", "where blobs lie: a directory, s3://BUCKET/PREFIX?region=...&endpoint=..., azblob:// or gs://; default is blobs in the data directory")
	f.StringSliceVar(&cfg.Egress, "egress-allow", nil, "addresses, ranges and hosts inside the network where copies to and from other registries may go, such as 10.2.0.0/16,hub.internal")
	f.StringVar(&cfg.Cache, "cache", "", "directory where the runtime's library is unpacked; default is in the user's cache directory")
	f.StringVar(&cfg.Role, "role", "all", "what this process does")
	f.BoolVar(&cfg.Dev, "dev", false, "let callers without a key act as tenant default; on loopback only")
	f.BoolVar(&cfg.Insecure, "insecure", false, "allow listeners that are not on loopback without TLS")
	f.StringVar(&cfg.TLSCert, "tls-cert", "", "PEM file of the certificate; with --tls-key all listeners speak TLS")
	f.StringVar(&cfg.TLSKey, "tls-key", "", "PEM file of the certificate's key")
	f.IntVar(&cfg.Workers, "workers", 2, "worker processes")
	f.IntVar(&cfg.Pools, "pools", 8, "most pools of workers that hold one tenant's or one endpoint's models alone")
	f.IntVar(&cfg.PoolWorkers, "pool-workers", 1, "worker processes of each pool")
	f.BoolVar(&cfg.Pin, "pin", false, "give each worker processors of its own; there must be at least one for each")
	f.Int64Var(&cfg.WorkerMemoryMB, "worker-memory", 0, "memory of one worker in MiB, beside what it shares; 0 sets no limit")
	f.Float64Var(&cfg.WorkerCPU, "worker-cpu", 0, "processors' worth of time of one worker, such as 1.5; 0 sets no limit")
	f.BoolVar(&cfg.NoSandbox, "no-sandbox", false, "let workers reach the network and files as the server can")
	f.BoolVar(&cfg.RequireSandbox, "require-sandbox", false, "do not start where the system cannot keep workers from the network and from files")
	f.DurationVar(&cfg.RunGrace, "run-grace", 5*time.Second, "how long a run may go on after its deadline before its worker is killed")
	f.Int64Var(&cfg.ModelMemoryMB, "model-memory", 0, "what all loaded models may take together in MiB; models that are not asked for sleep when it is short; 0 is 60 % of the machine's memory")
	f.Int64Var(&cfg.FileCacheMB, "file-cache", 64<<10, "files of models that are kept on this machine in MiB, where blobs lie elsewhere; those in use may be more")
	f.Int64Var(&cfg.SharedMemoryMB, "shared-memory", 256, "memory that large requests are read to and the workers see, in MiB; 0 copies them")
	f.BoolVar(&cfg.InProcess, "in-process", false, "run models in the server's own process, without workers")
	f.IntVar(&cfg.Queue, "queue", 256, "requests in hand per endpoint")
	f.Int64Var(&cfg.CacheMB, "response-cache", 256, "memory of all response caches together in MiB, whatever their endpoints ask for")
	f.DurationVar(&cfg.Timeout, "timeout", time.Minute, "longest time for one request where its variant says nothing")
	f.DurationVar(&cfg.RollbackWindow, "rollback-window", 24*time.Hour, "how long a revision that left stays loaded")
	f.DurationVar(&cfg.CollectEvery, "gc-every", 24*time.Hour, "how often the storage of what nothing needs is freed; negative: only by penstock gc")
	f.DurationVar(&cfg.CollectGrace, "gc-grace", 24*time.Hour, "how long bytes are kept that nothing needs; negative: not at all")
	f.DurationVar(&cfg.RestoreWindow, "restore-window", 7*24*time.Hour, "how long what was deleted can be restored, and manifests without a name are kept")
	f.DurationVar(&cfg.Grace, "grace", 30*time.Second, "longest wait for requests in hand at stop")
	f.DurationVar(&cfg.DrainDelay, "drain-delay", 0, "how long requests are still taken at stop while readiness is denied, for balancers to hear of it")
	f.StringVar(&cfg.Name, "name", "penstock", "name that the Open Inference Protocol reports; some clients want triton")
	f.StringVar(&cfg.OTLP, "otlp", "", "OpenTelemetry collector for traces, such as http://127.0.0.1:4318")
	f.IntVar(&cfg.TraceEvery, "trace-every", 100, "trace one of so many requests that bring no trace context; -1 traces none of them")
	f.StringVar(&cfg.LogFormat, "log-format", "text", "text or json")
	f.StringVar(&cfg.LogLevel, "log-level", "info", "debug, info, warn or error")
	f.StringSliceVar(&cfg.WebhookAllow, "webhook-allow", nil, "hosts, addresses or CIDR ranges that webhooks may reach although they are internal or plain http; may be repeated")
	f.Int64Var(&cfg.AuditKeepMB, "audit-size", 1024, "size of the audit in MiB, over which its oldest records are removed")
	f.DurationVar(&cfg.AuditKeep, "audit-age", 400*24*time.Hour, "age at which records of the audit are removed")
	f.BoolVar(&cfg.NoTritonMetrics, "no-triton-metrics", false, "leave the nv_inference_* metrics out")
	f.BoolVar(&cfg.PrintAddresses, "print-addresses", false, "print the addresses as one line of JSON when ready")
	f.IntVar(&cfg.ReadyFD, "ready-fd", 0, "file descriptor to write the addresses to when ready")
}

func (a *app) workerCommand() *cobra.Command {
	var cfg server.WorkerConfig
	cmd := &cobra.Command{Use: "worker", Short: "Run models for a server, which starts this by itself", Args: cobra.NoArgs, Hidden: true,
		Example: `  penstock worker --socket /run/penstock/worker-1.sock`,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			if cfg.Socket == "" {
				return usage(fmt.Errorf("--socket is needed"))
			}
			return server.RunWorker(cmd.Context(), cfg, a.err)
		}),
	}
	cmd.Flags().StringVar(&cfg.Socket, "socket", "", "unix socket to serve on")
	return cmd
}

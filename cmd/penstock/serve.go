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
	f.StringVar(&cfg.Cache, "cache", "", "directory where the runtime's library is unpacked; default is in the user's cache directory")
	f.StringVar(&cfg.Role, "role", "all", "what this process does")
	f.BoolVar(&cfg.Dev, "dev", false, "let callers without a key act as tenant default; on loopback only")
	f.BoolVar(&cfg.Insecure, "insecure", false, "allow listeners that are not on loopback without TLS")
	f.StringVar(&cfg.TLSCert, "tls-cert", "", "PEM file of the certificate; with --tls-key all listeners speak TLS")
	f.StringVar(&cfg.TLSKey, "tls-key", "", "PEM file of the certificate's key")
	f.IntVar(&cfg.Workers, "workers", 2, "worker processes")
	f.BoolVar(&cfg.Pin, "pin", false, "give each worker processors of its own; there must be at least one for each")
	f.Int64Var(&cfg.WorkerMemoryMB, "worker-memory", 0, "address space of one worker in MiB; 0 sets no limit")
	f.Int64Var(&cfg.SharedMemoryMB, "shared-memory", 256, "memory that large requests are read to and the workers see, in MiB; 0 copies them")
	f.BoolVar(&cfg.InProcess, "in-process", false, "run models in the server's own process, without workers")
	f.IntVar(&cfg.Queue, "queue", 256, "requests in hand per endpoint")
	f.Int64Var(&cfg.CacheMB, "response-cache", 256, "memory of all response caches together in MiB, whatever their endpoints ask for")
	f.DurationVar(&cfg.Timeout, "timeout", time.Minute, "longest time for one request where its variant says nothing")
	f.DurationVar(&cfg.RollbackWindow, "rollback-window", 24*time.Hour, "how long a revision that left stays loaded")
	f.DurationVar(&cfg.Grace, "grace", 30*time.Second, "longest wait for requests in hand at stop")
	f.StringVar(&cfg.Name, "name", "penstock", "name that the Open Inference Protocol reports; some clients want triton")
	f.StringVar(&cfg.OTLP, "otlp", "", "OpenTelemetry collector for traces, such as http://127.0.0.1:4318")
	f.IntVar(&cfg.TraceEvery, "trace-every", 100, "trace one of so many requests that bring no trace context; -1 traces none of them")
	f.StringVar(&cfg.LogFormat, "log-format", "text", "text or json")
	f.StringVar(&cfg.LogLevel, "log-level", "info", "debug, info, warn or error")
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

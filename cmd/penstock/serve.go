package main

import (
	"fmt"

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
told otherwise; another address needs TLS in front and --insecure.`,
		Example: `  penstock serve
  penstock serve --dev
  penstock serve --data /var/lib/penstock --http 127.0.0.1:9000 --workers 4
  penstock serve --store postgres://penstock@db/penstock`,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			cfg.Data = a.dataDirectory()
			return server.Run(cmd.Context(), cfg, a.out, a.err)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&cfg.HTTP, "http", "127.0.0.1:8000", "address of the control API and inference over HTTP; port 0 picks a free one")
	f.StringVar(&cfg.GRPC, "grpc", "127.0.0.1:8001", "address of inference over gRPC")
	f.StringVar(&cfg.Metrics, "metrics", "127.0.0.1:8002", "address of /metrics, /livez and /readyz")
	f.StringVar(&cfg.Store, "store", "", "database: sqlite:PATH or postgres://...; default is penstock.db in the data directory")
	f.StringVar(&cfg.Blobs, "blobs", "", "where blobs are kept; default is blobs in the data directory")
	f.StringVar(&cfg.Role, "role", "all", "what this process does")
	f.BoolVar(&cfg.Dev, "dev", false, "let callers without a key act as tenant default; on loopback only")
	f.BoolVar(&cfg.Insecure, "insecure", false, "allow listeners that are not on loopback without TLS")
	f.IntVar(&cfg.Workers, "workers", 0, "worker processes; 0 chooses by this machine")
	f.BoolVar(&cfg.InProcess, "in-process", false, "run models in the server's own process, without workers")
	f.BoolVar(&cfg.PrintAddresses, "print-addresses", false, "print the addresses as one line of JSON when ready")
	f.IntVar(&cfg.ReadyFD, "ready-fd", 0, "file descriptor to write the addresses to when ready")
	f.StringVar(&cfg.OTLP, "otlp", "", "OpenTelemetry collector for traces, such as http://127.0.0.1:4318")
	f.StringVar(&cfg.LogFormat, "log-format", "text", "text or json")
	f.StringVar(&cfg.LogLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&cfg.ServerName, "name", "", "name of this server; default is the host's")
	f.IntVar(&cfg.RollbackWindow, "rollback-window", 1, "earlier revisions of an endpoint that stay loaded")
	return cmd
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

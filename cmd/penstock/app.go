package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

// surroundings is all that a command sees of the process, so that tests can put another in its place.
type surroundings struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	terminal bool // whether err is a terminal: progress bars are drawn only there
	colour   bool // whether out is a terminal
}

// app holds what the commands share.
type app struct {
	surroundings
	flags  connectionFlags
	output string // -o
}

// run carries out one command line and gives the exit code.
func run(ctx context.Context, args []string, s surroundings) int {
	a := &app{surroundings: s}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	return a.exit(root.ExecuteContext(ctx))
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "penstock",
		Short: "Store, deploy and serve models",
		Long: `Penstock stores models, puts them into production safely and serves them.

The server and the key come from --server and --key, PENSTOCK_SERVER and PENSTOCK_KEY, the config file
(~/.config/penstock/config.yaml), or the local data directory, in that order.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 refused by the server.`,
		Example: `  penstock serve --dev
  penstock push model.onnx digits
  penstock deploy digits@1
  penstock predict digits -f request.json
  penstock rollback digits`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.flags.add(root)
	for _, group := range [][]*cobra.Command{a.serveCommands(), a.modelCommands(), a.searchCommands(), a.pushCommands(), a.importCommands(), a.transferCommands(), a.mirrorCommands(), a.aliasCommands(),
		a.lineageCommands(), a.referrerCommands(), a.signCommands(), a.trustCommands(), a.deployCommands(),
		a.predictCommands(), a.rolloutCommands(), a.endpointCommands(), a.applyCommands(), a.tenantCommands(), a.keyCommands(),
		a.benchCommands(), a.logCommands(), a.topCommands(), a.eventCommands(), a.webhookCommands(), a.auditCommands(), a.backupCommands(), a.collectCommands(),
		a.keepCommands(), a.versionCommands()} {
		root.AddCommand(group...)
	}
	a.completeRefs(root)
	return root
}

// ranError marks an error of a command that ran; all other errors of a command line are wrong usage.
type ranError struct{ error }

// Unwrap gives the command's own error.
func (e ranError) Unwrap() error { return e.error }

// usageError is wrong usage that a command finds itself.
type usageError struct{ error }

// Unwrap gives the cause.
func (e usageError) Unwrap() error { return e.error }

// usage marks what the person typed as the cause.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// does makes a command's function that needs no server.
func does(do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := do(cmd, args); err != nil {
			return ranError{err}
		}
		return nil
	}
}

// asks makes a command's function that speaks to a server.
func (a *app) asks(do func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return does(func(cmd *cobra.Command, args []string) error {
		if a.output != "" && a.output != formatTable && a.output != formatJSON && a.output != formatYAML {
			return usage(errors.New("-o is table, json or yaml"))
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		return do(cmd.Context(), c, args)
	})
}

// group makes a command that only holds others.
func group(use, short, example string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errors.New("name one of the commands below `" + cmd.CommandPath() + "`")
		}}
	cmd.AddCommand(children...)
	return cmd
}

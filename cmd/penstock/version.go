package main

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

// stamped is the version that the build writes with -ldflags "-X main.stamped=v1.2.3".
var stamped string

// version is the stamped version, or what the Go tool knows of the build.
func version() string {
	if stamped != "" {
		return stamped
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func (a *app) versionCommands() []*cobra.Command {
	var remote bool
	cmd := a.withOutput(&cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Example: `  penstock version
  penstock version --remote`,
		RunE: does(func(cmd *cobra.Command, args []string) error {
			told := map[string]string{"client": version()}
			if remote {
				ask := a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
					info, err := c.Version(ctx)
					told["server"], told["address"] = info.Version, c.Server()
					return err
				})
				if err := ask(cmd, args); err != nil {
					return err
				}
			}
			return a.print(told, func() {
				fmt.Fprintf(a.out, "penstock %s\n", told["client"])
				if remote {
					fmt.Fprintf(a.out, "server %s at %s\n", printable(told["server"]), told["address"])
				}
			})
		})})
	cmd.Flags().BoolVar(&remote, "remote", false, "ask the server for its version too")
	return []*cobra.Command{cmd}
}

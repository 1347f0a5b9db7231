package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/server"
)

// version is the one that the build stamps into the server; client and server are one program.
func version() string { return server.Version }

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

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

func (a *app) tenantCommands() []*cobra.Command {
	all := a.withOutput(&cobra.Command{Use: "list", Short: "List tenants", Args: cobra.NoArgs, Example: `  penstock tenant list`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			tenants, err := c.Tenants(ctx)
			if err != nil {
				return err
			}
			return list(a, tenants, "TENANT CREATED", func(t api.Tenant) []string { return []string{string(t.ID), when(t.Created)} })
		})})
	create := a.withOutput(&cobra.Command{Use: "create NAME", Short: "Make a tenant", Args: cobra.ExactArgs(1),
		Example: `  penstock tenant create acme
  penstock key create ops --scope admin --tenant acme`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			t, err := c.CreateTenant(ctx, api.TenantID(args[0]))
			if err != nil {
				return err
			}
			return a.print(t, func() { fmt.Fprintf(a.out, "tenant %s made\n", t.ID) })
		})})
	return []*cobra.Command{group("tenant", "Make and list tenants", "  penstock tenant list\n  penstock tenant create acme", all, create)}
}

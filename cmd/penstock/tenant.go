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
			return list(a, tenants, "TENANT WEIGHT CREATED", func(t api.Tenant) []string {
				return []string{string(t.ID), fmt.Sprint(t.Weight), when(t.Created)}
			})
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
	return []*cobra.Command{group("tenant", "Make, list and weigh tenants",
		"  penstock tenant list\n  penstock tenant create acme\n  penstock tenant set acme --weight 4", all, create, a.tenantSet())}
}

func (a *app) tenantSet() *cobra.Command {
	var weight int
	var match int64
	set := a.withOutput(&cobra.Command{Use: "set NAME --weight N", Short: "Change a tenant's part of the workers", Args: cobra.ExactArgs(1),
		Long: `Change a tenant's part of the workers. While several tenants want more than there is, each gets execution time in
proportion to its weight, 1 to 1000; what one leaves goes to the others. It takes effect at once, without a restart.`,
		Example: `  penstock tenant set acme --weight 4
  penstock tenant set acme --weight 4 --if-generation 2`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			if weight < 1 || weight > api.WeightMax {
				return usage(fmt.Errorf("--weight must be 1 to %d", api.WeightMax))
			}
			t, err := c.SetTenant(ctx, api.TenantID(args[0]), api.TenantChange{Weight: weight}, client.IfMatch(match))
			if err != nil {
				return err
			}
			return a.print(t, func() { fmt.Fprintf(a.out, "tenant %s has weight %d\n", t.ID, t.Weight) })
		})})
	set.Flags().IntVar(&weight, "weight", 0, "part of the workers relative to other tenants, 1 to 1000")
	set.Flags().Int64Var(&match, "if-generation", 0, "only if the tenant's generation is this; 0 is any")
	return set
}

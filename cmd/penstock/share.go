package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

func (a *app) shareCommand() *cobra.Command {
	var off bool
	cmd := a.withOutput(&cobra.Command{Use: "share MODEL [TENANT]", Short: "Let another tenant copy versions of a model, or show who may", Args: cobra.RangeArgs(1, 2),
		Long: `Let another tenant copy versions of a model; without TENANT, show who may. Copies are the other tenant's own: they stay when
the share ends. It needs a key with the scope admin.`,
		Example: `  penstock share fraud acme
  penstock share fraud
  penstock share fraud acme --off`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			model := api.ModelName(args[0])
			if len(args) == 2 {
				if err := c.ShareModel(ctx, model, api.TenantID(args[1]), !off); err != nil {
					return err
				}
			} else if off {
				return usage(errors.New("name the TENANT that may copy no more"))
			}
			readers, err := c.ModelReaders(ctx, model)
			if err != nil {
				return err
			}
			return list(a, readers, "TENANT SINCE BY", func(r api.ModelReader) []string {
				return []string{string(r.Tenant), when(r.Granted), r.GrantedBy}
			})
		})})
	cmd.Flags().BoolVar(&off, "off", false, "let it copy no more")
	return cmd
}

func (a *app) copyCommand() *cobra.Command {
	var aliases []string
	cmd := a.withOutput(&cobra.Command{Use: "copy TENANT/REF MODEL", Short: "Copy a version that another tenant shares", Args: cobra.ExactArgs(2),
		Example: `  penstock copy default/fraud@3 fraud
  penstock copy default/fraud:champion fraud --alias candidate`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			ref, err := api.ParseRef(args[0])
			if err == nil && ref.Tenant == "" {
				err = fmt.Errorf("%q names no tenant: write TENANT/%s", args[0], args[0])
			}
			if err != nil {
				return usage(err)
			}
			in := api.SharedCopyRequest{Tenant: ref.Tenant}
			ref.Tenant = ""
			in.Ref = ref.String()
			for _, alias := range aliases {
				in.Aliases = append(in.Aliases, api.AliasName(alias))
			}
			v, err := c.CopyVersion(ctx, api.ModelName(args[1]), in)
			if err != nil {
				return err
			}
			return a.print(v, func() { fmt.Fprintln(a.out, v.Ref()) })
		})})
	cmd.Flags().StringArrayVar(&aliases, "alias", nil, "alias to move to the copy; may be repeated")
	return cmd
}

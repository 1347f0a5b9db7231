package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

func (a *app) keyCommands() []*cobra.Command {
	all := a.withOutput(&cobra.Command{Use: "list", Short: "List keys, without their secrets", Args: cobra.NoArgs, Example: `  penstock key list`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			keys, err := c.Keys(ctx)
			if err != nil {
				return err
			}
			return list(a, keys, "ID NAME HINT SCOPES CREATED EXPIRES REVOKED", func(k api.Key) []string {
				return []string{string(k.ID), k.Name, k.Hint, scopes(k.Scopes), when(k.Created), when(k.Expires), when(k.Revoked)}
			})
		})})
	revoke := &cobra.Command{Use: "revoke ID", Short: "Revoke a key; it stops working at once", Args: cobra.ExactArgs(1), Example: `  penstock key revoke 01JABCDEF`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.RevokeKey(ctx, api.KeyID(args[0])); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "%s is revoked\n", args[0])
			return nil
		})}
	return []*cobra.Command{group("key", "Make, list and revoke API keys", "  penstock key create ci --scope write --scope read\n  penstock key list", all, a.createKeyCommand(), revoke)}
}

func (a *app) createKeyCommand() *cobra.Command {
	var granted []string
	var expires string
	cmd := a.withOutput(&cobra.Command{Use: "create NAME", Short: "Make a key and print its secret, this once", Args: cobra.ExactArgs(1),
		Long: `Make a key and print its secret. The server keeps no copy of the secret.

Scopes: admin (keys and all below), write (push, deploy, roll back), read (list and show), infer (call endpoints),
variant (force a variant).`,
		Example: `  penstock key create phone-app --scope infer
  penstock key create ci --scope read,write --expires 720h`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			in := api.KeyRequest{Name: args[0]}
			for _, text := range granted {
				if !slices.Contains(api.Scopes, api.Scope(text)) {
					return usage(fmt.Errorf("--scope %q is none of %s", text, scopes(api.Scopes)))
				}
				in.Scopes = append(in.Scopes, api.Scope(text))
			}
			var err error
			if in.Expires, err = parseExpiry(expires, time.Now()); err != nil {
				return usage(err)
			}
			key, err := c.CreateKey(ctx, in)
			if err != nil {
				return err
			}
			return a.print(key, func() {
				fmt.Fprintln(a.out, key.Secret)
				fmt.Fprintf(a.err, "key %s (%s) of tenant %s; keep the secret, it cannot be shown again\n", key.ID, scopes(key.Scopes), key.Tenant)
			})
		})})
	cmd.Flags().StringSliceVar(&granted, "scope", []string{string(api.ScopeInfer)}, "what the key may do; may be repeated")
	cmd.Flags().StringVar(&expires, "expires", "", "when it stops working: a duration such as 720h, or a time such as 2027-01-31T00:00:00Z")
	return cmd
}

func parseExpiry(text string, now time.Time) (api.Time, error) {
	if text == "" {
		return 0, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return api.TimeOf(now.Add(d)), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return 0, fmt.Errorf("--expires %q is neither a duration nor a time", text)
	}
	return api.TimeOf(at), nil
}

func scopes(all []api.Scope) string {
	parts := make([]string, 0, len(all))
	for _, s := range all {
		parts = append(parts, string(s))
	}
	return strings.Join(parts, ",")
}

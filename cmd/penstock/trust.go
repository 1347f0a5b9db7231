package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/dsse"
)

func (a *app) trustCommands() []*cobra.Command {
	show := a.withOutput(&cobra.Command{Use: "show", Short: "Show whose signatures the tenant asks for", Args: cobra.NoArgs, Example: "  penstock trust show",
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			p, err := c.Trust(ctx)
			if err != nil {
				return err
			}
			return a.printTrust(p)
		})})
	remove := a.withOutput(&cobra.Command{Use: "remove NAME", Short: "Trust a key no more", Args: cobra.ExactArgs(1), Example: "  penstock trust remove old",
		RunE: a.changeTrust(func(p *api.TrustRequest, args []string) error {
			before := len(p.Keys)
			p.Keys = slices.DeleteFunc(p.Keys, func(k api.TrustedKey) bool { return k.Name == args[0] })
			if len(p.Keys) == before {
				return api.Fail(api.CodeNotFound, args[0], "no such trusted key").WithCure("List them with `penstock trust show`.")
			}
			return nil
		})})
	off := a.withOutput(&cobra.Command{Use: "off", Short: "Deploy and name versions without signatures; the keys stay", Args: cobra.NoArgs, Example: "  penstock trust off",
		RunE: a.changeTrust(func(p *api.TrustRequest, _ []string) error {
			p.Require, p.Aliases = false, nil
			return nil
		})})
	return []*cobra.Command{group("trust", "Say whose signatures a version needs before it is deployed", "  penstock trust require --sign-key release=release.key.pub\n  penstock trust show",
		show, a.requireCommand(), remove, off)}
}

func (a *app) requireCommand() *cobra.Command {
	var keys, names []string
	var expires string
	cmd := a.withOutput(&cobra.Command{Use: "require", Short: "Deploy only versions that one of the named keys signed", Args: cobra.NoArgs,
		Long: `Deploy only versions with a valid signature by one of the named keys, and with --alias move that alias only to such a
version. Keys are added to those that are trusted already. What serves now goes on, and a rollback is never refused.`,
		Example: `  penstock trust require --sign-key release=release.key.pub
  penstock trust require --sign-key ci=ci.key.pub --expires 8760h --alias champion`,
		RunE: a.changeTrust(func(p *api.TrustRequest, _ []string) error {
			until, err := parseExpiry(expires, time.Now())
			if err != nil {
				return usage(err)
			}
			for _, text := range keys {
				name, file, ok := strings.Cut(text, "=")
				if !ok {
					return usage(fmt.Errorf("--sign-key %q is not NAME=FILE", text))
				}
				pem, err := readUpTo(file, dsse.KeyBytesMax)
				if err != nil {
					return usage(err)
				}
				p.Keys = slices.DeleteFunc(p.Keys, func(k api.TrustedKey) bool { return k.Name == name })
				p.Keys = append(p.Keys, api.TrustedKey{Name: name, PublicKey: string(pem), Expires: until})
			}
			for _, name := range names {
				p.Aliases = append(p.Aliases, api.AliasName(name))
			}
			if len(p.Keys) == 0 {
				return usage(errors.New("name a key with --sign-key NAME=FILE"))
			}
			p.Require = true
			return nil
		})})
	cmd.Flags().StringArrayVar(&keys, "sign-key", nil, "trusted public key NAME=FILE; may be repeated")
	cmd.Flags().StringArrayVar(&names, "alias", nil, "alias that moves to signed versions only; may be repeated")
	cmd.Flags().StringVar(&expires, "expires", "", "when the keys stop to count: a duration such as 720h, or a time")
	return cmd
}

// changeTrust reads the policy, changes it, and writes it back if nobody else changed it meanwhile.
func (a *app) changeTrust(change func(p *api.TrustRequest, args []string) error) func(*cobra.Command, []string) error {
	return a.asks(func(ctx context.Context, c *client.Client, args []string) error {
		now, err := c.Trust(ctx)
		if err != nil {
			return err
		}
		in := api.TrustRequest{Require: now.Require, Aliases: now.Aliases, Keys: now.Keys}
		if err := change(&in, args); err != nil {
			return err
		}
		made, err := c.SetTrust(ctx, in, client.IfMatch(now.Generation))
		if err != nil {
			return err
		}
		return a.printTrust(made)
	})
}

func (a *app) printTrust(p api.TrustPolicy) error {
	return a.print(p, func() {
		names := make([]string, 0, len(p.Aliases))
		for _, name := range p.Aliases {
			names = append(names, string(name))
		}
		a.fields([2]string{"signature needed to deploy", yesNo(p.Require)}, [2]string{"aliases for signed versions only", strings.Join(names, " ")},
			[2]string{"changed", when(p.Changed)}, [2]string{"by", p.ChangedBy})
		if len(p.Keys) == 0 {
			return
		}
		fmt.Fprintln(a.out)
		rows := make([][]string, 0, len(p.Keys))
		for _, k := range p.Keys {
			rows = append(rows, []string{k.Name, k.ID[:min(len(k.ID), 16)], when(k.Expires)})
		}
		a.table("KEY ID EXPIRES", rows)
	})
}

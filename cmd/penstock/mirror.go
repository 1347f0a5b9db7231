package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

func (a *app) mirrorCommands() []*cobra.Command {
	all := a.withOutput(&cobra.Command{Use: "list", Short: "List mirrors, and how their last rounds went", Args: cobra.NoArgs, Example: `  penstock mirror list`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			mirrors, err := c.Mirrors(ctx)
			if err != nil {
				return err
			}
			return list(a, mirrors, "NAME DIRECTION REMOTE REPOSITORIES EVERY THROUGH ENDED SEEN COPIED ERROR", func(m api.Mirror) []string {
				return []string{string(m.Name), string(m.Direction), m.Remote, strings.Join(m.Match, ","), m.Every, yesNo(m.PullThrough), when(m.Status.Ended),
					strconv.FormatInt(m.Status.Seen, 10), strconv.FormatInt(m.Status.Copied, 10), m.Status.Error}
			})
		})})
	show := a.withOutput(&cobra.Command{Use: "show NAME", Short: "Show a mirror", Args: cobra.ExactArgs(1), Example: `  penstock mirror show hub`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			m, err := c.Mirror(ctx, api.MirrorName(args[0]))
			if err != nil {
				return err
			}
			return a.print(m, func() { a.tellMirror(m) })
		})})
	remove := &cobra.Command{Use: "delete NAME", Short: "Delete a mirror; what it copied stays", Args: cobra.ExactArgs(1), Example: `  penstock mirror delete hub`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.DeleteMirror(ctx, api.MirrorName(args[0])); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "%s is deleted\n", args[0])
			return nil
		})}
	return []*cobra.Command{group("mirror", "Keep repositories here and at other registries alike",
		"  penstock mirror create hub oci://registry.example/models --match 'fraud*' --every 10m\n  penstock mirror list", a.createMirrorCommand(), all, show, a.runMirrorCommand(), remove)}
}

func (a *app) createMirrorCommand() *cobra.Command {
	var in api.MirrorRequest
	var flags copyFlags
	var push bool
	cmd := a.withOutput(&cobra.Command{Use: "create NAME oci://HOST[/PREFIX]", Short: "Make a mirror", Args: cobra.ExactArgs(2),
		Long: `Make a mirror: repositories below PREFIX at the other registry and those of the same names here are kept alike.

With --every all is compared again and again, and what differs is copied; without it, once and when it is run. With
--pull-through, what an OCI client asks for and is not here is fetched while it waits, and kept. With --push the copies go
the other way: each new version and tag.`,
		Example: `  penstock mirror create hub oci://registry.example/models --match 'fraud*' --every 10m
  penstock mirror create near oci://penstock.internal:8003/acme --match '*' --pull-through --password-stdin < acme.key
  penstock mirror create copy oci://backup.internal:5000/models --match '*' --push`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			var err error
			in.Name, in.Remote = api.MirrorName(args[0]), args[1]
			if in.RemoteLogin, err = flags.login(a); err != nil {
				return err
			}
			if push {
				in.Direction = api.DirectionPush
			}
			if err := in.Check(); err != nil {
				return usage(err)
			}
			m, err := c.CreateMirror(ctx, in)
			if err != nil {
				return err
			}
			return a.print(m, func() { fmt.Fprintf(a.out, "%s mirrors %s\n", m.Name, m.Remote) })
		})})
	f := cmd.Flags()
	f.StringArrayVar(&in.Match, "match", nil, "repositories, with *, ? and [] for any that are listed; may be repeated")
	f.StringArrayVar(&in.Tags, "tag", nil, "tags, with *, ? and []; may be repeated; all when left out")
	f.StringVar(&in.Every, "every", "", "how often all is compared, such as 10m; 30s with --push when left out")
	f.BoolVar(&in.PullThrough, "pull-through", false, "fetch what an OCI client asks for and is not here")
	f.BoolVar(&in.Prune, "prune", false, "delete tags here that the other side has no more")
	f.BoolVar(&in.NoReferrers, "no-referrers", false, "leave out signatures, reports and what else refers to a manifest")
	f.BoolVar(&push, "push", false, "copy from here to the other registry")
	f.StringVar(&flags.username, "username", "", "user at the other registry (PENSTOCK_REMOTE_USERNAME)")
	f.BoolVar(&flags.passwordStdin, "password-stdin", false, "read the password for the other registry from standard input; else it is PENSTOCK_REMOTE_PASSWORD")
	f.BoolVar(&flags.plain, "plain-http", false, "speak to the other registry without TLS")
	return cmd
}

// runMirrorCommand begins a round and waits for its end: that of one that began after the call.
func (a *app) runMirrorCommand() *cobra.Command {
	var background bool
	cmd := a.withOutput(&cobra.Command{Use: "run NAME", Short: "Begin a round of a mirror now, and wait for its end", Args: cobra.ExactArgs(1),
		Example: `  penstock mirror run hub`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			m, err := c.RunMirror(ctx, api.MirrorName(args[0]))
			if err != nil {
				return err
			}
			asked := m.Status.Began
			const look = 200 * time.Millisecond
			ticker := time.NewTicker(look)
			defer ticker.Stop()
			for !background && (m.Status.Running || m.Status.Began == asked) {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-ticker.C:
				}
				if m, err = c.Mirror(ctx, m.Name); err != nil {
					return err
				}
			}
			if err := a.print(m, func() { a.tellMirror(m) }); err != nil {
				return err
			}
			if m.Status.Error != "" && !background {
				return api.Fail(m.Status.Code, "mirror "+string(m.Name), "%s", m.Status.Error)
			}
			return nil
		})})
	cmd.Flags().BoolVar(&background, "background", false, "do not wait for the round's end")
	return cmd
}

func (a *app) tellMirror(m api.Mirror) {
	every := m.Every
	if every == "" {
		every = "only when it is run"
	}
	a.fields([2]string{"mirror", string(m.Name)}, [2]string{"direction", string(m.Direction)}, [2]string{"remote", m.Remote},
		[2]string{"repositories", strings.Join(m.Match, ", ")}, [2]string{"tags", strings.Join(m.Tags, ", ")}, [2]string{"every", every},
		[2]string{"pull-through", yesNo(m.PullThrough)}, [2]string{"prune", yesNo(m.Prune)}, [2]string{"referrers", yesNo(m.Referrers)},
		[2]string{"username", m.Username}, [2]string{"made", when(m.Created) + " by " + m.CreatedBy}, [2]string{"last round", lastRound(m.Status)},
		[2]string{"error", m.Status.Error})
}

func lastRound(s api.MirrorStatus) string {
	switch {
	case s.Running:
		return "under way since " + when(s.Began)
	case s.Began.IsZero():
		return "none yet"
	}
	return fmt.Sprintf("%d compared, %d copied, ended %s", s.Seen, s.Copied, when(s.Ended))
}

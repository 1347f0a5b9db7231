package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

func (a *app) keepCommands() []*cobra.Command {
	return []*cobra.Command{a.undeleteCommand(), a.trashCommand(), a.retentionCommand(), a.quotaCommand()}
}

// deleteCommand deletes versions and models; what else can be deleted is a command below it.
func (a *app) deleteCommand(others ...*cobra.Command) *cobra.Command {
	var d client.Deletion
	cmd := &cobra.Command{Use: "delete REF | MODEL", Short: "Delete a version, or all versions of a model", Args: cobra.ExactArgs(1),
		Long: `Delete a version, or all versions of a model. What is deleted can be restored for a week (serve --restore-window) with
penstock undelete; then its storage is freed. Its number is never given out again. What an alias, an endpoint's current revision, its
rollback window or a release under way needs is refused.`,
		Example: `  penstock delete digits@2
  penstock delete digits --aliases --why "replaced by digits-large"
  penstock delete endpoint digits`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			ref, err := api.ParseRef(args[0])
			if err != nil {
				return usage(err)
			}
			if ref.Version == 0 && ref.Alias == "" && ref.Digest == "" {
				err = c.DeleteModel(ctx, ref.Model, d)
			} else if d.Aliases {
				return usage(fmt.Errorf("--aliases goes with a MODEL"))
			} else {
				err = c.DeleteVersion(ctx, ref, d)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(a.out, "%s is deleted\n", args[0])
			return nil
		})}
	cmd.AddCommand(others...)
	cmd.Flags().StringVar(&d.Why, "why", "", "reason, kept in the event")
	cmd.Flags().BoolVar(&d.ForGood, "for-good", false, "it cannot be restored; the next penstock gc frees its storage")
	cmd.Flags().BoolVar(&d.Aliases, "aliases", false, "of a model: delete its aliases too")
	return cmd
}

func (a *app) undeleteCommand() *cobra.Command {
	return &cobra.Command{Use: "undelete REF", Short: "Restore what was deleted", Args: cobra.ExactArgs(1),
		Long: `Restore a deleted version by its number, or a deleted manifest of a repository by its digest; penstock trash lists them.`,
		Example: `  penstock undelete digits@2
  penstock undelete team/notes@sha256:…`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			if name, digest, ok := strings.Cut(args[0], "@"); ok && api.ContentDigest(digest).Valid() {
				if err := c.RestoreManifest(ctx, api.RestoreRequest{Repository: name, Digest: api.ContentDigest(digest)}); err != nil {
					return err
				}
				fmt.Fprintf(a.out, "%s is restored\n", clipDigest(args[0]))
				return nil
			}
			ref, err := api.ParseRef(args[0])
			if err == nil && ref.Version == 0 {
				err = fmt.Errorf("%s names no version; write MODEL@NUMBER", args[0])
			}
			if err != nil {
				return usage(err)
			}
			v, err := c.RestoreVersion(ctx, ref.Model, ref.Version)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.out, "%s is restored\n", v.Ref())
			return nil
		})}
}

func (a *app) trashCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{Use: "trash", Short: "List what was deleted and can be restored", Args: cobra.NoArgs, Example: `  penstock trash`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := c.Trash(ctx)
			if err != nil {
				return err
			}
			return list(a, all, "WHAT TYPE DELETED BY UNTIL", func(d api.Deleted) []string {
				what := clipDigest(d.Repository + "@" + string(d.Digest))
				if d.Version > 0 {
					what = api.Ref{Model: api.ModelName(d.Repository), Version: d.Version}.String()
				}
				return []string{what, d.Type, when(d.Deleted), d.By, when(d.Until)}
			})
		})})
}

func (a *app) retentionCommand() *cobra.Command {
	show := a.withOutput(&cobra.Command{Use: "show MODEL", Short: "Show which versions are kept", Args: cobra.ExactArgs(1), Example: `  penstock retention show digits`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.Retention(ctx, api.ModelName(args[0]))
			if err != nil {
				return err
			}
			return a.print(r, func() { a.showRetention(r) })
		})})
	var rules api.RetentionRules
	set := a.withOutput(&cobra.Command{Use: "set MODEL", Short: "Set which versions are kept; no rule keeps all", Args: cobra.ExactArgs(1),
		Long: `Set which versions of a model are kept. A version that one of the rules keeps is kept, and so is whatever an alias, an endpoint
or a release needs; the others are deleted with each garbage collection, and can be restored as if they had been deleted by hand.`,
		Example: `  penstock retention set digits --keep-last 10 --keep-days 30
  penstock retention set digits`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.SetRetention(ctx, api.ModelName(args[0]), rules, 0)
			if err != nil {
				return err
			}
			return a.print(r, func() { a.showRetention(r) })
		})})
	f := set.Flags()
	f.Int64Var(&rules.KeepLast, "keep-last", 0, "keep so many of the newest versions")
	f.Int64Var(&rules.KeepDays, "keep-days", 0, "keep versions younger than so many days")
	f.Int64Var(&rules.KeepServedDays, "keep-served-days", 0, "keep versions that served within so many days")
	f.BoolVar(&rules.KeepTagged, "keep-tagged", false, "keep versions with a tag")
	var dry bool
	apply := a.withOutput(&cobra.Command{Use: "apply MODEL", Short: "Delete now what the rules do not keep", Args: cobra.ExactArgs(1), Example: `  penstock retention apply digits --dry-run`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			all, err := c.ApplyRetention(ctx, api.ModelName(args[0]), api.RetentionRequest{DryRun: dry})
			if err != nil {
				return err
			}
			return list(a, all, "VERSION DELETE WHY", func(v api.RetentionVerdict) []string {
				return []string{api.Ref{Model: api.ModelName(args[0]), Version: v.Version}.String(), yesNo(v.Delete), v.Why}
			})
		})})
	apply.Flags().BoolVar(&dry, "dry-run", false, "only tell what would be deleted")
	return group("retention", "Say which versions of a model are kept", "  penstock retention set digits --keep-last 10\n  penstock retention apply digits --dry-run", show, set, apply)
}

func (a *app) showRetention(r api.Retention) {
	if r.None() {
		fmt.Fprintf(a.out, "%s: every version is kept\n", r.Model)
		return
	}
	tagged := ""
	if r.KeepTagged {
		tagged = "yes"
	}
	a.fields([2]string{"model", string(r.Model)}, [2]string{"keep last", positive(r.KeepLast)}, [2]string{"keep days", positive(r.KeepDays)},
		[2]string{"keep served days", positive(r.KeepServedDays)}, [2]string{"keep tagged", tagged})
}

func (a *app) quotaCommand() *cobra.Command {
	show := a.withOutput(&cobra.Command{Use: "show", Short: "Show what the tenant may store, and what it stores", Args: cobra.NoArgs,
		Example: `  penstock quota show
  penstock quota show --tenant acme`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			q, err := c.Quota(ctx)
			if err != nil {
				return err
			}
			return a.print(q, func() { a.showQuota(q) })
		})})
	var in api.QuotaRequest
	var bytes string
	set := a.withOutput(&cobra.Command{Use: "set", Short: "Set what a tenant may store; what is not named has no limit", Args: cobra.NoArgs,
		Long: `Set what a tenant may store. Needs an admin key of tenant default. A limit that is not named is none. Each blob counts once for a
tenant, however often it uses it, and in full for every tenant that holds it. Uploads reserve their room before they begin.`,
		Example: `  penstock quota set --tenant acme --bytes 50GiB --versions 1000`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			if bytes != "" {
				var err error
				if in.Bytes, err = parseSize(bytes); err != nil {
					return usage(err)
				}
			}
			q, err := c.SetQuota(ctx, in, 0)
			if err != nil {
				return err
			}
			return a.print(q, func() { a.showQuota(q) })
		})})
	f := set.Flags()
	f.StringVar(&bytes, "bytes", "", "bytes of all blobs, such as 50GiB")
	f.Int64Var(&in.Blobs, "blobs", 0, "blobs")
	f.Int64Var(&in.Models, "models", 0, "models")
	f.Int64Var(&in.Versions, "versions", 0, "versions")
	f.Int64Var(&in.Tags, "tags", 0, "aliases and tags")
	return group("quota", "Show and set what tenants may store", "  penstock quota show\n  penstock quota set --tenant acme --bytes 50GiB", show, set)
}

func (a *app) showQuota(q api.Quota) {
	limit := func(n int64, show func(int64) string) string {
		if n == 0 {
			return "none"
		}
		return show(n)
	}
	decimal := func(n int64) string { return strconv.FormatInt(n, 10) }
	a.table("WHAT USED RESERVED LIMIT", [][]string{
		{"bytes", size(q.Used.Bytes), size(q.Used.ReservedBytes), limit(q.Bytes, size)},
		{"blobs", decimal(q.Used.Blobs), decimal(q.Used.ReservedBlobs), limit(q.Blobs, decimal)},
		{"models", decimal(q.Used.Models), "", limit(q.Models, decimal)},
		{"versions", decimal(q.Used.Versions), "", limit(q.Versions, decimal)},
		{"tags", decimal(q.Used.Tags), "", limit(q.Tags, decimal)},
	})
}

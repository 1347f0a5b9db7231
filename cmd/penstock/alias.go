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

func (a *app) aliasCommands() []*cobra.Command {
	var why, expect string
	var remove, history bool
	alias := a.withOutput(&cobra.Command{Use: "alias MODEL ALIAS [VERSION]", Short: "Move an alias, or show where it has been", Args: cobra.RangeArgs(2, 3),
		Example: `  penstock alias digits champion 2 --why "better accuracy"
  penstock alias digits champion 1.2.0 --expect 1     # only if it is digits@1 still
  penstock alias digits champion --history
  penstock alias digits champion --delete`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			model, name := api.ModelName(args[0]), api.AliasName(args[1])
			switch {
			case len(args) == 3 && !remove && !history:
				return a.moveAlias(ctx, c, name, args, api.AliasRequest{Why: why}, expect)
			case len(args) == 2 && remove && !history:
				if err := c.DeleteAlias(ctx, model, name, why, 0); err != nil {
					return err
				}
				fmt.Fprintf(a.out, "%s:%s is gone\n", model, name)
				return nil
			case len(args) == 2 && history && !remove:
				moves, err := c.AliasHistory(ctx, model, name)
				if err != nil {
					return err
				}
				return list(a, moves, "MOVE FROM TO AT BY WHY", func(m api.AliasMove) []string {
					return []string{strconv.FormatInt(m.Seq, 10), positive(int64(m.From)), positive(int64(m.To)), when(m.At), m.By, m.Why}
				})
			}
			return usage(fmt.Errorf("give a VERSION, --history or --delete"))
		})})
	alias.Flags().StringVar(&why, "why", "", "reason, kept in the history")
	alias.Flags().StringVar(&expect, "expect", "", "move it only if it names this version now; none: only if there is no such alias")
	alias.Flags().BoolVar(&remove, "delete", false, "delete the alias")
	alias.Flags().BoolVar(&history, "history", false, "list its moves, newest first")
	return []*cobra.Command{alias, a.tagCommand(), a.protectCommand(), a.renameCommand(), a.shareCommand(), a.copyCommand()}
}

// moveAlias takes the version as a number, a label or a whole reference, since all are written everywhere else.
func (a *app) moveAlias(ctx context.Context, c *client.Client, name api.AliasName, args []string, in api.AliasRequest, expect string) error {
	model := api.ModelName(args[0])
	var err error
	if in.Version, err = versionOf(ctx, c, model, args[2]); err != nil {
		return err
	}
	if expect != "" {
		in.Expect = new(api.VersionNumber)
		if expect != "none" {
			if *in.Expect, err = versionOf(ctx, c, model, expect); err != nil {
				return err
			}
		}
	}
	moved, err := c.MoveAlias(ctx, model, name, in, 0)
	if err != nil {
		return err
	}
	now := model
	if m, err := c.Model(ctx, model); err == nil {
		now = m.Name // which an earlier name leads to
	}
	return a.print(moved, func() { fmt.Fprintf(a.out, "%s:%s is %s@%d\n", model, name, now, moved.Version) })
}

// versionOf finds the number of a version of a model.
func versionOf(ctx context.Context, c *client.Client, model api.ModelName, text string) (api.VersionNumber, error) {
	whole := text
	if !strings.ContainsAny(text, "@:") {
		whole = string(model) + "@" + text
	}
	ref, err := api.ParseRef(whole)
	if err != nil {
		return 0, usage(err)
	}
	if ref.Model != model {
		return 0, usage(fmt.Errorf("%s is not a version of %s", text, model))
	}
	if ref.Version != 0 {
		return ref.Version, nil
	}
	version, err := c.Resolve(ctx, ref)
	return version.Number, err
}

func (a *app) tagCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{Use: "tag REF [NAME=VALUE | NAME-]...", Short: "Set or remove tags of a version", Args: cobra.MinimumNArgs(2),
		Example: `  penstock tag digits@2 reviewed=yes
  penstock tag digits@2 reviewed-`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			ref, err := api.ParseRef(args[0])
			if err != nil {
				return usage(err)
			}
			in := api.TagsRequest{Set: make(map[string]string)}
			for _, text := range args[1:] {
				name, value, sets := strings.Cut(text, "=")
				if sets && name != "" {
					in.Set[name] = value
				} else if name, removes := strings.CutSuffix(text, "-"); removes && !sets && name != "" {
					in.Remove = append(in.Remove, name)
				} else {
					return usage(fmt.Errorf("%q is neither NAME=VALUE nor NAME-", text))
				}
			}
			version, err := c.SetTags(ctx, ref, in)
			if err != nil {
				return err
			}
			return a.print(version, func() { fmt.Fprintf(a.out, "%s: %s\n", version.Ref(), printable(labels(version.Tags))) })
		})})
}

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
	var why string
	var remove, history bool
	alias := a.withOutput(&cobra.Command{Use: "alias MODEL ALIAS [VERSION]", Short: "Move an alias, or show where it has been", Args: cobra.RangeArgs(2, 3),
		Example: `  penstock alias digits champion 2 --why "better accuracy"
  penstock alias digits champion --history
  penstock alias digits champion --delete`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			model, name := api.ModelName(args[0]), api.AliasName(args[1])
			switch {
			case len(args) == 3 && !remove && !history:
				return a.moveAlias(ctx, c, model, name, args[2], why)
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
	alias.Flags().BoolVar(&remove, "delete", false, "delete the alias")
	alias.Flags().BoolVar(&history, "history", false, "list its moves, newest first")
	return []*cobra.Command{alias, a.tagCommand()}
}

// moveAlias takes the version as a number or as a whole reference, since both are written everywhere else.
func (a *app) moveAlias(ctx context.Context, c *client.Client, model api.ModelName, name api.AliasName, to, why string) error {
	text := to
	if !strings.ContainsAny(to, "@:") {
		text = string(model) + "@" + to
	}
	ref, err := api.ParseRef(text)
	if err != nil {
		return usage(err)
	}
	if ref.Model != model {
		return usage(fmt.Errorf("%s is not a version of %s", to, model))
	}
	number := ref.Version
	if number == 0 {
		version, err := c.Resolve(ctx, ref)
		if err != nil {
			return err
		}
		number = version.Number
	}
	moved, err := c.MoveAlias(ctx, model, name, api.AliasRequest{Version: number, Why: why}, 0)
	if err != nil {
		return err
	}
	return a.print(moved, func() { fmt.Fprintf(a.out, "%s:%s is %s@%d\n", model, name, model, moved.Version) })
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

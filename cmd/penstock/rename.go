package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

func (a *app) renameCommand() *cobra.Command {
	var why string
	var listed, forget bool
	cmd := a.withOutput(&cobra.Command{Use: "rename OLD NEW | --list | --forget OLD", Short: "Give a model another name; the old one goes on leading to it", Args: cobra.MaximumNArgs(2),
		Long: `Give a model another name. The old name, and every one before it, leads to the new one from then on: in references of all kinds
(old@3, old:champion), in specs and searches, and for OCI clients that pull. Answers say the new name. What serves goes on, and no model is
loaded anew. Nothing new can take the old name; renaming back takes it again. --list shows the earlier names; --forget frees one, which ends
the links by it and needs a key with the scope admin.`,
		Example: `  penstock rename fraud card-fraud --why "there are two of them now"
  penstock rename --list
  penstock rename --forget fraud`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			switch {
			case listed && (forget || len(args) > 0):
				return usage(errors.New("--list stands alone"))
			case listed:
				return a.listRedirects(ctx, c)
			case forget && len(args) != 1:
				return usage(errors.New("--forget goes with one name"))
			case forget:
				if err := c.ForgetRedirect(ctx, api.ModelName(args[0])); err != nil {
					return err
				}
				fmt.Fprintf(a.out, "%s leads nowhere any more\n", args[0])
				return nil
			case len(args) != 2:
				return usage(errors.New("name the model and its new name"))
			}
			m, err := c.RenameModel(ctx, api.ModelName(args[0]), api.RenameRequest{To: api.ModelName(args[1]), Why: why})
			if err != nil {
				return err
			}
			return a.print(m, func() { fmt.Fprintf(a.out, "%s is %s now, and leads to it\n", args[0], m.Name) })
		})})
	cmd.Flags().StringVar(&why, "why", "", "reason, kept in the event and the audit")
	cmd.Flags().BoolVar(&listed, "list", false, "list earlier names")
	cmd.Flags().BoolVar(&forget, "forget", false, "free an earlier name")
	return cmd
}

func (a *app) listRedirects(ctx context.Context, c *client.Client) error {
	var all []api.Redirect
	for after, more := api.ModelName(""), true; more; {
		page, err := c.Redirects(ctx, after)
		if err != nil {
			return err
		}
		all, after, more = append(all, page.Items...), api.ModelName(page.Next), page.Next != ""
	}
	return list(a, all, "NAME MODEL RENAMED BY", func(r api.Redirect) []string {
		return []string{string(r.Name), string(r.Model), when(r.Renamed), r.By}
	})
}

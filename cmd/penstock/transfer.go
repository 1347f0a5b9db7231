package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

// copyFlags are those of commands that copy to or from another registry.
type copyFlags struct {
	to, username  string
	passwordStdin bool
	plain         bool
	referrers     bool
	background    bool
}

func (f *copyFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.username, "username", "", "user at the other registry (PENSTOCK_REMOTE_USERNAME)")
	flags.BoolVar(&f.passwordStdin, "password-stdin", false, "read the password for the other registry from standard input; else it is PENSTOCK_REMOTE_PASSWORD")
	flags.BoolVar(&f.plain, "plain-http", false, "speak to the other registry without TLS")
	flags.BoolVar(&f.referrers, "referrers", false, "copy signatures, reports and what else refers to it too")
	flags.BoolVar(&f.background, "background", false, "print the transfer and do not wait for its end")
}

// login takes the password from where it does not stand in a list of processes.
func (f *copyFlags) login(a *app) (api.RemoteLogin, error) {
	login := api.RemoteLogin{Username: first(f.username, a.env("PENSTOCK_REMOTE_USERNAME")), Password: a.env("PENSTOCK_REMOTE_PASSWORD"), PlainHTTP: f.plain}
	if f.passwordStdin {
		text, err := io.ReadAll(io.LimitReader(a.in, settingsMax))
		if err != nil {
			return login, fmt.Errorf("read the password: %w", err)
		}
		login.Password = strings.TrimRight(string(text), "\r\n")
	}
	if login.Password != "" && login.Username == "" {
		login.Username = "penstock" // registries that go by keys want some name
	}
	return login, nil
}

// pushArgs takes PATH and MODEL, or REF alone with --to.
func pushArgs(cmd *cobra.Command, args []string) error {
	if to, _ := cmd.Flags().GetString("to"); to != "" {
		return cobra.ExactArgs(1)(cmd, args)
	}
	return cobra.ExactArgs(2)(cmd, args)
}

func (a *app) transferCommands() []*cobra.Command {
	cancel := a.withOutput(&cobra.Command{Use: "cancel ID", Short: "Cancel a transfer; what it copied stays", Args: cobra.ExactArgs(1),
		Example: `  penstock transfer cancel 01JABCDEF`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			t, err := c.CancelTransfer(ctx, api.TransferID(args[0]))
			if err != nil {
				return err
			}
			return a.print(t, func() { fmt.Fprintf(a.out, "%s is %s\n", t.ID, t.State) })
		})})
	return []*cobra.Command{
		group("transfer", "Watch copies to and from other registries", "  penstock transfer list\n  penstock transfer show 01JABCDEF", a.transfersCommand(), a.transferCommand(), cancel)}
}

// fetch is import oci://: the server copies a model from another registry.
func (a *app) fetch(ctx context.Context, c *client.Client, from, model string, flags copyFlags, aliases []string) error {
	if err := api.CheckName("model", model); err != nil {
		return usage(err)
	}
	if _, err := api.ParseRemoteRef(from); err != nil {
		return usage(err)
	}
	login, err := flags.login(a)
	if err != nil {
		return err
	}
	t, err := c.Import(ctx, api.ModelName(model), api.ImportRequest{From: from, Tags: aliases, Referrers: flags.referrers, RemoteLogin: login})
	if err != nil {
		return err
	}
	return a.follow(ctx, c, t, flags.background)
}

// copyOut is push --to.
func (a *app) copyOut(ctx context.Context, c *client.Client, text string, flags copyFlags) error {
	ref, err := api.ParseRef(text)
	if err != nil {
		return usage(err)
	}
	if _, err := api.ParseRemoteRef(flags.to); err != nil {
		return usage(err)
	}
	login, err := flags.login(a)
	if err != nil {
		return err
	}
	t, err := c.Copy(ctx, ref, api.CopyRequest{To: flags.to, Referrers: flags.referrers, RemoteLogin: login})
	if err != nil {
		return err
	}
	return a.follow(ctx, c, t, flags.background)
}

// follow waits for a transfer's end and shows how far it is. Who stops waiting does not stop the transfer.
func (a *app) follow(ctx context.Context, c *client.Client, t api.Transfer, background bool) error {
	if background {
		return a.print(t, func() { fmt.Fprintln(a.out, t.ID) })
	}
	var bar progress
	drawn := int64(0)
	told := ""
	for !t.State.Final() {
		if t.Total > 0 && t.Total != drawn {
			bar, drawn = a.progress(t.Total, string(t.Direction)+" "+t.Remote), t.Total
		}
		bar.set(t.Bytes)
		if t.Error != "" && t.Error != told && t.State == api.TransferWaiting {
			told = t.Error
			fmt.Fprintf(a.err, "will try again (%d): %s\n", t.Tries, printable(t.Error))
		}
		const look = 500 * time.Millisecond
		later, err := c.Transfer(ctx, t.ID, look)
		if err != nil {
			bar.finish()
			return err
		}
		t = later
	}
	bar.finish()
	if t.State != api.TransferDone && (a.output == formatTable || a.output == "") {
		return transferError(t)
	}
	if err := a.print(t, func() { fmt.Fprintln(a.out, transferResult(t)) }); err != nil {
		return err
	}
	return transferError(t)
}

func transferError(t api.Transfer) error {
	switch t.State {
	case api.TransferFailed:
		return api.Fail(t.Code, "transfer "+string(t.ID), "%s", t.Error)
	case api.TransferCanceled:
		return api.Fail(api.CodeCanceled, "transfer "+string(t.ID), "it was canceled")
	}
	return nil
}

// transferResult is what a transfer led to, in a line.
func transferResult(t api.Transfer) string {
	switch {
	case t.State != api.TransferDone:
		return string(t.ID) + " is " + string(t.State)
	case t.Direction == api.DirectionPush:
		return t.Remote + " is " + string(t.Digest)
	case t.Version > 0:
		return t.Local + "@" + strconv.FormatInt(int64(t.Version), 10)
	}
	return t.Local + "@" + string(t.Digest)
}

func (a *app) transfersCommand() *cobra.Command {
	var limit int
	cmd := a.withOutput(&cobra.Command{Use: "list", Short: "List transfers, newest first", Args: cobra.NoArgs, Example: `  penstock transfer list`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := c.Transfers(ctx, client.Page{Limit: limit})
			if err != nil {
				return err
			}
			return list(a, all.Items, "ID DIRECTION REMOTE LOCAL STATE BYTES TOTAL CREATED ERROR", func(t api.Transfer) []string {
				return []string{string(t.ID), string(t.Direction), t.Remote, t.Local, string(t.State), size(t.Bytes), size(t.Total), when(t.Created), t.Error}
			})
		})})
	cmd.Flags().IntVar(&limit, "limit", 20, "most transfers to list")
	return cmd
}

func (a *app) transferCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{Use: "show ID", Short: "Show a transfer", Args: cobra.ExactArgs(1), Example: `  penstock transfer show 01JABCDEF`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			t, err := c.Transfer(ctx, api.TransferID(args[0]), 0)
			if err != nil {
				return err
			}
			return a.print(t, func() {
				a.fields([2]string{"transfer", string(t.ID)}, [2]string{"direction", string(t.Direction)}, [2]string{"remote", t.Remote}, [2]string{"local", t.Local},
					[2]string{"state", string(t.State)}, [2]string{"result", transferResult(t)}, [2]string{"bytes", size(t.Bytes) + " of " + size(t.Total)},
					[2]string{"tries", strconv.Itoa(t.Tries)}, [2]string{"error", t.Error}, [2]string{"mirror", t.Mirror}, [2]string{"created", when(t.Created)},
					[2]string{"by", t.CreatedBy}, [2]string{"changed", when(t.Changed)})
			})
		})})
}

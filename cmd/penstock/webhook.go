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

func (a *app) webhookCommands() []*cobra.Command {
	return []*cobra.Command{group("webhook", "Be told of events over HTTP, signed",
		"  penstock webhook create https://ci.example/hooks --kind 'release.*'\n  penstock webhook deliveries 01JABCDEF",
		a.webhookCreateCommand(), a.webhookListCommand(), a.webhookShowCommand(), a.webhookDeleteCommand(), a.webhookRotateCommand(),
		a.webhookTestCommand(), a.webhookDeliveriesCommand(), a.webhookRedeliverCommand(),
		a.webhookSwitchCommand("enable", "Send events to a webhook again", true), a.webhookSwitchCommand("disable", "Send nothing to a webhook until it is enabled", false))}
}

func (a *app) webhookCreateCommand() *cobra.Command {
	var in api.WebhookRequest
	cmd := a.withOutput(&cobra.Command{Use: "create URL", Short: "Make a webhook and print its secret, this once", Args: cobra.ExactArgs(1),
		Long: `Make a webhook and print the secret that signs what is sent to it.

Each event is posted as a CloudEvent in JSON, with the headers webhook-id, webhook-timestamp and webhook-signature of the
Standard Webhooks specification. A star in a filter stands for any characters.`,
		Example: `  penstock webhook create https://ci.example/hooks --kind version.pushed --kind 'alias.*'
  penstock webhook create https://ops.example/fraud --kind 'release.*' --subject fraud`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			in.URL = args[0]
			w, err := c.CreateWebhook(ctx, in)
			if err != nil {
				return err
			}
			return a.print(w, func() {
				fmt.Fprintln(a.out, w.Secret)
				fmt.Fprintf(a.err, "webhook %s of tenant %s; keep the secret, it cannot be shown again\n", w.ID, w.Tenant)
			})
		})})
	f := cmd.Flags()
	f.StringSliceVar(&in.Kinds, "kind", nil, "kinds of events, such as release.*; all when left out; may be repeated")
	f.StringSliceVar(&in.Subjects, "subject", nil, "subjects of events, such as fraud@*; all when left out; may be repeated")
	f.StringVar(&in.Text, "text", "", "what it is for")
	f.BoolVar(&in.Server, "server-events", false, "also the server's own events, such as worker.lost; only in tenant default")
	return cmd
}

func (a *app) webhookListCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{Use: "list", Short: "List webhooks", Args: cobra.NoArgs, Example: `  penstock webhook list`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			all, err := c.Webhooks(ctx)
			if err != nil {
				return err
			}
			return list(a, all, "ID URL KINDS SUBJECTS STATE PENDING", func(w api.Webhook) []string {
				return []string{string(w.ID), w.URL, orAll(w.Kinds), orAll(w.Subjects), webhookState(w), strconv.FormatInt(w.Pending, 10)}
			})
		})})
}

func orAll(patterns []string) string { return first(strings.Join(patterns, ","), "*") }

func webhookState(w api.Webhook) string {
	switch {
	case w.Disabled != 0:
		return "disabled"
	case w.Failing != 0:
		return "failing"
	}
	return "enabled"
}

func (a *app) webhookShowCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{Use: "show ID", Short: "Show a webhook", Args: cobra.ExactArgs(1), Example: `  penstock webhook show 01JABCDEF`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			w, err := c.Webhook(ctx, api.WebhookID(args[0]))
			if err != nil {
				return err
			}
			return a.print(w, func() {
				a.fields([2]string{"webhook", string(w.ID)}, [2]string{"url", w.URL}, [2]string{"text", w.Text}, [2]string{"kinds", orAll(w.Kinds)},
					[2]string{"subjects", orAll(w.Subjects)}, [2]string{"state", webhookState(w)}, [2]string{"reason", w.Reason},
					[2]string{"failing since", when(w.Failing)}, [2]string{"pending", strconv.FormatInt(w.Pending, 10)},
					[2]string{"old secret until", when(w.OldSecret)}, [2]string{"created", when(w.Created)}, [2]string{"by", w.CreatedBy})
			})
		})})
}

func (a *app) webhookDeleteCommand() *cobra.Command {
	return &cobra.Command{Use: "delete ID", Short: "Delete a webhook with its deliveries", Args: cobra.ExactArgs(1), Example: `  penstock webhook delete 01JABCDEF`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.DeleteWebhook(ctx, api.WebhookID(args[0])); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "%s is gone\n", args[0])
			return nil
		})}
}

func (a *app) webhookRotateCommand() *cobra.Command {
	var keep time.Duration
	cmd := a.withOutput(&cobra.Command{Use: "rotate ID", Short: "Make a new secret; the old one signs, too, for a time", Args: cobra.ExactArgs(1),
		Example: `  penstock webhook rotate 01JABCDEF --keep 48h`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			w, err := c.RotateWebhook(ctx, api.WebhookID(args[0]), keep)
			if err != nil {
				return err
			}
			return a.print(w, func() {
				fmt.Fprintln(a.out, w.Secret)
				fmt.Fprintf(a.err, "both secrets sign until %s\n", when(w.OldSecret))
			})
		})})
	cmd.Flags().DurationVar(&keep, "keep", 24*time.Hour, "how long the old secret signs, too; at most 720h")
	return cmd
}

func (a *app) webhookTestCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{Use: "test ID", Short: "Send a test and tell what came of it", Args: cobra.ExactArgs(1), Example: `  penstock webhook test 01JABCDEF`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			d, err := c.TestWebhook(ctx, api.WebhookID(args[0]), waitOnce)
			if err != nil {
				return err
			}
			if err := a.print(d, func() { a.deliveryTable([]api.Delivery{d}) }); err != nil {
				return err
			}
			if d.State != api.DeliveryDelivered {
				return api.Fail(api.CodeUnavailable, string(d.Webhook), "the test did not arrive").WithCure("See why with `penstock webhook deliveries %s`; it is tried again.", d.Webhook)
			}
			return nil
		})})
}

func (a *app) deliveryTable(all []api.Delivery) {
	rows := make([][]string, 0, len(all))
	for _, d := range all {
		status, latency, fault := "", "", ""
		if n := len(d.Tries); n > 0 {
			last := d.Tries[n-1]
			latency, fault = millis(time.Duration(last.LatencyUS)*time.Microsecond), last.Error
			status = positive(int64(last.Status))
		}
		rows = append(rows, []string{d.ID, when(d.Created), d.Event.Kind, d.Event.Subject, string(d.State), strconv.FormatInt(d.Attempts, 10), status, latency, when(d.Due), fault})
	}
	a.table("DELIVERY CREATED KIND SUBJECT STATE ATTEMPTS STATUS TOOK NEXT ERROR", rows)
}

func (a *app) webhookDeliveriesCommand() *cobra.Command {
	var state string
	var limit int
	cmd := a.withOutput(&cobra.Command{Use: "deliveries ID", Short: "List deliveries, newest first", Args: cobra.ExactArgs(1),
		Example: `  penstock webhook deliveries 01JABCDEF
  penstock webhook deliveries 01JABCDEF --state dead -o json`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			page, err := c.Deliveries(ctx, api.WebhookID(args[0]), api.DeliveryState(state), client.Page{Limit: limit})
			if err != nil {
				return err
			}
			return a.print(page.Items, func() { a.deliveryTable(page.Items) })
		})})
	cmd.Flags().StringVar(&state, "state", "", "only those that are pending, delivered or dead")
	cmd.Flags().IntVar(&limit, "limit", 50, "most deliveries")
	return cmd
}

func (a *app) webhookRedeliverCommand() *cobra.Command {
	var in api.RedeliverRequest
	cmd := a.withOutput(&cobra.Command{Use: "redeliver ID [DELIVERY]", Short: "Send a delivery again, or all that were given up", Args: cobra.RangeArgs(1, 2),
		Example: `  penstock webhook redeliver 01JABCDEF msg_5f3a
  penstock webhook redeliver 01JABCDEF --dead`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) == 2 {
				in.Delivery = args[1]
			}
			if (in.Delivery != "") == in.Dead {
				return usage(fmt.Errorf("name one delivery, or say --dead"))
			}
			n, err := c.Redeliver(ctx, api.WebhookID(args[0]), in)
			if err != nil {
				return err
			}
			return a.print(api.Redelivered{Count: n}, func() { fmt.Fprintf(a.out, "%d will be sent again\n", n) })
		})})
	cmd.Flags().BoolVar(&in.Dead, "dead", false, "all that were given up")
	return cmd
}

func (a *app) webhookSwitchCommand(verb, short string, enabled bool) *cobra.Command {
	return a.withOutput(&cobra.Command{Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1), Example: "  penstock webhook " + verb + " 01JABCDEF",
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			w, err := c.ChangeWebhook(ctx, api.WebhookID(args[0]), api.WebhookChange{Enabled: &enabled})
			if err != nil {
				return err
			}
			return a.print(w, func() { fmt.Fprintf(a.out, "%s is %s\n", w.ID, webhookState(w)) })
		})})
}

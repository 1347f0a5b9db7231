package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/server"
)

func (a *app) auditCommands() []*cobra.Command {
	var query client.AuditQuery
	var since string
	var limit int
	cmd := a.withOutput(&cobra.Command{Use: "audit", Short: "List who did what, newest first", Args: cobra.NoArgs,
		Long: `List who did what, newest first: every change, with what was there before and after, every backup, and every caller who was
turned away for its key. Needs a key with admin; those of tenant default see all tenants with --all.`,
		Example: `  penstock audit
  penstock audit --actor ci --since 24h
  penstock audit --action moveAlias --subject 'fraud:*' -o json`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			if err := parseSince(since, &query); err != nil {
				return usage(err)
			}
			page, err := c.Audit(ctx, query, client.Page{Limit: limit})
			if err != nil {
				return err
			}
			return list(a, page.Items, "SEQ TIME ACTOR ACTION SUBJECT OUTCOME BEFORE AFTER REASON", func(r api.AuditRecord) []string {
				return []string{strconv.FormatInt(r.Seq, 10), when(r.At), r.Actor, r.Action, r.Subject, auditOutcome(r), r.Before, r.After, r.Reason}
			})
		})})
	auditFlags(cmd, &query, &since)
	cmd.Flags().IntVar(&limit, "limit", 50, "most records")
	cmd.AddCommand(a.auditExportCommand(), a.auditVerifyCommand())
	return []*cobra.Command{cmd}
}

func auditFlags(cmd *cobra.Command, query *client.AuditQuery, since *string) {
	f := cmd.Flags()
	f.StringVar(&query.Actor, "actor", "", "only by the key with this name or identifier")
	f.StringVar(&query.Action, "action", "", "only this, such as moveAlias")
	f.StringVar(&query.Subject, "subject", "", "only about this; may end in a star")
	f.StringVar(since, "since", "", "only from then on: a duration such as 24h, or a time such as 2026-01-31T00:00:00Z")
	f.BoolVar(&query.All, "all", false, "of all tenants; for admins of tenant default")
}

func parseSince(text string, query *client.AuditQuery) error {
	if text == "" {
		return nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		query.Since = api.TimeOf(time.Now().Add(-d))
		return nil
	}
	if err := query.Since.UnmarshalText([]byte(text)); err != nil {
		return fmt.Errorf("--since %q is neither a duration nor a time", text)
	}
	return nil
}

// auditOutcome tells a change whose end is missing from one that ended.
func auditOutcome(r api.AuditRecord) string {
	text := r.Outcome
	if r.Phase == api.AuditBegun {
		text = "not known"
	}
	if r.Count > 1 {
		text += fmt.Sprintf(" (%d times)", r.Count)
	}
	if r.Late {
		text += " (late)"
	}
	return text
}

func (a *app) auditExportCommand() *cobra.Command {
	var query client.AuditQuery
	var since string
	cmd := &cobra.Command{Use: "export [FILE]", Short: "Write records as lines of JSON, newest first", Args: cobra.MaximumNArgs(1),
		Long:    "Write records as lines of JSON, newest first, to FILE or to standard output. FILE appears only when it is complete.",
		Example: "  penstock audit export audit.jsonl --since 720h\n  penstock audit export --all | jq .action",
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			if err := parseSince(since, &query); err != nil {
				return usage(err)
			}
			write := func(w io.Writer) error { return exportAudit(ctx, c, query, w) }
			if len(args) == 0 {
				return write(a.out)
			}
			return a.writeWhole(args[0], 0o600, write)
		})}
	auditFlags(cmd, &query, &since)
	return cmd
}

func exportAudit(ctx context.Context, c *client.Client, query client.AuditQuery, w io.Writer) error {
	out := bufio.NewWriter(w)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	pages := func(ctx context.Context, p client.Page) (api.List[api.AuditRecord], error) {
		p.Limit = 1000
		return c.Audit(ctx, query, p)
	}
	for r, err := range client.All(ctx, pages) {
		if err != nil {
			return err
		}
		if err := lines.Encode(r); err != nil {
			return err
		}
	}
	return out.Flush()
}

func (a *app) auditVerifyCommand() *cobra.Command {
	var offline bool
	var store string
	cmd := a.withOutput(&cobra.Command{Use: "verify", Short: "Look at every record of the audit, and name the first bad one", Args: cobra.NoArgs,
		Long: `Look at every record of the audit: its checksum, its place in the chain of hashes, its number, and what the database knows of
the chain. The first record that was changed, cut off, swapped, repeated or taken out is named, and the exit code is 1.

The server does it, or with --offline this program, on the data directory and its database.`,
		Example: "  penstock audit verify\n  penstock audit verify --offline --data /var/lib/penstock",
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			var report api.AuditReport
			var err error
			if offline {
				report, err = server.VerifyAudit(cmd.Context(), server.Config{Data: a.dataDirectory(), Store: store})
			} else {
				var c *client.Client
				if c, err = a.connect(); err == nil {
					report, err = c.VerifyAudit(cmd.Context())
				}
			}
			if err != nil {
				return err
			}
			if err := a.print(report, func() { a.auditReport(report) }); err != nil || report.OK {
				return err
			}
			return api.Fail(api.CodeInternal, fmt.Sprintf("record %d", report.Fault.Seq), "%s", report.Fault.Text).
				WithCure("Compare with a backup and with exports; keep the files as they are. See docs/decisions/029-audit.md for what each fault means.")
		})})
	cmd.Flags().BoolVar(&offline, "offline", false, "look at the data directory without a server")
	cmd.Flags().StringVar(&store, "store", "", "with --offline: the database, as with serve")
	return cmd
}

func (a *app) auditReport(r api.AuditReport) {
	verdict := "every record is as it was written"
	if !r.OK {
		verdict = fmt.Sprintf("record %d is not as it was written", r.Fault.Seq)
	}
	pairs := [][2]string{{"verdict", verdict}, {"records", fmt.Sprintf("%d, from %d to %d", r.Records, r.First, r.Last)},
		{"files", fmt.Sprintf("%d, %s", r.Segments, size(r.Bytes))}, {"head", r.Head}, {"compared with the database", strconv.FormatInt(r.Heads, 10)}}
	if !r.OK {
		pairs = append(pairs, [2]string{"fault", r.Fault.Text}, [2]string{"place", fmt.Sprintf("%s, byte %d", first(r.Fault.Segment, "no file"), r.Fault.Offset)})
	}
	a.fields(pairs...)
}

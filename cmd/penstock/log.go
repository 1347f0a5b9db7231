package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

func (a *app) logCommands() []*cobra.Command {
	var query client.LogQuery
	var endpoint, variant string
	var follow bool
	cmd := a.withOutput(&cobra.Command{Use: "logs", Short: "List inferences, one line each", Args: cobra.NoArgs,
		Example: `  penstock logs --endpoint digits --limit 20
  penstock logs -f --errors`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			query.Endpoint, query.Variant = api.EndpointName(endpoint), api.VariantName(variant)
			if follow {
				return a.followLogs(ctx, c, query)
			}
			all, err := c.Logs(ctx, query)
			if err != nil {
				return err
			}
			slices.Reverse(all) // as a log reads: the newest last
			return list(a, all, strings.Join(exchangeColumns, " "), exchangeRow)
		})})
	f := cmd.Flags()
	f.StringVar(&endpoint, "endpoint", "", "only of this endpoint")
	f.StringVar(&variant, "variant", "", "only of this variant")
	f.BoolVar(&query.OnlyErrors, "errors", false, "only those that failed")
	f.IntVar(&query.Limit, "limit", 100, "most lines to begin with")
	f.BoolVarP(&follow, "follow", "f", false, "go on with new ones until interrupted")
	return []*cobra.Command{cmd}
}

var exchangeColumns = []string{"TIME", "ENDPOINT", "VARIANT", "VERSION", "PROTOCOL", "TOTAL", "QUEUE", "COMPUTE", "RESULT", "REQUEST"}

func exchangeRow(x api.Exchange) []string {
	result, version := "ok", ""
	if x.Code != "" {
		result = string(x.Code)
	}
	if x.Cached && x.Code == "" {
		result = "ok, cached"
	}
	if x.Version > 0 {
		version = fmt.Sprintf("%s@%d", first(string(x.Model), "chain"), x.Version)
	}
	return []string{when(x.Start), string(x.Endpoint), string(x.Variant), version, x.Protocol, millis(x.Total), millis(x.Queue), millis(x.Compute), result, x.RequestID}
}

// followLogs prints one line per exchange as they come; columns have a fixed width, since the next line is not known.
func (a *app) followLogs(ctx context.Context, c *client.Client, query client.LogQuery) error {
	const line = "%-19s  %-16s %-10s %-14s %-9s %9s %9s %9s  %-12s %s\n"
	if a.output == formatTable {
		fmt.Fprintf(a.out, line, words(exchangeColumns)...)
	}
	for x, err := range c.FollowLogs(ctx, query) {
		if err != nil {
			if ctx.Err() != nil {
				return nil // interrupted: that is how following ends
			}
			return err
		}
		if a.output == formatTable {
			row := exchangeRow(x)
			for i := range row {
				row[i] = cleanCell(first(row[i], "-"))
			}
			fmt.Fprintf(a.out, line, words(row)...)
			continue
		}
		if err := a.printLine(x); err != nil {
			return err
		}
	}
	return nil
}

// printLine writes one value of a stream: a line of JSON, or a YAML document.
func (a *app) printLine(value any) error {
	if a.output == formatYAML {
		fmt.Fprintln(a.out, "---")
		return a.print(value, nil)
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "%s\n", text)
	return err
}

func words(all []string) []any {
	out := make([]any, len(all))
	for i, w := range all {
		out[i] = w
	}
	return out
}

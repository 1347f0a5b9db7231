package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

// formatSVG is a format that lineage alone has.
const formatSVG = "svg"

func (a *app) lineageCommands() []*cobra.Command {
	var up, down bool
	var output string
	cmd := &cobra.Command{Use: "lineage REF|dataset:NAME|run:NAME|endpoint:NAME|key:ID", Short: "Tell what came from what, and who calls it", Args: cobra.ExactArgs(1),
		Long: `Tell what came from what: data sets, training runs, versions and those derived from them, the revisions that hold them, the
releases that brought these and how they ended, and the keys that called. Where a version came from is told at push
(--from-dataset, --run, --derived-from); the rest is known to the server. Callers are counted from the requests themselves,
written down every few seconds.`,
		Example: `  penstock lineage digits@2
  penstock lineage dataset:uci-digits --down
  penstock lineage digits@2 -o svg > digits.svg`,
		RunE: does(func(cmd *cobra.Command, args []string) error {
			if up && down {
				return usage(errors.New("--up and --down exclude each other; neither means both"))
			}
			direction := ""
			if up {
				direction = "up"
			} else if down {
				direction = "down"
			}
			if a.output = output; output == formatSVG {
				a.output = formatTable
			}
			return a.asks(func(ctx context.Context, c *client.Client, args []string) error {
				if output == formatSVG {
					text, err := c.LineageSVG(ctx, args[0], direction)
					if err == nil {
						_, err = a.out.Write(text)
					}
					return err
				}
				l, err := c.Lineage(ctx, args[0], direction)
				if err != nil {
					return err
				}
				return a.print(l, func() { a.showLineage(&l) })
			})(cmd, args)
		})}
	cmd.Flags().StringVarP(&output, "output", "o", formatTable, "table, json, yaml or svg")
	cmd.Flags().BoolVar(&up, "up", false, "only where it came from")
	cmd.Flags().BoolVar(&down, "down", false, "only what came of it")
	return []*cobra.Command{cmd}
}

// showLineage writes the nodes in the order in which a model goes through them, each with what it came from.
func (a *app) showLineage(l *api.Lineage) {
	names := map[string]string{}
	for _, n := range l.Nodes {
		names[n.ID] = string(n.Kind) + " " + n.Name
	}
	from := map[string][]string{}
	for _, e := range l.Edges {
		text := names[e.From]
		if e.Text != "" {
			text += " (" + e.Text + ")"
		}
		from[e.To] = append(from[e.To], text)
	}
	order := []api.LineageKind{api.LineageDataset, api.LineageRun, api.LineageVersion, api.LineageRevision, api.LineageRelease, api.LineageDecision, api.LineageCaller}
	nodes := slices.Clone(l.Nodes)
	slices.SortStableFunc(nodes, func(a, b api.LineageNode) int { return slices.Index(order, a.Kind) - slices.Index(order, b.Kind) })
	rows := make([][]string, 0, len(nodes))
	for _, n := range nodes {
		rows = append(rows, []string{string(n.Kind), n.Name, n.Text, strings.Join(from[n.ID], ", ")})
	}
	a.table("KIND NAME WHAT FROM", rows)
	if l.Truncated {
		a.table("", [][]string{{"there is more than is shown; ask with --up or --down, or about one of these"}})
	}
}

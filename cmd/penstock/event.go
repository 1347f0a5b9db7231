package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

func (a *app) eventCommands() []*cobra.Command {
	var query client.EventQuery
	var follow bool
	cmd := a.withOutput(&cobra.Command{Use: "events", Short: "List what happened: pushes, releases, workers", Args: cobra.NoArgs,
		Example: `  penstock events
  penstock events -f
  penstock events --all -o json`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			query.After = -1
			if follow {
				return a.followEvents(ctx, c, query)
			}
			page, err := c.Events(ctx, query)
			if err != nil {
				return err
			}
			return list(a, page.Items, "TIME KIND SUBJECT BY TEXT", func(e api.Event) []string {
				return []string{when(e.At), e.Kind, e.Subject, e.By, e.Text}
			})
		})})
	f := cmd.Flags()
	f.IntVar(&query.Limit, "limit", 50, "most events to begin with")
	f.BoolVar(&query.All, "all", false, "of all tenants and of the server; for admins of tenant default")
	f.BoolVarP(&follow, "follow", "f", false, "go on with new ones until interrupted")
	return []*cobra.Command{cmd, a.workersCommand()}
}

func (a *app) followEvents(ctx context.Context, c *client.Client, query client.EventQuery) error {
	for {
		page, err := c.Events(ctx, query)
		if ctx.Err() != nil {
			return nil // interrupted: that is how following ends
		}
		if err != nil {
			return err
		}
		for _, e := range page.Items {
			query.After = max(query.After, e.Seq)
			if a.output != formatTable {
				if err := a.printLine(e); err != nil {
					return err
				}
				continue
			}
			fmt.Fprintf(a.out, "%-19s  %-20s %-20s %-10s %s\n", when(e.At), cleanCell(e.Kind), cleanCell(e.Subject), cleanCell(first(e.By, "-")), cleanCell(e.Text))
		}
		query.After, query.Wait = max(query.After, 0), waitOnce
	}
}

func (a *app) workersCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{Use: "workers", Short: "List worker processes", Args: cobra.NoArgs, Example: `  penstock workers`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			workers, err := c.Workers(ctx)
			if err != nil {
				return err
			}
			return list(a, workers, "NAME POOL PID STATE RUNTIME MEMORY RESTARTS INSTANCES CPUS HELD STARTED", func(w api.Worker) []string {
				return []string{w.Name, cmp.Or(w.Pool, "shared"), positive(int64(w.PID)), w.State, w.Runtime, size(w.Resident), fmt.Sprint(w.Restarts), fmt.Sprint(len(w.Instances)), processors(w.Processors), confined(w.Confinement), when(w.Started)}
			})
		})})
}

// confined names what a worker is kept from, or limited in: "net,files,mem,cpu". How is in -o json.
func confined(c api.Confinement) string {
	var parts []string
	for _, part := range []struct{ name, how string }{{"net", c.Network}, {"files", c.Files}, {"mem", c.Memory}, {"cpu", c.CPU}} {
		if part.how != "" {
			parts = append(parts, part.name)
		}
	}
	if len(parts) == 0 {
		return "no"
	}
	return strings.Join(parts, ",")
}

// processors writes numbers in order as ranges: 0-3,8.
func processors(numbers []int) string {
	if len(numbers) == 0 {
		return "all"
	}
	var parts []string
	for i := 0; i < len(numbers); {
		last := i
		for last+1 < len(numbers) && numbers[last+1] == numbers[last]+1 {
			last++
		}
		part := strconv.Itoa(numbers[i])
		if last > i {
			part += "-" + strconv.Itoa(numbers[last])
		}
		parts = append(parts, part)
		i = last + 1
	}
	return strings.Join(parts, ",")
}

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

func (a *app) endpointCommands() []*cobra.Command {
	endpoints := a.withOutput(&cobra.Command{Use: "endpoints [NAME]", Short: "List endpoints, or show one", Args: cobra.MaximumNArgs(1),
		Example: `  penstock endpoints
  penstock endpoints digits -o yaml`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) == 1 {
				e, err := c.Endpoint(ctx, api.EndpointName(args[0]))
				if err != nil {
					return err
				}
				return a.print(e, func() { a.showEndpoint(e) })
			}
			all, err := collect(client.All(ctx, c.Endpoints))
			if err != nil {
				return err
			}
			return list(a, all, "NAME READY REVISION REPLICAS SERVES CHANGED", func(e api.Endpoint) []string {
				return []string{string(e.Name), yesNo(e.Status.Ready), positive(int64(e.Traffic.Current)),
					fmt.Sprintf("%d/%d", e.Status.Replicas, e.Status.Wanted), serving(e.Status), when(e.Traffic.Changed)}
			})
		})})
	remove := &cobra.Command{Use: "endpoint NAME", Short: "Delete an endpoint with its history", Args: cobra.ExactArgs(1),
		Example: `  penstock delete endpoint digits`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.DeleteEndpoint(ctx, api.EndpointName(args[0]), 0); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "%s is gone\n", args[0])
			return nil
		})}
	return []*cobra.Command{endpoints, a.deleteCommand(remove)}
}

func (a *app) showEndpoint(e api.Endpoint) {
	a.fields([2]string{"endpoint", string(e.Name)}, [2]string{"tenant", string(e.Tenant)}, [2]string{"ready", yesNo(e.Status.Ready)},
		[2]string{"strategy", string(e.Spec.Strategy)}, [2]string{"revision", positive(int64(e.Traffic.Current))},
		[2]string{"previous", positive(int64(e.Traffic.Previous))}, [2]string{"replicas", fmt.Sprintf("%d of %d", e.Status.Replicas, e.Status.Wanted)},
		[2]string{"generation", strconv.FormatInt(e.Generation, 10)}, [2]string{"problems", strings.Join(e.Status.Problems, "; ")},
		[2]string{"created", when(e.Created)}, [2]string{"changed", when(e.Traffic.Changed)})
	fmt.Fprintln(a.out)
	rows := make([][]string, 0, len(e.Spec.Variants))
	for i, v := range e.Spec.Variants {
		rows = append(rows, []string{first(string(v.Name), "main"), specTitle(v), strconv.FormatInt(e.Spec.Weight(i), 10)})
	}
	a.table("VARIANT MODEL WEIGHT", rows)
}

// specTitle names what an arm runs, as the user wrote it.
func specTitle(v api.VariantSpec) string {
	if v.Chain != nil {
		return v.Chain.Title()
	}
	return v.Model
}

// serving names the versions that answer, with their shares when there are several.
func serving(status api.Status) string {
	parts := make([]string, 0, len(status.Variants))
	for _, v := range status.Variants {
		text := v.Model
		if len(status.Variants) > 1 {
			text += fmt.Sprintf(" (%s %d)", v.Name, v.Weight)
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}

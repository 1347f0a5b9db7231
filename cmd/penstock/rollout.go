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

func (a *app) rolloutCommands() []*cobra.Command {
	return []*cobra.Command{a.rollbackCommand(),
		group("rollout", "Watch and stop releases", "  penstock rollout status digits\n  penstock rollout abort digits", a.statusCommand(), a.abortCommand())}
}

func (a *app) rollbackCommand() *cobra.Command {
	var to int64
	var why string
	cmd := a.withOutput(&cobra.Command{Use: "rollback ENDPOINT", Short: "Make an earlier revision serve again, at once", Args: cobra.ExactArgs(1),
		Long: `Make the revision before, or the one named by --to, serve again. Nothing is built or copied; the revision before is still
loaded, so it takes effect within milliseconds, also while the database is away.`,
		Example: `  penstock rollback digits --why "errors on small images"
  penstock rollback digits --to 3`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			release, err := c.Rollback(ctx, api.EndpointName(args[0]), api.RollbackRequest{To: api.RevisionNumber(to), Why: why})
			if err != nil {
				return err
			}
			if err := a.print(release, func() { a.tellRelease(release) }); err != nil {
				return err
			}
			return releaseError(release, waitFlags{not: true})
		})})
	cmd.Flags().Int64Var(&to, "to", 0, "revision to go to; the previous one when left out")
	cmd.Flags().StringVar(&why, "why", "", "reason, kept in the release")
	return cmd
}

// rolloutStatus is what `rollout status -o json` prints.
type rolloutStatus struct {
	Endpoint  api.Endpoint   `json:"endpoint"`
	Revisions []api.Revision `json:"revisions"`
	Releases  []api.Release  `json:"releases"`
}

func (a *app) statusCommand() *cobra.Command {
	var limit int
	cmd := a.withOutput(&cobra.Command{Use: "status ENDPOINT", Short: "Show what serves, and the last releases", Args: cobra.ExactArgs(1),
		Example: `  penstock rollout status digits`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			var s rolloutStatus
			var err error
			name := api.EndpointName(args[0])
			if s.Endpoint, err = c.Endpoint(ctx, name); err != nil {
				return err
			}
			releases, err := c.Releases(ctx, name, client.Page{Limit: limit})
			if err = a.tolerateStorage(err); err != nil {
				return err
			}
			revisions, err := c.Revisions(ctx, name, client.Page{Limit: limit})
			if err = a.tolerateStorage(err); err != nil {
				return err
			}
			s.Releases, s.Revisions = releases.Items, revisions.Items
			return a.print(s, func() { a.showStatus(s) })
		})})
	cmd.Flags().IntVar(&limit, "limit", 10, "most releases and revisions to show")
	return cmd
}

// tolerateStorage warns instead of failing while the database is away: what serves is known all the same, and then it is
// wanted most.
func (a *app) tolerateStorage(err error) error {
	if !api.Is(err, api.CodeStorage) {
		return err
	}
	fmt.Fprintf(a.err, "warning: the list is not whole: %s\n", printable(err.Error()))
	return nil
}

func (a *app) showStatus(s rolloutStatus) {
	e := s.Endpoint
	a.fields([2]string{"endpoint", string(e.Name)}, [2]string{"ready", yesNo(e.Status.Ready)}, [2]string{"current", positive(int64(e.Traffic.Current))},
		[2]string{"previous", positive(int64(e.Traffic.Previous))}, [2]string{"replicas", fmt.Sprintf("%d of %d", e.Status.Replicas, e.Status.Wanted)},
		[2]string{"problems", strings.Join(e.Status.Problems, "; ")})
	fmt.Fprintln(a.out)
	rows := make([][]string, 0, len(s.Revisions))
	for _, r := range s.Revisions {
		mark := ""
		if r.Number == e.Traffic.Current {
			mark = "serves"
		}
		rows = append(rows, []string{strconv.FormatInt(int64(r.Number), 10), arms(r.Variants), string(r.Strategy), when(r.Created), r.By, mark})
	}
	a.table("REVISION VARIANTS STRATEGY CREATED BY NOW", rows)
	fmt.Fprintln(a.out)
	rows = nil
	for _, r := range s.Releases {
		took := ""
		if !r.Ended.IsZero() {
			took = r.Ended.Std().Sub(r.Started.Std()).Round(time.Millisecond).String()
		}
		rows = append(rows, []string{strconv.FormatInt(r.Number, 10), string(r.Kind), fmt.Sprintf("%d->%d", r.From, r.To), string(r.State), when(r.Started), took, r.By,
			first(r.Reason, r.Why)})
	}
	a.table("RELEASE KIND MOVE STATE STARTED TOOK BY WHY", rows)
}

// arms writes variants with their shares: "digits@1 90%, digits@2 10%".
func arms(variants []api.Variant) string {
	var total int64
	for _, v := range variants {
		total += v.Weight
	}
	parts := make([]string, 0, len(variants))
	for _, v := range variants {
		text := v.Subject()
		if len(variants) > 1 && total > 0 {
			text += fmt.Sprintf(" %.4g%%", 100*float64(v.Weight)/float64(total))
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

func (a *app) abortCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{Use: "abort ENDPOINT", Short: "Stop the release under way; what serves goes on serving", Args: cobra.ExactArgs(1),
		Example: `  penstock rollout abort digits`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			release, err := c.Abort(ctx, api.EndpointName(args[0]))
			if err != nil {
				return err
			}
			return a.print(release, func() { fmt.Fprintf(a.out, "%s: release %d is %s\n", release.Endpoint, release.Number, release.State) })
		})})
}

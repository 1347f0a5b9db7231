package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

func (a *app) collectCommands() []*cobra.Command {
	var dry, list bool
	gc := a.withOutput(&cobra.Command{Use: "gc", Short: "Free the storage of what nothing needs any more", Args: cobra.NoArgs,
		Long: `Free the storage of what nothing needs any more. The server does so by itself every day (serve --gc-every); this does it
now, beside pushes, pulls and predictions. Needs an admin key of tenant default.

Kept are: versions and what they are made of; what was deleted and can still be restored; manifests with a tag, in an index, or
that refer to something kept; uploads for a day. --dry-run tells what would be freed, and why each thing is dead.`,
		Example: `  penstock gc --dry-run
  penstock gc
  penstock gc --list`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			if list {
				return a.listCollections(ctx, c)
			}
			run, err := a.collect(ctx, c, dry)
			if err != nil {
				return err
			}
			return a.print(run, func() { a.showCollection(run) })
		})})
	gc.Flags().BoolVar(&dry, "dry-run", false, "only tell what would be freed, and why")
	gc.Flags().BoolVar(&list, "list", false, "list the last runs")
	gc.MarkFlagsMutuallyExclusive("dry-run", "list")
	return []*cobra.Command{gc}
}

// collect begins a run and follows it to its end.
func (a *app) collect(ctx context.Context, c *client.Client, dry bool) (api.Collection, error) {
	const look = 500 * time.Millisecond
	run, err := c.Collect(ctx, api.CollectRequest{DryRun: dry}, look)
	for err == nil && run.State == api.CollectionRunning {
		if a.terminal {
			fmt.Fprintf(a.err, "\r%-12s %d blobs looked at, %d freed (%s)   ", run.Phase, run.Looked, run.Blobs, size(run.Bytes))
		}
		run, err = c.Collection(ctx, run.ID, look)
	}
	if a.terminal {
		fmt.Fprint(a.err, "\r\033[K")
	}
	if err == nil && run.State == api.CollectionFailed {
		err = api.Fail(cmp.Or(run.Code, api.CodeStorage), "", "the collection failed: %s (%d blobs freed, %d left)", run.Error, run.Blobs, run.Left).WithCure("What was freed stays freed; run it again when the fault is gone.")
	}
	return run, err
}

func (a *app) listCollections(ctx context.Context, c *client.Client) error {
	runs, err := c.Collections(ctx)
	if err != nil {
		return err
	}
	return list(a, runs, "ID STATE DRY-RUN BLOBS FREED STARTED TOOK BY", func(r api.Collection) []string {
		took := ""
		if !r.Ended.IsZero() {
			took = r.Ended.Std().Sub(r.Started.Std()).Round(time.Millisecond).String()
		}
		return []string{string(r.ID), string(r.State), yesNo(r.DryRun), strconv.FormatInt(r.Blobs, 10), size(r.Bytes), when(r.Started), took, r.By}
	})
}

func (a *app) showCollection(run api.Collection) {
	if len(run.Items) > 0 {
		rows := make([][]string, 0, len(run.Items))
		for _, item := range run.Items {
			bytes := ""
			if item.Bytes > 0 {
				bytes = size(item.Bytes)
			}
			rows = append(rows, []string{string(item.Kind), string(item.Tenant), clipDigest(item.Subject), bytes, item.Why})
		}
		a.table("KIND TENANT SUBJECT SIZE WHY", rows)
		fmt.Fprintln(a.out)
	}
	did := "freed"
	if run.DryRun {
		did = "would free"
	}
	fmt.Fprintf(a.out, "%s %s in %d blobs: %d versions, %d manifests, %d blobs of repositories", did, size(run.Bytes), run.Blobs, run.Versions, run.Manifests, run.Links)
	if run.Waiting > 0 {
		fmt.Fprintf(a.out, "; %d blobs wait for their grace", run.Waiting)
	}
	if run.Left > 0 {
		fmt.Fprintf(a.out, "; %d blobs could not be deleted and are left to the next run", run.Left)
	}
	fmt.Fprintln(a.out)
}

// clipDigest shortens a digest at the end of a name, for tables.
func clipDigest(text string) string {
	const rest = 64 - 12
	if n := len(text); n >= 64+len("sha256:") && api.Digest(text[n-64-len("sha256:"):]).Valid() {
		return text[:n-rest]
	}
	return text
}

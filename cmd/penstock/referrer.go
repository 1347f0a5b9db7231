package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

// attachmentMax bounds a file that is attached, in bytes.
const attachmentMax = 64 << 20

func (a *app) referrerCommands() []*cobra.Command {
	var kind, output string
	var notes []string
	attach := a.withOutput(&cobra.Command{Use: "attach REF FILE", Short: "Attach a file to a version: a report, a bill of materials", Args: cobra.ExactArgs(2),
		Long: `Attach a file to a version. It becomes an OCI manifest whose subject is the version, so that OCI clients find it too
(oras discover). The version itself, and its digest, stay as they are.`,
		Example: `  penstock attach digits@2 evaluation.json --type application/vnd.acme.evaluation+json`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			ref, err := api.ParseRef(args[0])
			if err != nil {
				return usage(err)
			}
			text, err := readUpTo(args[1], attachmentMax)
			if err != nil {
				return usage(err)
			}
			given, err := pairs("annotation", notes)
			if err != nil {
				return usage(err)
			}
			made, err := c.Attach(ctx, ref, text, api.ReferrerRequest{Type: kind, Name: filepath.Base(args[1]), Annotations: given})
			if err != nil {
				return err
			}
			return a.print(made, func() { fmt.Fprintln(a.out, made.Digest) })
		})})
	attach.Flags().StringVar(&kind, "type", "application/octet-stream", "media type that says what it is")
	attach.Flags().StringArrayVar(&notes, "annotation", nil, "annotation KEY=VALUE; may be repeated")
	referrers := a.withOutput(&cobra.Command{Use: "referrers REF [DIGEST]", Short: "List what is attached to a version, or write one of it out", Args: cobra.RangeArgs(1, 2),
		Example: `  penstock referrers digits@2
  penstock referrers digits@2 sha256:… --to report.json`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			ref, err := api.ParseRef(args[0])
			if err != nil {
				return usage(err)
			}
			if len(args) == 2 {
				return a.writeReferrer(ctx, c, ref, args[1], output)
			}
			all, err := referrersOf(ctx, c, ref)
			if err != nil {
				return err
			}
			return list(a, all, referrerHeader, referrerRow)
		})})
	referrers.Flags().StringVar(&output, "to", "", "file to write to; standard output when left out")
	return []*cobra.Command{attach, referrers, a.sbomCommand()}
}

func (a *app) sbomCommand() *cobra.Command {
	var form string
	var attach bool
	cmd := &cobra.Command{Use: "sbom REF", Short: "Write a version's bill of materials: its files, and how it was made", Args: cobra.ExactArgs(1),
		Example: `  penstock sbom digits@2
  penstock sbom digits@2 --format spdx
  penstock sbom digits@2 --attach`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			ref, err := api.ParseRef(args[0])
			if err != nil {
				return usage(err)
			}
			text, err := c.SBOM(ctx, ref, form)
			if err != nil {
				return err
			}
			if !attach {
				_, err = fmt.Fprintf(a.out, "%s\n", text)
				return err
			}
			kind := api.ReferrerSBOM
			if form == "spdx" {
				kind = api.ReferrerSPDX
			}
			made, err := c.Attach(ctx, ref, text, api.ReferrerRequest{Type: kind, Name: "sbom.json"})
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, made.Digest)
			return nil
		})}
	cmd.Flags().StringVar(&form, "format", "cyclonedx", "cyclonedx or spdx")
	cmd.Flags().BoolVar(&attach, "attach", false, "attach it to the version, for OCI clients too")
	return cmd
}

const referrerHeader = "ATTACHED TYPE BY AT"

func referrerRow(r api.Referrer) []string {
	return []string{r.Digest.Short(), r.Type, r.PushedBy, when(r.Pushed)}
}

func referrersOf(ctx context.Context, c *client.Client, ref api.Ref) ([]api.Referrer, error) {
	return collect(client.All(ctx, func(ctx context.Context, p client.Page) (api.List[api.Referrer], error) {
		return c.Referrers(ctx, ref, "", p)
	}))
}

// writeReferrer takes the digest whole or by its beginning, as the list shows it.
func (a *app) writeReferrer(ctx context.Context, c *client.Client, ref api.Ref, digest, output string) error {
	found := api.Digest(digest)
	if !found.Valid() {
		all, err := referrersOf(ctx, c, ref)
		if err != nil {
			return err
		}
		for _, r := range all {
			if r.Digest.Short() == digest {
				found = r.Digest
			}
		}
		if !found.Valid() {
			return usage(errors.New("that is no digest of something that is attached; see `penstock referrers " + ref.String() + "`"))
		}
	}
	text, err := c.Referrer(ctx, ref, found)
	if err != nil {
		return err
	}
	if output != "" {
		return os.WriteFile(output, text, 0o644)
	}
	_, err = a.out.Write(text)
	return err
}

// showReferrers is the part of show that tells what is attached.
func (a *app) showReferrers(all []api.Referrer) {
	if len(all) == 0 {
		return
	}
	rows := make([][]string, 0, len(all))
	for _, r := range all {
		rows = append(rows, referrerRow(r))
	}
	fmt.Fprintln(a.out)
	a.table(referrerHeader, rows)
}

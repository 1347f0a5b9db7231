package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

// difference is what diff found for one document: lines that begin with "-" for what is, "+" for what is declared and
// " " for what is the same.
type difference struct {
	Name  string   `json:"name"`
	Lines []string `json:"lines"`
}

func (a *app) diffCommand() *cobra.Command {
	var files []string
	cmd := a.withOutput(&cobra.Command{Use: "diff REF REF | -f FILE", Short: "Compare two versions, or show what apply would change", Args: cobra.MaximumNArgs(2),
		Long: `Compare two versions: signature, graph, parameters, metadata, metrics and files. With -f, show what apply would change.
Exit code 0: nothing; 1: something; otherwise as every command.`,
		Example: `  penstock diff digits@1 digits@2
  penstock diff -f endpoints.yaml`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) == 2 && len(files) == 0 {
				return a.diffVersions(ctx, c, args[0], args[1])
			}
			if len(args) > 0 || len(files) == 0 {
				return usage(errors.New("give two versions, or -f FILE"))
			}
			documents, err := a.readDocuments(files)
			if err != nil {
				return usage(err)
			}
			found := []difference{}
			for _, d := range documents {
				lines, err := compare(ctx, c, d)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", d.place, d.name(), err)
				}
				if len(lines) > 0 {
					found = append(found, difference{d.name(), lines})
				}
			}
			if err := a.print(found, func() { a.showDifferences(found) }); err != nil {
				return err
			}
			if len(found) > 0 {
				return errDifferences
			}
			return nil
		})})
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file to read; - is standard input; may be repeated")
	return cmd
}

func (a *app) showDifferences(found []difference) {
	for _, d := range found {
		fmt.Fprintf(a.out, "--- server %s\n+++ file   %s\n", d.Name, d.Name)
		for _, line := range d.Lines {
			fmt.Fprintln(a.out, printable(line))
		}
	}
}

func (a *app) diffVersions(ctx context.Context, c *client.Client, from, to string) error {
	var refs [2]api.Ref
	for i, text := range []string{from, to} {
		var err error
		if refs[i], err = api.ParseRef(text); err != nil {
			return usage(err)
		}
	}
	d, err := c.Diff(ctx, refs[0], refs[1])
	if err != nil {
		return err
	}
	if err := a.print(d, func() { a.showVersionDiff(d) }); err != nil {
		return err
	}
	if len(d.Changes) > 0 {
		return errDifferences
	}
	return nil
}

// showVersionDiff writes a section's name and its changes below it: - was taken away, + came, ~ is another now.
func (a *app) showVersionDiff(d api.VersionDiff) {
	fmt.Fprintf(a.out, "--- %s\n+++ %s\n", d.From, d.To)
	section := ""
	for _, c := range d.Changes {
		if c.Section != section {
			if section != "" && d.More[section] > 0 {
				fmt.Fprintf(a.out, "  and %d more\n", d.More[section])
			}
			section = c.Section
			fmt.Fprintln(a.out, section)
		}
		switch {
		case c.From == "":
			a.paint("32", "  + "+c.Name+": "+c.To)
		case c.To == "":
			a.paint("31", "  - "+c.Name+": "+c.From)
		default:
			a.paint("33", "  ~ "+c.Name+": "+c.From+" -> "+c.To)
		}
	}
	if d.More[section] > 0 {
		fmt.Fprintf(a.out, "  and %d more\n", d.More[section])
	}
	for _, note := range d.Notes {
		fmt.Fprintf(a.out, "note: %s\n", printable(note))
	}
}

// paint writes a line, in a colour where a person reads it.
func (a *app) paint(colour, line string) {
	line = cleanCell(line)
	if a.colour && a.env("NO_COLOR") == "" {
		line = "\x1b[" + colour + "m" + line + "\x1b[0m"
	}
	fmt.Fprintln(a.out, line)
}

func compare(ctx context.Context, c *client.Client, d document) ([]string, error) {
	if d.alias == nil {
		_, lines, err := compareEndpoint(ctx, c, d.endpoint)
		return lines, err
	}
	present, err := presentAlias(ctx, c, d.alias)
	if api.Is(err, api.CodeModelNotFound) {
		present, err = api.Alias{}, nil // diff also looks at what the pushes before apply have yet to make
	}
	if err != nil || present.Version == d.alias.Version {
		return nil, err
	}
	lines := []string{fmt.Sprintf("+version: %d", d.alias.Version)}
	if present.Version > 0 {
		lines = append([]string{fmt.Sprintf("-version: %d", present.Version)}, lines...)
	}
	return lines, nil
}

// compareEndpoint gives what differs between a declared endpoint and the present one, nothing when they agree. A spec
// that reads the same differs all the same when an alias in it has moved since it was deployed.
func compareEndpoint(ctx context.Context, c *client.Client, d *endpointDocument) (api.Endpoint, []string, error) {
	want, err := specLines(d.Spec)
	if err != nil {
		return api.Endpoint{}, nil, err
	}
	present, err := c.Endpoint(ctx, d.Name)
	if api.Is(err, api.CodeEndpointNotFound) {
		return api.Endpoint{}, lineDiff(nil, want), nil
	}
	if err != nil {
		return present, nil, err
	}
	have, err := specLines(present.Spec)
	if err != nil {
		return present, nil, err
	}
	if !slices.Equal(have, want) {
		return present, lineDiff(have, want), nil
	}
	lines, err := movedReferences(ctx, c, d, present)
	return present, lines, err
}

// movedReferences finds references without a number that name another version now than the current revision serves.
func movedReferences(ctx context.Context, c *client.Client, d *endpointDocument, present api.Endpoint) (lines []string, _ error) {
	if present.Traffic.Current == 0 {
		return nil, nil // its first release is under way, or failed; the spec is as declared
	}
	page, err := c.Revisions(ctx, d.Name, client.Page{Cursor: fmt.Sprint(present.Traffic.Current + 1), Limit: 1})
	if err != nil || len(page.Items) == 0 {
		return nil, err
	}
	for i, arm := range d.Spec.Variants {
		if i >= len(page.Items[0].Variants) {
			break
		}
		for text, serves := range references(arm, page.Items[0].Variants[i]) {
			ref, err := api.ParseRef(text)
			if err != nil {
				return nil, err
			}
			if ref.Version > 0 || ref.Digest != "" {
				continue
			}
			version, err := c.Resolve(ctx, ref)
			if err != nil {
				return nil, err
			}
			if serves != version.Ref() {
				lines = append(lines, fmt.Sprintf("-%s is %s", text, serves), fmt.Sprintf("+%s is %s", text, version.Ref()))
			}
		}
	}
	return lines, nil
}

// references pairs what an arm names with the versions that serve: the model's, or those of a chain's steps, in order.
func references(arm api.VariantSpec, serves api.Variant) iter.Seq2[string, api.Ref] {
	return func(yield func(string, api.Ref) bool) {
		if arm.Chain == nil || serves.Chain == nil {
			yield(arm.Model, api.Ref{Model: serves.Model, Version: serves.Version})
			return
		}
		for _, step := range arm.Chain.Steps {
			at := slices.IndexFunc(serves.Chain.Steps, func(s api.ChainStep) bool { return s.Name == step.Name && s.Op == "" })
			if at < 0 {
				continue
			}
			if s := serves.Chain.Steps[at]; !yield(step.Model, api.Ref{Model: s.Model, Version: s.Version}) {
				return
			}
		}
	}
}

// specLines writes a spec as YAML with its defaults filled in, so that leaving one out is no difference.
func specLines(spec api.EndpointSpec) ([]string, error) {
	if spec.Strategy == "" {
		spec.Strategy = api.StrategyBlueGreen
	}
	given := spec
	spec.Variants = slices.Clone(spec.Variants)
	if len(spec.Variants) > 1 {
		spec.Sticky = true // the default, which cannot be told from false in a spec
	}
	for i := range spec.Variants {
		v := &spec.Variants[i]
		v.Weight = given.Weight(i)
		if v.Name == "" && len(spec.Variants) == 1 {
			v.Name = "main"
		}
	}
	text, err := json.Marshal(spec)
	if err == nil {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return nil, fmt.Errorf("write the spec as YAML: %w", err)
	}
	return strings.Split(strings.TrimRight(string(text), "\n"), "\n"), nil
}

// lineDiff is the shortest edit from one list of lines to another, by the longest common subsequence. Specs are small.
func lineDiff(have, want []string) []string {
	common := make([][]int, len(have)+1)
	for i := range common {
		common[i] = make([]int, len(want)+1)
	}
	for i := len(have) - 1; i >= 0; i-- {
		for j := len(want) - 1; j >= 0; j-- {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); have[i] == want[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var lines []string
	i, j := 0, 0
	for i < len(have) || j < len(want) {
		switch {
		case i < len(have) && j < len(want) && have[i] == want[j]:
			lines = append(lines, " "+have[i])
			i, j = i+1, j+1
		case j == len(want) || i < len(have) && common[i+1][j] >= common[i][j+1]:
			lines = append(lines, "-"+have[i])
			i++
		default:
			lines = append(lines, "+"+want[j])
			j++
		}
	}
	return lines
}

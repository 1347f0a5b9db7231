package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

func (a *app) modelCommands() []*cobra.Command {
	var loaded bool
	models := a.withOutput(&cobra.Command{Use: "models", Short: "List models", Args: cobra.NoArgs,
		Example: `  penstock models
  penstock models --loaded
  penstock models -o json`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			if loaded {
				return a.showLoaded(ctx, c)
			}
			all, err := collect(client.All(ctx, c.Models))
			if err != nil {
				return err
			}
			return list(a, all, "NAME LATEST ALIASES CREATED", func(m api.Model) []string {
				return []string{string(m.Name), strconv.FormatInt(int64(m.Latest), 10), aliases(m.Aliases), when(m.Created)}
			})
		})})
	models.Flags().BoolVar(&loaded, "loaded", false, "list what is in memory instead: where and why, how much it takes, when it was used last")
	versions := a.withOutput(&cobra.Command{Use: "versions MODEL", Short: "List the versions of a model, newest first", Args: cobra.ExactArgs(1),
		Example: `  penstock versions digits`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			name := api.ModelName(args[0])
			all, err := collect(client.All(ctx, func(ctx context.Context, p client.Page) (api.List[api.Version], error) {
				return c.Versions(ctx, name, p)
			}))
			if err != nil {
				return err
			}
			return list(a, all, "VERSION STATE FORMAT SIZE METRICS TAGS CREATED BY", func(v api.Version) []string {
				return []string{v.Ref().String(), string(v.State), v.Format, size(v.Size), metrics(v.Metrics), labels(v.Tags), when(v.Created), v.CreatedBy}
			})
		})})
	show := a.withOutput(&cobra.Command{Use: "show REF", Short: "Show a model, or one version of it", Args: cobra.ExactArgs(1),
		Example: `  penstock show digits
  penstock show digits@2
  penstock show digits:champion -o yaml`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			ref, err := api.ParseRef(args[0])
			if err != nil {
				return usage(err)
			}
			if ref.Version > 0 || ref.Alias != "" || ref.Digest != "" || ref.Label != "" {
				version, err := c.Resolve(ctx, ref)
				if err != nil {
					return err
				}
				attached, err := c.Referrers(ctx, version.Ref(), "", client.Page{})
				if err != nil {
					return err
				}
				return a.print(version, func() { a.showVersion(version); a.showReferrers(attached.Items) })
			}
			model, err := c.Model(ctx, ref.Model)
			if err != nil {
				return err
			}
			return a.print(model, func() { a.showModel(model) })
		})})
	return []*cobra.Command{models, versions, show}
}

func (a *app) showModel(m api.Model) {
	a.fields([2]string{"model", string(m.Name)}, [2]string{"tenant", string(m.Tenant)}, [2]string{"created", when(m.Created)},
		[2]string{"latest", fmt.Sprintf("%s@%d", m.Name, m.Latest)})
	if len(m.Aliases) == 0 {
		return
	}
	fmt.Fprintln(a.out)
	rows := make([][]string, 0, len(m.Aliases))
	for _, alias := range m.Aliases {
		rows = append(rows, []string{string(alias.Name), fmt.Sprintf("%s@%d", m.Name, alias.Version), when(alias.Moved), alias.MovedBy})
	}
	a.table("ALIAS VERSION MOVED BY", rows)
}

func (a *app) showVersion(v api.Version) {
	a.fields([2]string{"version", v.Ref().String()}, [2]string{"tenant", string(v.Tenant)}, [2]string{"state", string(v.State)},
		[2]string{"reason", v.Reason}, [2]string{"digest", string(v.Digest)}, [2]string{"format", v.Format}, [2]string{"size", size(v.Size)},
		[2]string{"producer", v.Info.Producer}, [2]string{"opsets", counts(v.Info.Opsets)}, [2]string{"parameters", positive(v.Info.Parameters)},
		[2]string{"label", v.Label}, [2]string{"task", v.Notes.Task}, [2]string{"owner", v.Notes.Owner}, [2]string{"licence", v.Notes.Licence},
		[2]string{"description", v.Notes.Description}, [2]string{"keywords", strings.Join(v.Notes.Keywords, " ")}, [2]string{"framework", framework(v)},
		[2]string{"datasets", strings.Join(v.Origin.Datasets, " ")}, [2]string{"base models", strings.Join(v.Origin.BaseModels, " ")},
		[2]string{"metrics", metrics(v.Metrics)}, [2]string{"gates", gates(v.Gates)}, [2]string{"tags", labels(v.Tags)}, [2]string{"created", when(v.Created)}, [2]string{"by", v.CreatedBy})
	a.showWeights(v.Info.Weights)
	fmt.Fprintln(a.out)
	var rows [][]string
	for _, side := range []struct {
		name  string
		specs []api.TensorSpec
	}{{"input", v.Signature.Inputs}, {"output", v.Signature.Outputs}} {
		for _, spec := range side.specs {
			rows = append(rows, []string{side.name, spec.Name, spec.Datatype, shape(spec)})
		}
	}
	a.table("SIDE NAME DATATYPE SHAPE", rows)
	fmt.Fprintln(a.out)
	rows = nil
	for _, r := range v.Notes.Results {
		rows = append(rows, []string{r.Metric, strconv.FormatFloat(r.Value, 'g', 6, 64), r.Dataset, r.Split})
	}
	if len(rows) > 0 {
		a.table("RESULT VALUE DATASET SPLIT", rows)
		fmt.Fprintln(a.out)
		rows = nil
	}
	for _, artifact := range v.Artifacts {
		rows = append(rows, []string{artifact.Path, string(artifact.Role), size(artifact.Size), artifact.Digest.Short()})
	}
	a.table("FILE ROLE SIZE DIGEST", rows)
	if v.Card != "" {
		fmt.Fprintf(a.out, "\n%s\n", strings.TrimRight(printable(v.Card), "\n"))
	}
}

// showWeights tells what weight files hold.
func (a *app) showWeights(w *api.WeightsInfo) {
	if w == nil {
		return
	}
	rows := [][2]string{{"tensors", fmt.Sprintf("%d in %d files", w.Tensors, w.Files)}, {"elements", counts(w.Types)}, {"architecture", w.Architecture}, {"notes", labels(w.Metadata)}}
	if t := w.Tokenizer; t != nil {
		rows = append(rows, [2]string{"tokenizer", fmt.Sprintf("%s, %d tokens, %d merges, chat template of %d bytes", t.Kind, t.Tokens, t.Merges, t.ChatTemplateBytes)})
	}
	a.fields(rows...)
}

// shape writes a shape as people read it: [batch, 64].
func shape(spec api.TensorSpec) string {
	parts := make([]string, len(spec.Shape))
	for i, n := range spec.Shape {
		parts[i] = strconv.FormatInt(n, 10)
		if n < 0 && i < len(spec.Symbols) && spec.Symbols[i] != "" {
			parts[i] = spec.Symbols[i]
		}
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// framework is not repeated where it only says again which tool wrote the file.
func framework(v api.Version) string {
	if v.Origin.Framework == v.Info.Producer {
		return ""
	}
	return v.Origin.Framework
}

func gates(all []api.GateResult) string {
	parts := make([]string, 0, len(all))
	for _, g := range all {
		parts = append(parts, g.Name+"="+map[bool]string{true: "passed", false: "failed"}[g.Passed])
	}
	return strings.Join(parts, " ")
}

func aliases(all []api.Alias) string {
	parts := make([]string, 0, len(all))
	for _, alias := range all {
		parts = append(parts, fmt.Sprintf("%s=%d", alias.Name, alias.Version))
	}
	return strings.Join(parts, " ")
}

func labels(all map[string]string) string { return joined(all, "%s=%s") }

func metrics(all map[string]float64) string { return joined(all, "%s=%.6g") }

func counts(all map[string]int64) string { return joined(all, "%s=%d") }

func joined[V any](all map[string]V, format string) string {
	parts := make([]string, 0, len(all))
	for _, k := range slices.Sorted(maps.Keys(all)) {
		parts = append(parts, fmt.Sprintf(format, k, all[k]))
	}
	return strings.Join(parts, " ")
}

func positive(n int64) string {
	if n <= 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// collect reads a list to its end.
func collect[T any](items func(func(T, error) bool)) ([]T, error) {
	all := []T{}
	for item, err := range items {
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}

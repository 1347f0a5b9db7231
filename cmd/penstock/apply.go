package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

func (a *app) applyCommands() []*cobra.Command {
	return []*cobra.Command{a.applyCommand(), a.diffCommand()}
}

// applied is what apply did with one document.
type applied struct {
	Name    string       `json:"name"`
	Action  string       `json:"action"` // unchanged, deployed or moved
	Release *api.Release `json:"release,omitempty"`
}

func (a *app) applyCommand() *cobra.Command {
	var files []string
	var wait waitFlags
	cmd := a.withOutput(&cobra.Command{Use: "apply -f FILE", Short: "Make endpoints and aliases as files say", Args: cobra.NoArgs,
		Long: `Make endpoints and aliases as files say; what is so already is left alone. A file holds YAML or JSON documents:

  kind: Endpoint
  name: digits
  spec:
    strategy: blue-green
    variants:
      - {name: old, model: digits@1, weight: 90}
      - {name: new, model: digits@2, weight: 10}
  ---
  kind: Alias
  model: digits
  name: champion
  version: 1

All documents are checked before the first is applied. Each change is made only if nothing changed in between.`,
		Example: `  penstock apply -f endpoints.yaml
  penstock diff -f endpoints.yaml && echo as declared
  cat endpoints.yaml | penstock apply -f -`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			documents, err := a.readDocuments(files)
			if err != nil {
				return usage(err)
			}
			var done []applied
			for _, d := range documents {
				one, err := a.apply(ctx, c, d, wait)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", d.place, d.name(), err)
				}
				if a.output == formatTable {
					a.tellApplied(one)
				}
				done = append(done, one)
			}
			return a.print(done, func() {})
		})})
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file to read; - is standard input; may be repeated")
	wait.add(cmd)
	return cmd
}

func (a *app) readDocuments(files []string) ([]document, error) {
	if len(files) == 0 {
		return nil, errors.New("name a file with -f")
	}
	var all []document
	for _, file := range files {
		text, err := a.readInput(file)
		if err != nil {
			return nil, err
		}
		documents, err := parseDocuments(file, text)
		if err != nil {
			return nil, err
		}
		all = append(all, documents...)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no document in the files")
	}
	seen := make(map[string]string)
	for _, d := range all {
		if before, twice := seen[d.name()]; twice {
			return nil, fmt.Errorf("%s: %s stands also at %s", d.place, d.name(), before)
		}
		seen[d.name()] = d.place
	}
	// Endpoints may name aliases, so aliases go first.
	slices.SortStableFunc(all, func(x, y document) int { return rank(x) - rank(y) })
	return all, nil
}

func rank(d document) int {
	if d.alias != nil {
		return 0
	}
	return 1
}

func (a *app) apply(ctx context.Context, c *client.Client, d document, wait waitFlags) (applied, error) {
	one := applied{Name: d.name(), Action: "unchanged"}
	if d.alias != nil {
		present, err := presentAlias(ctx, c, d.alias)
		if err != nil || present.Version == d.alias.Version {
			return one, err
		}
		one.Action = "moved"
		_, err = c.MoveAlias(ctx, d.alias.Model, d.alias.Name, api.AliasRequest{Version: d.alias.Version, Why: d.alias.Why}, client.IfMatch(present.Moves))
		return one, err
	}
	present, changes, err := compareEndpoint(ctx, c, d.endpoint)
	if err != nil || len(changes) == 0 {
		return one, err
	}
	release, err := c.Deploy(ctx, d.endpoint.Name, api.DeployRequest{EndpointSpec: d.endpoint.Spec, Why: d.endpoint.Why}, client.IfMatch(present.Generation), wait.first())
	if err != nil {
		return one, err
	}
	if release, err = awaitRelease(ctx, c, release, wait); err != nil {
		return one, err
	}
	one.Action, one.Release = "deployed", &release
	return one, releaseError(release, wait)
}

func (a *app) tellApplied(one applied) {
	if one.Release != nil {
		fmt.Fprintf(a.out, "%s %s (revision %d, release %d %s)\n", one.Name, one.Action, one.Release.To, one.Release.Number, one.Release.State)
		return
	}
	fmt.Fprintf(a.out, "%s %s\n", one.Name, one.Action)
}

// presentAlias reads where an alias is; one that does not exist is at version 0.
func presentAlias(ctx context.Context, c *client.Client, d *aliasDocument) (api.Alias, error) {
	model, err := c.Model(ctx, d.Model)
	if err != nil {
		return api.Alias{}, err
	}
	i := slices.IndexFunc(model.Aliases, func(x api.Alias) bool { return x.Name == d.Name })
	if i < 0 {
		return api.Alias{}, nil
	}
	return model.Aliases[i], nil
}

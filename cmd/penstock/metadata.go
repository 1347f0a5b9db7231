package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/parser"
	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

// metaDocument is the file of push --meta.
type metaDocument struct {
	api.Origin
	api.Notes
	License string             `json:"license,omitempty"` // as most of the world writes it
	Tags    map[string]string  `json:"tags,omitempty"`
	Metrics map[string]float64 `json:"metrics,omitempty"`
	Label   string             `json:"label,omitempty"`
}

// readMeta reads a YAML or JSON file of what is known about a version, as strictly as files for apply.
func readMeta(path string, up *api.Upload) error {
	text, err := readBounded(path)
	if err != nil {
		return err
	}
	if err := refuseDeep(path, text); err != nil {
		return err
	}
	parsed, err := parser.ParseBytes(text, 0)
	if err != nil {
		return yamlError(path, err)
	}
	if len(parsed.Docs) != 1 || parsed.Docs[0].Body == nil {
		return fmt.Errorf("%s: one document is wanted", path)
	}
	w := &jsonWriter{lines: make(map[string]int)}
	if err := w.node(parsed.Docs[0].Body, "$", 0); err != nil {
		return fmt.Errorf("%s:%w", path, err)
	}
	var doc metaDocument
	if err := api.DecodeStrict(w.out.Bytes(), &doc); err != nil {
		e := api.AsError(err)
		message, _, _ := strings.Cut(e.Message, " (line ") // of the JSON, which nobody wrote
		return fmt.Errorf("%s:%d: %s: %s", path, w.lineOf(e.Subject), strings.TrimPrefix(e.Subject, "$."), message)
	}
	if doc.Licence == "" {
		doc.Licence = doc.License
	}
	up.Origin, up.Notes, up.Tags, up.Metrics, up.Label = doc.Origin, doc.Notes, doc.Tags, doc.Metrics, doc.Label
	return nil
}

func (a *app) metaCommand() *cobra.Command {
	var results []string
	cmd := a.withOutput(&cobra.Command{Use: "meta REF [FIELD=VALUE]...", Short: "Change what is known about a version", Args: cobra.MinimumNArgs(1),
		Long: `Change what is known about a version: task, owner, licence, description, keywords (with commas between them) and label. An
empty value removes one. A label is given once and never changes. What made the version never changes either: its files,
signature, framework, datasets, metrics and card. Tags have a command of their own.`,
		Example: `  penstock meta digits@2 task=classification owner=vision-team licence=Apache-2.0
  penstock meta digits@2 label=1.2.0
  penstock meta digits@2 --result accuracy=0.968@mnist/test`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			ref, err := api.ParseRef(args[0])
			if err != nil {
				return usage(err)
			}
			in, err := metadataOf(args[1:])
			if err != nil {
				return usage(err)
			}
			present, err := c.Resolve(ctx, ref)
			if err != nil {
				return err
			}
			if len(results) > 0 {
				all, err := withResults(present.Notes.Results, results)
				if err != nil {
					return usage(err)
				}
				in.Results = &all
			}
			if len(args) > 1 || len(results) > 0 {
				// What was read goes with the change: results are replaced as a whole.
				if present, err = c.SetMetadata(ctx, present.Ref(), in, client.IfMatch(present.Changes)); err != nil {
					return err
				}
			}
			return a.print(present, func() { a.showVersion(present) })
		})})
	cmd.Flags().StringArrayVar(&results, "result", nil, "figure METRIC=VALUE@DATASET/SPLIT to add or replace; may be repeated")
	return cmd
}

func metadataOf(pairs []string) (in api.MetadataRequest, _ error) {
	for _, text := range pairs {
		field, value, ok := strings.Cut(text, "=")
		texts := map[string]**string{"task": &in.Task, "owner": &in.Owner, "licence": &in.Licence, "license": &in.Licence, "description": &in.Description}
		switch at, known := texts[field]; {
		case !ok:
			return in, fmt.Errorf("%q is not FIELD=VALUE", text)
		case known:
			*at = &value
		case field == "keywords":
			words := []string{}
			for word := range strings.SplitSeq(value, ",") {
				if word = strings.TrimSpace(word); word != "" {
					words = append(words, word)
				}
			}
			in.Keywords = &words
		case field == "label":
			in.Label = value
		default:
			names := slices.Sorted(maps.Keys(texts))
			return in, fmt.Errorf("%q cannot be changed; %s, keywords and label can", field, strings.Join(names, ", "))
		}
	}
	return in, nil
}

// withResults puts figures in the place of those of the same metric, dataset and split.
func withResults(all []api.Result, given []string) ([]api.Result, error) {
	all = slices.Clone(all)
	for _, text := range given {
		figure, where, _ := strings.Cut(text, "@")
		metric, value, ok := strings.Cut(figure, "=")
		n, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("--result %q is not METRIC=VALUE@DATASET/SPLIT", text)
		}
		r := api.Result{Metric: metric, Value: n, Dataset: where}
		if cut := strings.LastIndexByte(where, '/'); cut >= 0 {
			r.Dataset, r.Split = where[:cut], where[cut+1:]
		}
		all = append(slices.DeleteFunc(all, func(o api.Result) bool { return o.Metric == r.Metric && o.Dataset == r.Dataset && o.Split == r.Split }), r)
	}
	return all, nil
}

func (a *app) gateCommand() *cobra.Command {
	var in api.GateRequest
	var evidence string
	cmd := a.withOutput(&cobra.Command{Use: "gate REF NAME pass|fail", Short: "Write what a gate found about a version", Args: cobra.ExactArgs(3),
		Long: `Write what a gate found about a version; its last result counts. It needs a key with the scope gate. Aliases can be
protected by gates: see penstock protect.`,
		Example: `  penstock gate digits@2 accuracy pass --why "0.97 on the test set"`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			ref, err := api.ParseRef(args[0])
			if err != nil {
				return usage(err)
			}
			if args[2] != "pass" && args[2] != "fail" {
				return usage(errors.New("a gate's result is pass or fail"))
			}
			in.Name, in.Passed, in.Evidence = args[1], args[2] == "pass", api.Digest(evidence)
			v, err := c.WriteGate(ctx, ref, in)
			if err != nil {
				return err
			}
			return a.print(v, func() { fmt.Fprintf(a.out, "%s: %s\n", v.Ref(), printable(gates(v.Gates))) })
		})})
	cmd.Flags().StringVar(&evidence, "evidence", "", "digest of what shows it")
	cmd.Flags().StringVar(&in.Why, "why", "", "a sentence about it")
	return cmd
}

func (a *app) protectCommand() *cobra.Command {
	var scopes, keys []string
	var in api.AliasRuleRequest
	var off bool
	cmd := a.withOutput(&cobra.Command{Use: "protect MODEL [ALIAS]", Short: "Say who may move an alias, and to which versions", Args: cobra.RangeArgs(1, 2),
		Long: `Say who may move an alias, and which gates a version must have passed before it gets the name. With neither scopes nor
keys, everybody who may write moves it. Without an option, show the rules. Writing one needs a key with the scope admin.`,
		Example: `  penstock protect digits champion --gate accuracy --key K1
  penstock protect digits
  penstock protect digits champion --off`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			model := api.ModelName(args[0])
			for _, s := range scopes {
				in.Scopes = append(in.Scopes, api.Scope(s))
			}
			for _, k := range keys {
				in.Keys = append(in.Keys, api.KeyID(k))
			}
			asked := len(in.Scopes)+len(in.Keys)+len(in.Gates) > 0
			if off && asked || (off || asked) && len(args) < 2 {
				return usage(errors.New("name an ALIAS, and either what protects it or --off"))
			}
			if off || asked {
				rule, err := c.ProtectAlias(ctx, model, api.AliasName(args[1]), in)
				if err != nil {
					return err
				}
				if off {
					return a.print(rule, func() { fmt.Fprintf(a.out, "%s:%s is not protected\n", model, rule.Alias) })
				}
			}
			rules, err := c.AliasRules(ctx, model)
			if err != nil {
				return err
			}
			if len(args) == 2 {
				rules = slices.DeleteFunc(rules, func(r api.AliasRule) bool { return string(r.Alias) != args[1] })
			}
			return list(a, rules, "ALIAS SCOPES KEYS GATES CHANGED BY", func(r api.AliasRule) []string {
				return []string{string(r.Alias), spaced(r.Scopes), spaced(r.Keys), strings.Join(r.Gates, " "), when(r.Changed), r.ChangedBy}
			})
		})})
	f := cmd.Flags()
	f.StringArrayVar(&scopes, "scope", nil, "keys with this scope may move it; may be repeated")
	f.StringArrayVar(&keys, "key", nil, "this key may move it, by its id; may be repeated")
	f.StringArrayVar(&in.Gates, "gate", nil, "a version must have passed this gate; may be repeated")
	f.BoolVar(&off, "off", false, "protect it no more")
	return cmd
}

func spaced[T ~string](all []T) string {
	parts := make([]string, len(all))
	for i, part := range all {
		parts[i] = string(part)
	}
	return strings.Join(parts, " ")
}

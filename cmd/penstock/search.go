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

type searchFlags struct {
	sort      string
	limit     int
	all       bool
	fields    bool
	pageAfter string
}

func (a *app) searchCommands() []*cobra.Command {
	var flags searchFlags
	cmd := a.withOutput(&cobra.Command{Use: "search [QUERY]...", Short: "Find versions by anything known of them", Args: cobra.ArbitraryArgs,
		Long: `Find versions by anything known of them. A query joins comparisons with and, or, not and parentheses:

  FIELD = VALUE, !=, <, <=, >, >=     10MB and 64KiB are sizes, 12M is a number, 2026-01-31 a day
  FIELD ~ PART                        the text contains it; capitals do not count
  FIELD in (VALUE, VALUE)
  has FIELD                           there is a value
  PART                                the model's name contains it

Fields are listed by --fields. Values with spaces or one of ()=!<>~," stand in double quotes. Several arguments are read
as one query; mind that the shell takes < and > for itself.`,
		Example: `  penstock search fraud
  penstock search 'metrics.accuracy>0.97 and tag.team="risk"'
  penstock search 'alias=champion and created>=2026-01-01' --sort -size
  penstock search --fields`,
		ValidArgsFunction: a.completeQuery,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			if flags.fields {
				return a.showFields(ctx, c)
			}
			return a.search(ctx, c, strings.Join(args, " "), flags)
		})})
	f := cmd.Flags()
	f.StringVar(&flags.sort, "sort", "", "field to sort by, with - before it for the largest first; newest first when left out")
	f.IntVar(&flags.limit, "limit", 50, "most to show, 1 to 1000")
	f.BoolVar(&flags.all, "all", false, "show all, page by page")
	f.StringVar(&flags.pageAfter, "after", "", "go on after a page: the `cursor` that it ended with")
	f.BoolVar(&flags.fields, "fields", false, "list the fields")
	return []*cobra.Command{cmd}
}

func (a *app) search(ctx context.Context, c *client.Client, query string, flags searchFlags) error {
	in := api.SearchRequest{Query: query, Sort: flags.sort, After: flags.pageAfter, Limit: flags.limit}
	all := []api.Found{}
	for {
		page, err := c.Search(ctx, in)
		if err != nil {
			return err
		}
		all = append(all, page.Items...)
		if in.After = page.Next; page.Next == "" || !flags.all {
			break
		}
	}
	err := list(a, all, "VERSION STATE SIZE ALIASES METRICS TAGS CREATED", func(f api.Found) []string {
		names := make([]string, len(f.Aliases))
		for i, name := range f.Aliases {
			names[i] = string(name)
		}
		return []string{f.Ref().String(), string(f.State), size(f.Size), strings.Join(names, " "), metrics(f.Metrics), labels(f.Tags), when(f.Created)}
	})
	if err == nil && in.After != "" {
		fmt.Fprintf(a.err, "there are more: --all, or --after %s\n", in.After)
	}
	return err
}

func (a *app) showFields(ctx context.Context, c *client.Client) error {
	fields, err := c.SearchFields(ctx)
	if err != nil {
		return err
	}
	return list(a, fields, "FIELD KIND WHAT", func(f api.SearchField) []string {
		name := f.Name
		if strings.HasSuffix(name, ".") {
			name += "NAME"
		}
		return []string{name, f.Kind, f.Doc}
	})
}

// completeQuery offers fields, or values after a comparison. The shell gives it the argument so far: what stands before the
// last word of it is kept.
func (a *app) completeQuery(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	directive := cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	c, err := a.connect()
	if err != nil {
		return nil, directive
	}
	cut := strings.LastIndexAny(typed, " (,=<>~\"") + 1
	lead, part := typed[:cut], typed[cut:]
	if field, compared := comparedField(lead); compared {
		values, err := c.SearchValues(cmd.Context(), field, part, completionsMax)
		if err != nil {
			return nil, directive
		}
		for i, v := range values {
			if quoted := strings.HasSuffix(lead, `"`); quoted || strings.ContainsAny(v, " ()=!<>~,\"") {
				v = strings.TrimPrefix(strconv.Quote(v), map[bool]string{true: `"`}[quoted])
			}
			values[i] = lead + v
		}
		return values, directive
	}
	fields, err := c.SearchFields(cmd.Context())
	if err != nil {
		return nil, directive
	}
	var offers []string
	for _, f := range fields {
		if strings.HasPrefix(f.Name, part) {
			offers = append(offers, cobra.CompletionWithDesc(lead+f.Name, f.Doc))
		}
	}
	return offers, directive
}

// completionsMax is how many values are offered.
const completionsMax = 50

// comparedField finds the field whose value comes next: the word before the comparison that ends the text.
func comparedField(lead string) (field string, compared bool) {
	before := strings.TrimRight(lead, ` "`)
	if open := strings.LastIndexByte(before, '('); open >= 0 && !strings.Contains(before[open:], ")") {
		if list, is := strings.CutSuffix(strings.TrimRight(before[:open], " "), " in"); is {
			return lastWord(list), true
		}
	}
	name := strings.TrimRight(before, "=!<>~")
	if name == before {
		return "", false
	}
	return lastWord(strings.TrimRight(name, " ")), true
}

func lastWord(text string) string { return text[strings.LastIndexAny(text, " (")+1:] }

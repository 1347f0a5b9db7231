package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

// refCommands take references of versions or models, so many of them.
var refCommands = map[string]int{"show": 1, "versions": 1, "pull": 1, "tag": 1, "meta": 1, "gate": 1, "diff": 2, "deploy": 1, "alias": 1, "protect": 1}

// completeRefs gives the commands that take references their completion.
func (a *app) completeRefs(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		if most := refCommands[cmd.Name()]; most > 0 && cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
				if len(args) >= most {
					return nil, cobra.ShellCompDirectiveDefault
				}
				return a.completeRef(cmd, typed), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
			}
		}
	}
}

// completeRef offers models, and behind "@" or ":" the newest versions, labels or aliases of one. A server that does not
// answer offers nothing: a shell is no place for its errors.
func (a *app) completeRef(cmd *cobra.Command, typed string) (offers []string) {
	c, err := a.connect()
	if err != nil {
		return nil
	}
	cut := strings.IndexAny(typed, "@:")
	if cut < 0 {
		names, err := c.SearchValues(cmd.Context(), "name", typed, completionsMax)
		if err != nil {
			return nil
		}
		return names
	}
	model := api.ModelName(typed[:cut])
	if typed[cut] == ':' {
		m, err := c.Model(cmd.Context(), model)
		if err != nil {
			return nil
		}
		for _, alias := range m.Aliases {
			offers = append(offers, cobra.CompletionWithDesc(fmt.Sprintf("%s:%s", model, alias.Name), fmt.Sprintf("version %d", alias.Version)))
		}
	} else {
		page, err := c.Versions(cmd.Context(), model, client.Page{Limit: completionsMax})
		if err != nil {
			return nil
		}
		for _, v := range page.Items {
			offers = append(offers, cobra.CompletionWithDesc(v.Ref().String(), when(v.Created)))
			if v.Label != "" {
				offers = append(offers, fmt.Sprintf("%s@%s", model, v.Label))
			}
		}
	}
	kept := offers[:0]
	for _, offer := range offers {
		if strings.HasPrefix(offer, typed) {
			kept = append(kept, offer)
		}
	}
	return kept
}

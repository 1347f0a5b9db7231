package registry

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// The bounds of what a push may tell of where its version came from.
const (
	lineageDatasets = 32
	lineageTools    = 32
)

// lineageName is what names of data sets and runs look like. They are other systems' names, so the rule is wide.
var lineageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/@:+-]{0,126}$`)

// lineage turns what a push tells into links: data sets led to the run, or else to the version itself; the run to the
// version; the version that it was derived from to the version, with the recipe and its tools.
func (c *Catalog) lineage(ctx context.Context, t api.TenantID, claim *api.LineageClaim) (links []api.LineageLink, _ error) {
	if claim == nil {
		return nil, nil
	}
	if len(claim.Datasets) > lineageDatasets || len(claim.Tools) > lineageTools {
		return nil, api.Fail(api.CodeTooLarge, "$.lineage", "a push names at most %d data sets and %d tools", lineageDatasets, lineageTools)
	}
	for _, name := range append(slices.Clone(claim.Datasets), claim.Run) {
		if name != "" && !lineageName.MatchString(name) {
			return nil, api.Fail(api.CodeBadName, "$.lineage", "%q is no name of a data set or run; such a name is of letters, digits and . _ / @ : + -, at most 127", shown(name))
		}
	}
	how := claim.Recipe
	for _, tool := range slices.Sorted(maps.Keys(claim.Tools)) {
		how += fmt.Sprintf(" %s=%s", tool, claim.Tools[tool])
	}
	if how = strings.TrimSpace(how); len(how) > c.limits.WhyBytes || !isLine(how) {
		return nil, api.Fail(api.CodeBadRequest, "$.lineage", "recipe and tools are not one line of at most %d bytes", c.limits.WhyBytes)
	}
	for _, name := range claim.Datasets {
		l := api.LineageLink{FromKind: api.LineageDataset, From: name}
		if claim.Run != "" {
			l.ToKind, l.To = api.LineageRun, claim.Run
		}
		links = append(links, l)
	}
	if claim.Run != "" {
		links = append(links, api.LineageLink{FromKind: api.LineageRun, From: claim.Run})
	}
	if claim.DerivedFrom != "" {
		ref, err := api.ParseRef(claim.DerivedFrom)
		if err != nil {
			return nil, err
		}
		v, err := c.Resolve(ctx, t, ref)
		if err != nil {
			return nil, err
		}
		links = append(links, api.LineageLink{FromKind: api.LineageVersion, From: v.Ref().String(), Text: how})
	} else if how != "" {
		for i := range links {
			if links[i].To == "" {
				links[i].Text = how
			}
		}
	}
	return links, nil
}

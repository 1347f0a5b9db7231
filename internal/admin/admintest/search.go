package admintest

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// Search finds the versions of models whose name contains the query, newest first. It knows no more of the language.
func (r *Rooms) Search(_ context.Context, t api.TenantID, in api.SearchRequest) (api.List[api.Found], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	page := api.List[api.Found]{Items: []api.Found{}}
	if err := r.Fail["Search"]; err != nil {
		return page, err
	}
	for _, key := range slices.Sorted(maps.Keys(r.models)) {
		m := r.models[key]
		if m.Tenant != t || !strings.Contains(string(m.Name), in.Query) {
			continue
		}
		for _, v := range slices.Backward(m.versions) {
			f := api.Found{Model: v.Model, Number: v.Number, Digest: v.Digest, State: v.State, Format: v.Format, Size: v.Size, Tags: v.Tags,
				Metrics: v.Metrics, Aliases: []api.AliasName{}, Created: v.Created, CreatedBy: v.CreatedBy}
			for _, a := range m.Aliases {
				if a.Version == v.Number {
					f.Aliases = append(f.Aliases, a.Name)
				}
			}
			if page.Items = append(page.Items, f); len(page.Items) == in.Limit {
				return page, nil
			}
		}
	}
	return page, nil
}

// SearchFields names two.
func (r *Rooms) SearchFields(context.Context, api.TenantID) ([]api.SearchField, error) {
	return []api.SearchField{{Name: "name", Kind: "text", Doc: "Name of the model."}, {Name: "tag.team", Kind: "tag"}}, nil
}

// SearchValues gives the names of models for every field.
func (r *Rooms) SearchValues(_ context.Context, t api.TenantID, _, prefix string, limit int) (names []string, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(r.models)) {
		if m := r.models[key]; m.Tenant == t && strings.HasPrefix(string(m.Name), prefix) && len(names) < limit {
			names = append(names, string(m.Name))
		}
	}
	return names, nil
}

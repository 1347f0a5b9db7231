package registry

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/registry/query"
)

// cursorBytesMax bounds a cursor before it is read; the longest holds one word of the index.
const cursorBytesMax = 1024

// cursor is where a page of a search ended. It names the search that it belongs to: in another one its place means nothing.
type cursor struct {
	Of string `json:"q"`
	api.SearchPlace
}

// Search finds versions of a tenant by a query in the language of registry/query, in the order of a field ("-" before it for
// the largest first; empty is newest first). Next is the cursor of the page after, empty on the last. A version that is
// committed meanwhile is on a later page or on none, never twice.
func (c *Catalog) Search(ctx context.Context, t api.TenantID, in api.SearchRequest) (page api.List[api.Found], _ error) {
	where, err := query.Parse(in.Query)
	if err != nil {
		return page, err
	}
	sort, err := query.ParseSort(in.Sort)
	if err != nil {
		return page, err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%q\x00%q", t, in.Query, in.Sort))
	of := base64.RawURLEncoding.EncodeToString(sum[:9])
	q := api.Search{Tenant: t, Where: where, Sort: sort, Limit: clampList(in.Limit)}
	if in.After != "" {
		if q.After, err = readCursor(in.After, of); err != nil {
			return page, err
		}
	}
	if page.Items, err = c.store.Search(ctx, q); err != nil {
		return page, err
	}
	if page.Items == nil {
		page.Items = []api.Found{}
	}
	if len(page.Items) == q.Limit {
		text, err := json.Marshal(cursor{of, page.Items[len(page.Items)-1].Place})
		if err != nil {
			return page, fmt.Errorf("write a cursor: %w", err)
		}
		page.Next = base64.RawURLEncoding.EncodeToString(text)
	}
	return page, nil
}

func readCursor(text, of string) (*api.SearchPlace, error) {
	var c cursor
	body, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(text) > cursorBytesMax || api.DecodeStrict(body, &c) != nil || c.Of != of {
		return nil, api.Fail(api.CodeBadRequest, "", "the cursor does not belong to this search").
			WithCure("Give back `next` of the page before, with the same query and order.")
	}
	return &c.SearchPlace, nil
}

// SearchFields lists what a query of a tenant may name: every field, and of the families those that its versions have.
func (c *Catalog) SearchFields(ctx context.Context, t api.TenantID) ([]api.SearchField, error) {
	all := query.Fields()
	const most = 1000
	own, err := c.store.SearchFields(ctx, t, most)
	if err != nil {
		return nil, err
	}
	for _, name := range own {
		known := slices.ContainsFunc(all, func(f api.SearchField) bool { return f.Name == name })
		if kind, is := query.KindOf(name); is && !known {
			all = append(all, api.SearchField{Name: name, Kind: kind})
		}
	}
	slices.SortStableFunc(all, func(a, b api.SearchField) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// SearchValues lists values that a field of a tenant has or had, those that begin with a prefix, for completion.
func (c *Catalog) SearchValues(ctx context.Context, t api.TenantID, field, prefix string, limit int) ([]string, error) {
	if _, known := query.KindOf(field); !known {
		return nil, api.Fail(api.CodeBadQuery, "", "there is no field %q", shown(field))
	}
	return c.store.SearchWords(ctx, t, field, prefix, clampList(limit))
}

package store_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/registry/query"
	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/internal/store/storetest"
)

// shelf is a tenant's versions as a slice: what a search is held against.
type shelf struct {
	versions []*api.Version
	aliases  map[string][]string // by reference
	latest   map[api.ModelName]api.VersionNumber
}

// values gives all that a field of a version holds, as plain as can be: words, or numbers.
func (s *shelf) values(v *api.Version, field string) (words []string, numbers []float64) {
	family, name, dotted := strings.Cut(field, ".")
	switch {
	case dotted && family == "tag":
		if value, has := v.Tags[name]; has && value != "" {
			words = append(words, value)
			var n float64
			if _, err := fmt.Sscanf(value, "%g", &n); err == nil {
				numbers = append(numbers, n)
			}
		}
	case dotted && family == "metrics":
		if n, has := v.Metrics[name]; has {
			numbers = append(numbers, n)
		}
	case dotted && family == "op":
		if n, has := v.Info.Ops[name]; has {
			numbers = append(numbers, float64(n))
		}
	case field == "name":
		words = []string{string(v.Model)}
	case field == "version":
		numbers = []float64{float64(v.Number)}
	case field == "alias":
		words = s.aliases[v.Ref().String()]
	case field == "created_by":
		words = []string{v.CreatedBy}
	case field == "format":
		words = []string{v.Format}
	case field == "created":
		numbers = []float64{float64(v.Created)}
	case field == "size":
		numbers = []float64{float64(v.Size)}
	case field == "opset":
		numbers = []float64{float64(v.Info.Opsets["ai.onnx"])}
	case field == "input":
		for _, in := range v.Signature.Inputs {
			words = append(words, in.Name)
		}
	case field == "latest":
		if s.latest[v.Model] == v.Number {
			words = []string{"true"}
		}
	}
	return words, numbers
}

// test is a part of a query: as text, and as a function that says whether it holds.
type test struct {
	text  string
	holds func(*api.Version) bool
}

// asker makes random tests.
type asker struct {
	*rand.Rand
	shelf *shelf
}

func choose[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func (a asker) test(depth int) test {
	if depth == 0 || a.IntN(3) == 0 {
		return a.comparison()
	}
	switch a.IntN(4) {
	case 0:
		one := a.test(depth - 1)
		return test{"not (" + one.text + ")", func(v *api.Version) bool { return !one.holds(v) }}
	case 1:
		one, two, three := a.comparison(), a.comparison(), a.test(depth-1)
		return test{one.text + " or not " + two.text + " and (" + three.text + ")", func(v *api.Version) bool { return one.holds(v) || !two.holds(v) && three.holds(v) }}
	}
	one, two := a.test(depth-1), a.test(depth-1)
	return test{"(" + one.text + ") and (" + two.text + ")", func(v *api.Version) bool { return one.holds(v) && two.holds(v) }}
}

func (a asker) comparison() test {
	switch a.IntN(4) {
	case 0:
		return a.numeric()
	case 1:
		field := choose(a.Rand, "tag.team", "tag.rank", "metrics.accuracy", "metrics.loss", "alias", "op.Conv", "op.Nope", "input")
		return test{"has " + field, func(v *api.Version) bool {
			words, numbers := a.shelf.values(v, field)
			return len(words)+len(numbers) > 0
		}}
	}
	return a.textual()
}

func (a asker) numeric() test {
	field := choose(a.Rand, "version", "size", "metrics.accuracy", "metrics.loss", "opset", "op.Conv", "tag.rank")
	n := map[string]float64{"version": float64(a.IntN(5)), "size": float64(a.IntN(20) * 1000), "opset": float64(11 + a.IntN(6)), "op.Conv": float64(a.IntN(4)),
		"tag.rank": float64(a.IntN(12))}[field]
	if strings.HasPrefix(field, "metrics.") {
		n = float64(a.IntN(21)-10) / 10
	}
	op := choose(a.Rand, "<", "<=", ">", ">=")
	if field != "tag.rank" { // whose = compares texts
		op = choose(a.Rand, op, "=", "!=")
	}
	number := fmt.Sprintf("%g", n)
	if field == "size" {
		number = choose(a.Rand, number, fmt.Sprintf("%gKB", n/1000))
	}
	return test{field + op + number, func(v *api.Version) bool {
		_, numbers := a.shelf.values(v, field)
		holds := slices.ContainsFunc(numbers, func(m float64) bool {
			c := cmp.Compare(m, n)
			return op == "<" && c < 0 || op == "<=" && c <= 0 || op == ">" && c > 0 || op == ">=" && c >= 0 || strings.HasSuffix(op, "=") && len(op) < 3 && op != "<=" && op != ">=" && c == 0
		})
		return holds != (op == "!=")
	}}
}

func (a asker) textual() test {
	field := choose(a.Rand, "name", "alias", "created_by", "format", "input", "tag.team", "tag.team", "latest")
	pool := map[string][]string{"name": {"m-1", "m-2", "m-13", "none"}, "alias": {"champion", "next", "no"}, "created_by": {"ci", "ann", "Zoë"}, "format": {"onnx", "gguf"},
		"input": {"x", "ids", "mask"}, "tag.team": {"risk", "ads", "50% off_!", `say "hi"`, "ÄRGER", "nobody"}, "latest": {"true", "false"}}[field]
	is := func(want string) func(*api.Version) bool {
		return func(v *api.Version) bool {
			words, _ := a.shelf.values(v, field)
			if field == "latest" {
				return (len(words) > 0) == (want == "true")
			}
			return slices.Contains(words, want)
		}
	}
	one, two := choose(a.Rand, pool...), choose(a.Rand, pool...)
	op := choose(a.Rand, "=", "=", "!=")
	if field != "latest" {
		op = choose(a.Rand, op, op, "~", "in")
	}
	switch op {
	case "in":
		return test{fmt.Sprintf("%s in (%s, %s)", field, quote(one), quote(two)), func(v *api.Version) bool { return is(one)(v) || is(two)(v) }}
	case "~":
		part := string([]rune(one)[:1+a.IntN(len([]rune(one)))])
		asked := part
		if a.IntN(2) == 0 {
			asked = strings.Map(func(r rune) rune {
				if r >= 'a' && r <= 'z' {
					return r - 32
				}
				return r
			}, part)
		}
		return test{field + " ~ " + quote(asked), func(v *api.Version) bool {
			words, _ := a.shelf.values(v, field)
			return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(ascii(w), ascii(part)) })
		}}
	case "!=":
		return test{field + " != " + quote(one), func(v *api.Version) bool { return !is(one)(v) }}
	}
	return test{field + "=" + quote(one), is(one)}
}

func quote(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }

func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 32
		}
		return r
	}, s)
}

// fill commits random versions, changes some tags and aliases, and keeps what should be true then.
func (s *shelf) fill(t *testing.T, db *store.DB, dice *rand.Rand, versions int) {
	t.Helper()
	for i := range versions {
		v := &api.Version{Tenant: "acme", Model: api.ModelName(fmt.Sprintf("m-%d", dice.IntN(versions/4))), Digest: api.Digest(fmt.Sprintf("sha256:%064x", i)), State: api.VersionReady,
			Format: "onnx", Size: int64(dice.IntN(20) * 1000), Created: api.Time(1_700_000_000_000_000 + int64(i)*3_600_000_000), CreatedBy: choose(dice, "ci", "ann", "Zoë"),
			Info: api.ModelInfo{Opsets: map[string]int64{"ai.onnx": int64(11 + dice.IntN(6))}, Ops: map[string]int64{"Conv": int64(dice.IntN(4))}},
			Tags: map[string]string{}, Metrics: map[string]float64{"accuracy": float64(dice.IntN(21)-10) / 10}}
		v.Signature.Inputs = []api.TensorSpec{{Name: choose(dice, "x", "ids"), Datatype: "FP32", Shape: []int64{-1, 4}}}
		if dice.IntN(2) == 0 {
			v.Tags["team"] = choose(dice, "risk", "ads", "50% off_!", `say "hi"`, "Ärger", "ÄRGER", "RISK")
		}
		if dice.IntN(3) == 0 {
			v.Metrics["loss"] = -float64(dice.IntN(10)) / 10
		}
		var aliases []api.AliasName
		if dice.IntN(5) == 0 {
			aliases = []api.AliasName{choose(dice, api.AliasName("champion"), "next")}
		}
		stored, _, err := db.CommitVersion(t.Context(), *v, aliases, "")
		if err != nil {
			t.Fatal(err)
		}
		v = &stored
		s.versions, s.latest[v.Model] = append(s.versions, v), v.Number
		for _, name := range aliases {
			s.move(v, string(name))
		}
	}
	for range versions / 4 {
		v := choose(dice, s.versions...)
		changed, err := db.SetTags(t.Context(), v.Tenant, v.Model, v.Number, map[string]string{"rank": fmt.Sprint(dice.IntN(12))}, []string{choose(dice, "team", "other")}, "me", 4)
		if err != nil {
			t.Fatal(err)
		}
		*v = changed
		v = choose(dice, s.versions...)
		if _, err := db.MoveAlias(t.Context(), storetest.Move(v.Tenant, v.Model, "next", v.Number, -1, "me", "", 5)); err != nil {
			t.Fatal(err)
		}
		s.move(v, "next")
	}
}

// discard deletes versions that no alias names, and restores half of them, which then come last.
func (s *shelf) discard(t *testing.T, db *store.DB, dice *rand.Rand, versions int) {
	t.Helper()
	for i := range versions {
		v := choose(dice, s.versions...)
		if len(s.aliases[v.Ref().String()]) > 0 {
			continue
		}
		deletion := api.Deletion{By: "me", At: 6}
		if err := db.DeleteVersion(t.Context(), v.Tenant, v.Model, v.Number, deletion); err != nil {
			t.Fatal(err)
		}
		s.versions = slices.DeleteFunc(s.versions, func(o *api.Version) bool { return o == v })
		if i%2 == 0 {
			if _, err := db.RestoreVersion(t.Context(), v.Tenant, v.Model, v.Number, deletion); err != nil {
				t.Fatal(err)
			}
			s.versions = append(s.versions, v)
		}
	}
	clear(s.latest)
	for _, v := range s.versions {
		s.latest[v.Model] = max(s.latest[v.Model], v.Number)
	}
}

// move takes an alias from the model's other versions.
func (s *shelf) move(to *api.Version, name string) {
	for _, v := range s.versions {
		if v.Model == to.Model {
			ref := v.Ref().String()
			s.aliases[ref] = slices.DeleteFunc(s.aliases[ref], func(a string) bool { return a == name })
		}
	}
	ref := to.Ref().String()
	s.aliases[ref] = append(s.aliases[ref], name)
}

// want is what a test should find, in the order asked for.
func (s *shelf) want(c test, sort string) (refs []string) {
	var fit []*api.Version
	field, descending := strings.CutPrefix(sort, "-")
	for _, v := range s.versions {
		words, numbers := s.values(v, field)
		if c.holds(v) && (sort == "" || len(words)+len(numbers) > 0) {
			fit = append(fit, v)
		}
	}
	slices.SortStableFunc(fit, func(a, b *api.Version) int {
		if sort == "" {
			return 0
		}
		words, numbers := s.values(a, field)
		otherWords, otherNumbers := s.values(b, field)
		return cmp.Or(slices.Compare(words, otherWords), slices.Compare(numbers, otherNumbers))
	})
	if descending || sort == "" {
		slices.Reverse(fit)
	}
	for _, v := range fit {
		refs = append(refs, v.Ref().String())
	}
	return refs
}

// search asks for a test page by page.
func search(t *testing.T, db *store.DB, text, sort string, limit int) (refs []string) {
	t.Helper()
	where, err := query.Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	order, err := query.ParseSort(sort)
	if err != nil {
		t.Fatal(err)
	}
	q := api.Search{Tenant: "acme", Where: where, Sort: order, Limit: limit}
	for {
		page, err := db.Search(t.Context(), q)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for _, f := range page {
			refs = append(refs, f.Ref().String())
		}
		if len(page) < limit {
			return refs
		}
		q.After = &page[len(page)-1].Place
	}
}

// TestSearch holds 1,000 random queries on each store against a plain filter, in several orders and page sizes.
func TestSearch(t *testing.T) {
	for name, open := range map[string]func(testing.TB) *store.DB{"SQLite": openSQLite, "PostgreSQL": openPostgres} {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			dice := rand.New(rand.NewPCG(seed, 2))
			db := open(t)
			for _, tenant := range []api.TenantID{"acme", "other"} {
				if err := db.PutTenant(t.Context(), api.Tenant{ID: tenant}); err != nil {
					t.Fatal(err)
				}
			}
			s := &shelf{aliases: map[string][]string{}, latest: map[api.ModelName]api.VersionNumber{}}
			s.fill(t, db, dice, 300)
			s.discard(t, db, dice, 40)
			// A foreign tenant's version fits many of the queries, and is never found.
			if _, _, err := db.CommitVersion(t.Context(), api.Version{Tenant: "other", Model: "m-1", Digest: "sha256:0", Format: "onnx", CreatedBy: "ci"}, nil, ""); err != nil {
				t.Fatal(err)
			}
			defer store.SetFewMax(2000)
			found, queries := 0, 1000
			if testing.Short() {
				queries = 100
			}
			for range queries {
				store.SetFewMax(choose(dice, 0, 3, 30, 2000)) // each of the ways to go about it
				c := asker{dice, s}.test(3)
				sort := choose(dice, "", "", "created", "-size", "metrics.accuracy", "-metrics.loss", "name", "-tag.team")
				got, want := search(t, db, c.text, sort, 20+dice.IntN(120)), s.want(c, sort)
				if found += len(want); !slices.Equal(got, want) {
					t.Fatalf("seed %d: %s, by %q:\n got %v\nwant %v", seed, c.text, sort, got, want)
				}
			}
			if found == 0 {
				t.Errorf("seed %d: no query found anything", seed)
			}
		})
	}
}

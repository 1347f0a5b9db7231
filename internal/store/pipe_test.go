package store_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/penstock/penstock/internal/store"
)

// TestWritesFailAlone lets writes of one group fail at each place where statements may still wait, on both databases: each
// takes back what is its own, the others are kept.
func TestWritesFailAlone(t *testing.T) {
	refused := errors.New("refused")
	add := func(id string) store.Step {
		return store.Step{Query: `INSERT INTO tenants (id, created) VALUES (?, 0)`, Args: []any{id}}
	}
	ask := store.Step{Query: `SELECT COUNT(*) FROM tenants`, Ask: true}
	broken := store.Step{Query: `INSERT INTO tenants (id, created) VALUES (?, 0)`, Args: []any{"taken"}} // it is there already
	many := func(prefix string) (steps []store.Step) {
		for i := range 150 { // more than may wait
			steps = append(steps, add(fmt.Sprintf("%s-%03d", prefix, i)))
		}
		return steps
	}
	for name, open := range map[string]func(testing.TB) *store.DB{"sqlite": openSQLite, "postgres": openPostgres} {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			if err := db.Steps(t.Context(), nil, add("taken")); err != nil {
				t.Fatal(err)
			}
			want := []string{"taken"}
			var writing sync.WaitGroup
			for i, c := range []struct {
				end   error
				bad   bool
				steps []store.Step
			}{
				{refused, true, nil},
				{refused, true, []store.Step{add("b")}},
				{refused, true, []store.Step{add("c"), ask}},
				{refused, true, []store.Step{add("d"), ask, add("d2")}},
				{refused, true, many("e")},
				{nil, true, []store.Step{broken}},
				{nil, true, []store.Step{add("g"), broken, add("g2")}},
				{nil, true, []store.Step{add("h"), broken, ask}},
				{nil, true, []store.Step{add("i"), ask, broken}},
				{nil, true, append(many("j"), broken)},
				{nil, true, append([]store.Step{broken}, many("k")...)},
				{nil, false, nil},
				{nil, false, []store.Step{add("kept-1")}},
				{nil, false, []store.Step{add("kept-2"), ask}},
				{nil, false, []store.Step{ask, add("kept-3")}},
				{nil, false, many("kept")},
			} {
				if !c.bad {
					for _, s := range c.steps {
						if !s.Ask {
							want = append(want, s.Args[0].(string))
						}
					}
				}
				writing.Go(func() {
					err := db.Steps(t.Context(), c.end, c.steps...)
					switch {
					case (err != nil) != c.bad:
						t.Errorf("write %d: %v", i, err)
					case c.end != nil && !errors.Is(err, c.end):
						t.Errorf("write %d: %v, not what it ended with", i, err)
					}
				})
			}
			writing.Wait()
			tenants, err := db.Tenants(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, one := range tenants {
				got = append(got, string(one.ID))
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("kept are %q, want %q", got, want)
			}
		})
	}
}

// TestEndedTransaction: PostgreSQL answers the COMMIT of a transaction that a fault has ended, and so taken back, without an
// error. Nobody may be told that it was kept.
func TestEndedTransaction(t *testing.T) {
	db := openPostgres(t)
	if err := db.Steps(t.Context(), nil,
		store.Step{Query: `INSERT INTO tenants (id, created) VALUES (?, 0)`, Args: []any{"lost"}},
		store.Step{Query: `SELECT nothing FROM nowhere`, Ask: true, Ignore: true}); err == nil {
		t.Error("a write that was taken back counts as kept")
	}
	if tenants, err := db.Tenants(t.Context()); err != nil || len(tenants) > 0 {
		t.Errorf("%v, %v", tenants, err)
	}
	if err := db.Steps(t.Context(), nil, store.Step{Query: `INSERT INTO tenants (id, created) VALUES (?, 0)`, Args: []any{"kept"}}); err != nil {
		t.Errorf("the next write: %v", err)
	}
}

package store_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/penstock/penstock/internal/store"
)

// TestTermsAfterFailure: words of a write that was taken back are written again by the next, and those that were kept are
// not written twice.
func TestTermsAfterFailure(t *testing.T) {
	for name, open := range map[string]func(testing.TB) *store.DB{"sqlite": openSQLite, "postgres": openPostgres} {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			refused := errors.New("refused")
			words := func() []string {
				all, err := db.SearchWords(t.Context(), "acme", "task", "", 10)
				if err != nil {
					t.Fatal(err)
				}
				return all
			}
			if err := db.Words(t.Context(), refused, "one"); !errors.Is(err, refused) {
				t.Fatal(err)
			}
			if got := words(); len(got) > 0 {
				t.Errorf("kept are %q", got)
			}
			for range 3 {
				if err := db.Words(t.Context(), nil, "one", "two"); err != nil {
					t.Fatal(err)
				}
				if err := db.Words(t.Context(), refused, "one", "three"); !errors.Is(err, refused) {
					t.Fatal(err)
				}
			}
			if got := words(); !slices.Equal(got, []string{"one", "two"}) {
				t.Errorf("kept are %q", got)
			}
		})
	}
}

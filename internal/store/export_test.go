package store

import "context"

// SetFewMax changes from how many entries on a condition counts as many.
func SetFewMax(n int) { fewMax = n }

// Step is a statement of a write: one that is put, or one that asks.
type Step struct {
	Query  string
	Args   []any
	Ask    bool
	Ignore bool // its error, as no write should
}

// Steps runs statements as one write, which ends with an error if there is one.
func (db *DB) Steps(ctx context.Context, end error, steps ...Step) error {
	return change(ctx, db, "take steps", func(ctx context.Context, s session) error {
		for _, step := range steps {
			var n int64
			var err error
			if step.Ask {
				_, err = s.one(ctx, step.Query, step.Args, &n)
			} else {
				err = s.put(ctx, step.Query, step.Args...)
			}
			if err != nil && !step.Ignore {
				return err
			}
		}
		return end
	})
}

// Words enters tasks as one write, which ends with an error if there is one.
func (db *DB) Words(ctx context.Context, end error, words ...string) error {
	return change(ctx, db, "enter words", func(ctx context.Context, s session) error {
		var cells []any
		for _, w := range words {
			if s.terms.write(term{"acme", "task", w}) {
				cells = append(cells, "acme", "task", w)
			}
		}
		if err := insertRows(ctx, s, `INSERT INTO catalogue_terms (tenant, field, word) VALUES `, 3, cells); err != nil {
			return err
		}
		return end
	})
}

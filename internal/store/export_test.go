package store

import (
	"context"
	"runtime"
	"sync"
)

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
			if s.gathered.terms.write(term{"acme", "task", w}) {
				cells = append(cells, "acme", "task", w)
			}
		}
		if err := insertRows(ctx, s, `INSERT INTO catalogue_terms (tenant, field, word) VALUES `, 3, cells); err != nil {
			return err
		}
		return end
	})
}

// Together runs writes as one group, in their order, and gives their errors.
func (db *DB) Together(ctx context.Context, writes ...func(context.Context) error) []error {
	open, errs := make(chan struct{}), make([]error, len(writes))
	began := make(chan struct{}, 2) // it may run twice
	var running sync.WaitGroup
	running.Go(func() {
		_ = change(ctx, db, "wait for the others", func(context.Context, session) error {
			began <- struct{}{}
			<-open
			return nil
		})
	})
	<-began
	for i, one := range writes {
		running.Go(func() { errs[i] = one(ctx) })
		for len(db.writer.queue) <= i {
			runtime.Gosched()
		}
	}
	close(open)
	running.Wait()
	return errs
}

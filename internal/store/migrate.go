package store

import (
	"context"
	"embed"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one numbered step of the schema.
type migration struct {
	number int64
	name   string
	text   string
}

// migrations reads the embedded files, which are numbered from 1 without gaps.
func migrations() ([]migration, error) {
	entries, err := migrationFiles.ReadDir("migrations")
	if err != nil {
		return nil, err
	}
	var steps []migration
	for _, entry := range entries {
		digits, _, _ := strings.Cut(entry.Name(), "_")
		number, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("migration %s: the name does not begin with its number", entry.Name())
		}
		text, err := migrationFiles.ReadFile(path.Join("migrations", entry.Name()))
		if err != nil {
			return nil, err
		}
		steps = append(steps, migration{number, entry.Name(), string(text)})
	}
	slices.SortFunc(steps, func(a, b migration) int { return int(a.number - b.number) })
	for i, step := range steps {
		if step.number != int64(i+1) {
			return nil, fmt.Errorf("migration %s: expected number %d", step.name, i+1)
		}
	}
	return steps, nil
}

// schemaVersion is the newest schema that this program knows.
func schemaVersion() (int64, error) {
	steps, err := migrations()
	return int64(len(steps)), err
}

// migrate brings the schema up to date, each step in a transaction with its row in schema_version: a step that is cut
// off midway leaves nothing. Two programs that start together take turns.
func (db *DB) migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	steps, err := migrations()
	if err != nil {
		return err
	}
	patience, done := context.WithTimeout(ctx, lockPatience)
	defer done()
	for {
		more, err := db.migrateOnce(ctx, steps)
		switch {
		case busy(err) && pause(patience, lockPause):
		case err != nil || !more:
			return err
		}
	}
}

// Programs that open one new file together meet in the change of its journal, for which SQLite does not wait by itself:
// it is tried again every lockPause, for lockPatience.
const (
	lockPause    = 20 * time.Millisecond
	lockPatience = 5 * time.Second
)

// pause waits, and reports whether ctx still holds.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// migrateOnce applies the next step, and reports whether there was one.
func (db *DB) migrateOnce(ctx context.Context, steps []migration) (more bool, err error) {
	conn, err := db.writes.Conn(ctx)
	if err != nil {
		return false, err
	}
	on := connection{querier: conn, raw: conn}
	defer on.Close()
	if more, err = db.migrateOn(ctx, on, steps); err != nil {
		on.discard()
	}
	return more, err
}

func (db *DB) migrateOn(ctx context.Context, on querier, steps []migration) (bool, error) {
	if err := db.dialect.begin(ctx, on); err != nil {
		return false, err
	}
	if err := db.dialect.bulk(ctx, on); err != nil {
		return false, err
	}
	s := session{on: on, rebind: db.rebind}
	create := db.dialect.schema(`CREATE TABLE IF NOT EXISTS schema_version (
		version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied BIGINT NOT NULL) /*STRICT*/`)
	if _, err := on.ExecContext(ctx, create); err != nil {
		return false, err
	}
	var at int64
	if _, err := s.one(ctx, `SELECT COALESCE(MAX(version), 0) FROM schema_version`, nil, &at); err != nil {
		return false, err
	}
	if at > int64(len(steps)) {
		return false, api.Fail(api.CodeUnsupported, "", "the store has schema %d, and this program knows schemas up to %d", at, len(steps)).
			WithCure("Start the newer Penstock that wrote it, or restore a backup that this one made.")
	}
	more := at < int64(len(steps))
	if more {
		step := steps[at]
		if _, err := on.ExecContext(ctx, db.dialect.schema(step.text)); err != nil {
			return false, fmt.Errorf("migration %s: %w", step.name, err)
		}
		if err := s.put(ctx, `INSERT INTO schema_version (version, name, applied) VALUES (?, ?, ?)`,
			step.number, step.name, api.TimeOf(time.Now())); err != nil {
			return false, err
		}
	}
	_, err := on.ExecContext(ctx, "COMMIT")
	return more, err
}

package store

import (
	"context"
	"slices"

	"github.com/penstock/penstock/api"
)

// notes is the column of what may change about a version.
type notes struct {
	Notes   api.Notes        `json:"notes,omitzero"`
	Label   string           `json:"label,omitempty"`
	Gates   []api.GateResult `json:"gates,omitempty"`
	Changes int64            `json:"changes,omitempty"`
}

func notesOf(v *api.Version) (string, error) {
	return encode(notes{v.Notes, v.Label, v.Gates, v.Changes})
}

func (n notes) onto(v *api.Version) {
	v.Notes, v.Label, v.Gates, v.Changes = n.Notes, n.Label, n.Gates, n.Changes
}

// EditVersion changes what may change about a version: its notes, label and gates; whatever else edit touches is not kept.
// The version that edit is given is the present one, and nobody changes it meanwhile. An event without a kind is not kept.
// Edit may be called from another goroutine, and must not touch variables outside itself.
func (db *DB) EditVersion(ctx context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber, edit func(*api.Version) (api.Event, error)) (api.Version, error) {
	return writeModel(ctx, db, "change the version", t, m, func(ctx context.Context, s session, m api.ModelName) (api.Version, error) {
		old, err := needVersion(ctx, s, t, m, n)
		if err != nil {
			return old, err
		}
		v := old
		v.Gates, v.Notes.Keywords, v.Notes.Results = slices.Clone(v.Gates), slices.Clone(v.Notes.Keywords), slices.Clone(v.Notes.Results)
		event, err := edit(&v)
		if err != nil {
			return old, err
		}
		v.Changes = old.Changes + 1
		if v.Label != old.Label {
			if err := putLabel(ctx, s, &v); err != nil {
				return old, err
			}
		}
		text, err := notesOf(&v)
		if err != nil {
			return old, err
		}
		if err := s.put(ctx, `UPDATE versions SET notes = ? WHERE tenant = ? AND model = ? AND number = ?`, text, t, m, n); err != nil {
			return old, err
		}
		if err := indexNotes(ctx, s, &v); err != nil {
			return old, err
		}
		if event.Kind != "" {
			err = db.appendEvent(ctx, s, event)
		}
		return v, err
	})
}

// putLabel gives a version its label, which no other version of the model may have.
func putLabel(ctx context.Context, s session, v *api.Version) error {
	cells, err := labelCells(v)
	if err != nil {
		return err
	}
	var number api.VersionNumber
	added, err := s.one(ctx, insertLabel+`(`+marks(len(cells))+`) ON CONFLICT DO NOTHING RETURNING number`, cells, &number)
	if err == nil && !added {
		err = labelTaken(v)
	}
	return err
}

const insertLabel = `INSERT INTO labels (tenant, model, label, major, minor, patch, prerelease, number) VALUES `

func labelCells(v *api.Version) ([]any, error) {
	l, err := api.ParseLabel(v.Label)
	return []any{v.Tenant, v.Model, v.Label, l.Major, l.Minor, l.Patch, l.Pre, v.Number}, err
}

func labelTaken(v *api.Version) error {
	return api.Fail(api.CodeExists, string(v.Model)+"@"+v.Label, "another version of the model has this label").
		WithCure("Choose the next one; a label never moves.")
}

// labelled holds for a label l of a version that is not deleted. A deleted one keeps its label, for when it is restored.
const labelled = `EXISTS (SELECT 1 FROM versions v WHERE v.tenant = l.tenant AND v.model = l.model AND v.number = l.number AND v.deleted = 0)`

// VersionByLabel gives the version that a label names.
func (db *DB) VersionByLabel(ctx context.Context, t api.TenantID, m api.ModelName, label string) (api.Version, error) {
	return db.byLabel(ctx, t, m, label, `SELECT number FROM labels l WHERE tenant = ? AND model = ? AND label = ? AND `+labelled, label)
}

// VersionInRange gives the version with the highest label of a range; pre-releases are in none.
func (db *DB) VersionInRange(ctx context.Context, t api.TenantID, m api.ModelName, r api.LabelRange) (api.Version, error) {
	return db.byLabel(ctx, t, m, r.From.String(), `SELECT number FROM labels l WHERE tenant = ? AND model = ? AND prerelease = '' AND `+labelled+`
		AND (major, minor, patch) >= (?, ?, ?) AND (major, minor, patch) < (?, ?, ?) ORDER BY major DESC, minor DESC, patch DESC LIMIT 1`,
		r.From.Major, r.From.Minor, r.From.Patch, r.Before.Major, r.Before.Minor, r.Before.Patch)
}

func (db *DB) byLabel(ctx context.Context, t api.TenantID, m api.ModelName, label, query string, args ...any) (api.Version, error) {
	return readModel(ctx, db, "find the label", t, m, func(ctx context.Context, s session, m api.ModelName) (v api.Version, _ error) {
		var n api.VersionNumber
		found, err := s.one(ctx, query, append([]any{t, m}, args...), &n)
		switch {
		case err != nil:
			return v, err
		case !found:
			return v, noVersion(ctx, s, t, api.Ref{Model: m, Label: label})
		}
		return needVersion(ctx, s, t, m, n)
	})
}

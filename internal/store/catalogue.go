package store

import (
	"context"
	"math"
	"strconv"
	"strings"

	"github.com/penstock/penstock/api"
)

// The limits of the index of versions.
const (
	wordBytesMax = 256 // bytes of one word; longer ones are cut, and so is what they are compared with
	indexRowsMax = 200 // rows of one statement
	indexBatch   = 200 // versions that one transaction indexes at start
)

// facts is what a search can ask of one version: words and amounts by field. The fields are those of registry/query.
type facts struct {
	words   []fact
	amounts []fact
}

type fact struct {
	field  string
	word   string
	amount int64
}

func (f *facts) word(field, word string) {
	if word != "" {
		f.words = append(f.words, fact{field: cutWord(field), word: cutWord(clean(word))})
	}
}

func (f *facts) amount(field string, amount float64) {
	f.amounts = append(f.amounts, fact{field: cutWord(field), amount: orderly(amount)})
}

// tag is a word, and an amount too where it reads as a number.
func (f *facts) tag(key, value string) {
	f.word("tag."+key, value)
	if n, err := strconv.ParseFloat(value, 64); err == nil && !math.IsNaN(n) && !math.IsInf(n, 0) {
		f.amount("tag."+key, n)
	}
}

func cutWord(word string) string {
	if len(word) <= wordBytesMax {
		return word
	}
	return strings.ToValidUTF8(word[:wordBytesMax], "")
}

// orderly maps numbers to whole numbers of the same order: of a negative one all bits but the sign are turned over.
func orderly(n float64) int64 {
	bits := int64(math.Float64bits(n + 0)) // adding zero makes -0 and 0 one
	if bits < 0 {
		bits ^= math.MaxInt64
	}
	return bits
}

// factsOf is everything about a version that never moves.
func factsOf(v *api.Version) facts {
	var f facts
	f.word("name", string(v.Model))
	f.word("digest", string(v.Digest))
	f.word("state", string(v.State))
	f.word("format", v.Format)
	f.word("created_by", v.CreatedBy)
	f.word("producer", v.Info.Producer)
	f.amount("version", float64(v.Number))
	f.amount("created", float64(v.Created))
	f.amount("size", float64(v.Size))
	f.amount("parameters", float64(v.Info.Parameters))
	f.amount("nodes", float64(v.Info.Nodes))
	f.amount("ir_version", float64(v.Info.IRVersion))
	for domain, opset := range v.Info.Opsets {
		if domain == "" || domain == "ai.onnx" {
			f.amount("opset", float64(opset))
		} else {
			f.amount("opset."+domain, float64(opset))
		}
	}
	for op, count := range v.Info.Ops {
		f.amount("op."+op, float64(count))
	}
	f.tensors("input", v.Signature.Inputs)
	f.tensors("output", v.Signature.Outputs)
	for _, a := range v.Artifacts {
		f.word("file", a.Path)
	}
	f.word("framework", v.Origin.Framework)
	for _, name := range v.Origin.Datasets {
		f.word("dataset", name)
	}
	for _, name := range v.Origin.BaseModels {
		f.word("base_model", name)
	}
	for key, value := range v.Tags {
		f.tag(key, value)
	}
	f.notes(v)
	return f
}

// noteFields are the fields of notes, beside the families gate. and metrics.
var noteFields = []any{"task", "owner", "licence", "description", "keyword", "label"}

// notes adds what may change, and the metrics: a result may stand in for one that was not given at the push.
func (f *facts) notes(v *api.Version) {
	for field, word := range map[string]string{"task": v.Notes.Task, "owner": v.Notes.Owner, "licence": v.Notes.Licence,
		"description": v.Notes.Description, "label": v.Label} {
		f.word(field, word)
	}
	for _, word := range v.Notes.Keywords {
		f.word("keyword", word)
	}
	for _, g := range v.Gates {
		f.word("gate."+g.Name, map[bool]string{true: "passed", false: "failed"}[g.Passed])
	}
	for name, value := range v.Figures() {
		f.amount("metrics."+name, value)
	}
}

// indexNotes enters the notes of a version anew.
func indexNotes(ctx context.Context, s session, v *api.Version) error {
	entry, err := findEntry(ctx, s, v.Tenant, v.Model, v.Number)
	if err != nil || entry == 0 {
		return err
	}
	if err := s.put(ctx, `DELETE FROM catalogue_words WHERE entry = ? AND field IN (?, ?, ?, ?, ?, ?)`, append([]any{entry}, noteFields...)...); err != nil {
		return err
	}
	for _, family := range []string{"gate.", "metrics."} {
		if err := forget(ctx, s, entry, family); err != nil {
			return err
		}
	}
	var f facts
	f.notes(v)
	return f.write(ctx, s, v.Tenant, entry)
}

func (f *facts) tensors(field string, specs []api.TensorSpec) {
	for _, spec := range specs {
		f.word(field, spec.Name)
		f.word(field+"."+spec.Name, spec.String())
	}
}

// indexVersion enters a version that was just committed, which is its model's newest.
func indexVersion(ctx context.Context, s session, v *api.Version, entry int64) error {
	if v.Number > 1 {
		if err := forgetLatest(ctx, s, v.Tenant, v.Model); err != nil {
			return err
		}
	}
	f := factsOf(v)
	f.word("latest", "true")
	return enter(ctx, s, v, entry, f)
}

// forgetLatest takes latest from the model's newest version in the index, which is the one that has it.
func forgetLatest(ctx context.Context, s session, t api.TenantID, m api.ModelName) error {
	err := s.put(ctx, `DELETE FROM catalogue_words WHERE field = 'latest' AND entry = (SELECT entry FROM catalogue
		WHERE tenant = ? AND model = ? ORDER BY number DESC LIMIT 1)`, t, m)
	return err
}

// markLatest gives latest to the model's newest version in the index. It is called after forgetLatest and the change between.
func markLatest(ctx context.Context, s session, t api.TenantID, m api.ModelName) error {
	var entry int64
	found, err := s.one(ctx, `SELECT entry FROM catalogue WHERE tenant = ? AND model = ? ORDER BY number DESC LIMIT 1`, []any{t, m}, &entry)
	if err != nil || !found {
		return err
	}
	var f facts
	f.word("latest", "true")
	return f.write(ctx, s, t, entry)
}

// unindexVersion takes a version that is deleted out of the index: no search shows it, and the newest one that is left is
// its model's latest.
func unindexVersion(ctx context.Context, s session, v *api.Version) error {
	if err := forgetLatest(ctx, s, v.Tenant, v.Model); err != nil {
		return err
	}
	if err := dropEntry(ctx, s, v.Tenant, v.Model, v.Number); err != nil {
		return err
	}
	return markLatest(ctx, s, v.Tenant, v.Model)
}

// dropEntry takes a version out of the index, if it is in it.
func dropEntry(ctx context.Context, s session, t api.TenantID, m api.ModelName, n api.VersionNumber) error {
	entry, err := findEntry(ctx, s, t, m, n)
	if err != nil || entry == 0 {
		return err
	}
	for _, from := range []string{`DELETE FROM catalogue_words WHERE entry = ?`, `DELETE FROM catalogue_amounts WHERE entry = ?`,
		`DELETE FROM catalogue WHERE entry = ?`} {
		if err := s.put(ctx, from, entry); err != nil {
			return err
		}
	}
	return nil
}

// reindexVersion enters a version that is restored. No alias names it, since none named it when it was deleted.
func reindexVersion(ctx context.Context, s session, v *api.Version) error {
	if err := forgetLatest(ctx, s, v.Tenant, v.Model); err != nil {
		return err
	}
	if entry, err := findEntry(ctx, s, v.Tenant, v.Model, v.Number); err != nil {
		return err
	} else if entry == 0 {
		if entry, err = nextEntry(ctx, s); err != nil {
			return err
		}
		if err := enter(ctx, s, v, entry, factsOf(v)); err != nil {
			return err
		}
	}
	return markLatest(ctx, s, v.Tenant, v.Model)
}

// nextEntry is the number of the entry that is made next.
func nextEntry(ctx context.Context, s session) (entry int64, _ error) {
	_, err := s.one(ctx, newEntry, nil, &entry)
	return entry, err
}

const newEntry = `SELECT COALESCE(MAX(entry), 0) + 1 FROM catalogue`

// enter writes a version's entry, which has the next number, and all that is known of it.
func enter(ctx context.Context, s session, v *api.Version, entry int64, f facts) error {
	if err := s.put(ctx, `INSERT INTO catalogue (entry, tenant, model, number) VALUES (?, ?, ?, ?)`, entry, v.Tenant, v.Model, v.Number); err != nil {
		return err
	}
	return f.insert(ctx, s, v.Tenant, entry, "")
}

// write adds facts to an entry that may have some of them.
func (f facts) write(ctx context.Context, s session, t api.TenantID, entry int64) error {
	return f.insert(ctx, s, t, entry, onConflict)
}

// insert writes the rows. Names that were cut to the same text count once.
func (f facts) insert(ctx context.Context, s session, t api.TenantID, entry int64, conflict string) error {
	var words, terms, amounts []any
	known := make(map[fact]bool, len(f.words)+len(f.amounts))
	for _, w := range f.words {
		if !known[w] {
			known[w] = true
			words = append(words, entry, w.field, w.word, t)
			if s.gathered.terms.write(term{t, w.field, w.word}) {
				terms = append(terms, t, w.field, w.word)
			}
		}
	}
	clear(known)
	for _, a := range f.amounts {
		if field := (fact{field: a.field}); !known[field] {
			known[field] = true
			amounts = append(amounts, entry, a.field, a.amount, t)
		}
	}
	if err := insertMany(ctx, s, `INSERT INTO catalogue_words (entry, field, word, tenant) VALUES `, conflict, 4, words); err != nil {
		return err
	}
	if err := insertRows(ctx, s, `INSERT INTO catalogue_terms (tenant, field, word) VALUES `, 3, terms); err != nil {
		return err
	}
	return insertMany(ctx, s, `INSERT INTO catalogue_amounts (entry, field, amount, tenant) VALUES `, conflict, 4, amounts)
}

const onConflict = " ON CONFLICT DO NOTHING"

// insertRows writes rows that are not there yet.
func insertRows(ctx context.Context, s session, insert string, columns int, cells []any) error {
	return insertMany(ctx, s, insert, onConflict, columns, cells)
}

// insertMany writes rows, many in one statement: on PostgreSQL each statement is a way there and back. conflict ends it.
func insertMany(ctx context.Context, s session, insert, conflict string, columns int, cells []any) error {
	row := "(" + marks(columns) + ")"
	for len(cells) > 0 {
		rows := min(len(cells)/columns, indexRowsMax)
		text := insert + strings.TrimSuffix(strings.Repeat(row+", ", rows), ", ") + conflict
		if err := s.put(ctx, text, cells[:rows*columns]...); err != nil {
			return err
		}
		cells = cells[rows*columns:]
	}
	return nil
}

// findEntry finds a version's entry; 0 when it has none yet.
func findEntry(ctx context.Context, s session, t api.TenantID, m api.ModelName, n api.VersionNumber) (entry int64, _ error) {
	_, err := s.one(ctx, `SELECT entry FROM catalogue WHERE tenant = ? AND model = ? AND number = ?`, []any{t, m, n}, &entry)
	return entry, err
}

// indexTags enters the tags of a version anew.
func indexTags(ctx context.Context, s session, v *api.Version) error {
	entry, err := findEntry(ctx, s, v.Tenant, v.Model, v.Number)
	if err != nil || entry == 0 {
		return err
	}
	if err := forget(ctx, s, entry, "tag."); err != nil {
		return err
	}
	var f facts
	for key, value := range v.Tags {
		f.tag(key, value)
	}
	return f.write(ctx, s, v.Tenant, entry)
}

// forget removes the facts of a family of fields, whose name ends with a dot.
func forget(ctx context.Context, s session, entry int64, family string) error {
	after := strings.TrimSuffix(family, ".") + "/" // the next byte after the dot
	for _, from := range []string{`DELETE FROM catalogue_words WHERE entry = ? AND field >= ? AND field < ?`,
		`DELETE FROM catalogue_amounts WHERE entry = ? AND field >= ? AND field < ?`} {
		if err := s.put(ctx, from, entry, family, after); err != nil {
			return err
		}
	}
	return nil
}

// indexAlias moves an alias from the entry of one version to that of another; 0 is none.
func indexAlias(ctx context.Context, s session, move *api.AliasChange, from api.VersionNumber) error {
	if from != 0 {
		if err := s.put(ctx, `DELETE FROM catalogue_words WHERE field = 'alias' AND word = ? AND entry = (SELECT entry FROM catalogue
			WHERE tenant = ? AND model = ? AND number = ?)`, move.Alias, move.Tenant, move.Model, from); err != nil {
			return err
		}
	}
	if move.To == 0 {
		return nil
	}
	if err := s.put(ctx, `INSERT INTO catalogue_words (entry, field, word, tenant) SELECT entry, 'alias', ?, tenant FROM catalogue
		WHERE tenant = ? AND model = ? AND number = ? ON CONFLICT DO NOTHING`, move.Alias, move.Tenant, move.Model, move.To); err != nil {
		return err
	}
	if !s.gathered.terms.write(term{move.Tenant, "alias", string(move.Alias)}) {
		return nil
	}
	return insertRows(ctx, s, `INSERT INTO catalogue_terms (tenant, field, word) VALUES `, 3, []any{move.Tenant, "alias", move.Alias})
}

// indexMissing enters the versions that are not in the index: those of before there was one, and those of a dump. Deleted
// ones are left out.
func (db *DB) indexMissing(ctx context.Context) error {
	after := api.Version{}
	for {
		last, err := write(ctx, db, "index versions", func(ctx context.Context, s session) (api.Version, error) {
			return indexSome(ctx, s, after)
		})
		if err != nil || last.Number == 0 {
			return err
		}
		after = last
	}
}

// indexSome enters some versions that are missing, those after the one given, and tells the last one; none when all are in.
func indexSome(ctx context.Context, s session, after api.Version) (last api.Version, _ error) {
	missing, err := versions(ctx, s, `SELECT `+versionColumns+` FROM versions v
		WHERE (tenant, model, number) > (?, ?, ?) AND deleted = 0 AND NOT EXISTS (SELECT 1 FROM catalogue c
		WHERE c.tenant = v.tenant AND c.model = v.model AND c.number = v.number)
		ORDER BY tenant, model, number LIMIT ?`, after.Tenant, after.Model, after.Number, indexBatch)
	if err != nil {
		return last, err
	}
	for i := range missing {
		v := &missing[i]
		f := factsOf(v)
		if err := s.each(ctx, `SELECT name FROM aliases WHERE tenant = ? AND model = ? AND version = ?`, []any{v.Tenant, v.Model, v.Number},
			func(scan func(...any) error) error {
				var name string
				err := scan(&name)
				f.word("alias", name)
				return err
			}); err != nil {
			return last, err
		}
		var newest int64
		if _, err := s.one(ctx, `SELECT MAX(number) FROM versions WHERE tenant = ? AND model = ? AND deleted = 0`, []any{v.Tenant, v.Model}, &newest); err != nil {
			return last, err
		}
		if newest == int64(v.Number) {
			f.word("latest", "true")
		}
		entry, err := nextEntry(ctx, s)
		if err != nil {
			return last, err
		}
		if err := enter(ctx, s, v, entry, f); err != nil {
			return last, err
		}
		last = *v
	}
	return last, nil
}

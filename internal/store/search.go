package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/penstock/penstock/api"
)

// fewMax is how many entries a condition may have to count as few: such a condition is answered first and the others are
// asked of its entries alone. It is a variable for tests, whose catalogues are small.
var fewMax = 2000

// statement is SQL under construction. Only texts of this package become part of it; all that a caller said is an argument.
type statement struct {
	strings.Builder
	args   []any
	tenant api.TenantID
}

func (b *statement) add(text string, args ...any) {
	b.WriteString(text)
	b.args = append(b.args, args...)
}

// Search finds versions, a page at a time. Its conditions must have been checked: one that is malformed is an error of
// this program, not of the caller.
func (db *DB) Search(ctx context.Context, q api.Search) ([]api.Found, error) {
	return read(ctx, db, "search", func(ctx context.Context, s session) (_ []api.Found, err error) {
		s.rebind = db.dialect.rebind // there are too many different statements to remember
		if q.Where, err = spellOut(ctx, s, q.Tenant, q.Where); err != nil {
			return nil, err
		}
		first, err := chooseFirst(ctx, s, &db.many, q.Tenant, &q.Where)
		if err != nil {
			return nil, err
		}
		b := statement{tenant: q.Tenant}
		if err := b.search(q, first); err != nil {
			return nil, err
		}
		return found(ctx, s, b.String(), b.args)
	})
}

// spelledMax is how many words may stand in the place of a part of one.
const spelledMax = 64

// spellOut puts the words that contain a part in its place where they are few, found among every word once: each version is
// then asked by an index.
func spellOut(ctx context.Context, s session, t api.TenantID, c api.Condition) (api.Condition, error) {
	if len(c.Parts) > 0 {
		parts := make([]api.Condition, len(c.Parts))
		for i, part := range c.Parts {
			var err error
			if parts[i], err = spellOut(ctx, s, t, part); err != nil {
				return c, err
			}
		}
		c.Parts = parts
	}
	if c.Field == "name" && (c.Op == api.OpIs || c.Op == api.OpIn) {
		words, err := currentNames(ctx, s, t, c.Words)
		c.Words = words
		return c, err
	}
	if c.Op != api.OpContains || len(c.Words) != 1 {
		return c, nil
	}
	var words []string
	err := s.each(ctx, `SELECT word FROM catalogue_terms WHERE tenant = ? AND field = ? AND /*LOWER(*/word/*)*/ LIKE ? ESCAPE '!' LIMIT ?`,
		[]any{t, c.Field, pattern(c.Words[0]), spelledMax + 1}, func(scan func(...any) error) error {
			var word string
			err := scan(&word)
			words = append(words, word)
			return err
		})
	switch {
	case err != nil || len(words) > spelledMax:
		return c, err
	case len(words) == 1:
		return api.Condition{Op: api.OpIs, Field: c.Field, Words: words}, nil
	}
	return api.Condition{Op: api.OpIn, Field: c.Field, Words: words}, nil // of none: it is never true
}

// currentNames puts present names in the place of earlier ones.
func currentNames(ctx context.Context, s session, t api.TenantID, names []string) ([]string, error) {
	now := make([]string, len(names))
	for i, name := range names {
		m, err := current(ctx, s, t, api.ModelName(clean(name)))
		if err != nil {
			return nil, err
		}
		now[i] = string(m)
	}
	return now, nil
}

// first is the condition that is answered first: the entries of any of its parts hold all that is looked for.
type first struct {
	parts []*api.Condition
	count int
}

// chooseFirst looks for conditions with few entries, by counting each up to fewMax.
func chooseFirst(ctx context.Context, s session, known *many, t api.TenantID, c *api.Condition) (*first, error) {
	switch c.Op {
	case "", api.OpNot:
		return nil, nil
	case api.OpAnd:
		best, err := narrowest(ctx, s, known, t, c)
		if err != nil {
			return nil, err
		}
		for i := range c.Parts {
			if best != nil && best.count < fewMax/10 {
				break
			}
			one, err := chooseFirst(ctx, s, known, t, &c.Parts[i])
			if err != nil {
				return nil, err
			}
			if one != nil && (best == nil || one.count < best.count) {
				best = one
			}
		}
		return best, nil
	case api.OpOr:
		all := &first{}
		for i := range c.Parts {
			one, err := chooseFirst(ctx, s, known, t, &c.Parts[i])
			if err != nil || one == nil {
				return nil, err
			}
			all.parts, all.count = append(all.parts, one.parts...), all.count+one.count
		}
		if all.count > fewMax {
			return nil, nil
		}
		return all, nil
	}
	one, err := countEntries(ctx, s, known, t, c)
	if err != nil || one.count > fewMax && !ordered(c) {
		return nil, err
	}
	return one, nil
}

// countEntries counts the entries of a comparison, or of several bounds on one field, up to fewMax.
func countEntries(ctx context.Context, s session, known *many, t api.TenantID, c *api.Condition) (*first, error) {
	var b statement
	b.add(`SELECT COUNT(*) FROM (`)
	if err := b.entries(t, c); err != nil {
		return nil, err
	}
	b.add(` LIMIT ?) few`, fewMax+1)
	one := &first{parts: []*api.Condition{c}, count: fewMax + 1}
	key := fmt.Sprint(b.String(), b.args)
	if known.has(key) {
		return one, nil
	}
	_, err := s.one(ctx, b.String(), b.args, &one.count)
	if err == nil && one.count > fewMax {
		known.add(key)
	}
	return one, err
}

// The limits of what is remembered of conditions with many entries.
const (
	manyMax  = 1024 // conditions; then it begins anew
	manyUses = 256  // uses before one is counted again
	manyText = 1024 // bytes of one; a longer one is counted each time
)

// many remembers conditions that had more than fewMax entries: those hardly ever become few, and only the way of a search depends on
// it, not what it finds. It may be used from many goroutines.
type many struct {
	mu   sync.Mutex
	uses map[string]int // left
}

func (m *many) has(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	left, known := m.uses[key]
	switch {
	case !known:
	case left == 0:
		delete(m.uses, key)
		return false
	default:
		m.uses[key] = left - 1
	}
	return known
}

func (m *many) add(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(key) > manyText {
		return
	}
	if m.uses == nil || len(m.uses) >= manyMax {
		m.uses = make(map[string]int)
	}
	m.uses[key] = manyUses
}

// narrowest takes the bounds on one field together: of a span, each end alone has many.
func narrowest(ctx context.Context, s session, known *many, t api.TenantID, c *api.Condition) (best *first, _ error) {
	bounds := map[string][]api.Condition{}
	for _, part := range c.Parts {
		if len(part.Amounts) == 1 {
			bounds[part.Field] = append(bounds[part.Field], part)
		}
	}
	for field, parts := range bounds {
		if len(parts) < 2 {
			continue
		}
		one, err := countEntries(ctx, s, known, t, &api.Condition{Op: api.OpAnd, Field: field, Parts: parts})
		if err != nil {
			return nil, err
		}
		if one.count <= fewMax && (best == nil || one.count < best.count) {
			best = one
		}
	}
	return best, nil
}

// entries selects the entries for which a comparison is true, by an index that begins with the tenant.
func (b *statement) entries(t api.TenantID, c *api.Condition) error {
	if c.Op == api.OpHas {
		b.add(`SELECT d.entry FROM catalogue_words d WHERE d.tenant = ? AND d.field = ?
			UNION ALL SELECT d.entry FROM catalogue_amounts d WHERE d.tenant = ? AND d.field = ?`, t, c.Field, t, c.Field)
		return nil
	}
	if c.Op == api.OpAnd { // bounds on one field: see narrowest
		b.add(`SELECT d.entry FROM catalogue_amounts d WHERE d.tenant = ? AND d.field = ?`, t, c.Field)
		for i := range c.Parts {
			b.add(` AND `)
			if err := b.compare("d", &c.Parts[i]); err != nil {
				return err
			}
		}
		return nil
	}
	table := "catalogue_words"
	if len(c.Amounts) > 0 {
		table = "catalogue_amounts"
	}
	b.add(`SELECT d.entry FROM `+table+` d WHERE d.tenant = ? AND d.field = ? AND `, t, c.Field)
	if c.Op == api.OpContains && len(c.Words) == 1 {
		b.add(`d.word IN (SELECT t.word FROM catalogue_terms t WHERE t.tenant = ? AND t.field = ? AND /*LOWER(*/t.word/*)*/ LIKE ? ESCAPE '!')`,
			t, c.Field, pattern(c.Words[0]))
		return nil
	}
	return b.compare("d", c)
}

// pattern is a LIKE pattern for texts that contain a part. Upper case is ASCII's alone on both databases; see folded.
func pattern(part string) string {
	part = strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, cutWord(clean(part)))
	return "%" + strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(part) + "%"
}

// compare adds the comparison of a row's value with what a condition says.
func (b *statement) compare(row string, c *api.Condition) error {
	var values []any
	column := row + ".word"
	for _, w := range c.Words {
		values = append(values, cutWord(clean(w)))
	}
	if len(c.Amounts) > 0 {
		column = row + ".amount"
		for _, n := range c.Amounts {
			values = append(values, orderly(n))
		}
	}
	switch {
	case len(values) == 0 && c.Op == api.OpIn:
		b.add("1 = 0")
		return nil
	case len(values) == 0 || len(values) > 1 && c.Op != api.OpIn || len(c.Words) > 0 && len(c.Amounts) > 0:
	case c.Op == api.OpIs || len(c.Amounts) > 0 && strings.Contains(" < <= > >= ", " "+string(c.Op)+" "):
		b.add(column+" "+string(c.Op)+" ?", values...)
		return nil
	case c.Op == api.OpIn:
		b.add(column+" IN ("+marks(len(values))+")", values...)
		return nil
	case c.Op == api.OpContains && len(c.Words) == 1:
		b.add("/*LOWER(*/"+column+"/*)*/ LIKE ? ESCAPE '!'", pattern(c.Words[0]))
		return nil
	}
	return fmt.Errorf("a condition with %q, %d words and %d amounts is none", c.Op, len(c.Words), len(c.Amounts))
}

// where adds a condition on an entry. Those to skip are known to be true.
func (b *statement) where(entry string, c *api.Condition, skip []*api.Condition) error {
	if c.Op == "" || slices.Contains(skip, c) {
		b.add("1 = 1")
		return nil
	}
	switch c.Op {
	case api.OpNot:
		if len(c.Parts) != 1 {
			return fmt.Errorf("not takes one condition, this has %d", len(c.Parts))
		}
		b.add("NOT ")
		return b.where(entry, &c.Parts[0], nil)
	case api.OpAnd, api.OpOr:
		b.add("(")
		for i := range c.Parts {
			if i > 0 {
				b.add(map[api.ConditionOp]string{api.OpAnd: " AND ", api.OpOr: " OR "}[c.Op])
			}
			if err := b.where(entry, &c.Parts[i], skip); err != nil {
				return err
			}
		}
		b.add(")")
		return nil
	case api.OpHas:
		b.add(`(EXISTS (SELECT 1 FROM catalogue_words w WHERE w.entry = `+entry+` AND w.field = ?/*EACH*/)
			OR EXISTS (SELECT 1 FROM catalogue_amounts w WHERE w.entry = `+entry+` AND w.field = ?/*EACH*/))`, c.Field, c.Field)
		return nil
	}
	switch {
	case len(c.Amounts) > 0:
		b.add(`EXISTS (SELECT 1 FROM catalogue_amounts w WHERE w.entry = `+entry+` AND w.field = ? AND `, c.Field)
	case c.Op == api.OpIs || c.Op == api.OpIn:
		// The entries of one word stand close together in this index, and far apart in the table: SQLite would read a page for
		// each that is asked about.
		b.add(`EXISTS (SELECT 1 FROM catalogue_words w INDEXED BY catalogue_by_word WHERE w.entry = `+entry+` AND w.tenant/*PLAIN*/ = ? AND w.field = ? AND `, b.tenant, c.Field)
	default:
		b.add(`EXISTS (SELECT 1 FROM catalogue_words w WHERE w.entry = `+entry+` AND w.field = ? AND `, c.Field)
	}
	if err := b.compare("w", c); err != nil {
		return err
	}
	b.add("/*EACH*/)")
	return nil
}

// search writes the whole statement: entries in order up to the limit, and what is shown of them.
func (b *statement) search(q api.Search, first *first) error {
	b.add(`SELECT v.` + strings.ReplaceAll(versionColumns, ", ", ", v.") + `, h.entry, h.word, h.amount FROM (`)
	// The table that gives the order, and with it the entry.
	from, word, amount, value := "catalogue o", "''", "0", ""
	switch {
	case q.Sort.Field != "" && q.Sort.Numeric:
		from, amount, value = "catalogue_amounts o", "o.amount", "o.amount"
	case q.Sort.Field != "":
		from, word, value = "catalogue_words o", "o.word", "o.word"
	}
	w := walk{from: from, word: word, amount: amount, value: value}
	if first != nil && first.count <= fewMax {
		w.few = first
	}
	if amount == value { // bounds on the amounts that give the order end the walk through them
		w.skip = boundsOn(q.Sort.Field, &q.Where)
		w.bounds = w.skip
		if w.few != nil && len(first.parts) == 1 && first.parts[0].Field == q.Sort.Field && len(w.skip) > 0 {
			w.few = nil
		}
	}
	words := []string{""}
	if first != nil && value == "" && len(first.parts) == 1 && ordered(first.parts[0]) {
		// One index has the entries of a word in the order that is asked for.
		w.few, w.from, w.skip, w.field, words = nil, "catalogue_words o", first.parts[:1], first.parts[0].Field, first.parts[0].Words
	}
	w.order, w.than = "o.entry ASC", " > "
	if q.Sort.Descending {
		w.order, w.than = "o.entry DESC", " < "
	}
	if value != "" {
		w.order = value + strings.TrimPrefix(w.order, "o.entry") + ", " + w.order
	}
	for i, one := range words {
		if i > 0 {
			b.add(` UNION `) // an entry may have several words of a field
		}
		if len(words) > 1 {
			b.add(`SELECT entry, word, amount FROM (`)
		}
		if err := b.walk(&q, &w, one); err != nil {
			return err
		}
		if len(words) > 1 {
			fmt.Fprintf(b, `) w%d`, i)
		}
	}
	if len(words) > 1 {
		b.add(` ORDER BY `+strings.TrimPrefix(w.order, "o.")+` LIMIT ?`, page(q.Limit))
	}
	b.add(`) h CROSS JOIN catalogue c CROSS JOIN versions v
		WHERE c.entry = h.entry AND v.tenant = c.tenant AND v.model = c.model AND v.number = c.number
		ORDER BY ` + strings.ReplaceAll(w.order, "o.", "h."))
	return nil
}

// walk is how a search goes through entries.
type walk struct {
	from                string           // the table that gives the order, and with it the entry
	word, amount, value string           // what is shown of a row of it, and what of that comes before the entry in the order
	few                 *first           // the entries that it keeps to; nil: all of the table's
	field               string           // of the word that it keeps to; none: of all
	bounds              []*api.Condition // on the amounts that give the order
	skip                []*api.Condition // conditions that are known to be true
	order, than         string
}

// walk selects the first entries for which the condition is true.
func (b *statement) walk(q *api.Search, w *walk, word string) error {
	known := w.skip
	if w.few != nil && len(w.few.parts) == 1 { // all that is selected has it
		known = append(slices.Clip(w.skip), w.few.parts[0])
	}
	b.add(`SELECT o.entry AS entry, ` + w.word + ` AS word, ` + w.amount + ` AS amount FROM `)
	if w.few != nil {
		sorted := ""
		if w.value == "" {
			sorted = "/*SORTED " + strings.TrimPrefix(w.order, "o.entry ") + "*/"
		}
		if err := b.few(w.few, sorted); err != nil {
			return err
		}
		if w.value == "" {
			b.add(` o WHERE 1 = 1`) // they are the tenant's
		} else {
			b.add(` d CROSS JOIN `+w.from+` WHERE o.entry = d.entry AND o.tenant = ?`, q.Tenant)
		}
	} else {
		b.add(w.from+` WHERE o.tenant = ?`, q.Tenant)
	}
	switch {
	case w.value != "":
		b.add(` AND o.field = ?`, q.Sort.Field)
		for _, bound := range w.bounds {
			b.add(` AND `)
			if err := b.compare("o", bound); err != nil {
				return err
			}
		}
	case w.field != "":
		b.add(` AND o.field = ? AND o.word = ?`, w.field, cutWord(clean(word)))
	}
	b.after(q, w.than)
	b.add(` AND `)
	if err := b.where("o.entry", &q.Where, known); err != nil {
		return err
	}
	b.add(` ORDER BY `+w.order+` LIMIT ?`, page(q.Limit))
	return nil
}

// after leaves out what earlier pages had.
func (b *statement) after(q *api.Search, than string) {
	switch at := q.After; {
	case at == nil:
	case q.Sort.Field == "":
		b.add(` AND o.entry`+than+`?`, at.Entry)
	case q.Sort.Numeric:
		b.add(` AND (o.amount, o.entry)`+than+`(?, ?)`, at.Amount, at.Entry)
	default:
		b.add(` AND (o.word, o.entry)`+than+`(?, ?)`, at.Word, at.Entry)
	}
}

// few selects the entries that the first condition has, once each.
func (b *statement) few(first *first, sorted string) error {
	b.add(`(`)
	for i, part := range first.parts {
		if i > 0 {
			b.add(` UNION `)
		}
		b.add(`SELECT entry FROM (`)
		if err := b.entries(b.tenant, part); err != nil {
			return err
		}
		fmt.Fprintf(b, `) e%d`, i)
	}
	if len(first.parts) == 1 && !once(first.parts[0]) {
		b.add(` GROUP BY entry`) // once each, as UNION gives them
	}
	b.add(sorted + `/*EACH*/)`)
	return nil
}

// boundsOn are the comparisons with a field's amount, of which an entry has one, that must all be true.
func boundsOn(field string, c *api.Condition) (bounds []*api.Condition) {
	switch {
	case c.Op == api.OpAnd:
		for i := range c.Parts {
			bounds = append(bounds, boundsOn(field, &c.Parts[i])...)
		}
	case len(c.Parts) == 0 && c.Field == field && len(c.Amounts) > 0:
		bounds = append(bounds, c)
	}
	return bounds
}

// walksMax bounds the words of which each is walked through by itself.
const walksMax = 8

// ordered tells whether an index has the entries of a comparison in their order: it has those of each word.
func ordered(c *api.Condition) bool {
	return (c.Op == api.OpIs || c.Op == api.OpIn) && len(c.Words) > 0 && len(c.Words) <= walksMax && len(c.Amounts) == 0
}

// once tells whether a comparison selects each of its entries once: an entry has one amount of a field, and no word twice.
func once(c *api.Condition) bool {
	return c.Op == api.OpIs || len(c.Amounts) > 0 || c.Op == api.OpAnd
}

// found reads the rows of a search.
func found(ctx context.Context, s session, query string, args []any) ([]api.Found, error) {
	var all []api.Found
	err := s.each(ctx, query, args, func(scan func(...any) error) error {
		var at api.SearchPlace
		v, err := scanVersion(scan, &at.Entry, &at.Word, &at.Amount)
		f := api.Found{Model: v.Model, Number: v.Number, Digest: v.Digest, State: v.State, Format: v.Format, Size: v.Size, Label: v.Label,
			Parameters: v.Info.Parameters, Tags: v.Tags, Metrics: plainFigures(&v), Task: v.Notes.Task, Owner: v.Notes.Owner, Licence: v.Notes.Licence,
			Aliases: []api.AliasName{}, Created: v.Created, CreatedBy: v.CreatedBy, Place: at}
		all = append(all, f)
		return err
	})
	if err != nil || len(all) == 0 {
		return all, err
	}
	return all, addAliases(ctx, s, all)
}

// plainFigures are the metrics by their own names alone, with results for those that the push did not give.
func plainFigures(v *api.Version) map[string]float64 {
	all := v.Metrics
	for _, r := range v.Notes.Results {
		if _, known := all[r.Metric]; !known {
			if all = maps.Clone(all); all == nil {
				all = map[string]float64{}
			}
			all[r.Metric] = r.Value
		}
	}
	return all
}

// addAliases reads the aliases of all that was found at once.
func addAliases(ctx context.Context, s session, all []api.Found) error {
	at := make(map[int64]int, len(all))
	args := make([]any, len(all))
	for i := range all {
		at[all[i].Place.Entry], args[i] = i, all[i].Place.Entry
	}
	return s.each(ctx, `SELECT entry, word FROM catalogue_words WHERE entry IN (`+marks(len(all))+`) AND field = 'alias'
		ORDER BY entry, word`, args, func(scan func(...any) error) error {
		var entry int64
		var name api.AliasName
		err := scan(&entry, &name)
		all[at[entry]].Aliases = append(all[at[entry]].Aliases, name)
		return err
	})
}

// SearchWords lists values that a field has or had, by their bytes, for completion.
func (db *DB) SearchWords(ctx context.Context, t api.TenantID, field, prefix string, limit int) ([]string, error) {
	return read(ctx, db, "list the words of a field", func(ctx context.Context, s session) ([]string, error) {
		var all []string
		err := s.each(ctx, `SELECT word FROM catalogue_terms WHERE tenant = ? AND field = ? AND word >= ? AND word < ? ORDER BY word LIMIT ?`,
			[]any{t, field, clean(prefix), clean(prefix) + "\U0010FFFF", page(limit)}, func(scan func(...any) error) error {
				var word string
				err := scan(&word)
				all = append(all, word)
				return err
			})
		return all, err
	})
}

// SearchFields lists the fields that the tenant's versions have, by their bytes. Each costs a look at the index, not each version.
func (db *DB) SearchFields(ctx context.Context, t api.TenantID, limit int) ([]string, error) {
	return read(ctx, db, "list the fields", func(ctx context.Context, s session) ([]string, error) {
		var all []string
		for last := ""; len(all) < page(limit); {
			var word, amount string
			if _, err := s.one(ctx, `SELECT COALESCE((SELECT MIN(field) FROM catalogue_terms WHERE tenant = ? AND field > ?), ''),
				COALESCE((SELECT MIN(field) FROM catalogue_amounts WHERE tenant = ? AND field > ?), '')`, []any{t, last, t, last}, &word, &amount); err != nil {
				return nil, err
			}
			if last = word; word == "" || amount != "" && amount < word {
				last = amount
			}
			if last == "" {
				break
			}
			all = append(all, last)
		}
		return all, nil
	})
}

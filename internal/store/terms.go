package store

import "github.com/penstock/penstock/api"

// termsMax bounds the words that the writer remembers; then it begins anew.
const termsMax = 1 << 14

// term is a word of a field.
type term struct {
	tenant      api.TenantID
	field, word string
}

// terms remembers words that catalogue_terms has for certain, since they are written with every version and are mostly the same.
// Only what was committed counts. It is the writer's alone.
type terms struct {
	known map[term]bool
	group []term // written in the transaction that is open
	job   []term // of these, by the job that runs
}

// write tells whether a word has to be written.
func (t *terms) write(one term) bool {
	switch {
	case one.field == "name", one.field == "digest": // names go with renames, and no digest comes twice
		return true
	case t.known[one]:
		return false
	}
	t.job = append(t.job, one)
	return true
}

// undo forgets what the job wrote.
func (t *terms) undo() { t.job = t.job[:0] }

// keep ends the job.
func (t *terms) keep() {
	t.group = append(t.group, t.job...)
	t.job = t.job[:0]
}

// end ends the transaction.
func (t *terms) end(committed bool) {
	if committed && len(t.group) > 0 {
		if t.known == nil || len(t.known)+len(t.group) > termsMax {
			t.known = make(map[term]bool, len(t.group))
		}
		for _, one := range t.group[:min(len(t.group), termsMax)] {
			t.known[one] = true
		}
	}
	t.group, t.job = t.group[:0], t.job[:0]
}

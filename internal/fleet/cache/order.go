package cache

// recency is a list of entries by their last use. An entry is in one at a time.
type recency struct {
	first *Entry // used last
	last  *Entry // not used for longest
	count int
	bytes Size
}

// push puts an entry first.
func (r *recency) push(e *Entry) {
	e.newer, e.older = nil, r.first
	if r.first != nil {
		r.first.newer = e
	} else {
		r.last = e
	}
	r.first = e
	r.count++
	r.bytes = r.bytes.Add(e.size)
}

// insert puts an entry where its last use belongs.
func (r *recency) insert(e *Entry) {
	after := r.first // the entry that e stands before
	for after != nil && after.last.After(e.last) {
		after = after.older
	}
	if after == r.first {
		r.push(e)
		return
	}
	e.older = after
	if after != nil {
		e.newer = after.newer
		after.newer = e
	} else {
		e.newer = r.last
		r.last = e
	}
	e.newer.older = e
	r.count++
	r.bytes = r.bytes.Add(e.size)
}

func (r *recency) remove(e *Entry) {
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		r.first = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		r.last = e.newer
	}
	e.newer, e.older = nil, nil
	r.count--
	r.bytes = r.bytes.Sub(e.size)
}

// touch moves an entry to the front.
func (r *recency) touch(e *Entry) {
	if r.first != e {
		r.remove(e)
		r.push(e)
	}
}

// oldest finds the entry that was not used for longest among those that may go.
func (r *recency) oldest(held func(*Entry) bool) *Entry {
	for e := r.last; e != nil; {
		newer := e.newer
		before := e.last
		switch {
		case held(e):
		case e.last.Equal(before): // else it was used since, and stands first now
			return e
		}
		e = newer
	}
	return nil
}

// rank is a heap of entries: what is worth least stands first.
type rank []*Entry

func (r rank) Len() int           { return len(r) }
func (r rank) Less(i, j int) bool { return r[i].worth() < r[j].worth() }
func (r rank) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].index, r[j].index = i, j
}

// Push is for package heap.
func (r *rank) Push(x any) {
	e := x.(*Entry)
	e.index = len(*r)
	*r = append(*r, e)
}

// Pop is for package heap.
func (r *rank) Pop() any {
	old := *r
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*r = old[:len(old)-1]
	e.index = -1
	return e
}

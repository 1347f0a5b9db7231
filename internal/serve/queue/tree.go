package queue

// node is what a tree orders; it remembers where in the tree it is.
type node[T any] interface {
	before(T) bool
	place(at int)
}

// tree is a binary heap whose first element comes before all others. Unlike container/heap it allocates nothing.
type tree[T node[T]] []T

func (t *tree[T]) push(n T) {
	*t = append(*t, n)
	n.place(len(*t) - 1)
	t.up(len(*t) - 1)
}

// remove takes the element at i out.
func (t *tree[T]) remove(i int) {
	s := *t
	last := len(s) - 1
	if i != last {
		s.swap(i, last)
	}
	var none T
	s[last] = none
	*t = s[:last]
	if i != last {
		t.fix(i)
	}
}

// fix restores the order when the element at i has changed.
func (t *tree[T]) fix(i int) {
	if !t.down(i) {
		t.up(i)
	}
}

func (t tree[T]) swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].place(i)
	t[j].place(j)
}

func (t tree[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !t[i].before(t[parent]) {
			return
		}
		t.swap(i, parent)
		i = parent
	}
}

func (t tree[T]) down(i int) (moved bool) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(t); child++ {
			if t[child].before(t[least]) {
				least = child
			}
		}
		if least == i {
			return moved
		}
		t.swap(i, least)
		i, moved = least, true
	}
}

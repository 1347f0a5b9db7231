package queue

// node is what a tree orders; it remembers where in the tree it is.
type node interface {
	comparable
	order() order
	place(at int)
}

// order is a node's rank: the lower counter first, and of equal ones the lower turn.
type order struct {
	counter float64
	turn    uint64
}

func (o order) before(p order) bool {
	return o.counter < p.counter || o.counter == p.counter && o.turn < p.turn
}

// entry is a node with its order, so that comparing does not have to fetch the nodes.
type entry[T node] struct {
	order
	node T
}

// arity is the number of children of each entry: 64 to 96 bytes, which are looked through faster than two more levels are gone down.
const arity = 4

// tree is a heap whose first entry comes before all others. Unlike container/heap it allocates nothing.
type tree[T node] []entry[T]

// first is the node that comes before all others; there must be one.
func (t tree[T]) first() T { return t[0].node }

func (t *tree[T]) push(n T) {
	e := entry[T]{n.order(), n}
	*t = append(*t, e)
	t.up(len(*t)-1, e)
}

// remove takes the entry at i out.
func (t *tree[T]) remove(i int) {
	s := *t
	last := len(s) - 1
	e := s[last]
	s[last] = entry[T]{}
	*t = s[:last]
	if i != last {
		t.settle(i, e)
	}
}

// fix restores the order when that of the entry at i has changed.
func (t tree[T]) fix(i int) {
	n := t[i].node
	t.settle(i, entry[T]{n.order(), n})
}

// settle puts an entry where it belongs, when the place at i is free.
func (t tree[T]) settle(i int, e entry[T]) {
	if i > 0 && e.before(t[(i-1)/arity].order) {
		t.up(i, e)
	} else {
		t.down(i, e)
	}
}

func (t tree[T]) put(i int, e entry[T]) {
	t[i] = e
	e.node.place(i)
}

func (t tree[T]) up(i int, e entry[T]) {
	for i > 0 {
		parent := (i - 1) / arity
		if !e.before(t[parent].order) {
			break
		}
		t.put(i, t[parent])
		i = parent
	}
	t.put(i, e)
}

func (t tree[T]) down(i int, e entry[T]) {
	for {
		child := arity*i + 1
		if child >= len(t) {
			break
		}
		least := child
		for child++; child < min(arity*(i+1)+1, len(t)); child++ {
			if t[child].before(t[least].order) {
				least = child
			}
		}
		if !t[least].before(e.order) {
			break
		}
		t.put(i, t[least])
		i = least
	}
	t.put(i, e)
}

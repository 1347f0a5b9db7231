package batch

import (
	"context"
	"time"

	"github.com/penstock/penstock/internal/engine"
)

// state is where a request stands; guarded by Batcher.mu.
type state uint8

const (
	waiting   state = iota // in the queue
	copying                // picked; its inputs are being read: it must not leave yet
	running                // in a batch under way; it may leave
	granted                // it was given a place and runs itself
	settled                // answer and err are set
	abandoned              // it left its batch: nobody takes its share of the answer
)

// member is one request that did not find the instance idle. What is not set at its making is guarded by Batcher.mu.
type member struct {
	ctx     context.Context // of the request, whose whole life this is
	request engine.Request
	rows    int
	bytes   int64
	level   int  // index into queue.levels, 0 the highest
	alone   bool // it cannot be joined
	prompt  bool // it found the instance idle: its batch is not held for more
	arrived time.Time
	expires time.Time // zero: never

	state  state
	began  time.Time // when it, or its batch, was given a place
	batch  *joined
	wake   chan struct{} // room for one; sent when state becomes granted or settled
	answer *engine.Answer
	err    error

	prev, next *member // in the queue
}

// queue holds the members that wait, by level and within a level in the order in which they came.
type queue struct {
	levels []list
	count  int
}

type list struct{ first, last *member }

func (q *queue) push(m *member) {
	l := &q.levels[m.level]
	m.prev, m.next = l.last, nil
	if l.last != nil {
		l.last.next = m
	} else {
		l.first = m
	}
	l.last = m
	q.count++
}

// unshift puts a member before all others of its level: it was there before them.
func (q *queue) unshift(m *member) {
	l := &q.levels[m.level]
	m.prev, m.next = nil, l.first
	if l.first != nil {
		l.first.prev = m
	} else {
		l.last = m
	}
	l.first = m
	q.count++
}

func (q *queue) remove(m *member) {
	l := &q.levels[m.level]
	if m.prev != nil {
		m.prev.next = m.next
	} else {
		l.first = m.next
	}
	if m.next != nil {
		m.next.prev = m.prev
	} else {
		l.last = m.prev
	}
	m.prev, m.next = nil, nil
	q.count--
}

// each yields the members in the order in which they are to be served: by level; those that are late at now last. The
// one yielded may be removed.
func (q *queue) each(now time.Time, yield func(m *member) bool) {
	late := false
	for i := range q.levels {
		for m := q.levels[i].first; m != nil; {
			next := m.next
			if m.late(now) {
				late = true
			} else if !yield(m) {
				return
			}
			m = next
		}
	}
	for i := 0; late && i < len(q.levels); i++ {
		for m := q.levels[i].first; m != nil; {
			next := m.next
			if m.late(now) && !yield(m) {
				return
			}
			m = next
		}
	}
}

func (m *member) late(now time.Time) bool { return !m.expires.IsZero() && !now.Before(m.expires) }

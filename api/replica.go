package api

import (
	"sync/atomic"
	"time"
)

// Replica is one loaded instance of a variant: Instance names it inside the worker. Load sums up what this process has the
// worker do; replicas on one worker share it. It may be nil in a replica that nobody balances over.
type Replica struct {
	Worker   string
	Instance string
	Load     *WorkerLoad
}

// WorkerLoad sums up what a worker's requests in flight from this process, those of all endpoints, usually take: they
// share its processor.
type WorkerLoad struct {
	work     atomic.Int64 // nanoseconds
	inFlight atomic.Int64 // requests, for people
}

// Enter counts a request that usually takes so much; Leave must be called with the same.
func (l *WorkerLoad) Enter(work time.Duration) {
	if l != nil {
		l.work.Add(int64(work))
		l.inFlight.Add(1)
	}
}

// Leave ends what Enter began.
func (l *WorkerLoad) Leave(work time.Duration) {
	if l != nil {
		l.work.Add(-int64(work))
		l.inFlight.Add(-1)
	}
}

// Work is what is in hand.
func (l *WorkerLoad) Work() time.Duration {
	if l == nil {
		return 0
	}
	return time.Duration(l.work.Load())
}

// InFlight counts the requests in hand.
func (l *WorkerLoad) InFlight() int64 {
	if l == nil {
		return 0
	}
	return l.inFlight.Load()
}

// ReplicaSet says where one instance is loaded, now: the plan holds the set and stays as it is while replicas come and go.
// The fleet is its one writer. Its readers, those who send requests, hold it with Enter while they do, and so the model in
// memory: what a request holds is not taken away. All methods may be called at any time from many goroutines; the nil set
// is one that nobody keeps and that is never loaded.
type ReplicaSet struct {
	state   atomic.Pointer[ReplicaState]
	wake    func(*ReplicaSet)
	users   atomic.Int64 // requests that hold it
	waiting atomic.Int64 // of these, those that wait for a replica
	uses    atomic.Int64 // requests that ever held it
	misses  atomic.Int64 // of these, those that had to wait
	last    atomic.Int64 // Unix nanoseconds of the last use
	work    atomic.Int64 // nanoseconds computed, ever
}

// ReplicaState is what a set is at one moment. It is immutable, but for Changed, which closes when it is out of date.
type ReplicaState struct {
	Replicas []Replica  // loaded, warm and answering
	Asleep   bool       // loaded by nobody, and woken by the next request
	Batch    *BatchPlan // what the last load made of the batching settings; nil while nothing is known
	Err      *Error     // why it cannot be loaded, as things stand: nobody tries any more
	Changed  chan struct{}
}

// NewReplicaSet makes a set without replicas. wake is called, at once and by a request's goroutine, for a set that has none
// and is needed; nil does nothing.
func NewReplicaSet(wake func(*ReplicaSet)) *ReplicaSet {
	s := &ReplicaSet{wake: wake}
	s.state.Store(&ReplicaState{Changed: make(chan struct{})})
	return s
}

// Loaded makes a set whose replicas stay.
func Loaded(replicas ...Replica) *ReplicaSet {
	s := NewReplicaSet(nil)
	s.Set(ReplicaState{Replicas: replicas})
	return s
}

var nothingLoaded = &ReplicaState{}

// State is what the set is now.
func (s *ReplicaSet) State() *ReplicaState {
	if s == nil {
		return nothingLoaded
	}
	return s.state.Load()
}

// Set replaces the state and tells those who wait for a change. For the one writer.
func (s *ReplicaSet) Set(next ReplicaState) {
	next.Changed = make(chan struct{})
	if old := s.state.Swap(&next); old.Changed != nil {
		close(old.Changed)
	}
}

// Enter holds the set for a request; Leave must be called once. Who reads State afterwards and finds a replica can be sure
// that it is not taken away meanwhile, unless its worker dies.
func (s *ReplicaSet) Enter(now time.Time) {
	if s != nil {
		s.users.Add(1)
		s.uses.Add(1)
		s.last.Store(now.UnixNano())
	}
}

// Leave ends what Enter began; work is what was computed.
func (s *ReplicaSet) Leave(work time.Duration) {
	if s != nil {
		s.work.Add(int64(work))
		s.users.Add(-1)
	}
}

// Wait says that a request which holds the set waits for a replica, and wakes what is asleep. Stop must be called once.
func (s *ReplicaSet) Wait() (stop func()) {
	if s == nil {
		return func() {}
	}
	s.waiting.Add(1)
	s.misses.Add(1)
	s.Wake()
	return func() { s.waiting.Add(-1) }
}

// Wake asks for a replica, without waiting for it.
func (s *ReplicaSet) Wake() {
	if s != nil && s.wake != nil {
		s.wake(s)
	}
}

// SetUse is what a set was used for.
type SetUse struct {
	Users   int64 // requests that hold it now
	Waiting int64 // of these, those that wait for a replica
	Uses    int64 // requests ever
	Misses  int64 // of these, those that had to wait
	Last    time.Time
	Work    time.Duration // computed, ever
}

// Use tells what the set was used for.
func (s *ReplicaSet) Use() SetUse {
	u := SetUse{Users: s.users.Load(), Waiting: s.waiting.Load(), Uses: s.uses.Load(), Misses: s.misses.Load(), Work: time.Duration(s.work.Load())}
	if last := s.last.Load(); last > 0 {
		u.Last = time.Unix(0, last)
	}
	return u
}

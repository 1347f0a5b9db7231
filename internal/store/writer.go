package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/internal/crash"
)

// The bounds of the queue of writes.
const (
	queueMax  = 1024    // writes that wait; when it is full, callers wait to enter until their time is up
	groupMax  = 128     // writes that share one transaction
	learnFrom = 256     // writes of this process after which the planner looks at the tables, and again whenever they have doubled,
	learnTo   = 1 << 17 // up to here
	groupWait = 4       // times that the others may run before a group closes; lets those just acknowledged come back
	beginMax  = 2       // tries to begin, for a connection that went away while nobody used it
	wary      = 16      // groups with savepoints, after one that failed without
)

var (
	errClosed = errors.New("the store is closed")
	errAgain  = errors.New("the group has to be run again with savepoints")
)

// The states of a job. Who moves it from waiting decides: the writer takes it, or the caller gives up.
const (
	jobWaiting int32 = iota
	jobTaken
	jobGivenUp
)

// job is one caller's write function with room for its result, which is read only after done is closed.
type job struct {
	run   func(context.Context, session) (any, error)
	act   string // what it does, for the points at which a process may die
	alone bool   // streams much: runs in a transaction of its own without the usual time limit
	state atomic.Int32
	done  chan struct{}
	value any
	err   error
}

// writer owns the one connection that writes. Functions that wait at the same time run one after another in a single
// transaction; all are acknowledged after the one COMMIT. Each fails alone: most that fail have changed nothing, and where
// one has, the group is taken back and run again with a savepoint for each. So a function may be run twice. Savepoints are
// not free: SQLite copies each page that a job changes, and on PostgreSQL each is a transaction of its own. On PostgreSQL
// the transaction first takes a lock that every Penstock on that database takes, so there too one group writes at a time:
// no function ever sees another's half, sequence numbers become visible in order, and nothing needs a retry.
type writer struct {
	db      *DB
	queue   chan *job
	closing chan struct{}
	stopped chan struct{}
	written int64
	learned int64 // of these, when the planner looked last
	careful int   // groups that have savepoints from the beginning
	looking atomic.Bool
	looks   sync.WaitGroup
	shared  *gathered
}

func newWriter(db *DB) *writer {
	w := &writer{db: db, queue: make(chan *job, queueMax), closing: make(chan struct{}), stopped: make(chan struct{}), shared: newGathered()}
	go w.loop()
	return w
}

// write runs a function in a transaction and returns after the commit. The function must not touch variables outside
// itself: it may still be running when the caller has given up.
func write[T any](ctx context.Context, db *DB, act string, run func(context.Context, session) (T, error)) (T, error) {
	return submit(ctx, db, act, db.timeout, &job{run: func(ctx context.Context, s session) (any, error) { return run(ctx, s) }},
		func(value any) T { return value.(T) })
}

// change is write for functions without a result.
func change(ctx context.Context, db *DB, act string, run func(context.Context, session) error) error {
	_, err := write(ctx, db, act, func(ctx context.Context, s session) (struct{}, error) { return struct{}{}, run(ctx, s) })
	return err
}

// writeLater is write for a function that has no use for the answers to what it asked: finish is called when they are there, which
// may be after other functions of the group. Finish may use the session, and must not rely on what those left as it was.
func writeLater[T any](ctx context.Context, db *DB, act string, run func(context.Context, session) (finish func(context.Context, session) (T, error), _ error)) (T, error) {
	return submit(ctx, db, act, db.timeout, &job{run: func(ctx context.Context, s session) (any, error) {
		finish, err := run(ctx, s)
		if err != nil {
			return nil, err
		}
		return later(func(ctx context.Context, s session) (any, error) { return finish(ctx, s) }), nil
	}}, func(value any) T { return value.(T) })
}

// later is the value of a job whose finish is still to be called.
type later func(context.Context, session) (any, error)

func submit[T any](ctx context.Context, db *DB, act string, limit time.Duration, j *job, as func(any) T) (none T, _ error) {
	j.done, j.act = make(chan struct{}), act
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := bounded.Err(); err != nil {
		return none, db.fault(ctx, act, err)
	}
	select {
	case <-db.writer.closing: // asked first, because the queue may have room too
		return none, db.fault(ctx, act, errClosed)
	default:
	}
	select {
	case db.writer.queue <- j:
	case <-db.writer.closing:
		return none, db.fault(ctx, act, errClosed)
	case <-bounded.Done():
		return none, db.fault(ctx, act, bounded.Err())
	}
	select {
	case <-j.done:
	case <-db.writer.stopped:
		select {
		case <-j.done:
		default:
			return none, db.fault(ctx, act, errClosed)
		}
	case <-bounded.Done():
		if j.state.CompareAndSwap(jobWaiting, jobGivenUp) {
			return none, db.fault(ctx, act, bounded.Err())
		}
		select { // it is being written: an answer that is there counts
		case <-j.done:
		default:
			return none, db.fault(ctx, act, fmt.Errorf("it may still be kept: %w", bounded.Err()))
		}
	}
	if j.err != nil {
		return none, db.fault(ctx, act, j.err)
	}
	return as(j.value), nil
}

func (w *writer) loop() {
	defer close(w.stopped)
	for {
		select {
		case first := <-w.queue:
			w.group(first)
		case <-w.closing:
			for { // what already waits is refused, not lost: nobody was told that it is kept
				select {
				case j := <-w.queue:
					if j.take() {
						j.finish(errClosed)
					}
				default:
					return
				}
			}
		}
	}
}

func (w *writer) close(limit time.Duration) error {
	close(w.closing)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-w.stopped:
		w.looks.Wait()
		return nil
	case <-timer.C:
		return errors.New("a write is still waiting for the disk")
	}
}

// take makes the job the writer's. It fails when the caller has given up, who was told that nothing was done.
func (j *job) take() bool { return j.state.CompareAndSwap(jobWaiting, jobTaken) }

func (j *job) finish(err error) {
	if err != nil {
		j.err = err
	}
	close(j.done)
}

// group runs the first job and those that wait in one transaction, and acknowledges them all after its commit.
func (w *writer) group(first *job) {
	limit := w.db.timeout
	if first.alone {
		limit = bulkTimeout
	}
	ctx, cancel := w.db.dialect.bound(limit)
	defer cancel()
	conn, err := w.begin(ctx)
	if err != nil {
		if first.take() {
			first.finish(err)
		}
		return
	}
	sess := session{conn, w.db.rebind, conn.pipe, w.shared, new(bool)}
	taken, late, err := w.runAll(ctx, sess, first)
	if err == nil {
		err = w.settle(ctx, sess, taken)
	}
	if errors.Is(err, errAgain) {
		err = w.runAgain(ctx, sess, taken, err)
	}
	w.careful = max(0, w.careful-1)
	if err == nil {
		crashPoints(taken, "before the commit")
		if err = sess.commit(ctx); err != nil {
			err = fmt.Errorf("commit: %w", err)
		}
	}
	if err != nil {
		conn.discard() // nothing of a transaction whose disk or server failed is trusted or acknowledged
	}
	conn.Close()
	w.shared.end(err == nil)
	if err == nil {
		crashPoints(taken, "after the commit")
	}
	for _, j := range taken {
		j.finish(err)
	}
	if err == nil {
		w.written += int64(len(taken))
		w.learn()
	}
	if late != nil {
		w.group(late)
	}
}

// learn has the planner look at tables that have grown, beside the writes.
func (w *writer) learn() {
	if w.written < max(learnFrom, 2*w.learned) || w.learned >= learnTo || !w.looking.CompareAndSwap(false, true) {
		return
	}
	w.learned = w.written
	w.looks.Go(func() {
		defer w.looking.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), w.db.timeout)
		defer cancel()
		_ = w.db.dialect.learn(ctx, w.db.reads) // nothing but speed depends on it, and it comes again
	})
}

// crashPoints passes the points of every act of a group.
func crashPoints(taken []*job, when string) {
	for _, j := range taken {
		crash.Point("store: " + j.act + ", " + when)
	}
}

// runAll runs jobs until none waits or the group is full. An error means that the transaction is lost as a whole. Late
// is a job that was met in the queue but must run alone.
func (w *writer) runAll(ctx context.Context, s session, first *job) (taken []*job, late *job, err error) {
	if first.alone {
		if err = w.db.dialect.bulk(ctx, s.on); err == nil && first.take() {
			first.value, first.err = first.run(ctx, s) // there is nobody beside it, so it fails with its transaction
			taken, err = []*job{first}, first.err
		}
		return taken, nil, err
	}
	for next := first; next != nil; next = w.next() {
		if next.alone {
			return taken, next, nil
		}
		if !next.take() {
			continue
		}
		taken = append(taken, next)
		if err := w.runOne(ctx, s, next); err != nil || len(taken) == groupMax {
			return taken, nil, err
		}
	}
	return taken, nil, nil
}

// finishAll finishes the jobs that waited for answers.
func finishAll(ctx context.Context, s session, jobs []*job) error {
	for _, j := range jobs {
		if err := j.end(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// end finishes a job that waited for answers, which are there.
func (j *job) end(ctx context.Context, s session) (err error) {
	if finish, waits := j.value.(later); waits && j.err == nil {
		j.value, err = finish(ctx, s)
	}
	return err
}

// next is a job that waits, or nil. It lets the others run a few times before it says so.
func (w *writer) next() *job {
	for range groupWait {
		select {
		case j := <-w.queue:
			return j
		default:
			runtime.Gosched()
		}
	}
	return nil
}

// runOne runs a job so that its failure undoes its own changes and nobody else's. An error is the group's: errAgain when
// more than this job has to be undone for that.
func (w *writer) runOne(ctx context.Context, s session, j *job) error {
	if w.careful > 0 {
		return w.runMarked(ctx, s, j)
	}
	*s.wrote = false
	j.value, j.err = j.run(ctx, s)
	if j.err == nil {
		s.gathered.keep()
		return nil
	}
	reason, lost := w.db.dialect.reason(j.err)
	if *s.wrote || !isOurs(j.err) || reason != "" || lost { // a statement that failed may have ended the transaction
		return fmt.Errorf("%w: %w", errAgain, j.err)
	}
	s.gathered.undo()
	return nil
}

// settle writes what was gathered, and waits for the statements that were put; of one that fails nobody knows whose it is, if
// there are no savepoints. Then it finishes the jobs.
func (w *writer) settle(ctx context.Context, s session, jobs []*job) error {
	err := s.gathered.write(ctx, s, w.db.kept)
	if err == nil {
		err = finishAll(ctx, s, jobs)
	}
	if err == nil {
		err = s.answers(ctx)
	}
	if err != nil && w.careful == 0 {
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	return err
}

// runAgain begins the transaction anew, and runs each job inside a savepoint.
func (w *writer) runAgain(ctx context.Context, s session, jobs []*job, why error) error {
	if s.pipe != nil {
		s.pipe.drop()
	}
	w.shared.end(false)
	if _, err := s.on.ExecContext(ctx, "ROLLBACK"); err != nil {
		return fmt.Errorf("roll back after %w: %w", why, err)
	}
	if err := w.db.dialect.begin(ctx, s.on); err != nil {
		return fmt.Errorf("begin again: %w", err)
	}
	w.careful = wary
	for _, j := range jobs {
		j.value, j.err = nil, nil
		if err := w.runMarked(ctx, s, j); err != nil {
			return err
		}
	}
	return w.settle(ctx, s, jobs)
}

// runMarked runs a job inside a savepoint.
func (w *writer) runMarked(ctx context.Context, s session, j *job) error {
	if err := s.mark(ctx); err != nil {
		return fmt.Errorf("savepoint: %w", err)
	}
	if j.value, j.err = j.run(ctx, s); j.err == nil {
		j.err = s.answers(ctx)
	}
	if j.err == nil {
		j.err = j.end(ctx, s)
	}
	if j.err == nil {
		j.err = s.keep(ctx)
	}
	if j.err == nil {
		s.gathered.keep()
		return nil
	}
	s.gathered.undo()
	if err := s.undo(ctx); err != nil {
		return fmt.Errorf("roll back after %w: %w", j.err, err)
	}
	return nil
}

// connection is a pooled connection that can be thrown away instead of going back.
type connection struct {
	querier
	raw  *sql.Conn
	pipe *pipe
}

func (c connection) Close() { _ = c.raw.Close() } // closing gives it back to the pool; its errors were seen before

// discard makes the pool drop the connection, and with it the open transaction.
func (c connection) discard() { _ = c.raw.Raw(func(any) error { return driver.ErrBadConn }) }

func (w *writer) begin(ctx context.Context) (c connection, err error) {
	for range beginMax {
		conn, connErr := w.db.writes.Conn(ctx)
		if connErr != nil {
			return c, fmt.Errorf("connect: %w", connErr)
		}
		c = connection{conn, conn, w.db.dialect.pipe(conn)}
		if err = w.db.dialect.begin(ctx, conn); err == nil {
			return c, nil
		}
		c.discard()
		c.Close()
		if _, lost := w.db.dialect.reason(err); !lost {
			break
		}
	}
	return c, fmt.Errorf("begin: %w", err)
}

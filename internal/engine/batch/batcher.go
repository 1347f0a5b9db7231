package batch

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
)

// maxGroups is the most shapes that are looked at for a batch that is ready while others are held for more rows.
const maxGroups = 16

// Batcher joins the requests of one instance. A request that finds a free place and nobody waiting runs at once, on its
// caller's goroutine, as if there were no batcher. Others wait; whoever gives a place back gives it to the next batch,
// which is what came meanwhile. A batch of one runs on its own caller's goroutine too.
type Batcher struct {
	engine   *Engine
	instance string
	settings api.Batching // with defaults
	inputs   []string     // that are joined: those of the signature
	sizes    []bool       // index: rows that may run together; nil: all up to max

	mu      sync.Mutex // guards what follows and the state of all members
	max     int        // most rows of a batch
	queue   queue
	running int // runs under way
	within  int // requests in these runs
	joins   int64
	failed  int64         // requests beyond the first of runs that failed
	retired error         // why nobody is let in any more
	idle    chan struct{} // closed when retired and nothing is left; nil while nobody asked
	hold    *time.Timer   // wakes fill when a batch has been held long enough
}

func (e *Engine) newBatcher(instance string, settings api.Batching, signature api.Signature, plan plan) *Batcher {
	if settings.Runs == 0 {
		settings.Runs = e.config.Runs
	}
	if settings.QueueSize == 0 {
		settings.QueueSize = e.config.Queue
	}
	settings.PriorityLevels = max(1, settings.PriorityLevels)
	b := &Batcher{engine: e, instance: instance, settings: settings, sizes: plan.sizes, max: plan.max}
	b.queue.levels = make([]list, settings.PriorityLevels)
	for _, in := range signature.Inputs {
		b.inputs = append(b.inputs, in.Name)
	}
	return b
}

// Infer runs one request.
func (b *Batcher) Infer(ctx context.Context, req engine.Request) (*engine.Answer, error) {
	b.mu.Lock()
	if b.running >= b.settings.Runs || b.queue.count > 0 || b.retired != nil {
		b.mu.Unlock()
		return b.line(ctx, &req)
	}
	b.running++
	b.within++
	b.mu.Unlock()
	// Requests that were read together with this one are goroutines that have not come here yet. With few threads they
	// would do so only after this run, each to find the instance idle. A yield lets them come first; it costs nothing when
	// there are none.
	runtime.Gosched()
	b.mu.Lock()
	if b.queue.count == 0 {
		b.mu.Unlock()
		return b.alone(ctx, &req)
	}
	b.mu.Unlock()
	return b.join(ctx, &req)
}

// join gives the place of a request that has not run yet to a batch, of which the request is one.
func (b *Batcher) join(ctx context.Context, req *engine.Request) (*engine.Answer, error) {
	m := b.member(ctx, req)
	m.prompt = true
	b.mu.Lock()
	b.within--
	b.queue.unshift(m)
	b.free()
	b.mu.Unlock()
	return b.await(m)
}

// alone runs a request that has a place, and gives the place back.
func (b *Batcher) alone(ctx context.Context, req *engine.Request) (*engine.Answer, error) {
	defer b.leave(1)
	return b.engine.inner.Infer(ctx, *req)
}

// leave gives a place back, with the n requests that still are in it.
func (b *Batcher) leave(n int) {
	b.mu.Lock()
	b.within -= n
	b.free()
	b.mu.Unlock()
}

// free needs mu: it gives a place back.
func (b *Batcher) free() {
	b.running--
	if b.queue.count > 0 {
		b.fill()
	}
	b.rest()
}

// rest needs mu: it tells who waits for the end that it has come.
func (b *Batcher) rest() {
	if b.idle != nil && b.running == 0 && b.queue.count == 0 {
		close(b.idle)
		b.idle = nil
	}
}

// line puts a request into the queue and waits for its answer.
func (b *Batcher) line(ctx context.Context, req *engine.Request) (*engine.Answer, error) {
	m := b.member(ctx, req)
	b.mu.Lock()
	switch {
	case b.retired != nil:
		defer b.mu.Unlock()
		return nil, b.retired
	case b.queue.count >= b.settings.QueueSize:
		defer b.mu.Unlock()
		return nil, api.Fail(api.CodeQueueFull, b.instance, "%d requests wait for a batch already, the limit of queue_size", b.queue.count)
	}
	b.queue.push(m)
	b.fill()
	b.mu.Unlock()
	return b.await(m)
}

func (b *Batcher) member(ctx context.Context, req *engine.Request) *member {
	m := &member{ctx: ctx, request: *req, arrived: time.Now(), wake: make(chan struct{}, 1)}
	m.level = b.settings.Level(req.Priority) - 1
	if b.settings.TimeoutUS > 0 {
		m.expires = m.arrived.Add(time.Duration(b.settings.TimeoutUS) * time.Microsecond)
	}
	m.rows, m.bytes, m.alone = b.measure(req)
	return m
}

// await waits until the member's batch was run, or runs the member itself when it is given a place. A member whose ctx
// ends leaves, at once unless its inputs are being copied.
func (b *Batcher) await(m *member) (*engine.Answer, error) {
	var expired <-chan time.Time
	if !m.expires.IsZero() && b.settings.TimeoutAction != api.TimeoutDelay {
		timer := time.NewTimer(time.Until(m.expires))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-m.wake:
	case <-m.ctx.Done():
		if err := b.quit(m, ended(m.ctx, b.instance), true); err != nil {
			return nil, err
		}
		<-m.wake
	case <-expired:
		if err := b.quit(m, b.tooLate(), false); err != nil {
			return nil, err
		}
		select {
		case <-m.wake:
		case <-m.ctx.Done():
			if err := b.quit(m, ended(m.ctx, b.instance), true); err != nil {
				return nil, err
			}
			<-m.wake
		}
	}
	if m.state == granted { // nobody changes it any more
		answer, err := b.alone(m.ctx, &m.request)
		if err == nil {
			answer.Wait = m.began.Sub(m.arrived)
			answer.Queue += answer.Wait
		}
		return answer, err
	}
	return m.answer, m.err
}

func (b *Batcher) tooLate() error {
	return api.Fail(api.CodeDeadline, b.instance, "no batch took the request within the timeout_us of %d", b.settings.TimeoutUS).
		WithCure("Retry with back-off, add replicas, or raise serving.batching.timeout_us.")
}

// quit takes a member out, and gives why back. It gives nil when the member has an answer, or a place, already: then a
// wake is on its way. A member that only waited too long for its batch stays once it is in one.
func (b *Batcher) quit(m *member, why error, always bool) error {
	for {
		b.mu.Lock()
		switch {
		case m.state == waiting:
			b.queue.remove(m)
			b.rest()
			b.mu.Unlock()
			return why
		case m.state == copying && always:
			batch := m.batch
			b.mu.Unlock()
			<-batch.copied
			continue
		case m.state == running && always:
			m.state = abandoned
			if m.batch.interested--; m.batch.interested == 0 {
				m.batch.cancel()
			}
			b.mu.Unlock()
			return why
		}
		b.mu.Unlock()
		return nil
	}
}

// fill needs mu: it gives free places to what waits.
func (b *Batcher) fill() {
	for b.running < b.settings.Runs && b.queue.count > 0 {
		now := time.Now()
		members := b.pick(now)
		if len(members) == 0 {
			return
		}
		b.running++
		b.within += len(members)
		b.start(members, now)
	}
}

func (b *Batcher) start(members []*member, now time.Time) {
	if len(members) == 1 {
		m := members[0]
		m.state, m.began = granted, now
		m.wake <- struct{}{}
		return
	}
	batch := &joined{members: members, interested: len(members), copied: make(chan struct{})}
	batch.ctx, batch.cancel = context.WithCancel(context.Background())
	for _, m := range members {
		m.state, m.began, m.batch = copying, now, batch
		batch.rows += m.rows
	}
	go b.run(batch)
}

// pick needs mu. It takes the members of the next batch out of the queue: those that fit the first in line, or, when
// that batch is held for more rows, the first that fit another one. None: nothing is ready, and hold is set.
func (b *Batcher) pick(now time.Time) []*member {
	b.prune(now)
	var heads []*member
	var due time.Time
	var taken []*member
	b.queue.each(now, func(m *member) bool {
		for _, h := range heads {
			if fits(h, m) {
				return true
			}
		}
		group, oldest := b.collect(m, now)
		ready := oldest.Add(time.Duration(b.settings.DelayUS) * time.Microsecond)
		if full := b.cut(&group); full || !ready.After(now) {
			taken = group
			return false
		}
		if due.IsZero() || ready.Before(due) {
			due = ready
		}
		heads = append(heads, m)
		return len(heads) < maxGroups
	})
	for _, m := range taken {
		b.queue.remove(m)
	}
	if taken == nil && !due.IsZero() {
		b.wait(due.Sub(now))
	}
	return taken
}

// prune needs mu. It lets go of members that have no use for an answer any more: their own goroutines have not come to
// it yet.
func (b *Batcher) prune(now time.Time) {
	reject := b.settings.TimeoutUS > 0 && b.settings.TimeoutAction != api.TimeoutDelay
	b.queue.each(now, func(m *member) bool {
		switch {
		case m.ctx.Err() != nil:
			b.settle(m, nil, ended(m.ctx, b.instance))
		case reject && m.late(now):
			b.settle(m, nil, b.tooLate())
		default:
			return true
		}
		b.queue.remove(m)
		return true
	})
}

// collect needs mu. It finds what can run with head, in order, and when the oldest of them came.
func (b *Batcher) collect(head *member, now time.Time) (group []*member, oldest time.Time) {
	group, oldest = append(group, head), head.arrived
	rows, bytes := head.rows, head.bytes
	if head.prompt {
		oldest = time.Time{}
	}
	if head.alone || rows >= b.max {
		return group, time.Time{}
	}
	b.queue.each(now, func(m *member) bool {
		if m == head || m.rows > b.max-rows || bytes+m.bytes > b.engine.config.Bytes || !fits(head, m) {
			return true
		}
		group = append(group, m)
		rows, bytes = rows+m.rows, bytes+m.bytes
		if m.arrived.Before(oldest) {
			oldest = m.arrived
		}
		return rows < b.max
	})
	return group, oldest
}

// cut shortens a group to a size that may run, a preferred one if it can; full says that waiting for more is of no use.
func (b *Batcher) cut(group *[]*member) (full bool) {
	rows := 0
	for _, m := range *group {
		rows += m.rows
	}
	most := b.max
	for _, p := range b.settings.PreferredSizes { // rising
		if p <= rows && b.allowed(p) {
			most, full = p, true
		}
	}
	for len(*group) > 1 && (rows > most || !b.allowed(rows)) {
		last := len(*group) - 1
		rows -= (*group)[last].rows
		*group = (*group)[:last]
	}
	return full || rows >= b.max
}

func (b *Batcher) allowed(rows int) bool {
	return b.sizes == nil || rows < len(b.sizes) && b.sizes[rows]
}

// wait needs mu: it has fill called again after d.
func (b *Batcher) wait(d time.Duration) {
	if b.hold == nil {
		b.hold = time.AfterFunc(d, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.fill()
			b.rest()
		})
		return
	}
	b.hold.Reset(d)
}

// settle needs mu.
func (b *Batcher) settle(m *member, answer *engine.Answer, err error) {
	m.state, m.answer, m.err = settled, answer, err
	m.wake <- struct{}{}
}

// run runs a batch in its place and gives every member its share.
func (b *Batcher) run(batch *joined) {
	defer batch.cancel()
	answer, err := b.execute(batch)
	var shares []*engine.Answer
	if err == nil {
		if shares, err = batch.split(answer); err != nil {
			answer.Release()
			b.giveUp(err)
		}
	}
	b.hand(batch, shares, err)
	runtime.Gosched() // let the answers go out, and what was read meanwhile come in, before the next batch is made
	b.leave(0)
}

// hand gives every member of a batch its share, or what it gets instead.
func (b *Batcher) hand(batch *joined, shares []*engine.Answer, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.within -= len(batch.members)
	if err != nil && curable(err) {
		// One bad row must not fail its neighbours: each is run by itself, before what came later.
		for _, m := range slices.Backward(batch.members) {
			if m.state == running {
				m.state, m.alone, m.batch = waiting, true, nil
				b.queue.unshift(m)
			}
		}
		b.joins-- // the run that failed was nobody's
		b.failed--
		return
	}
	b.joins += int64(len(batch.members) - 1)
	if err != nil {
		b.failed += int64(len(batch.members) - 1)
	}
	for i, m := range batch.members {
		switch {
		case m.state != running: // it left
			if err == nil {
				shares[i].Release()
			}
		case err != nil:
			b.settle(m, nil, err)
		default:
			shares[i].Wait = m.began.Sub(m.arrived)
			shares[i].Queue += shares[i].Wait
			b.settle(m, shares[i], nil)
		}
	}
}

// execute copies the inputs together and runs the batch. A panic fails the batch alone.
func (b *Batcher) execute(batch *joined) (answer *engine.Answer, err error) {
	var buffer *[]byte
	copied := false
	release := func() {
		if copied {
			return
		}
		copied = true
		b.mu.Lock()
		for _, m := range batch.members {
			m.state = running
		}
		b.mu.Unlock()
		close(batch.copied)
	}
	defer func() {
		if p := recover(); p != nil {
			b.engine.config.Log.Error("batch: the engine panicked", "panic", p, "stack", string(debug.Stack()))
			answer, err = nil, api.Fail(api.CodeInternal, b.instance, "the engine panicked")
			release()
			return // the buffer may still be read
		}
		b.engine.pool.put(buffer)
	}()
	var request engine.Request
	request, buffer = batch.gather(&b.engine.pool)
	release()
	return b.engine.inner.Infer(batch.ctx, request)
}

// curable reports whether a batch's error may be the fault of one member alone.
func curable(err error) bool {
	switch api.AsError(err).Code {
	case api.CodeInferenceFailed, api.CodeBadTensor, api.CodeSignatureMismatch, api.CodeTooLarge:
		return true
	}
	return errors.Is(err, errNotRows)
}

// giveUp stops batching: the outputs did not have the rows of the inputs, which the trial could not see.
func (b *Batcher) giveUp(err error) {
	b.engine.config.Log.Warn("batching stopped: the outputs do not have the rows of the inputs", "instance", b.instance, "error", err)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.max = 1
}

// drain lets nobody in any more and waits until nothing runs or waits, or ctx ends; then what waits is refused.
func (b *Batcher) drain(ctx context.Context) {
	b.mu.Lock()
	b.retired = api.Fail(api.CodeNotLoaded, b.instance, "the instance is not loaded")
	if b.idle == nil {
		b.idle = make(chan struct{})
	}
	idle := b.idle
	b.rest()
	b.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
		b.end(api.Fail(api.CodeNotLoaded, b.instance, "the instance was unloaded while the request waited for a batch"))
	}
}

// end refuses what waits and what comes.
func (b *Batcher) end(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retired = why
	b.queue.each(time.Time{}, func(m *member) bool {
		b.queue.remove(m)
		b.settle(m, nil, why)
		return true
	})
	b.rest()
}

// count corrects an inner engine's counts of runs to counts of requests.
func (b *Batcher) count(in *engine.InstanceStats) {
	b.mu.Lock()
	defer b.mu.Unlock()
	in.Requests += b.joins
	in.Failures += b.failed
	in.InFlight = int64(b.within + b.queue.count)
}

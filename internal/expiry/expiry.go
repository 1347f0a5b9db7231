// Package expiry has the context of a request whose deadline its owner watches: it is set in place and costs a store, where a
// context, a timer and its place among the parent's children for every request cost more than a microsecond. It starts no
// timer and knows no request. Callers: gateway and worker, which make such contexts, serve, which sets deadlines, and engine, which
// hooks what stops a run.
package expiry

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// fine is how many looks go into the shortest time that may be bounded in place: it ends 5 % late at most.
const fine = 20

// Context is a context that ends by Cancel, or by the first Look after its deadline. It has no parent and no values. Its methods
// may be called from many goroutines. It must not be copied.
type Context struct {
	every time.Duration // between two looks
	began time.Time

	by   atomic.Int64           // the deadline, in nanoseconds since began, so that it is one word; 0 is none
	err  atomic.Pointer[error]  // why it ended
	hook atomic.Pointer[func()] // that Hook left; nil is none, or that it is called

	mu    sync.Mutex // guards what follows, and the setting of err
	done  chan struct{}
	funcs map[*func()]struct{}
}

var _ context.Context = (*Context)(nil)

// Init makes the zero value, which takes no deadline, one that its owner looks at that often; before its first use.
func (c *Context) Init(now time.Time, every time.Duration) { c.began, c.every = now, every }

// Within sets the deadline in place, for one caller at a time who takes it back with Free. It reports false where that does not
// do: the time is short against that between two looks, or there is a deadline.
func (c *Context) Within(now time.Time, limit time.Duration) bool {
	return c.every > 0 && limit >= fine*c.every && c.by.CompareAndSwap(0, max(1, int64(now.Add(limit).Sub(c.began))))
}

// Free takes the deadline back.
func (c *Context) Free() { c.by.Store(0) }

// Look ends the context when its deadline has passed.
func (c *Context) Look(now time.Time) {
	if by := c.by.Load(); by != 0 && by <= int64(now.Sub(c.began)) && c.by.CompareAndSwap(by, 0) {
		c.end(context.DeadlineExceeded)
	}
}

// Cancel ends the context.
func (c *Context) Cancel() { c.end(context.Canceled) }

func (c *Context) end(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.err.CompareAndSwap(nil, &why) {
		return
	}
	if c.done != nil {
		close(c.done)
	}
	for f := range c.funcs {
		go (*f)()
	}
	c.funcs = nil
	if f := c.hook.Swap(nil); f != nil {
		go (*f)()
	}
}

// Deadline is what Within set.
func (c *Context) Deadline() (time.Time, bool) {
	by := c.by.Load()
	if by == 0 {
		return time.Time{}, false
	}
	return c.began.Add(time.Duration(by)), true
}

// Done is closed when the context has ended.
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err.Load() != nil {
			close(c.done)
		}
	}
	return c.done
}

// Err is context.Canceled or context.DeadlineExceeded once the context has ended.
func (c *Context) Err() error {
	if err := c.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Value finds nothing.
func (*Context) Value(any) any { return nil }

// Hook is AfterFunc for one function at a time, without a word of memory. It reports false when there is another; else the
// same pointer has to be given to Unhook.
func (c *Context) Hook(f *func()) bool {
	if !c.hook.CompareAndSwap(nil, f) {
		return false
	}
	if c.err.Load() != nil && c.hook.CompareAndSwap(f, nil) { // it ended before it could see f
		go (*f)()
	}
	return true
}

// Unhook prevents what Hook left from being called, and reports whether it did.
func (c *Context) Unhook(f *func()) bool { return c.hook.CompareAndSwap(f, nil) }

// AfterFunc has f called in a goroutine of its own when the context has ended; stop prevents that and reports whether it did.
// The contexts of package context that have this one as their parent use it.
func (c *Context) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err.Load() != nil {
		go f()
		return func() bool { return false }
	}
	key := &f
	if c.funcs == nil {
		c.funcs = map[*func()]struct{}{}
	}
	c.funcs[key] = struct{}{}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, there := c.funcs[key]
		delete(c.funcs, key)
		return there
	}
}

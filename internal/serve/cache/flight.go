package cache

import (
	"context"

	"github.com/penstock/penstock/internal/tensor"
)

// Flight is one run that identical requests share. One of them leads: it runs, with its own inputs and its own
// deadline. The others wait for its answer; when the leader leaves without one, because its caller went away, one of them
// leads on.
type Flight struct {
	cache *Cache
	key   Key
	lead  chan struct{} // holds one token while there is no leader
	over  chan struct{} // closed when the fields below are final

	waiting int // guarded by the cache's mu

	entry   *Entry // the answer, held once for each who waited then; nil without one
	err     error
	stopped bool
}

// Join gives the answer of an identical request that is kept by now, or the flight to wait for; lead is true when the
// caller has to run it. A leader ends with exactly one of Land, Fail, Leave and Part.
func (c *Cache) Join(k Key) (entry *Entry, flight *Flight, lead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.get(k); e != nil {
		return e, nil, false
	}
	if f := c.flights[k]; f != nil {
		f.waiting++
		return nil, f, false
	}
	f := &Flight{cache: c, key: k, lead: make(chan struct{}, 1), over: make(chan struct{})}
	c.flights[k] = f
	return nil, f, true
}

// Wait waits for the flight's end. An entry is the answer, to be released; lead true means that the caller leads now;
// an error is the leader's, or ctx's own. With none of them the caller runs by itself.
func (f *Flight) Wait(ctx context.Context) (entry *Entry, lead bool, err error) {
	select {
	case <-f.over:
		return f.entry, false, f.err
	case <-f.lead:
		f.cache.mu.Lock()
		f.waiting--
		f.cache.mu.Unlock()
		return nil, true, nil
	case <-ctx.Done():
	}
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	if f.stopped { // the answer came in the same moment, and counted this caller
		if f.entry != nil {
			f.entry.Release()
		}
		return nil, false, ctx.Err()
	}
	f.waiting--
	f.abandon()
	return nil, false, ctx.Err()
}

// abandon forgets a flight that nobody leads and nobody waits for. Needs the cache's mu.
func (f *Flight) abandon() {
	if f.waiting > 0 {
		return
	}
	select {
	case <-f.lead:
		delete(f.cache.flights, f.key)
	default: // it has a leader
	}
}

// Land ends the flight with an answer: it is copied once, for the cache and for everybody who waits. The entry is the
// caller's to release; it is nil when nobody waits and there is no room to keep it.
func (f *Flight) Land(outputs []tensor.Tensor) *Entry {
	c := f.cache
	fits := c.fits(sizeOf(outputs))
	c.mu.Lock()
	waiting := f.waiting
	c.mu.Unlock()
	if !fits && waiting == 0 {
		// Who comes between this look and the end runs by itself.
		f.end(nil, nil)
		return nil
	}
	e := copied(outputs)
	c.keep(f.key, e)
	f.end(e, nil)
	return e
}

// Fail ends the flight with an error, which everybody who waits gets. Nothing is kept.
func (f *Flight) Fail(err error) { f.end(nil, err) }

// Part ends the flight without an answer that the others may have: each runs by itself.
func (f *Flight) Part() { f.end(nil, nil) }

// Leave hands the lead to one of those who wait.
func (f *Flight) Leave() {
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	f.lead <- struct{}{} // has room: the leader alone puts one in
	f.abandon()
}

func (f *Flight) end(e *Entry, err error) {
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	delete(f.cache.flights, f.key)
	if e != nil {
		e.refs.Add(int64(f.waiting))
	}
	f.entry, f.err, f.stopped = e, err, true
	close(f.over)
}

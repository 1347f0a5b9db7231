// Package crash names the points at which a process may die and must not lose or leave anything. In a server it does
// nothing; a test's process sets what happens at a point, and ends itself there as kill -9 does. Callers: rooms that make
// something durable; only tests call At.
package crash

import "sync/atomic"

var at atomic.Pointer[func(name string)]

// At sets what happens at every point of this process. It is for tests.
func At(f func(name string)) { at.Store(&f) }

// Point is a place between two acts that are durable one after the other.
func Point(name string) {
	if f := at.Load(); f != nil {
		(*f)(name)
	}
}

package arena

import (
	"os"
	"sync/atomic"
)

// View is the borrower's side: the arena's memory, read-only, until the last reference is released. What is in it
// belongs to the lender, who keeps still what it said was a tensor, and nothing else.
type View struct {
	memory     []byte
	lease      *os.File
	references atomic.Int64
}

// Borrow maps what a Loan's files give, of the size that the lender named, and takes the files over: they are closed, at
// once or with the last reference. The caller has the first reference.
func Borrow(memory, lease *os.File, size int64) (*View, error) {
	mapped, err := mapped(memory, size)
	_ = memory.Close() // with it, nothing could be mapped that is not already
	if err != nil {
		_ = lease.Close()
		return nil, err
	}
	v := &View{memory: mapped, lease: lease}
	v.references.Store(1)
	return v, nil
}

// Bytes is the memory; it must not be written.
func (v *View) Bytes() []byte { return v.memory }

// Retain adds a reference; whoever calls has one already.
func (v *View) Retain() { v.references.Add(1) }

// Release ends a reference. With the last one the memory goes, and then the lender is told.
func (v *View) Release() {
	if v.references.Add(-1) > 0 {
		return
	}
	unmap(v.memory)
	v.memory = nil
	_ = v.lease.Close()
}

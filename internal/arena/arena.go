// Package arena is memory that this process shares with its workers, so that a large tensor is read from a caller's
// connection straight to where the worker finds it. This process allocates and writes; a borrower maps it read-only and
// gives back nothing but its word that it looks no more. It knows no requests and no tensors. Callers: server, which makes
// it; engine/process, which lends it; worker, which borrows it; through interfaces of their own, gateway and wire.
//
// What must hold: the memory of a block is given to nobody else as long as a reference to it is left. Whoever takes a
// block has one. A request that is sent to a worker holds one for each of its tensors there, until the worker's answer
// has come or, when the connection breaks first, until the worker has let go of its mapping, at the latest by its death.
// So nothing changes under a worker that reads, also when the caller has long given up. A worker is never trusted with
// more than that: it cannot write, and when it never answers, the blocks are held until its process is ended.
package arena

import (
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"
)

// Slot is the unit of blocks: each begins at a multiple of it.
const Slot = 64 << 10

// maxSize bounds an arena's address space.
const maxSize = 1 << 40

// Config tunes an arena.
type Config struct {
	Bytes int64         // address space, and so the most memory; a multiple of Slot. Memory is taken when it is first written
	Idle  time.Duration // free blocks not used for so long, at most twice, give their memory back; default 10 s
}

// Arena is the lender's side. A nil Arena has no memory and is never asked for any.
type Arena struct {
	idle   time.Duration
	memory []byte
	base   uintptr
	file   *os.File // read-only: what borrowers get
	pages  pages

	mu      sync.Mutex // guards the fields below
	used    bits       // slots in blocks
	warm    bits       // slots that may hold memory
	aged    bits       // free slots that the last sweep saw already
	blocks  []block    // by a block's first slot
	owner   []int32    // by slot: the first slot of its block
	sweeper *time.Timer
	armed   bool // the sweeper runs
	closed  bool
	waiting map[*Loan]struct{} // ended, with blocks that a borrower may still read
	waits   sync.WaitGroup     // the same
}

type block struct{ slots, references int32 }

// New makes an arena. It fails where the system has no such memory.
func New(config Config) (*Arena, error) {
	if config.Bytes <= 0 || config.Bytes%Slot != 0 || config.Bytes > maxSize {
		return nil, fmt.Errorf("arena: %d bytes, want a multiple of %d up to %d", config.Bytes, Slot, maxSize)
	}
	if config.Idle <= 0 {
		config.Idle = 10 * time.Second
	}
	a := &Arena{idle: config.Idle, waiting: map[*Loan]struct{}{}}
	if err := a.create(config.Bytes); err != nil {
		return nil, fmt.Errorf("arena: %w", err)
	}
	a.base = uintptr(unsafe.Pointer(unsafe.SliceData(a.memory)))
	slots := int(config.Bytes / Slot)
	a.used, a.warm, a.aged = newBits(slots), newBits(slots), newBits(slots)
	a.blocks, a.owner = make([]block, slots), make([]int32, slots)
	a.sweeper = time.AfterFunc(time.Hour, a.sweep)
	a.sweeper.Stop() // until something is free and warm
	return a, nil
}

// Take gives a block of at least n bytes and one reference to it; nil when there is none. What it holds is left from
// before.
func (a *Arena) Take(n int) []byte {
	if a == nil || n <= 0 || n > len(a.memory) {
		return nil
	}
	slots := (n + Slot - 1) / Slot
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	// The lowest that fits: the same few blocks are used again and again, and the rest can give its memory back.
	first := a.used.gap(slots)
	if first < 0 {
		return nil
	}
	a.claim(first, first, slots)
	a.blocks[first] = block{slots: int32(slots), references: 1}
	return a.bytes(first, slots)
}

// Grow makes a block that Take gave at least n bytes large, where it lies and with what it holds; nil when what follows
// is not free. Nobody else may have a reference.
func (a *Arena) Grow(b []byte, n int) []byte {
	offset, ok := a.offset(b)
	if !ok || n > len(a.memory) {
		return nil
	}
	first, slots := int(offset/Slot), (n+Slot-1)/Slot
	a.mu.Lock()
	defer a.mu.Unlock()
	has := int(a.blocks[first].slots)
	if a.closed || has == 0 || first+slots > a.used.size || slots > has && a.used.any(first+has, slots-has) {
		return nil
	}
	if slots > has {
		a.claim(first, first+has, slots-has)
		a.blocks[first].slots = int32(slots)
	}
	return a.bytes(first, max(slots, has))
}

// claim needs mu. It marks slots as part of the block that begins at first.
func (a *Arena) claim(first, from, slots int) {
	a.used.set(from, slots)
	a.warm.set(from, slots)
	a.aged.clear(from, slots)
	for i := from; i < from+slots; i++ {
		a.owner[i] = int32(first)
	}
}

func (a *Arena) bytes(first, slots int) []byte {
	from, to := first*Slot, (first+slots)*Slot
	return a.memory[from:to:to]
}

// Give ends the reference of who took the block.
func (a *Arena) Give(b []byte) {
	if offset, ok := a.offset(b); ok {
		a.Free(offset)
	}
}

// Hold adds a reference to the block that data lies in, and says where in the arena that is; false when it lies in none.
func (a *Arena) Hold(data []byte) (offset int64, ok bool) {
	if offset, ok = a.offset(data); !ok {
		return 0, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	first := a.owner[offset/Slot]
	b := &a.blocks[first]
	if b.references == 0 || offset+int64(len(data)) > (int64(first)+int64(b.slots))*Slot {
		return 0, false
	}
	b.references++
	return offset, true
}

// Free ends a reference to the block at offset. One too many is a fault of the program.
func (a *Arena) Free(offset int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	first := int(a.owner[offset/Slot])
	b := &a.blocks[first]
	if b.references <= 0 {
		panic(fmt.Sprintf("arena: block at %d freed more often than held", offset))
	}
	if b.references--; b.references > 0 {
		return
	}
	a.used.clear(first, int(b.slots))
	if !a.armed && !a.closed {
		a.armed = true
		a.sweeper.Reset(a.idle)
	}
}

// Contains reports whether data lies in the arena.
func (a *Arena) Contains(data []byte) bool {
	_, ok := a.offset(data)
	return ok
}

func (a *Arena) offset(data []byte) (int64, bool) {
	if a == nil || len(data) == 0 {
		return 0, false
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(data))) - a.base // wraps around for addresses below
	return int64(at), at < uintptr(len(a.memory))
}

// sweep gives back the memory of slots that were free at the last sweep and since.
func (a *Arena) sweep() {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return
	}
	var cold []run
	for r := range a.warm.without(a.used) {
		for c := range a.aged.within(r) {
			cold = append(cold, c)
		}
		a.aged.set(r.from, r.slots)
	}
	for _, r := range cold { // nobody takes them meanwhile; the system may need a while
		a.used.set(r.from, r.slots)
	}
	a.waits.Add(1) // Close does not take the memory away under the call
	a.mu.Unlock()
	for _, r := range cold {
		_ = a.pages.drop(int64(r.from)*Slot, int64(r.slots)*Slot) // what stays is tried again
	}
	a.mu.Lock()
	for _, r := range cold {
		a.used.clear(r.from, r.slots)
		a.warm.clear(r.from, r.slots)
		a.aged.clear(r.from, r.slots)
	}
	a.armed = false
	for range a.warm.without(a.used) {
		a.armed = !a.closed
		break
	}
	if a.armed {
		a.sweeper.Reset(a.idle)
	}
	a.mu.Unlock()
	a.waits.Done()
}

// Use is a moment's view.
type Use struct {
	Bytes int64 // of blocks that are in use
	Warm  int64 // that may be resident, those in use among them
}

// Use reports how much is in use.
func (a *Arena) Use() Use {
	if a == nil {
		return Use{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return Use{Bytes: int64(a.used.count()) * Slot, Warm: int64(a.warm.count()) * Slot}
}

// Close ends the arena: nothing can be taken any more. The memory goes back to the system, or, while a block is in use,
// with the process.
func (a *Arena) Close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil
	}
	a.closed = true
	a.sweeper.Stop()
	for l := range a.waiting {
		_ = l.gone.Close() // ends its wait; its blocks stay held
	}
	a.mu.Unlock()
	a.waits.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.destroy(a.used.count() == 0)
}

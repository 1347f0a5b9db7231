package arena_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/arena"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, config arena.Config) *arena.Arena {
	t.Helper()
	a, err := arena.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func TestSizes(t *testing.T) {
	for _, size := range []int64{-1, 0, 1, arena.Slot - 1, arena.Slot + 1, 1 << 50} {
		if _, err := arena.New(arena.Config{Bytes: size}); err == nil {
			t.Errorf("an arena of %d bytes was made", size)
		}
	}
	a := open(t, arena.Config{Bytes: 4 * arena.Slot})
	for _, n := range []int{-1, 0, 4*arena.Slot + 1} {
		if b := a.Take(n); b != nil {
			t.Errorf("take %d gave %d bytes", n, len(b))
		}
	}
	all := a.Take(4 * arena.Slot)
	if len(all) != 4*arena.Slot || cap(all) != len(all) {
		t.Fatalf("all of it: %d bytes of %d", len(all), cap(all))
	}
	if b := a.Take(1); b != nil {
		t.Fatal("a full arena gave a block")
	}
	a.Give(all)
	if b := a.Take(1); len(b) != arena.Slot {
		t.Fatalf("one byte's block has %d bytes", len(b))
	} else {
		a.Give(b)
	}
}

func TestWhatIsNotInIt(t *testing.T) {
	var none *arena.Arena
	if none.Take(1) != nil || none.Contains([]byte{1}) || none.Use() != (arena.Use{}) || none.Close() != nil {
		t.Error("a nil arena has memory")
	}
	a := open(t, arena.Config{Bytes: 4 * arena.Slot})
	b := a.Take(1)
	for name, data := range map[string][]byte{"foreign": make([]byte, 10), "empty": b[:0], "nil": nil} {
		if _, ok := a.Hold(data); ok {
			t.Errorf("%s memory was held", name)
		}
	}
	a.Give(make([]byte, 10)) // nothing of ours: nothing happens
	a.Give(b)
	if _, ok := a.Hold(b); ok {
		t.Error("a free block was held")
	}
	defer func() {
		if recover() == nil {
			t.Error("a block was freed twice")
		}
	}()
	a.Give(b)
}

// plainBlock is a block as the model knows it.
type plainBlock struct {
	bytes      []byte
	from, size int // in slots
	references int
	mark       byte
}

// plain is the arena without cleverness.
type plain struct {
	slots  []bool
	blocks []*plainBlock
}

// fit is where the next block has to begin.
func (p *plain) fit(n int) int {
	for i := 0; i+n <= len(p.slots); i++ {
		free := true
		for _, used := range p.slots[i : i+n] {
			free = free && !used
		}
		if free {
			return i
		}
	}
	return -1
}

func (p *plain) fill(b *plainBlock, used bool) {
	for i := b.from; i < b.from+b.size; i++ {
		p.slots[i] = used
	}
}

// TestWalk does what callers do, in any order, and compares with the plain model after every step. Every block is
// written with a mark of its own, and has it still when its last reference ends.
func TestWalk(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(seed, 0))
		const slots = 200
		a := open(t, arena.Config{Bytes: slots * arena.Slot, Idle: time.Second})
		p := &plain{slots: make([]bool, slots)}
		for step := range 3000 {
			switch k := r.IntN(100); {
			case k < 45:
				p.take(t, a, 1+r.IntN(r.IntN(40*arena.Slot)+1), byte(step))
			case k < 60 && len(p.blocks) > 0:
				b := p.blocks[r.IntN(len(p.blocks))]
				from := r.IntN(len(b.bytes))
				to := from + 1 + r.IntN(len(b.bytes)-from)
				if at, ok := a.Hold(b.bytes[from:to]); !ok || at != int64(b.from*arena.Slot+from) {
					t.Fatalf("step %d: hold at %d, want %d", step, at, b.from*arena.Slot+from)
				}
				b.references++
			case k < 65 && len(p.blocks) > 0:
				p.grow(t, a, p.blocks[r.IntN(len(p.blocks))], r.IntN(30*arena.Slot))
			case k < 97 && len(p.blocks) > 0:
				p.free(t, a, r)
			default:
				<-time.After(time.Duration(r.IntN(3000)) * time.Millisecond) // the sweeper may run
			}
			used := 0
			for _, b := range p.blocks {
				used += b.size
			}
			if use := a.Use(); use.Bytes != int64(used)*arena.Slot || use.Warm < use.Bytes {
				t.Fatalf("step %d: in use %+v, want %d", step, use, used*arena.Slot)
			}
		}
		for len(p.blocks) > 0 {
			p.free(t, a, r)
		}
		<-time.After(3 * time.Second)
		synctest.Wait()
		if resident, err := a.Resident(); err != nil || resident != 0 || a.Use() != (arena.Use{}) {
			t.Fatalf("after some idle time: %+v, resident %d %v", a.Use(), resident, err)
		}
	})
}

func (p *plain) take(t *testing.T, a *arena.Arena, n int, mark byte) {
	t.Helper()
	size := (n + arena.Slot - 1) / arena.Slot
	from, got := p.fit(size), a.Take(n)
	switch {
	case from < 0 && got == nil:
		return
	case from < 0 || got == nil || len(got) != size*arena.Slot || a.Offset(got) != int64(from)*arena.Slot:
		t.Fatalf("take of %d slots gave %d bytes at %d, want slot %d", size, len(got), a.Offset(got), from)
	}
	b := &plainBlock{bytes: got, from: from, size: size, references: 1, mark: mark}
	got[0], got[len(got)/2], got[len(got)-1] = mark, mark, mark
	p.fill(b, true)
	p.blocks = append(p.blocks, b)
}

func (p *plain) grow(t *testing.T, a *arena.Arena, b *plainBlock, n int) {
	t.Helper()
	size := max(b.size, (n+arena.Slot-1)/arena.Slot)
	fits := b.from+size <= len(p.slots)
	for i := b.from + b.size; fits && i < b.from+size; i++ {
		fits = !p.slots[i]
	}
	got := a.Grow(b.bytes, n)
	if (got != nil) != fits || fits && (len(got) != size*arena.Slot || a.Offset(got) != int64(b.from)*arena.Slot) {
		t.Fatalf("block at slot %d with %d slots grown to %d: %d bytes", b.from, b.size, size, len(got))
	}
	if !fits {
		return
	}
	if got[0] != b.mark || got[len(b.bytes)-1] != b.mark {
		t.Fatalf("the block at slot %d changed as it grew", b.from)
	}
	b.bytes, b.size = got, size
	got[len(got)/2], got[len(got)-1] = b.mark, b.mark
	p.fill(b, true)
}

func (p *plain) free(t *testing.T, a *arena.Arena, r *rand.Rand) {
	t.Helper()
	i := r.IntN(len(p.blocks))
	b := p.blocks[i]
	if b.bytes[0] != b.mark || b.bytes[len(b.bytes)/2] != b.mark || b.bytes[len(b.bytes)-1] != b.mark {
		t.Fatalf("the block at slot %d changed while it was held", b.from)
	}
	if b.references--; b.references > 0 {
		a.Free(int64(b.from*arena.Slot + r.IntN(len(b.bytes))))
		return
	}
	a.Give(b.bytes)
	p.fill(b, false)
	p.blocks = append(p.blocks[:i], p.blocks[i+1:]...)
}

// borrow does what a worker does, with descriptors of its own as if they had come over a socket.
func borrow(t *testing.T, l *arena.Loan) *arena.View {
	t.Helper()
	var own []*os.File
	for _, f := range l.Files() {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		own = append(own, os.NewFile(uintptr(fd), "own"))
	}
	l.Sent()
	v, err := arena.Borrow(own[0], own[1], l.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestBorrowerReadsWhatIsWritten(t *testing.T) {
	a := open(t, arena.Config{Bytes: 8 * arena.Slot})
	l, err := a.Lend()
	if err != nil {
		t.Fatal(err)
	}
	defer l.End(nil)
	v := borrow(t, l)
	defer v.Release()
	b := a.Take(3 * arena.Slot)
	for i := range b {
		b[i] = byte(i * 7)
	}
	if at := a.Offset(b); !bytes.Equal(v.Bytes()[at:at+int64(len(b))], b) {
		t.Fatal("the borrower sees something else")
	}
	a.Give(b)
}

// TestBorrowerCannotWrite: neither by a mapping of its own nor by turning the one it has.
func TestBorrowerCannotWrite(t *testing.T) {
	a := open(t, arena.Config{Bytes: arena.Slot})
	l, err := a.Lend()
	if err != nil {
		t.Fatal(err)
	}
	defer l.End(nil)
	fd := int(l.Files()[0].Fd())
	if _, err := unix.Mmap(fd, 0, arena.Slot, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EACCES) {
		t.Errorf("a writable mapping: %v", err)
	}
	if _, err := unix.Write(fd, []byte{1}); err == nil {
		t.Error("a write through the descriptor went through")
	}
	if err := unix.Ftruncate(fd, 0); err == nil {
		t.Error("the memory could be cut")
	}
	v := borrow(t, l)
	defer v.Release()
	if err := unix.Mprotect(v.Bytes(), unix.PROT_READ|unix.PROT_WRITE); !errors.Is(err, unix.EACCES) {
		t.Errorf("the mapping became writable: %v", err)
	}
}

func TestBorrowRefusesWhatCouldBeCut(t *testing.T) {
	lease := func() *os.File {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return w
	}
	plain, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := plain.Truncate(arena.Slot); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("open", unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	loose := os.NewFile(uintptr(fd), "open")
	if err := loose.Truncate(arena.Slot); err != nil {
		t.Fatal(err)
	}
	a := open(t, arena.Config{Bytes: arena.Slot})
	l, err := a.Lend()
	if err != nil {
		t.Fatal(err)
	}
	defer l.End(nil)
	defer l.Sent()
	again, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", l.Files()[0].Fd()))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		file *os.File
		size int64
	}{"a file": {plain, arena.Slot}, "no seals": {loose, arena.Slot}, "another size": {again, 2 * arena.Slot}} {
		if v, err := arena.Borrow(c.file, lease(), c.size); err == nil {
			v.Release()
			t.Errorf("%s was mapped", name)
		}
	}
}

// TestHeldUntilTheBorrowerLetsGo: the loan's end alone frees nothing, the borrower's last reference does.
func TestHeldUntilTheBorrowerLetsGo(t *testing.T) {
	a := open(t, arena.Config{Bytes: arena.Slot})
	l, err := a.Lend()
	if err != nil {
		t.Fatal(err)
	}
	v := borrow(t, l)
	v.Retain() // a request in the worker's hands
	b := a.Take(1)
	at, ok := a.Hold(b)
	if !ok {
		t.Fatal("not held")
	}
	a.Give(b)
	l.End([]int64{at})
	v.Release() // the connection's end in the worker
	if a.Take(1) != nil || a.Use().Bytes != arena.Slot {
		t.Fatal("a block was given away that the borrower may read")
	}
	v.Release() // the request's end
	for a.Use().Bytes != 0 {
		<-time.After(time.Millisecond)
	}
	if b = a.Take(1); b == nil {
		t.Fatal("the block did not come back")
	}
	a.Give(b)
}

// TestCloseWhileABorrowerHolds: the arena ends though a borrower never lets go; its blocks are given to nobody.
func TestCloseWhileABorrowerHolds(t *testing.T) {
	a := open(t, arena.Config{Bytes: arena.Slot})
	l, err := a.Lend()
	if err != nil {
		t.Fatal(err)
	}
	v := borrow(t, l)
	b := a.Take(1)
	at, _ := a.Hold(b)
	l.End([]int64{at})
	a.Give(b)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if a.Take(1) != nil || v.Bytes()[0] != 0 {
		t.Fatal("a closed arena gave a block")
	}
	v.Release()
}

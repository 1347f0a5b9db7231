package arena

import (
	"fmt"
	"os"
)

// Loan is one borrower's access. Its files are sent to the borrower: the memory, read-only, and one end of a pipe that
// the borrower closes when it has let go of the memory. The system closes it for a borrower that died.
type Loan struct {
	arena *Arena
	lease *os.File // the borrower's end, until it was sent
	gone  *os.File // reads the end of the other
}

// Lend prepares a loan. It ends with End.
func (a *Arena) Lend() (*Loan, error) {
	gone, lease, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("arena: %w", err)
	}
	return &Loan{arena: a, lease: lease, gone: gone}, nil
}

// Bytes is the arena's size, which the borrower has to know.
func (l *Loan) Bytes() int64 { return int64(len(l.arena.memory)) }

// Files are the descriptors to send, in the order that Borrow takes them. They are the lender's.
func (l *Loan) Files() []*os.File { return []*os.File{l.arena.file, l.lease} }

// Sent ends the lender's hold on the borrower's end: from now on only the borrower keeps it open.
func (l *Loan) Sent() { _ = l.lease.Close() }

// End tells that nothing more is lent. held are offsets that the borrower may still read; they are freed when it has
// let go.
func (l *Loan) End(held []int64) {
	a := l.arena
	a.mu.Lock()
	if len(held) == 0 || a.closed {
		a.mu.Unlock()
		_ = l.gone.Close()
		return
	}
	a.waiting[l] = struct{}{}
	a.waits.Add(1)
	a.mu.Unlock()
	go func() {
		defer a.waits.Done()
		l.await(held)
	}()
}

// await reads until the borrower's end is closed. A borrower that writes into it gains nothing.
func (l *Loan) await(held []int64) {
	a := l.arena
	var ignored [64]byte
	for {
		if _, err := l.gone.Read(ignored[:]); err != nil {
			break
		}
	}
	a.mu.Lock()
	closed := a.closed
	delete(a.waiting, l)
	a.mu.Unlock()
	_ = l.gone.Close()
	if closed {
		return // this read was ended by Close, not by the borrower
	}
	for _, offset := range held {
		a.Free(offset)
	}
}

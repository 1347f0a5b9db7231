package store

import (
	"fmt"
	"strings"
	"testing"
)

// TestMany: what has many entries is remembered for some uses, and what is remembered is bounded.
func TestMany(t *testing.T) {
	var m many
	if m.has("a") {
		t.Error("it knows what it was not told")
	}
	m.add("a")
	for i := range manyUses {
		if !m.has("a") {
			t.Fatalf("forgotten after %d uses", i)
		}
	}
	for range 2 {
		if m.has("a") {
			t.Errorf("known after %d uses", manyUses)
		}
	}
	long := strings.Repeat("x", manyText+1)
	if m.add(long); m.has(long) {
		t.Error("a long one is remembered")
	}
	for i := range 3 * manyMax {
		m.add(fmt.Sprint(i))
		if len(m.uses) > manyMax {
			t.Fatalf("%d are remembered", len(m.uses))
		}
	}
	if !m.has(fmt.Sprint(3*manyMax - 1)) {
		t.Error("the last is forgotten")
	}
}

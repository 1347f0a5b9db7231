package cache

// Size is memory by dimension, in bytes. A machine without a dimension has a budget of 0 there, and entries that take
// nothing of it.
type Size struct {
	RAM int64
	GPU int64
}

// Add sums up.
func (s Size) Add(t Size) Size { return Size{RAM: s.RAM + t.RAM, GPU: s.GPU + t.GPU} }

// Sub takes away.
func (s Size) Sub(t Size) Size { return Size{RAM: s.RAM - t.RAM, GPU: s.GPU - t.GPU} }

// Times multiplies.
func (s Size) Times(n int) Size { return Size{RAM: s.RAM * int64(n), GPU: s.GPU * int64(n)} }

// Part is n out of m of it.
func (s Size) Part(n, m int64) Size { return Size{RAM: s.RAM / m * n, GPU: s.GPU / m * n} }

// Fits reports whether it is within a budget in every dimension.
func (s Size) Fits(budget Size) bool { return s.RAM <= budget.RAM && s.GPU <= budget.GPU }

// most takes the larger of each dimension.
func (s Size) most(t Size) Size { return Size{RAM: max(s.RAM, t.RAM), GPU: max(s.GPU, t.GPU)} }

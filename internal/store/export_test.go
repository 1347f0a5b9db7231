package store

// SetFewMax changes from how many entries on a condition counts as many.
func SetFewMax(n int) { fewMax = n }

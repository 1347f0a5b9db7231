package worker

import "time"

// WithoutWatch leaves runs that are in turn with the leader until they are relieved, and gives the way back. While nobody serves.
func WithoutWatch() (back func()) {
	old := inTurnOver
	inTurnOver = time.Hour
	return func() { inTurnOver = old }
}

// SpareFor is how long runs have to be in turn no more before Config.Spare is told.
const SpareFor = spareFor

// Usual learns the lengths of runs, one after the other, and gives what they are taken to take usually, and whether that is
// quick.
func Usual(runs []time.Duration) (usual time.Duration, quick bool) {
	var c cost
	for _, took := range runs {
		c.learn(took)
	}
	return time.Duration(c.nanoseconds.Load()), c.isQuick()
}

package worker

import "time"

// WithoutWatch leaves runs that are in turn with the leader until they are relieved, and gives the way back. While nobody serves.
func WithoutWatch() (back func()) {
	old := inTurnOver
	inTurnOver = time.Hour
	return func() { inTurnOver = old }
}

// SpareAfter is how many runs in a row have to be in turn before Config.Spare is told.
const SpareAfter = spareAfter

// Usual learns the lengths of runs, one after the other, and gives what they are taken to take usually, and whether that is
// quick.
func Usual(runs []time.Duration) (usual time.Duration, quick bool) {
	var c cost
	for _, took := range runs {
		c.learn(took)
	}
	return time.Duration(c.nanoseconds.Load()), c.isQuick()
}

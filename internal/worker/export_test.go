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

// Usual learns the lengths of runs, one after the other, and then of joined ones, and gives what they are taken to take usually,
// whether that is quick, and whether it is worth joining them.
func Usual(runs []time.Duration, joined ...time.Duration) (usual time.Duration, quick, worthJoining bool) {
	var c cost
	c.joins.Store(true)
	for _, took := range runs {
		c.learn(took, false)
	}
	for _, took := range joined {
		c.learn(took, true)
	}
	return time.Duration(c.nanoseconds.Load()), c.isQuick(), c.isWorthJoining()
}

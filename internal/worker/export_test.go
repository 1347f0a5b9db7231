package worker

import "time"

// Usual learns the lengths of runs, one after the other, and gives what they are taken to take usually, and whether that is
// quick.
func Usual(runs []time.Duration) (usual time.Duration, quick bool) {
	var c cost
	for _, took := range runs {
		c.learn(took)
	}
	return time.Duration(c.nanoseconds.Load()), c.isQuick()
}

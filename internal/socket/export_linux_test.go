package socket

import "time"

// Looker looks as a socket does.
type Looker struct{ look }

// InVain looks for what does not come, and reports whether it looked at all.
func (k *Looker) InVain(most time.Duration) (looked bool) {
	k.allow(most)
	for begun := (time.Time{}); k.again(&begun); {
		looked = true
	}
	return looked
}

// Found looks for what is there at once.
func (k *Looker) Found() {
	k.allow(time.Second)
	k.found()
}

// Several says that there are several processors.
var Several = several

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

// Several says that there are several processors.
var Several = several

// LookRest is how many looks are left out after one in vain.
const LookRest = lookRest

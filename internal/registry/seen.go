package registry

import (
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/penstock/penstock/api"
)

// seenMax is how many things are remembered; when there are more, all are forgotten.
const seenMax = 10_000

// seen remembers what this process did since it began, so that it need not be done twice. Its zero value is ready; it may be
// used from many goroutines.
type seen[K comparable] struct {
	mu  sync.Mutex // guards all
	all map[K]bool
}

func (s *seen[K]) has(key K) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[key]
}

func (s *seen[K]) add(key K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil || len(s.all) >= seenMax {
		s.all = map[K]bool{}
	}
	s.all[key] = true
}

// keyOf names the files that the runtime loads: the model and its data, by path and content. A version with another card or
// other metrics is another version of the same files; loading them again would say nothing new, and would make the import
// of a catalogue as slow as starting it.
func keyOf(artifacts []api.Artifact) [sha256.Size]byte {
	h := sha256.New()
	for _, a := range artifacts {
		if a.Role != api.RoleDoc {
			fmt.Fprintf(h, "%q %s %s\n", a.Path, a.Role, a.Digest)
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

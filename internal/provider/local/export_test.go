package local

import "github.com/penstock/penstock/internal/provider"

// OpenGroups is openGroups, for tests.
var OpenGroups = openGroups

// LimitsOf gives file and text.
func LimitsOf(l provider.Limits) map[string]string {
	sets := map[string]string{}
	for _, set := range limitsOf(l) {
		sets[set[0]] = set[1]
	}
	return sets
}

// Place is place, for tests.
func (g *groups) Place(pid int, l provider.Limits) error {
	_, err := g.place(pid, l)
	return err
}

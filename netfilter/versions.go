package netfilter

import (
	"maps"
	"sync"
)

// versions are the highest version numbers made for each split. No number is
// given twice while old versions may stand. It may be used by many goroutines.
type versions struct {
	mu      sync.Mutex
	highest map[string]int
}

// note takes in the name of a chain, if it is a version's.
func (v *versions) note(chain string) {
	split, version, ok := versionOf(chain)
	if !ok {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.highest == nil {
		v.highest = map[string]int{}
	}
	v.highest[split] = max(v.highest[split], version)
}

func (v *versions) of(split string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.highest[split]
}

func (v *versions) all() map[string]int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.highest)
}

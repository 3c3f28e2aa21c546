package doctor

import "sync"

// Recall is what Glance has seen of other programs' rules: on a host with
// thousands of splits the kernel takes a tenth of a second to list them, ours
// among them. Its zero value remembers nothing yet, nil never does. It may be
// used by many goroutines.
type Recall struct {
	mu    sync.Mutex
	known bool
	at    uint32 // what others said
	seen  foreignRules
}

// Others returns a number that stays the same as long as no other program has
// written into nftables; without certain it says nothing.
type Others func() (number uint32, certain bool)

// foreign returns what is known, or what read reads now.
func (r *Recall) foreign(others Others, read func() (foreignRules, error)) (foreignRules, error) {
	if r == nil || others == nil {
		return read()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	before, certain := others()
	if r.known && certain && r.at == before {
		return r.seen, nil
	}
	found, err := read()
	after, still := others()
	r.known = err == nil && certain && still && before == after
	r.at, r.seen = after, found
	return found, err
}

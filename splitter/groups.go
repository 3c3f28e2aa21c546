package splitter

import (
	"slices"

	"github.com/splitd/splitd/traffic"
)

// groups are those of a candidate, ready to be asked.
type groups struct {
	lists         traffic.Clients // that they were made of
	always, never traffic.Networks
}

// groupsOf returns the groups of a candidate. Lists of many thousand networks are
// put in order once: a change of weight finds them as they are. r.mu is held.
func (r *Relay) groupsOf(key traffic.BackendKey, lists traffic.Clients) groups {
	have, ok := r.groups[key]
	if ok && slices.Equal(have.lists.Always, lists.Always) && slices.Equal(have.lists.Never, lists.Never) {
		return have
	}
	made := groups{lists: lists, always: traffic.NewNetworks(lists.Always), never: traffic.NewNetworks(lists.Never)}
	r.groups[key] = made
	return made
}

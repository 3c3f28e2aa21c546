package netfilter

// A phase is one of the parts of a plan, which are carried out in this order
// and share no transaction. What else changes with the weights stands on either
// side of the door, so that whoever may be drawn is at each moment where the old
// or the new splits have him: a packet takes the rules of one side of a
// transaction, but may find the sets of the other.
type phase int

const (
	// prepare makes what no packet reaches yet.
	prepare phase = iota
	// leave lets services go that no split has any more, and those that move to
	// a split that does not change itself.
	leave
	// growAlways and growNever let the networks into the groups that are new
	// there. Who is in one goes where it sends him, whatever the weights are;
	// `never` is looked at behind `always` and behind the draw.
	growAlways
	growNever
	// door replaces rules, which changes the weights: each split in one step.
	door
	// shrinkNever and what follows it let the networks out that are in no longer:
	// the weights that they come under are in force.
	// Who is in both groups of a candidate, which only a process that died amid a
	// change can leave, leaves `never` last.
	shrinkNever
	shrinkAlways
	shrinkNeverLast
	// enter opens services to splits that are by now what they are to be.
	enter
	// shut closes what nobody shall reach any more, after all doors have opened:
	// a service that moves from one table to another is in both for a moment,
	// never in none.
	shut
	phases // how many there are
)

// transactions are those of the whole plan, in order, each at most so many
// bytes. The first unseen of them change nothing for any packet.
func (p plan) transactions(most int) (all [][]step, unseen int) {
	for at, groups := range p.steps {
		all = append(all, transactions(groups, most)...)
		if phase(at) == prepare {
			unseen = len(all)
		}
	}
	return all, unseen
}

// transactions packs groups, in their order, into as few transactions as the
// bytes that one may have allow.
func transactions(groups [][]step, most int) [][]step {
	var all [][]step
	room := 0
	for _, g := range groups {
		need := 0
		for _, o := range g {
			need += o.size()
		}
		if len(all) == 0 || need > room {
			all = append(all, nil)
			room = most
		}
		all[len(all)-1] = append(all[len(all)-1], g...)
		room -= need
	}
	return all
}

package traffic

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// A Slot is a run of the numbers that a client network or a flow can draw:
// from First to Last, of Whole. Who draws one of them goes to the candidate.
type Slot struct {
	First     Weight `json:"first"`
	Last      Weight `json:"last"`
	Candidate string `json:"candidate"`
}

func (s Slot) size() Weight { return s.Last - s.First + 1 }

// Slots are the runs of all candidates, in ascending order and apart from each
// other; what lies between them is the primary's. They are not modified.
type Slots []Slot

// Of says who has that number; "" is the primary.
func (s Slots) Of(number Weight) string {
	for _, slot := range s {
		if slot.First <= number && number <= slot.Last {
			return slot.Candidate
		}
	}
	return ""
}

// Slotted says whether the layout of s is state (s.Slots): weights alone do not
// give it. They do with up to two candidates, but for what has become of them:
// see Relaid.
func (s Split) Slotted() bool {
	return s.Affinity == AffinitySource && (len(s.Candidates) > 2 || len(s.Slots) > 0)
}

// Relaid returns s with the layout that its weights make of another one: of
// that before a change of weights or candidates. It is state (s.Slots) where a
// client would else move that no weight moves: with more than two candidates,
// and where the one or two that there are have not the ends that are theirs by
// order, because another one has gone or come, or the two have changed places.
func (s Split) Relaid(before Slots) Split {
	s.Slots = nil
	if s.Affinity != AffinitySource || len(s.Candidates) <= 2 && before.keeps(s.Layout()) {
		return s
	}
	s.Slots = before.Reweighed(s.Candidates)
	return s
}

// keeps says whether no candidate of both layouts both loses and gets numbers.
func (s Slots) keeps(after Slots) bool {
	for _, slot := range after {
		was, is := s.owned(slot.Candidate), after.owned(slot.Candidate)
		if !was.in(is) && !is.in(was) {
			return false
		}
	}
	return true
}

func (s Slots) owned(candidate string) Slots {
	return slices.DeleteFunc(slices.Clone(s.joined()), func(slot Slot) bool { return slot.Candidate != candidate })
}

// in says whether all numbers of s are in the other slots, of one owner both.
func (s Slots) in(other Slots) bool {
	return !slices.ContainsFunc(s, func(slot Slot) bool {
		return !slices.ContainsFunc(other, func(o Slot) bool { return o.First <= slot.First && slot.Last <= o.Last })
	})
}

// Layout says which numbers of the draw belong to which candidate.
//
// Without affinity it does not matter and they lie side by side. With affinity
// a client network draws the same number each time, so a change of one weight
// must move numbers between that candidate and the primary alone: the first
// candidate has the low end and the second the high end, and the primary what
// is between. With more candidates no formula can do that, nor where those two
// once were others: there the layout is the state s.Slots, brought to the
// weights.
func (s Split) Layout() Slots {
	if s.Slotted() {
		return s.Slots.Reweighed(s.Candidates)
	}
	var slots Slots
	next := Weight(0)
	for i, c := range s.Candidates {
		switch {
		case c.Weight == 0:
		case i == 1 && s.Affinity == AffinitySource:
			slots = append(slots, Slot{First: Whole - c.Weight, Last: Whole - 1, Candidate: c.Name})
		default:
			slots = append(slots, Slot{First: next, Last: next + c.Weight - 1, Candidate: c.Name})
			next += c.Weight
		}
	}
	return slots
}

// Reweighed returns slots in which each candidate has its weight, and as much
// as can be of what it had. A candidate that loses weight gives up its highest
// numbers; one that gains takes the lowest ones that are free; one that is not
// named loses all. All who lose do so before any gains.
func (s Slots) Reweighed(candidates []Backend) Slots {
	missing := make(map[string]Weight, len(candidates))
	for _, c := range candidates {
		missing[c.Name] = c.Weight
	}
	kept := s.joined().cut(missing)
	gains := kept.gains(candidates, missing)
	if len(gains) == 0 {
		return kept
	}
	return kept.with(gains)
}

// cut is what is kept of the slots, which are joined: of each candidate the lowest
// numbers up to what it is missing, which is less afterwards. Where that is all of
// them it is s itself: there may be a hundred thousand.
func (s Slots) cut(missing map[string]Weight) Slots {
	kept, whole := s, true
	for i, slot := range s {
		most := missing[slot.Candidate]
		keeps := min(slot.size(), max(most, 0))
		if whole && keeps < slot.size() {
			kept, whole = append(make(Slots, 0, len(s)), s[:i]...), false
		}
		if keeps == 0 {
			continue
		}
		missing[slot.Candidate] = most - keeps
		if !whole {
			kept = append(kept, Slot{First: slot.First, Last: slot.First + keeps - 1, Candidate: slot.Candidate})
		}
	}
	if len(kept) == 0 {
		return nil
	}
	return kept
}

// gains are what candidates are missing beside s, which is in order: the first of
// them takes the lowest numbers that nobody has, the next one those behind it.
func (s Slots) gains(candidates []Backend, missing map[string]Weight) Slots {
	var gains Slots
	next, gap := Weight(0), 0 // gap is the slot behind the free numbers
	for _, c := range candidates {
		for want := missing[c.Name]; want > 0 && gap <= len(s); {
			end := Whole
			if gap < len(s) {
				end = s[gap].First
			}
			if free := min(end-next, want); free > 0 {
				gains = append(gains, Slot{First: next, Last: next + free - 1, Candidate: c.Name})
				want -= free
				next += free
			}
			if want > 0 { // all of the gap is taken
				if gap < len(s) {
					next = s[gap].Last + 1
				}
				gap++
			}
		}
	}
	return gains
}

// with are the slots of both, which are in order and apart, as joined has them.
func (s Slots) with(more Slots) Slots {
	all := make(Slots, 0, len(s)+len(more))
	for len(s) > 0 || len(more) > 0 {
		from := &s
		if len(s) == 0 || len(more) > 0 && more[0].First < s[0].First {
			from = &more
		}
		all = all.followedBy((*from)[0])
		*from = (*from)[1:]
	}
	return all
}

// joined sorts the slots and makes one of neighbours that have one owner. Where there
// is nothing to do they are s itself.
func (s Slots) joined() Slots {
	if s.areJoined() {
		return s
	}
	sorted := slices.Clone(s)
	slices.SortFunc(sorted, func(a, b Slot) int { return cmp.Compare(a.First, b.First) })
	joined := make(Slots, 0, len(s))
	for _, slot := range sorted {
		joined = joined.followedBy(slot)
	}
	return joined
}

func (s Slots) areJoined() bool {
	for i := 1; i < len(s); i++ {
		if s[i].First < s[i-1].First || s[i-1].touches(s[i]) {
			return false
		}
	}
	return true
}

// touches says whether the next one is behind s without a gap, of the same owner.
func (s Slot) touches(next Slot) bool { return s.Last+1 == next.First && s.Candidate == next.Candidate }

// followedBy appends a slot, or adds it to the last one.
func (s Slots) followedBy(slot Slot) Slots {
	if n := len(s); n > 0 && s[n-1].touches(slot) {
		s[n-1].Last = slot.Last
		return s
	}
	return append(s, slot)
}

// Seed is what the draw of a client network is mixed with: made from
// AffinitySeed, or from the name, so that all routers with the same
// configuration draw alike and two splits do not.
func (s Split) Seed() uint32 {
	text := cmp.Or(s.AffinitySeed, s.Name)
	h := fnv.New32a()
	_, _ = h.Write([]byte(text))
	return cmp.Or(h.Sum32(), 1) // 0 would be listed as no seed at all
}

// SampleSeed is what the draw of the sample is mixed with, so that it tells
// nothing of the draw of the weights.
func (s Split) SampleSeed() uint32 { return cmp.Or(^s.Seed(), 1) }
